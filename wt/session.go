package wt

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// Session is a WebTransport session, on a client or on a server. Its methods are
// safe for concurrent use.
//
// It ends when either side closes it, when its CONNECT stream ends, or with its
// connection. From then on every call on it and on its streams returns an error
// that matches *[SessionError] and [ErrSessionClosed], except that a stream that
// was read to its end still returns io.EOF.
type Session struct {
	// Static after construction.
	conn        *conn
	id          uint64 // of the CONNECT stream
	stream      *quic.Stream
	frames      *frameReader   // of the CONNECT stream; owned by run and awaitCapsule
	capsules    *capsuleReader // on frames; owned by awaitCapsule
	peeked      [1]byte
	watch       watch // on a client, of the CONNECT stream's sending side
	draft       Draft
	subprotocol string         // on a client, set before answer.done is closed
	request     *Request       // on a server
	answer      *awaitedAnswer // on a client
	ctx         context.Context
	cancel      context.CancelCauseFunc
	// released, where it is not nil, is closed when the connection of a client's
	// session has ended and nothing is left of it.
	released <-chan struct{}

	bidi      queue[*Stream]
	uni       queue[*ReceiveStream]
	incoming  incoming
	outgoing  outgoing
	receiving eitherContext

	// drained is closed once the peer asked to drain, by capsule or GOAWAY.
	drained   chan struct{}
	drainOnce sync.Once
	// done is closed at the end of run.
	done chan struct{}

	outbox outbox // of the CONNECT stream
	flow   *flow  // nil where it is not negotiated; set before run

	schedule sendScheduler

	// written and readBytes count the application's data on all streams.
	written, readBytes atomic.Uint64

	// ended says why the session ended, and is nil while it has not. It is set
	// once, with mu held.
	ended atomic.Pointer[SessionError]

	// counted says whether the connection counts the session, over whether it has
	// seen this side of the CONNECT stream end. Guarded by the connection's mu.
	counted, over bool

	// Guarded by mu.
	mu      sync.Mutex
	streams map[*halves]struct{} // with a direction that is not over
}

// newSession makes the session of a CONNECT stream. ctx is its lifetime, ended
// by cancel with the *SessionError.
func newSession(ctx context.Context, cancel context.CancelCauseFunc, c *conn, stream *quic.Stream, frames *frameReader) *Session {
	s := &Session{
		conn:     c,
		id:       uint64(stream.StreamID()),
		stream:   stream,
		frames:   frames,
		capsules: newCapsuleReader(dataReader{frames}),
		ctx:      ctx,
		cancel:   cancel,
		drained:  make(chan struct{}),
		done:     make(chan struct{}),
		streams:  make(map[*halves]struct{}),
	}
	s.outgoing.init(&c.sender, s)
	s.outbox.session = s
	return s
}

// run makes a client's request a session. From then on, and on a server from the
// session's beginning, awaitCapsule reads the CONNECT stream until it ends, and ends
// the session with it.
func (s *Session) run() {
	s.holdForEnd()
	if code, err := s.readAnswer(); err != nil {
		s.finish(s.unanswered(err), code)
		s.conn.closeUnused(err)
		s.leave()
		return
	}
	s.watch.start(s.stream.Context(), s.stopped)
	s.conn.goroutines.Go(s.awaitCapsule)
}

// serve has the CONNECT stream of a server's session read, whose answer has been sent. If
// the connection has ended since, the session has ended with it.
func (s *Session) serve() {
	if s.conn.spawn(s.awaitCapsule) {
		return
	}
	s.finish(lostConnection(s.conn.endCause()), codeSessionGone)
	s.leave()
}

// awaitCapsule waits for the next capsule and handles it. As with acceptStream, the
// one that waits has a small stack, and leaves the next one to another.
func (s *Session) awaitCapsule() {
	_, _ = s.stream.Peek(s.peeked[:]) // its error is that of the read that follows
	ended, code := s.readCapsule()
	if ended == nil {
		s.conn.goroutines.Go(s.awaitCapsule)
		return
	}
	if s.answer != nil {
		s.watch.stop()
	}
	s.finish(ended, code)
	s.leave()
}

// leave tells those who wait that nothing is left of the session.
func (s *Session) leave() {
	if s.answer != nil && s.answer.over != nil {
		s.answer.over()
	}
	close(s.done)
}

