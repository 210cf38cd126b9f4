package wt

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// sender is the sending side of a QUIC stream.
type sender interface {
	Write([]byte) (int, error)
	WriteWithLimit([]byte, func(int) int) (int, error)
	TryWriteAll([]byte) error
	Close() error
	CancelWrite(quic.StreamErrorCode)
	SetWriteDeadline(time.Time) error
	SetPriority(urgency int8, incremental bool)
	SetReliableBoundary()
	Context() context.Context
}

// receiver is the receiving side of a QUIC stream.
type receiver interface {
	Read([]byte) (int, error)
	CancelRead(quic.StreamErrorCode)
	SetReadDeadline(time.Time) error
	SetReceiveFinalSizeCallback(func(int64))
}

// halves is what the kinds of streams have in common: a session, an id, and one
// or both directions.
type halves struct {
	// Static after construction.
	session *Session
	id      int64
	remote  bool     // whether the peer opened it
	send    sender   // nil on a ReceiveStream
	receive receiver // nil on a SendStream

	// header is what has to go out before any data, and goes with the first. It is
	// owned by whoever takes headerState from headerDue.
	header      []byte
	headerState atomic.Uint32
	// headerMu is held while headerState leaves headerDue or headerSending.
	headerMu sync.Mutex
	// cancelCode is that of the first reset before the first write. It is set
	// before headerState becomes headerCancelled.
	cancelCode atomic.Uint64
	// stopped is the code that the reading was given up with, +1; 0 while it was not.
	stopped atomic.Uint64

	// The write deadline, in nanoseconds since 1970, 0 for none; and, under flow
	// control alone, the account of what was received, guarded by the flow's mu.
	writeDeadline atomic.Int64
	in            account
	onEnd         atomic.Pointer[func()]

	// turn is nil until the stream has a send order.
	turn atomic.Pointer[turn]

	// over counts the directions that have ended, as a set of bits.
	over atomic.Uint32
}

const (
	sendOver    = 1
	receiveOver = 2
)

// States of a stream's header.
const (
	headerDue       = iota
	headerTaken     // by the write that carries it; or the peer opened the stream
	headerCancelled // by a reset, which sends it alone; no data may follow
	headerSending   // by a read, which sends it alone; soon headerTaken, or headerDue again
)

// firstChunk is how much data goes out in one write with the stream's header,
// in bytes: enough for a small message, and no more than fits one packet.
const firstChunk = 1024

// finish notes that a direction has ended, for good.
func (h *halves) finish(direction uint32) {
	if direction == sendOver {
		if turn := h.turn.Load(); turn != nil {
			turn.leave()
		}
	}
	all := uint32(0)
	if h.send != nil {
		all |= sendOver
	}
	if h.receive != nil {
		all |= receiveOver
	}
	if before := h.over.Or(direction); before != all && before|direction == all {
		h.session.untrack(h)
	}
}

// interrupt lets blocked reads and writes return, without telling the peer yet.
func (h *halves) interrupt() {
	past := time.Unix(1, 0)
	if h.send != nil {
		_ = h.send.SetWriteDeadline(past)
	}
	if h.receive != nil {
		_ = h.receive.SetReadDeadline(past)
	}
}

// abandon ends what is left of the stream of an ended session
// (draft-ietf-webtrans-http3-16 §6). A direction that was finished is left to
// be delivered.
func (h *halves) abandon() {
	over := h.over.Load()
	if h.send != nil && over&sendOver == 0 {
		h.send.CancelWrite(codeSessionGone)
	}
	if h.receive != nil && over&receiveOver == 0 {
		h.stopReading(codeSessionGone)
	}
}

func (h *halves) write(p []byte) (int, error) {
	n, err := h.writeAll(p)
	h.session.written.Add(uint64(n))
	return n, err
}

func (h *halves) writeAll(p []byte) (int, error) {
	if err := h.session.endedWith(); err != nil {
		return 0, err
	}
	written := 0
	if h.takeHeader(headerTaken) {
		first := p[:min(len(p), firstChunk)]
		if h.session.flow != nil || h.turn.Load() != nil {
			first = nil // data is counted and ordered, headers are not
		}
		n, err := h.writeHeader(first)
		if err != nil {
			return n, h.sendError(err)
		}
		written = n
	} else if err := h.cancelledUnsent(); err != nil {
		return 0, err
	}
	n, err := h.writeData(p[written:])
	return written + n, h.sendError(err)
}

