package wt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// maxDatagramsWaiting bounds the datagrams of a connection that wait in front
// of QUIC's own queue of 32.
const maxDatagramsWaiting = 8

// oversized is longer than any UDP packet. QUIC refuses it as a datagram before
// it looks at it, and names the maximum of the moment. It is never written to.
var oversized [1 << 16]byte

// datagramSender sends the datagrams of one connection. QUIC's SendDatagram
// blocks without a context while its queue is full, so it is called on a
// goroutine that exists only while datagrams wait; callers wait for room in
// front of it, as long as they like.
type datagramSender struct {
	// Static.
	conn *conn
	room chan struct{} // a token for each datagram that waits

	// Guarded by mu.
	mu      sync.Mutex
	waiting [maxDatagramsWaiting][]byte // a ring; its buffers are used again
	first   int
	count   int
	sending bool
	largest int    // that QUIC is known to take, prefix included
	failed  uint64 // datagrams that QUIC refused after all
}

func newDatagramSender(c *conn) *datagramSender {
	return &datagramSender{conn: c, room: make(chan struct{}, maxDatagramsWaiting)}
}

// maxSize asks QUIC for the largest datagram it takes at present, 0 if none.
func (d *datagramSender) maxSize() int {
	var tooLarge *quic.DatagramTooLargeError
	if err := d.conn.quic.SendDatagram(oversized[:]); !errors.As(err, &tooLarge) {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.largest = int(tooLarge.MaxDatagramPayloadSize)
	return d.largest
}

// fits reports whether QUIC takes a datagram of n bytes at present.
func (d *datagramSender) fits(n int) bool {
	d.mu.Lock()
	known := n <= d.largest
	d.mu.Unlock()
	return known || n <= d.maxSize()
}

// send queues prefix and payload, which it copies. It waits for room until ctx
// or the session ends.
func (d *datagramSender) send(ctx context.Context, session *Session, payload []byte) error {
	select {
	case d.room <- struct{}{}:
	default:
		select {
		case d.room <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-session.ctx.Done():
			return session.endedWith()
		}
	}
	d.mu.Lock()
	slot := (d.first + d.count) % maxDatagramsWaiting
	b := quicvarint.Append(d.waiting[slot][:0], session.id/4)
	d.waiting[slot] = append(b, payload...)
	d.count++
	start := !d.sending
	d.sending = true
	d.mu.Unlock()
	if start && !d.conn.spawn(d.run) {
		return session.endedWith()
	}
	return nil
}

// run hands datagrams to QUIC until none waits.
func (d *datagramSender) run() {
	for {
		d.mu.Lock()
		if d.count == 0 {
			d.sending = false
			// The buffers of a burst are not kept by an idle connection.
			d.waiting = [maxDatagramsWaiting][]byte{}
			d.mu.Unlock()
			return
		}
		b := d.waiting[d.first]
		d.mu.Unlock()
		err := d.conn.quic.SendDatagram(b)
		d.mu.Lock()
		d.first = (d.first + 1) % maxDatagramsWaiting
		d.count--
		if err != nil {
			d.failed++
			d.largest = 0
		}
		d.mu.Unlock()
		<-d.room
	}
}

// SendDatagram sends b as one datagram, unreliably. It copies b. It waits while
// the connection's queue is full, but no longer than ctx and the session last;
// then its error is the cause of ctx or matches [SessionError]. For a payload
// longer than [Session.MaxDatagramSize] it matches [ErrDatagramTooLarge], and
// nothing is sent. A nil error does not mean that the datagram arrives. It is
// safe for concurrent use (RFC 9297 §2.1, RFC 9221).
func (s *Session) SendDatagram(ctx context.Context, b []byte) error {
	if err := s.endedWith(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if size := len(b) + quicvarint.Len(s.id/4); !s.conn.datagrams.fits(size) {
		if err := s.endedWith(); err != nil {
			return err
		}
		return fmt.Errorf("%w: %d bytes, at most %d", ErrDatagramTooLarge, len(b), s.MaxDatagramSize())
	}
	return s.conn.datagrams.send(ctx, s, b)
}

// MaxDatagramSize returns the longest payload, in bytes, that
// [Session.SendDatagram] takes at present. It grows as the path's MTU is
// discovered, and may shrink. It is 0 once the session has ended.
func (s *Session) MaxDatagramSize() int {
	if s.endedWith() != nil {
		return 0
	}
	return max(0, s.conn.datagrams.maxSize()-quicvarint.Len(s.id/4))
}

// ReceiveDatagram returns the payload of the next datagram. It waits until ctx
// or the session ends; then its error is the cause of ctx or matches
// [SessionError]. While nobody receives, the newest [ServerConfig.MaxQueuedDatagrams]
// are kept and older ones dropped; [Session.DroppedDatagrams] counts them. The
// caller owns the slice. It is safe for concurrent use.
func (s *Session) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	return s.datagrams.get(ctx, s)
}

// DroppedDatagrams returns how many received datagrams the session dropped
// because the application did not take them in time.
func (s *Session) DroppedDatagrams() uint64 { return s.droppedDatagrams.Load() }

// receiveDatagram queues a datagram for the application.
func (s *Session) receiveDatagram(payload []byte) {
	if dropped := s.datagrams.put(payload, s.conn.limits.maxQueuedDatagrams); dropped > 0 {
		s.droppedDatagrams.Add(uint64(dropped))
	}
}

// readDatagrams reads the connection's datagrams and gives each to its session
// (RFC 9297 §2.1).
func (c *conn) readDatagrams() {
	for {
		b, err := c.quic.ReceiveDatagram(context.Background())
		if err != nil {
			return
		}
		quarter, n, err := quicvarint.Parse(b)
		if err != nil || quarter >= 1<<60 {
			_ = c.fail(connectionError(codeDatagramError, "datagram without a stream id"))
			return
		}
		id, payload := quarter*4, b[n:]
		c.mu.Lock()
		session, known := c.requests[id]
		if session == nil && (known || id >= c.nextRequest) {
			c.pending.addDatagramLocked(id, payload)
		}
		c.mu.Unlock()
		if session != nil {
			session.receiveDatagram(payload)
		} else if c.logger.Enabled(context.Background(), slog.LevelDebug) {
			c.logger.Debug("datagram without a session", slog.Uint64("session", id))
		}
	}
}