// readTimeout bounds how long the end of a CONNECT stream holds up its connection.
const readTimeout = 100 * time.Millisecond

// holdForEnd has the connection's loop wait, once the end of the CONNECT stream is
// there, until awaitCapsule has read it and ended the session. Firefox ends the connection
// right behind its close, and with the connection QUIC drops what is unread. The
// timeout is for an end that came before the rest of the stream.
func (s *Session) holdForEnd() {
	var reading atomic.Bool
	s.stream.SetReceiveFinalSizeCallback(func(int64) {
		if !reading.Load() { // the end was there before, and this is what calls
			return
		}
		late := time.NewTimer(readTimeout)
		defer late.Stop()
		select {
		case <-s.ctx.Done():
		case <-late.C:
		}
	})
	reading.Store(true)
}

// finish ends the session, and with code its CONNECT stream, 0 if that ended
// cleanly.
func (s *Session) finish(ended *SessionError, code quic.StreamErrorCode) {
	s.end(ended)

	// The peer's FIN, if there was one, has been read. Our side ends as well:
	// with FIN, unless the stream broke off or has ended already.
	if code == 0 {
		s.outbox.sendFIN()
	} else {
		s.stream.CancelRead(code)
		if s.outbox.endUnwritten() {
			s.stream.CancelWrite(code)
		}
	}

	s.mu.Lock()
	streams := make([]*halves, 0, len(s.streams))
	for h := range s.streams {
		streams = append(streams, h)
	}
	clear(s.streams)
	s.mu.Unlock()
	for _, h := range streams {
		h.abandon()
	}
	s.receiving.close()
	s.conn.removeRequest(s.id)
}

// readCapsule reads a capsule. It returns nil, or why the session is over, and the
// code to cancel the CONNECT stream with, 0 if it ended cleanly.
func (s *Session) readCapsule() (*SessionError, quic.StreamErrorCode) {
	capsules := s.capsules
	typ, _, err := capsules.next()
	if errors.Is(err, io.EOF) {
		// draft-ietf-webtrans-http3-16 §6: as a close with code 0.
		return &SessionError{By: Peer, Remote: true, Via: ViaFIN}, 0
	}
	var code uint32
	var reason string
	if err == nil {
		switch {
		case typ == capsuleDrain:
			if err = capsules.empty(); err == nil {
				s.markDraining()
			}
		case isStreamDataCapsule(typ) && (s.flow != nil || s.draft >= Draft14):
			err = streamError(codeFlowControlError, "capsule %#x of WebTransport over HTTP/2", typ)
		case isFlowCapsule(typ) && s.flow != nil:
			// Without flow control they are ignored (draft §5.1).
			err = s.flow.handleCapsule(typ, capsules)
		case typ == capsuleClose:
			var value []byte
			if value, err = capsules.value(maxCloseSize); err == nil {
				code, reason, err = parseCloseCapsule(value)
			}
			if err == nil {
				ended := &SessionError{Code: code, Reason: reason, By: Peer, Remote: true, Via: ViaCapsule}
				s.end(ended)
				return ended, s.awaitFIN(capsules)
			}
		}
	}
	if err != nil {
		return s.broken(err)
	}
	return nil, 0
}

// awaitFIN reads the end of the CONNECT stream after the peer's close. Data
// there is an error (draft-ietf-webtrans-http3-16 §6).
func (s *Session) awaitFIN(capsules *capsuleReader) quic.StreamErrorCode {
	_ = s.stream.SetReadDeadline(time.Now().Add(s.conn.limits.closeTimeout))
	if err := capsules.end(); err != nil {
		_, code := s.broken(err)
		return code
	}
	return 0
}

// stopped runs when this side of the CONNECT stream is over. If the peer stopped
// it, the session has ended (draft-ietf-webtrans-http3-16 §6). With a code that
// is no error the stop belongs to a close, which may still be on its way.
func (s *Session) stopped() {
	stop := s.stoppedByPeer()
	if stop == nil {
		return
	}
	if stop.ErrorCode == codeNoError || stop.ErrorCode == codeSessionGone {
		_ = s.stream.SetReadDeadline(time.Now().Add(s.conn.limits.closeTimeout))
		return
	}
	if s.end(resetByPeer(stop)) {
		s.stream.CancelRead(codeSessionGone)
	}
}