// takeHeader makes the header the caller's to send, and state what becomes of it.
// It reports false if it is not due any more.
func (h *halves) takeHeader(state uint32) bool {
	if before := h.headerState.Load(); before != headerDue && before != headerSending {
		return false
	}
	h.headerMu.Lock()
	defer h.headerMu.Unlock()
	return h.headerState.CompareAndSwap(headerDue, state)
}

// announce sends the header of a stream that is read before its first write: the
// peer could not answer on a stream that it does not see. If that would have to
// wait, the first write takes it along.
func (h *halves) announce() {
	// A write at the same moment waits for the lock, so that no data goes in front
	// of the header. Nothing waits under it.
	h.headerMu.Lock()
	defer h.headerMu.Unlock()
	if !h.headerState.CompareAndSwap(headerDue, headerSending) {
		return
	}
	if h.send.TryWriteAll(h.header) != nil {
		h.headerState.Store(headerDue)
		return
	}
	h.send.SetReliableBoundary()
	h.header = nil
	h.headerState.Store(headerTaken)
}

// writeData writes within the session's flow control and its send order, where
// there are such.
func (h *halves) writeData(p []byte) (int, error) {
	flow, turn := h.session.flow, h.turn.Load()
	switch {
	case turn != nil:
		return turn.write(p)
	case flow == nil:
		return h.send.Write(p)
	}
	written := 0
	for {
		n, err := h.send.WriteWithLimit(p[written:], flow.take)
		written += n
		if !errors.Is(err, quic.ErrWriteLimitReached) {
			return written, err
		}
		if err := flow.awaitData(h); err != nil {
			return written, err
		}
	}
}

// writeHeader writes the header and the first data after it, and returns how
// much of the data it wrote. What a deadline cut off the header is left for the
// next write.
func (h *halves) writeHeader(first []byte) (int, error) {
	b := make([]byte, 0, len(h.header)+len(first))
	b = append(append(b, h.header...), first...)
	n, err := h.send.Write(b)
	if n < len(h.header) {
		h.header = h.header[n:]
		h.headerState.Store(headerDue)
		return 0, err
	}
	h.send.SetReliableBoundary()
	n -= len(h.header)
	h.header = nil
	return n, err
}

func (h *halves) tryWriteAll(p []byte) error {
	if err := h.session.endedWith(); err != nil {
		return err
	}
	flow := h.session.flow
	b, withHeader := p, h.takeHeader(headerTaken)
	if !withHeader {
		if err := h.cancelledUnsent(); err != nil {
			return err
		}
	}
	if flow != nil && !flow.takeAll(len(p)) {
		if withHeader {
			h.headerState.Store(headerDue)
		}
		return ErrWouldBlock
	}
	if withHeader {
		b = make([]byte, 0, len(h.header)+len(p))
		b = append(append(b, h.header...), p...)
	}
	if err := h.send.TryWriteAll(b); err != nil {
		if withHeader {
			h.headerState.Store(headerDue)
		}
		if flow != nil {
			flow.untake(len(p))
		}
		return h.sendError(err)
	}
	if withHeader {
		h.send.SetReliableBoundary()
		h.header = nil
	}
	h.session.written.Add(uint64(len(p)))
	return nil
}

func (h *halves) close() error {
	if err := h.session.endedWith(); err != nil {
		return err
	}
	if h.takeHeader(headerTaken) {
		if _, err := h.writeHeader(nil); err != nil {
			return h.sendError(err)
		}
	} else if err := h.cancelledUnsent(); err != nil {
		return err
	}
	err := h.send.Close()
	h.finish(sendOver)
	if err != nil {
		// QUIC says so only of a stream that was cancelled before, and its context
		// says by whom.
		return h.sendError(context.Cause(h.send.Context()))
	}
	return nil
}

func (h *halves) cancelWrite(code quic.StreamErrorCode) {
	// The receiver learns of the reset only if it knows the stream's session, so
	// the header goes first (draft-ietf-webtrans-http3-16 §4.4).
	if state := h.headerState.Load(); state == headerDue || state == headerSending {
		h.cancelUnsent(code)
	}
	h.send.CancelWrite(code)
	h.finish(sendOver)
}

