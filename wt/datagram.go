package wt

import (
	"context"
	"errors"
	"fmt"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// oversized is longer than any UDP packet. QUIC refuses it as a datagram before
// it looks at it, and names the maximum of the moment. It is never written to.
var oversized [1 << 16]byte

// SendDatagram sends b as one datagram, unreliably. It copies b. It waits while
// the session's queue of [ServerConfig.MaxOutgoingDatagrams] is full, but no
// longer than ctx and the session last; then its error is the cause of ctx or
// matches [SessionError]. For a payload longer than [Session.MaxDatagramSize] it
// matches [ErrDatagramTooLarge], and nothing is sent. A nil error does not mean
// that the datagram arrives. It is safe for concurrent use (RFC 9297 §2.1, RFC
// 9221).
func (s *Session) SendDatagram(ctx context.Context, b []byte) error {
	if err := ctx.Err(); err != nil && s.endedWith() == nil {
		return context.Cause(ctx)
	}
	if err := s.mayDatagram(b); err != nil {
		return err
	}
	return s.outgoing.add(ctx, b)
}

// TrySendDatagram is [Session.SendDatagram] that never waits: while the queue is
// full it sends nothing and returns [ErrWouldBlock].
func (s *Session) TrySendDatagram(b []byte) error {
	if err := s.mayDatagram(b); err != nil {
		return err
	}
	return s.outgoing.tryAdd(b)
}

// PushDatagram is [Session.SendDatagram] that never waits: while the queue is
// full it drops the oldest datagram in it, which [DatagramStats] counts. It suits
// values of which only the newest matter.
func (s *Session) PushDatagram(b []byte) error {
	if err := s.mayDatagram(b); err != nil {
		return err
	}
	return s.outgoing.push(b)
}

// mayDatagram checks what holds for every datagram before it is queued.
func (s *Session) mayDatagram(b []byte) error {
	if err := s.endedWith(); err != nil {
		return err
	}
	if !s.conn.sender.fits(s.outgoing.prefix + len(b)) {
		if err := s.endedWith(); err != nil {
			return err
		}
		return fmt.Errorf("%w: %d bytes, at most %d", ErrDatagramTooLarge, len(b), s.MaxDatagramSize())
	}
	return nil
}

// MaxDatagramSize returns the longest payload, in bytes, that
// [Session.SendDatagram] takes at present. It grows as the path's MTU is
// discovered, and may shrink. It is 0 once the session has ended.
func (s *Session) MaxDatagramSize() int {
	if s.endedWith() != nil {
		return 0
	}
	return max(0, s.conn.sender.maxSize()-quicvarint.Len(s.id/4))
}

// ReceiveDatagram returns the payload of the next datagram. It waits until ctx
// or the session ends; then its error is the cause of ctx or matches
// [SessionError]. The caller owns the slice. It is safe for concurrent use.
//
// While nobody receives, the newest [ServerConfig.MaxQueuedDatagrams] are kept
// and older ones dropped, as are those older than [ServerConfig.MaxDatagramAge];
// [DatagramStats] counts both. It takes up to 20 ms until an absent receiver is
// noticed, and 250 ms if the connection was quiet before; of what arrives until
// then, QUIC keeps the first 128 datagrams and does not count others.
func (s *Session) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	return s.conn.receiver.receive(ctx, s)
}

// DroppedDatagrams returns how many received datagrams the session dropped
// because the application did not take them in time: for want of room, or for
// their age.
func (s *Session) DroppedDatagrams() uint64 {
	return s.incoming.overflowed.Load() + s.incoming.expired.Load()
}

// DatagramStats counts the datagrams of a session.
type DatagramStats struct {
	// Sent is how many were handed to QUIC. QUIC may lose them.
	Sent uint64
	// Received is how many arrived for the session.
	Received uint64

	// Of those that the application sent, these were dropped in the session's queue:

	// OutgoingOverflowed made room for newer ones in [Session.PushDatagram].
	OutgoingOverflowed uint64
	// OutgoingExpired were older than [ServerConfig.MaxOutgoingDatagramAge].
	OutgoingExpired uint64
	// OutgoingRefused were refused by QUIC, because the path's MTU shrank after they
	// were queued or the connection ended.
	OutgoingRefused uint64
	// OutgoingAbandoned were still queued when the session ended.
	OutgoingAbandoned uint64

	// Of those received, these were dropped before the application took them:

	// IncomingOverflowed made room for newer ones.
	IncomingOverflowed uint64
	// IncomingExpired were older than [ServerConfig.MaxDatagramAge].
	IncomingExpired uint64
	// IncomingAbandoned were still queued when the session ended, or came later.
	IncomingAbandoned uint64
}

func (s *Session) datagramStats() DatagramStats {
	return DatagramStats{
		Sent:               s.outgoing.sent.Load(),
		Received:           s.incoming.received.Load(),
		OutgoingOverflowed: s.outgoing.overflowed.Load(),
		OutgoingExpired:    s.outgoing.expired.Load(),
		OutgoingRefused:    s.outgoing.refused.Load(),
		OutgoingAbandoned:  s.outgoing.abandoned.Load(),
		IncomingOverflowed: s.incoming.overflowed.Load(),
		IncomingExpired:    s.incoming.expired.Load(),
		IncomingAbandoned:  s.incoming.abandoned.Load(),
	}
}

// maxSize asks QUIC for the largest datagram it takes at present, prefix
// included, 0 if none.
func (d *datagramSender) maxSize() int {
	var tooLarge *quic.DatagramTooLargeError
	if err := d.conn.quic.SendDatagram(oversized[:]); !errors.As(err, &tooLarge) {
		return 0
	}
	d.largest.Store(tooLarge.MaxDatagramPayloadSize)
	return int(tooLarge.MaxDatagramPayloadSize)
}

// fits reports whether QUIC takes a datagram of n bytes, prefix included.
func (d *datagramSender) fits(n int) bool {
	return int64(n) <= d.largest.Load() || n <= d.maxSize()
}
