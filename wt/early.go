package wt

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// A client's session before the server's answer. Its streams and datagrams may
// go out as soon as the request has (draft-ietf-webtrans-http3-16 §4); those of
// the server wait in pending until the answer is here (§4.6).

// Response is a server's answer to a client's request for a session.
type Response struct {
	// Status is the answer's status, 200 to 599.
	Status int
	// Header holds the answer's fields, with canonical names. It must not be
	// changed.
	Header http.Header
}

// awaitedAnswer is what a client's session knows of the server's answer.
type awaitedAnswer struct {
	// Static.
	server  string   // host and port of the URL
	offered []string // subprotocols
	over    func()   // nil, or called when the session is over
	// done is closed when the answer has come, or it is known that none will.
	done chan struct{}

	// refused says that the server's GOAWAY names the request as one that it does
	// not process.
	refused atomic.Bool

	// Set before done is closed, and not changed afterwards.
	err      error     // why there is no session; nil if there is one
	response *Response // nil if none came
}

// clientRequest is what a client asks for.
type clientRequest struct {
	head    requestHead
	offered []string // subprotocols
	// released is closed when nothing is left of the connection, where that is the
	// session's alone.
	released <-chan struct{}
	// over, where it is not nil, is called when the session is over.
	over func()
}

// request sends the request for a session on a client's connection, and returns
// the session, which waits for its answer.
func (c *conn) request(ctx context.Context, r clientRequest) (*Session, error) {
	head := r.head
	draft, err := c.awaitDraft(ctx, head.authority)
	if err != nil {
		return nil, err
	}
	head.protocol = draft.token()
	if draft == Draft02 {
		head.header = head.header.Clone() // another connection may speak another draft
		head.header.Set(fieldDraft02Request, "1")
	}
	b, err := appendRequestHead(nil, head)
	if err != nil {
		return nil, err
	}
	stream, err := c.openRequest(ctx)
	if err != nil {
		return nil, &DialError{Step: StepRequest, Server: head.authority, Err: unsent(err)}
	}
	sessionCtx, cancel := context.WithCancelCause(context.Background())
	s := newSession(sessionCtx, cancel, c, stream, newFrameReader(stream))
	s.draft, s.released = draft, r.released
	s.answer = &awaitedAnswer{server: head.authority, offered: r.offered, over: r.over, done: make(chan struct{})}
	s.flow = newFlow(s, c.localSettings(), c.peer)
	// Draft 16 lets capsules go before the answer (§3.2); the earlier ones leave
	// them to RFC 9297 §3.2, which begins the capsules with the answer.
	s.outbox.held = draft < Draft16
	c.addRequest(s.id)
	c.addAsking(s)

	stop := afterFunc(ctx, func() {
		stream.CancelRead(codeRequestCancelled)
		stream.CancelWrite(codeRequestCancelled)
	})
	_, err = stream.Write(b)
	err = unsent(err)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err == nil {
		_ = stream.SetReadDeadline(time.Now().Add(c.limits.answerTimeout))
		if !c.spawn(s.run) {
			err = c.endCause()
		}
	}
	if err != nil {
		cancel(&SessionError{By: Us, Via: ViaAnswer, Err: err})
		stream.CancelRead(codeRequestCancelled)
		stream.CancelWrite(codeRequestCancelled)
		c.removeAsking(s)
		c.removeRequest(s.id)
		return nil, &DialError{Step: StepRequest, Server: head.authority, Err: cancellation(err)}
	}
	return s, nil
}

// unsentError is why a connection ended before a request was made on it.
type unsentError struct{ error }

func (e *unsentError) Unwrap() error { return e.error }

// unsent makes the end of a connection an *unsentError.
func unsent(err error) error {
	if isTransportError(err) {
		return &unsentError{err}
	}
	return err
}

// awaitDraft waits for the server's SETTINGS and returns the draft to speak.
func (c *conn) awaitDraft(ctx context.Context, server string) (Draft, error) {
	if err := c.awaitSettings(ctx); err != nil {
		var broken *protocolError
		if !errors.As(err, &broken) {
			return 0, &DialError{Step: StepSettings, Server: server, Err: unsent(err)}
		}
		if newest, ok := c.peer.newestDraft(); ok {
			return 0, unsupported(fmt.Sprintf("it declares %v, but no datagrams", newest))
		}
	}
	return c.serverDraft()
}