// cancelUnsent sends the header of a stream that is reset before its first
// write. A write that comes at the same moment finds the stream cancelled, for
// data in front of the header would be taken for something else.
func (h *halves) cancelUnsent(code quic.StreamErrorCode) {
	h.cancelCode.CompareAndSwap(0, uint64(code))
	if !h.takeHeader(headerCancelled) {
		return
	}
	if h.send.TryWriteAll(h.header) == nil {
		h.send.SetReliableBoundary()
	}
	h.header = nil
}

// cancelledUnsent returns the error of a stream that was reset before its first
// write, else nil.
func (h *halves) cancelledUnsent() error {
	if h.headerState.Load() != headerCancelled {
		return nil
	}
	return newStreamError(&quic.StreamError{ErrorCode: quic.StreamErrorCode(h.cancelCode.Load())})
}

func (h *halves) read(p []byte) (int, error) {
	if h.send != nil && h.headerState.Load() == headerDue {
		h.announce()
	}
	n, err := h.receive.Read(p)
	h.session.readBytes.Add(uint64(n))
	if n > 0 && h.session.flow != nil {
		h.session.flow.received(&h.in, n)
	}
	if err == nil {
		return n, nil
	}
	if stopped := h.stopped.Load(); stopped != 0 && errors.Is(err, io.EOF) {
		// QUIC takes a reset for the end when it comes just as the reading stops, and
		// behind the last byte that was read.
		err = &quic.StreamError{ErrorCode: quic.StreamErrorCode(stopped - 1)}
	}
	var cancelled *quic.StreamError
	if errors.Is(err, io.EOF) || errors.As(err, &cancelled) {
		h.finishReceive()
	}
	return n, h.session.translate(err)
}

func (h *halves) cancelRead(code quic.StreamErrorCode) {
	h.stopReading(code)
	h.finishReceive()
}

// stopReading gives up what was not read to its end.
func (h *halves) stopReading(code quic.StreamErrorCode) {
	if h.over.Load()&receiveOver == 0 {
		h.stopped.CompareAndSwap(0, uint64(code)+1)
	}
	h.receive.CancelRead(code)
}

// finishReceive notes that nothing more is read.
func (h *halves) finishReceive() {
	if h.session.flow != nil {
		h.session.flow.abandoned(&h.in)
	}
	h.finish(receiveOver)
}

// account has QUIC tell the flow control how much a stream has received in all.
// It is called once, before the stream is the application's.
func (h *halves) account(header int) {
	flow := h.session.flow
	if flow == nil {
		return
	}
	h.in.header = uint64(header)
	h.receive.SetReceiveFinalSizeCallback(func(size int64) {
		flow.finalSize(&h.in, uint64(size))
		if f := h.onEnd.Load(); f != nil {
			h.runOnEnd(f)
		}
	})
}

// onReceiveEnd sets what runs at the end of what the peer sends. QUIC has room
// for one callback, and flow control takes it.
func (h *halves) onReceiveEnd(f func()) {
	if h.session.flow == nil {
		h.receive.SetReceiveFinalSizeCallback(func(int64) { f() })
		return
	}
	h.onEnd.Store(&f)
	if h.session.flow.isFinal(&h.in) {
		h.runOnEnd(&f)
	}
}

// runOnEnd runs f unless it ran already or another took its place.
func (h *halves) runOnEnd(f *func()) {
	if h.onEnd.CompareAndSwap(f, nil) {
		(*f)()
	}
}

// sendError translates an error of the sending side, and takes note of its end.
func (h *halves) sendError(err error) error {
	if err == nil {
		return nil // and what errors.As needs is not allocated
	}
	var cancelled *quic.StreamError
	if errors.As(err, &cancelled) {
		h.finish(sendOver)
	}
	return h.session.translate(err)
}

// Stream is a bidirectional stream of a session.
//
// Of Read, one call may run at a time, and of Write, TryWriteAll and Close
// together. Everything else is safe at any time.
type Stream struct{ h halves }

// SendStream is a unidirectional stream that this side opened.
//
// Of Write, TryWriteAll and Close together, one call may run at a time.
// Everything else is safe at any time.
type SendStream struct{ h halves }

// ReceiveStream is a unidirectional stream that the peer opened.
//
// Of Read, one call may run at a time. Everything else is safe at any time.
type ReceiveStream struct{ h halves }

var (
	_ io.ReadWriteCloser = (*Stream)(nil)
	_ io.WriteCloser     = (*SendStream)(nil)
	_ io.Reader          = (*ReceiveStream)(nil)
)