// stoppedByPeer returns how the peer stopped this side of the CONNECT stream, or
// nil if it did not.
func (s *Session) stoppedByPeer() *quic.StreamError {
	var stop *quic.StreamError
	if errors.As(context.Cause(s.stream.Context()), &stop) && stop.Remote {
		return stop
	}
	return nil
}

// broken says what an error on the CONNECT stream means to the session, and
// with which code its CONNECT stream is cancelled.
func (s *Session) broken(err error) (*SessionError, quic.StreamErrorCode) {
	var rule *protocolError
	var cancelled *quic.StreamError
	switch {
	case errors.As(err, &rule):
		_ = s.conn.fail(err)
		return brokenRule(rule), quic.StreamErrorCode(rule.code)
	case errors.As(err, &cancelled):
		return resetByPeer(cancelled), codeSessionGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		// Only a session that is being closed has a deadline. The peer stopped our side
		// and sent no close, or it did not answer ours.
		if stop := s.stoppedByPeer(); stop != nil {
			return resetByPeer(stop), codeSessionGone
		}
		return &SessionError{By: Us, Err: err}, codeSessionGone
	default:
		return lostConnection(err), codeSessionGone
	}
}

// end records why the session ended and lets go of everyone who waits on it. It
// reports whether this call was the first.
func (s *Session) end(err *SessionError) bool {
	s.mu.Lock()
	if !s.ended.CompareAndSwap(nil, err) {
		s.mu.Unlock()
		return false
	}
	streams := make([]*halves, 0, len(s.streams))
	for h := range s.streams {
		streams = append(streams, h)
	}
	s.mu.Unlock()
	s.conn.freeSession(s)
	s.cancel(err)
	s.outgoing.end()
	s.incoming.end()
	for _, h := range streams {
		h.interrupt()
	}
	return true
}

// endedWith returns the *SessionError of an ended session, else nil.
func (s *Session) endedWith() error {
	if err := s.ended.Load(); err != nil {
		return err
	}
	return nil
}

// Close closes the session with code 0 and no reason. See
// [Session.CloseWithError].
func (s *Session) Close() error { return s.CloseWithError(0, "") }

// CloseWithError closes the session and tells the peer code and reason. The
// reason is cut to 1024 bytes of valid UTF-8.
//
// It waits until the peer has taken note by ending its side, for at most
// [ServerConfig.CloseTimeout] or [Dialer.CloseTimeout], because an earlier end of
// the connection would lose code and reason.
// Calls that wait on the session or its streams return at once, and data that is
// not yet delivered on its streams may be lost. On a client it then closes the
// connection and waits until nothing is left of it, unless a [Pool] has it.
//
// After the first call, or after the session ended otherwise, it only waits; it
// returns nil (draft-ietf-webtrans-http3-16 §6).
func (s *Session) CloseWithError(code uint32, reason string) error {
	reason = closeReason(reason)
	if s.end(&SessionError{Code: code, Reason: reason, By: Us, Via: ViaCapsule}) {
		s.limitClose()
		s.outbox.sendClose(code, reason)
	}
	s.awaitRelease()
	return nil
}

// Finish ends the session by ending its CONNECT stream, without a close: the
// peer sees code 0 and no reason (draft-ietf-webtrans-http3-16 §6). In all else
// it is as [Session.Close], which peers that know of no close understand as well,
// and which is to be preferred.
func (s *Session) Finish() error {
	if s.end(&SessionError{By: Us, Via: ViaFIN}) {
		s.limitClose()
		s.outbox.sendFIN()
	}
	s.awaitRelease()
	return nil
}

// Reset ends the session abruptly: it resets and stops the CONNECT stream with a
// code of HTTP/3, for example H3_INTERNAL_ERROR, 0x102. The peer learns no code
// and no reason of the application. It waits for nothing but this side's own end
// of the session, and returns nil, or an error for a code above 62 bits. After the first call, or after the session
// ended otherwise, it only waits.
func (s *Session) Reset(code uint64) error {
	if err := checkHTTPCode(code); err != nil {
		return err
	}
	if s.end(&SessionError{By: Us, Via: ViaReset, HTTPCode: code}) {
		s.resetConnect(quic.StreamErrorCode(code))
	}
	s.awaitRelease()
	return nil
}