// serverDraft returns the newest draft that the server declares and satisfies the
// requirements of (draft-ietf-webtrans-http3-16 §3.1).
func (c *conn) serverDraft() (Draft, error) {
	declared := c.peer
	newest, ok := declared.newestDraft()
	if !ok {
		return 0, fmt.Errorf("%w: its SETTINGS name no draft of it", ErrUnsupported)
	}
	missing := ""
	if !c.quic.ConnectionState().SupportsStreamResetPartialDelivery.Remote {
		missing = "its transport parameters lack reset_stream_at"
		declared.enabled, declared.maxSessions = 0, 0
	}
	if !declared.connectProtocol {
		// Drafts 02 to 06 take it as implied.
		missing = "its SETTINGS do not enable extended CONNECT"
		declared.enabled, declared.maxSessions, declared.maxSessionsDraft7 = 0, 0, 0
	}
	draft, ok := declared.newestDraft()
	if !ok {
		return 0, unsupported(fmt.Sprintf("it declares %v, but %s", newest, missing))
	}
	return draft, nil
}

// unsupported is the error of a server that declares WebTransport and lacks what
// it requires. The connection is closed with its code.
func unsupported(why string) error {
	return fmt.Errorf("%w: %w", ErrUnsupported, streamError(codeRequirementsNotMet, "%s", why))
}

// errGoneAway says that the server takes no requests any more.
var errGoneAway = errors.New("server is shutting down")

// openRequest opens the stream of a request. It waits for the server's stream
// credit until ctx ends or the server says that it takes no more requests
// (draft-ietf-webtrans-http3-16 §4.7).
func (c *conn) openRequest(ctx context.Context) (*quic.Stream, error) {
	select {
	case <-c.goneAway:
		return nil, errGoneAway
	default:
	}
	stream, err := c.quic.OpenStream()
	var exhausted *quic.StreamLimitReachedError
	if !errors.As(err, &exhausted) {
		return stream, err
	}
	either, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-c.goneAway:
			cancel(errGoneAway)
		case <-either.Done():
		}
	})
	stream, err = c.quic.OpenStreamSync(either)
	if err != nil && either.Err() != nil {
		err = context.Cause(either)
	}
	cancel(nil)
	watching.Wait()
	return stream, err
}

// readAnswer reads the answer and makes the request a session. Else it returns
// the code to cancel the CONNECT stream with, and why there is no session.
func (s *Session) readAnswer() (quic.StreamErrorCode, error) {
	a := s.answer
	defer close(a.done)
	defer s.conn.removeAsking(s)
	status, header, err := readResponse(s.frames, s.conn.limits.maxHeaderBytes)
	if err == nil {
		a.response = &Response{Status: status, Header: header}
		if status > 299 {
			a.err = &RejectedError{Status: status, Header: header}
			return codeRequestCancelled, a.err
		}
		if err = checkContentFields(header); err == nil {
			s.subprotocol, err = chosenProtocol(header, a.offered)
		}
	}
	if err == nil {
		_ = s.stream.SetReadDeadline(time.Time{})
		if s.endedWith() != nil {
			// It was closed in the meantime, and its deadline is the one that counts.
			_ = s.stream.SetReadDeadline(time.Now().Add(s.conn.limits.closeTimeout))
		}
		if s.conn.addSession(s) {
			s.outbox.release()
			return 0, nil
		}
		err = s.conn.endCause()
	}
	code := quic.StreamErrorCode(codeRequestCancelled)
	var rule *protocolError
	switch {
	case a.refused.Load():
		// RFC 9114 §5.2: it can be treated as one that the server rejected.
		err = &StreamError{Remote: true, HTTPCode: codeRequestRejected}
	case errors.As(err, &rule):
		_ = s.conn.fail(err)
		code = quic.StreamErrorCode(rule.code)
	case s.endedWith() != nil: // closed before the answer
		a.err = s.endedWith()
		return code, a.err
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("no answer within %v: %w", s.conn.limits.answerTimeout, err)
	default:
		err = cancellation(err)
	}
	a.err = &DialError{Step: StepRequest, Server: a.server, Err: err}
	return code, a.err
}

// unanswered says how a session ended that never was one.
func (s *Session) unanswered(err error) *SessionError {
	var rejected *RejectedError
	var cancelled *StreamError
	switch {
	case errors.As(err, &rejected), errors.As(err, &cancelled) && cancelled.Remote:
		return &SessionError{By: Peer, Remote: true, Via: ViaAnswer, Err: err}
	case isTransportError(err):
		return lostConnection(err)
	default:
		return &SessionError{By: Us, Via: ViaAnswer, Err: err}
	}
}