// Read reads up to len(p) bytes and waits for at least one. It returns io.EOF
// after the peer's last byte, and a *[StreamError] if the peer reset the stream,
// which may overtake bytes that were sent before it. On a stream that this side
// opened and has not written on, it first shows the stream to the peer.
func (s *Stream) Read(p []byte) (int, error) { return s.h.read(p) }

// Write writes p, waiting for flow control and the network until all but the
// last packet's worth has been sent. The error is a *[StreamError] if the peer
// stopped the stream, [ErrStreamClosed] after Close, and matches
// os.ErrDeadlineExceeded at the deadline; then some bytes may have been written.
// The first write on a stream that this side opened carries the stream's header
// in the same packet; before it the peer does not see the stream. A write of
// nothing sends the header alone.
func (s *Stream) Write(p []byte) (int, error) { return s.h.write(p) }

// TryWriteAll writes all of p if it can be queued without waiting for flow
// control. Else it writes nothing and returns an error that matches
// [ErrWouldBlock]. Nothing tells when a further try would succeed.
func (s *Stream) TryWriteAll(p []byte) error { return s.h.tryWriteAll(p) }

// Close ends the sending side; the receiving side goes on. The peer reads io.EOF
// after what was written. On a stream without data it sends the header, and may
// wait for flow control.
func (s *Stream) Close() error { return s.h.close() }

// CancelRead tells the peer to stop sending, with an application's code. Reads
// return a *[StreamError] from then on. After the end was read it does nothing.
func (s *Stream) CancelRead(code uint32) { s.h.cancelRead(httpCode(code)) }

// CancelWrite resets the sending side, with an application's code. What was
// written and not yet delivered may be lost. Writes return a *[StreamError] from
// then on.
func (s *Stream) CancelWrite(code uint32) { s.h.cancelWrite(httpCode(code)) }

// CancelReadHTTP is [Stream.CancelRead] with a code of HTTP/3 in place of an
// application's, for example H3_REQUEST_CANCELLED, 0x10c. Of a code above 62 bits
// the upper ones are cut off.
func (s *Stream) CancelReadHTTP(code uint64) { s.h.cancelRead(rawCode(code)) }

// CancelWriteHTTP is [Stream.CancelWrite] with a code of HTTP/3 itself, as
// [Stream.CancelReadHTTP].
func (s *Stream) CancelWriteHTTP(code uint64) { s.h.cancelWrite(rawCode(code)) }