// CloseConnection ends the session with its whole connection, and with all other
// sessions on it: QUIC's CONNECTION_CLOSE carries a code of HTTP/3, for example
// H3_NO_ERROR, 0x100, and a reason, of which QUIC sends what fits a packet. It
// returns nil, or an error for a code above 62 bits, and does nothing after the
// connection's end.
func (s *Session) CloseConnection(code uint64, reason string) error {
	if err := checkHTTPCode(code); err != nil {
		return err
	}
	s.end(&SessionError{By: Us, Via: ViaConnection, HTTPCode: code, Reason: reason})
	_ = s.conn.quic.CloseWithError(quic.ApplicationErrorCode(code), reason)
	s.awaitRelease()
	return nil
}

// limitClose bounds the wait for the peer's answer to a close.
func (s *Session) limitClose() {
	deadline := time.Now().Add(s.conn.limits.closeTimeout)
	_ = s.stream.SetReadDeadline(deadline)
	_ = s.stream.SetWriteDeadline(deadline)
}

// awaitRelease waits until nothing is left of an ended session.
func (s *Session) awaitRelease() {
	<-s.ctx.Done() // who ended it may be about to say so
	<-s.done
	if s.released != nil {
		<-s.released
	}
}

// resetConnect ends both directions of the CONNECT stream abruptly.
func (s *Session) resetConnect(code quic.StreamErrorCode) {
	if s.outbox.endUnwritten() {
		s.stream.CancelWrite(code)
	}
	s.stream.CancelRead(code)
}

// violate ends the session because the peer broke a rule outside of the CONNECT
// stream.
func (s *Session) violate(rule *protocolError) {
	if s.end(brokenRule(rule)) {
		s.resetConnect(quic.StreamErrorCode(rule.code))
	}
}

// Context returns a context that ends with the session. Its cause is the
// *[SessionError].
func (s *Session) Context() context.Context { return s.ctx }

// Drain asks the peer to end the session soon. The session goes on; nothing is
// refused. It does not wait until the request is sent
// (draft-ietf-webtrans-http3-16 §4.7).
func (s *Session) Drain() error {
	s.outbox.sendDrain()
	return s.endedWith()
}

// Draining returns a channel that is closed when the session is to end soon: because
// the peer asked for it, for this session or, by GOAWAY, for its whole connection, or
// because [Server.Shutdown] has begun on this side.
func (s *Session) Draining() <-chan struct{} { return s.drained }

func (s *Session) markDraining() { s.drainOnce.Do(func() { close(s.drained) }) }

// LocalAddr returns the local address of the connection.
func (s *Session) LocalAddr() net.Addr { return s.conn.quic.LocalAddr() }

// RemoteAddr returns the peer's present address. It changes if the peer moves to
// another network.
func (s *Session) RemoteAddr() net.Addr { return s.conn.quic.RemoteAddr() }

// Subprotocol returns the subprotocol that the server chose, "" if none, and on a
// client before the server's answer.
func (s *Session) Subprotocol() string {
	if !s.answered() {
		return ""
	}
	return s.subprotocol
}

// Draft returns the family of drafts that the session follows.
func (s *Session) Draft() Draft { return s.draft }

// Request returns the client's request on a server, and nil on a client.
func (s *Session) Request() *Request { return s.request }

// Conn returns the QUIC connection underneath, for its statistics and state.
// Streams and datagrams of its own would collide with those of HTTP/3.
func (s *Session) Conn() *quic.Conn { return s.conn.quic }

// track registers the stream, so that it ends with the session. It reports
// false if the session has ended already.
func (s *Session) track(h *halves) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended.Load() != nil {
		return false
	}
	s.streams[h] = struct{}{}
	return true
}

// untrack forgets a stream of which both directions are over.
func (s *Session) untrack(h *halves) {
	s.mu.Lock()
	delete(s.streams, h)
	s.mu.Unlock()
	if s.flow != nil && h.remote {
		s.flow.closed(h.send == nil)
	}
}

// translate turns an error of QUIC into one of this package.
func (s *Session) translate(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if ended := s.endedWith(); ended != nil {
		return ended
	}
	var cancelled *quic.StreamError
	switch {
	case errors.As(err, &cancelled):
		return newStreamError(cancelled)
	case errors.Is(err, quic.ErrWouldBlock):
		return ErrWouldBlock
	case errors.Is(err, quic.ErrStreamClosed):
		return ErrStreamClosed
	case isTransportError(err):
		// The stream learns of the end before the session does.
		s.end(lostConnection(err))
		return s.endedWith()
	default:
		return err
	}
}