// chosenProtocol returns the subprotocol that the server chose, "" if none
// (draft-ietf-webtrans-http3-16 §3.3).
func chosenProtocol(header http.Header, offered []string) (string, error) {
	chosen, ok := parseProtocol(header)
	if ok && !slices.Contains(offered, chosen) {
		return "", streamError(codeALPNError, "server chose subprotocol %q, which was not offered", chosen)
	}
	return chosen, nil
}

// closeUnused closes a client's connection after its only request came to
// nothing, unless others use it.
func (c *conn) closeUnused(err error) {
	if !c.shared {
		c.closeFor(err)
	}
}

// closeFor closes a client's connection because of err.
func (c *conn) closeFor(err error) {
	code := quic.ApplicationErrorCode(codeNoError)
	var broken *protocolError
	if errors.As(err, &broken) {
		code = quic.ApplicationErrorCode(broken.code)
	}
	_ = c.quic.CloseWithError(code, "")
}

// addAsking and removeAsking register a session that waits for its answer, so
// that GOAWAY can end the wait.
func (c *conn) addAsking(s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asking == nil {
		c.asking = make(map[uint64]*Session)
	}
	c.asking[s.id] = s
}

func (c *conn) removeAsking(s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asking, s.id)
}

// refuseAsking ends the wait of the requests that the server's GOAWAY with id
// says it does not process (RFC 9114 §5.2).
func (c *conn) refuseAsking(id uint64) {
	c.mu.Lock()
	var refused []*Session
	for _, s := range c.asking {
		if s.id >= id {
			refused = append(refused, s)
		}
	}
	c.mu.Unlock()
	for _, s := range refused {
		s.answer.refused.Store(true)
		s.stream.CancelRead(codeRequestCancelled)
	}
}

// Ready waits for the server's answer on a client's session: it returns nil once
// the session was accepted, whatever has become of it since; a *[RejectedError]
// if the server answered with another status than 2xx; an error that names the
// subprotocol if the server chose one that was not offered; the reset, as a
// *[StreamError], if the server reset the request; and what ended the session if
// that came before the answer. If ctx ends first it returns the cause of ctx, and
// the session goes on. On a server it returns nil at once.
func (s *Session) Ready(ctx context.Context) error {
	if s.answer == nil {
		return nil
	}
	select {
	case <-s.answer.done:
		return s.answer.err
	case <-s.ctx.Done():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if s.answered() { // a refusal ends the session as well, and says more
		return s.answer.err
	}
	return s.endedWith()
}

// answered reports whether the answer of a client's session has come. It is true
// on a server.
func (s *Session) answered() bool {
	if s.answer == nil {
		return true
	}
	select {
	case <-s.answer.done:
		return true
	default:
		return false
	}
}

// Response returns the server's answer on a client. It is nil on a server, before
// the answer, and if none came.
func (s *Session) Response() *Response {
	if s.answer == nil || !s.answered() {
		return nil
	}
	return s.answer.response
}

// awaitReady waits for the answer of a session that is of use only with it, and
// else ends the session.
func (s *Session) awaitReady(ctx context.Context) error {
	err := s.Ready(ctx)
	if err == nil {
		return nil
	}
	if !s.answered() && ctx.Err() != nil {
		err = &DialError{Step: StepRequest, Server: s.answer.server, Err: err}
	}
	s.forget(err)
	return err
}

// forget ends a session whose answer is not waited for any more, and waits until
// nothing is left of it.
func (s *Session) forget(cause error) {
	s.end(&SessionError{By: Us, Via: ViaAnswer, Err: cause})
	s.stream.CancelRead(codeRequestCancelled)
	if s.outbox.endUnwritten() {
		s.stream.CancelWrite(codeRequestCancelled)
	}
	s.awaitRelease()
}

// readResponse reads the HEADERS of the final response.
func readResponse(frames *frameReader, limit int) (int, http.Header, error) {
	for {
		typ, _, err := frames.next()
		if err == nil {
			err = skipToHeaders(typ, frames)
		}
		if err != nil {
			return 0, nil, err
		}
		if frames.remaining > uint64(limit) {
			return 0, nil, streamError(codeExcessiveLoad, "response fields of %d bytes", frames.remaining)
		}
		section, err := frames.payload()
		if err != nil {
			return 0, nil, err
		}
		status, header, err := parseResponseHead(section, limit)
		if errors.Is(err, errHeadersTooLarge) {
			err = streamError(codeExcessiveLoad, "response fields too large")
		}
		if err != nil || status >= 200 {
			return status, header, err
		}
		// RFC 9114 §4.1: interim responses come before the final one.
	}
}