// SetDeadline sets both deadlines. Zero means none.
func (s *Stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline bounds present and future reads, whose error then matches
// os.ErrDeadlineExceeded. Zero means no deadline.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.h.setReadDeadline(t) }

// SetWriteDeadline bounds present and future writes, whose error then matches
// os.ErrDeadlineExceeded. Zero means no deadline.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.h.setWriteDeadline(t) }

// SetPriority sets how the stream's data is scheduled on this side: urgency 0
// (first) to 7, and whether it shares its turn with others of the same urgency.
// The default is 3 and true (RFC 9218 §4).
func (s *Stream) SetPriority(urgency int8, incremental bool) {
	s.h.send.SetPriority(urgency, incremental)
}

// SetSendOrder has the stream sent before those of its group that have a lower
// order, and after those with a higher one, whenever several have something to
// send (W3C WebTransport, "sendOrder"). It may be changed at any time. Streams
// that never had an order or a group take turns with all others, as QUIC does with
// those of one urgency; what TryWriteAll queues is not held back. Writes on a
// stream with an order return when QUIC has packed what they write.
func (s *Stream) SetSendOrder(order int64) { s.h.setSendOrder(order) }

// SetSendGroup moves the stream into a group, with order 0 if it had none. The
// default is one group for all; nil means that again. It returns an error if the
// group is another session's.
func (s *Stream) SetSendGroup(group *SendGroup) error { return s.h.setSendGroup(group) }

// Context returns a context that ends with the sending side: at Close or
// CancelWrite, when the peer stops the stream, and with the session's connection.
func (s *Stream) Context() context.Context { return s.h.send.Context() }

// OnReceiveEnd has f run once, when the peer's FIN or reset has arrived, whether
// or not anyone reads; if it has, f runs before OnReceiveEnd returns. f does not
// run if the connection ends first. It runs on the connection's loop: it must
// not block and must not call the session or its streams. A later call replaces f.
func (s *Stream) OnReceiveEnd(f func()) { s.h.onReceiveEnd(f) }

// StreamID returns the id of the QUIC stream.
func (s *Stream) StreamID() int64 { return s.h.id }

// Write is as [Stream.Write].
func (s *SendStream) Write(p []byte) (int, error) { return s.h.write(p) }

// TryWriteAll is as [Stream.TryWriteAll].
func (s *SendStream) TryWriteAll(p []byte) error { return s.h.tryWriteAll(p) }

// Close is as [Stream.Close].
func (s *SendStream) Close() error { return s.h.close() }

// CancelWrite is as [Stream.CancelWrite].
func (s *SendStream) CancelWrite(code uint32) { s.h.cancelWrite(httpCode(code)) }

// CancelWriteHTTP is as [Stream.CancelWriteHTTP].
func (s *SendStream) CancelWriteHTTP(code uint64) { s.h.cancelWrite(rawCode(code)) }

// SetWriteDeadline is as [Stream.SetWriteDeadline].
func (s *SendStream) SetWriteDeadline(t time.Time) error { return s.h.setWriteDeadline(t) }

// SetPriority is as [Stream.SetPriority].
func (s *SendStream) SetPriority(urgency int8, incremental bool) {
	s.h.send.SetPriority(urgency, incremental)
}

// SetSendOrder is as [Stream.SetSendOrder].
func (s *SendStream) SetSendOrder(order int64) { s.h.setSendOrder(order) }

// SetSendGroup is as [Stream.SetSendGroup].
func (s *SendStream) SetSendGroup(group *SendGroup) error { return s.h.setSendGroup(group) }

// Context is as [Stream.Context].
func (s *SendStream) Context() context.Context { return s.h.send.Context() }

// StreamID is as [Stream.StreamID].
func (s *SendStream) StreamID() int64 { return s.h.id }

// Read is as [Stream.Read].
func (s *ReceiveStream) Read(p []byte) (int, error) { return s.h.read(p) }

// CancelRead is as [Stream.CancelRead].
func (s *ReceiveStream) CancelRead(code uint32) { s.h.cancelRead(httpCode(code)) }

// CancelReadHTTP is as [Stream.CancelReadHTTP].
func (s *ReceiveStream) CancelReadHTTP(code uint64) { s.h.cancelRead(rawCode(code)) }

// SetReadDeadline is as [Stream.SetReadDeadline].
func (s *ReceiveStream) SetReadDeadline(t time.Time) error { return s.h.setReadDeadline(t) }

// OnReceiveEnd is as [Stream.OnReceiveEnd].
func (s *ReceiveStream) OnReceiveEnd(f func()) { s.h.onReceiveEnd(f) }

// StreamID is as [Stream.StreamID].
func (s *ReceiveStream) StreamID() int64 { return s.h.id }

// setReadDeadline never undoes the interruption of an ended session.
func (h *halves) setReadDeadline(t time.Time) error {
	err := h.receive.SetReadDeadline(t)
	if h.session.endedWith() != nil {
		h.interrupt()
	}
	return err
}

// setWriteDeadline never undoes the interruption of an ended session.
func (h *halves) setWriteDeadline(t time.Time) error {
	err := h.send.SetWriteDeadline(t)
	nanos := int64(0)
	if !t.IsZero() {
		nanos = t.UnixNano()
	}
	h.writeDeadline.Store(nanos)
	if flow := h.session.flow; flow != nil {
		flow.signal()
	}
	if turn := h.turn.Load(); turn != nil {
		turn.signal()
	}
	if h.session.endedWith() != nil {
		h.interrupt()
	}
	return err
}

// awaitSignal waits until signal has something. It reports true if the write is
// not to go on waiting.
func (h *halves) awaitSignal(signal <-chan struct{}, patience <-chan time.Time) (done bool, err error) {
	var expired <-chan time.Time
	if nanos := h.writeDeadline.Load(); nanos != 0 {
		timer := time.NewTimer(time.Until(time.Unix(0, nanos)))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-signal: // or the deadline has changed
		return false, nil
	case <-patience:
		return false, nil
	case <-expired:
		return true, os.ErrDeadlineExceeded
	case <-h.send.Context().Done():
		return true, nil // the next write says why
	case <-h.session.ctx.Done():
		return true, h.session.endedWith()
	}
}
