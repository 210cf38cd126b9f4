package wt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// Handler answers requests for sessions.
type Handler interface {
	// ServeWebTransport answers r with Accept or Reject and then serves the
	// session. It runs on a goroutine of its own. When it returns, the session is
	// closed with code 0 if it is still open; a request that it has not answered
	// is refused with status 404.
	//
	// ctx ends with the session, or with the client's interest in the request.
	// The handler must return soon after; the server waits for it.
	ServeWebTransport(ctx context.Context, r *Request)
}

// HandlerFunc is a function as a [Handler].
type HandlerFunc func(ctx context.Context, r *Request)

// ServeWebTransport calls f.
func (f HandlerFunc) ServeWebTransport(ctx context.Context, r *Request) { f(ctx, r) }

// Request is a client's request for a session. Its fields are not changed by
// this package, and its methods are safe for concurrent use.
type Request struct {
	// Authority is the server's host, and port where it is not 443, as the client
	// has it.
	Authority string
	// Path is the decoded path, beginning with a slash.
	Path string
	// RawPath is the path and the query as they came, the pseudo-header :path.
	RawPath string
	// Query holds the parameters of the query. Those that are malformed are left
	// out.
	Query url.Values
	// Origin is the field Origin, "" if the client, being no browser, sent none.
	Origin string
	// Header holds the fields, with canonical names.
	Header http.Header
	// Protocol is the pseudo-header :protocol, "webtransport" or
	// "webtransport-h3".
	Protocol string
	// RemoteAddr is the client's address when the request came.
	RemoteAddr net.Addr
	// Subprotocols are what the client offers, in its order of preference.
	Subprotocols []string
	// Draft is the family of drafts that the client speaks.
	Draft Draft

	// Static.
	conn      *conn
	stream    *quic.Stream
	frames    *frameReader
	supported []string
	ctx       context.Context
	cancel    context.CancelCauseFunc

	// Guarded by mu.
	mu       sync.Mutex
	answered error // nil until the request has an answer or needs none any more
	session  *Session
}

// AcceptOptions are how a request is accepted. The zero value is the default.
type AcceptOptions struct {
	// Status is the answer's status, 2xx. The default is 200.
	Status int
	// Header holds further fields of the answer.
	Header http.Header
	// Subprotocol is the one that the server chooses; it must be among those that
	// the client offered. The default is the first of [ServerConfig.Subprotocols]
	// that the client offers, or none.
	Subprotocol string
}

// newRequest makes the request of a checked head.
func newRequest(c *conn, stream *quic.Stream, frames *frameReader, head requestHead, draft Draft, supported []string) (*Request, error) {
	target, err := url.ParseRequestURI(head.path)
	if err != nil {
		return nil, streamError(codeMessageError, ":path: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Request{
		Authority:    head.authority,
		Path:         target.Path,
		RawPath:      head.path,
		Query:        target.Query(),
		Origin:       head.header.Get("Origin"),
		Header:       head.header,
		Protocol:     head.protocol,
		RemoteAddr:   c.quic.RemoteAddr(),
		Subprotocols: parseAvailableProtocols(head.header),
		Draft:        draft,
		conn:         c,
		stream:       stream,
		frames:       frames,
		supported:    supported,
		ctx:          ctx,
		cancel:       cancel,
	}, nil
}

// TLS returns the state of the connection's TLS: with PeerCertificates and
// VerifiedChains of a client that was asked for a certificate by
// [ServerConfig].TLSConfig, and the ServerName that it wants.
func (r *Request) TLS() tls.ConnectionState { return r.conn.quic.ConnectionState().TLS }

// Accept answers the request with success, and begins the session. Options may
// be nil. Streams and datagrams that came before are delivered. It returns
// [ErrAnswered] after an answer, and an error that matches [ErrSessionClosed] if
// the client has lost interest or the connection has ended.
func (r *Request) Accept(options *AcceptOptions) (*Session, error) {
	var o AcceptOptions
	if options != nil {
		o = *options
	}
	if o.Status == 0 {
		o.Status = http.StatusOK
	}
	if o.Status < 200 || o.Status > 299 {
		return nil, fmt.Errorf("wt: accept with status %d, not 2xx", o.Status)
	}
	if o.Subprotocol == "" {
		o.Subprotocol = chooseProtocol(r.supported, r.Subprotocols)
	} else if !slices.Contains(r.Subprotocols, o.Subprotocol) {
		return nil, fmt.Errorf("wt: subprotocol %q was not offered", o.Subprotocol)
	}
	header := o.Header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	if o.Subprotocol != "" {
		value, err := formatProtocol(o.Subprotocol)
		if err != nil {
			return nil, fmt.Errorf("wt: subprotocol %q: %w", o.Subprotocol, err)
		}
		header.Set(fieldProtocol, value)
	}
	if r.Draft == Draft02 && r.Header.Get(fieldDraft02Request) != "" {
		header.Set(fieldDraft02Response, "draft02")
	}
	b, err := appendResponseHead(nil, o.Status, header)
	if err != nil {
		return nil, err
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answered != nil {
		return nil, r.answered
	}
	r.answered = ErrAnswered
	session := newSession(r.ctx, r.cancel, r.conn, r.stream, r.frames)
	session.draft, session.subprotocol, session.request = r.Draft, o.Subprotocol, r
	session.flow = newFlow(session, r.conn.localSettings(), r.conn.peer)
	// The session has its place before the client can learn of it, so that two
	// requests never compete for one.
	if !r.conn.addSession(session) {
		return nil, r.dropLocked(errors.New("wt: connection has ended or has its number of sessions"))
	}
	// The answer is queued before anything of the session can be. It is the
	// first data on the stream, so only an exhausted connection window stops it.
	if err := r.stream.TryWriteAll(b); err != nil {
		return nil, r.dropLocked(err)
	}
	if !r.conn.spawn(session.run) {
		close(session.done)
		return nil, r.dropLocked(errors.New("wt: connection has ended"))
	}
	r.session = session
	return session, nil
}

// dropLocked abandons a request that could not be accepted.
func (r *Request) dropLocked(err error) error {
	r.stream.CancelRead(codeRequestRejected)
	r.stream.CancelWrite(codeRequestRejected)
	ended := &SessionError{By: Transport, Via: ViaAnswer, Err: err}
	r.cancel(ended)
	return ended
}

// Reject answers the request with a status other than 2xx, 400 to 599 usually,
// and fields, which may be nil. A browser does not show the status to its page.
// It returns [ErrAnswered] after an answer, and an error that matches
// [ErrSessionClosed] if the client has lost interest or the connection has ended.
func (r *Request) Reject(status int, header http.Header) error {
	if status < 300 || status > 599 {
		return fmt.Errorf("wt: reject with status %d, not 300 to 599", status)
	}
	b, err := appendResponseHead(nil, status, header)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answered != nil {
		return r.answered
	}
	r.answered = ErrAnswered
	r.cancel(&SessionError{By: Us, Via: ViaAnswer, Err: fmt.Errorf("wt: request rejected with status %d", status)})
	return answer(r.stream, b)
}

// answer sends a whole response and ends the request.
func answer(stream *quic.Stream, response []byte) error {
	if err := stream.TryWriteAll(response); err != nil {
		stream.CancelRead(codeRequestRejected)
		stream.CancelWrite(codeRequestRejected)
		return fmt.Errorf("wt: answer: %w", err)
	}
	// RFC 9114 §4.1: the rest of the request is not needed.
	stream.CancelRead(codeNoError)
	return stream.Close()
}

// finish ends the request when its handler has returned.
func (r *Request) finish() {
	r.mu.Lock()
	session, answered := r.session, r.answered
	r.mu.Unlock()
	switch {
	case answered == nil:
		_ = r.Reject(http.StatusNotFound, nil)
	case session != nil:
		_ = session.Close()
	case !errors.Is(answered, ErrAnswered): // nobody waits for an answer
		r.stream.CancelRead(codeRequestCancelled)
		r.stream.CancelWrite(codeRequestCancelled)
	}
}

// abandon ends the context of a request that has no answer, when its stream has
// ended.
func (r *Request) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answered != nil {
		return
	}
	ended := lostConnection(context.Cause(r.stream.Context()))
	var cancelled *quic.StreamError
	if errors.As(ended.Err, &cancelled) {
		ended = resetByPeer(cancelled)
	}
	r.answered = ended
	r.cancel(ended)
}

// serveRequest answers a request whose HEADERS frame is the current one. It is
// the serve of a server's connections.
func (s *Server) serveRequest(c *conn, stream *quic.Stream, frames *frameReader) {
	r, err := s.readRequest(c, stream, frames)
	if err != nil {
		c.refuseStream(stream, err)
		return
	}
	if r == nil { // answered
		return
	}
	// A client that loses interest before the answer stops the stream.
	stop := afterFunc(stream.Context(), r.abandon)
	defer r.finish()
	defer stop()
	s.config.Handler.ServeWebTransport(r.ctx, r)
}

// readRequest reads and checks a request for a session. It returns nil without
// an error if it has answered the request itself.
func (s *Server) readRequest(c *conn, stream *quic.Stream, frames *frameReader) (*Request, error) {
	if frames.remaining > uint64(c.limits.maxHeaderBytes) {
		return nil, s.refuse(stream, http.StatusRequestHeaderFieldsTooLarge)
	}
	section, err := frames.payload()
	if err != nil {
		return nil, err
	}
	_ = stream.SetReadDeadline(time.Time{})
	head, err := parseRequestHead(section, c.limits.maxHeaderBytes)
	switch {
	case errors.Is(err, errHeadersTooLarge):
		return nil, s.refuse(stream, http.StatusRequestHeaderFieldsTooLarge)
	case err != nil:
		return nil, err
	case head.method == http.MethodConnect && head.protocol == "":
		return nil, s.refuse(stream, http.StatusMethodNotAllowed)
	case head.protocol == "":
		return nil, s.refuse(stream, http.StatusNotFound)
	}
	if _, known := (settings{}).requestDraft(head.protocol); !known {
		// RFC 9220 §3
		return nil, s.refuse(stream, http.StatusNotImplemented)
	}
	if head.scheme != "https" {
		return nil, streamError(codeMessageError, "WebTransport over scheme %q", head.scheme)
	}
	if err := checkContentFields(head.header); err != nil {
		return nil, err
	}
	// draft-ietf-webtrans-http3-16 §7.1: no request before the client's SETTINGS.
	ctx, cancel := context.WithTimeout(context.Background(), c.limits.handshakeTimeout)
	defer cancel()
	if err := c.awaitSettings(ctx); err != nil {
		return nil, err
	}
	draft, _ := c.peer.requestDraft(head.protocol)
	if c.full() {
		// draft-ietf-webtrans-http3-16 §5.1: without flow control the excess is
		// reset, so that a client can try another connection.
		return nil, streamError(codeRequestRejected, "more sessions than this connection may have")
	}
	r, err := newRequest(c, stream, frames, head, draft, s.config.Subprotocols)
	if err != nil {
		return nil, err
	}
	if !s.config.CheckOrigin(r) {
		s.config.Logger.Debug("origin refused", "origin", r.Origin, "authority", r.Authority)
		return nil, r.Reject(http.StatusForbidden, nil)
	}
	return r, nil
}

// refuse answers a request that never becomes one for a session.
func (s *Server) refuse(stream *quic.Stream, status int) error {
	b, err := appendResponseHead(nil, status, nil)
	if err != nil {
		return err
	}
	return answer(stream, b)
}

// sameOrigin is the default check: no Origin, or one whose host and port are
// those the request is for.
func sameOrigin(r *Request) bool {
	if r.Origin == "" {
		return true
	}
	origin, err := url.Parse(r.Origin)
	if err != nil || origin.Host == "" {
		return false
	}
	return origin.Scheme == "https" &&
		strings.EqualFold(withPort(origin.Host), withPort(r.Authority))
}

// withPort adds the default port of https to an authority without one.
func withPort(authority string) string {
	if _, _, err := net.SplitHostPort(authority); err == nil {
		return authority
	}
	return net.JoinHostPort(strings.Trim(authority, "[]"), "443")
}
