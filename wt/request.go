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

	"github.com/quic-go/quic-go"
)

// Handler answers requests for sessions.
type Handler interface {
	// ServeWebTransport answers r with Accept or Reject and then serves the
	// session. It runs on a goroutine of its own. When it returns, the session is
	// closed with code 0 if it is still open, and what its streams have not yet
	// delivered may be lost: a handler that only sends waits for ctx, so that the
	// client is the one to close. A request that it has not answered
	// is refused: with status 405 if [ServerConfig.HTTPHandler] serves its path, so
	// that it exists but is none of WebTransport, and with 404 otherwise
	// (draft-ietf-webtrans-http3-16 §3.2).
	//
	// A panic ends the session, or the request, with H3_INTERNAL_ERROR, and nothing
	// else. It is logged with its stack at level Error, unless it is
	// [http.ErrAbortHandler].
	//
	// ctx ends with the session, or with the client's interest in the request.
	// The handler must return soon after; the server waits for it. It does not end
	// with [Server.Shutdown], which leaves sessions time: [Session.Draining] does.
	ServeWebTransport(ctx context.Context, r *Request)
}

// HandlerFunc is a function as a [Handler].
type HandlerFunc func(ctx context.Context, r *Request)

// ServeWebTransport calls f.
func (f HandlerFunc) ServeWebTransport(ctx context.Context, r *Request) { f(ctx, r) }

// Request is a client's request for a session. Its fields are not changed by
// this package, and its methods are safe for concurrent use.
type Request struct {
	// Method is the pseudo-header :method, which is CONNECT.
	Method string
	// Scheme is the pseudo-header :scheme, which is https.
	Scheme string
	// Authority is the server's host, and port where it is not 443, as the client
	// has it: the pseudo-header :authority as it came, or the field Host if there
	// was none.
	Authority string
	// Path is the decoded path, beginning with a slash.
	Path string
	// RawPath is the path and the query as they came, the pseudo-header :path. It
	// is more than the RawPath of a [url.URL].
	RawPath string
	// Query holds the parameters of the query. Those that are malformed are left
	// out.
	Query url.Values
	// Origin is the field Origin, "" if the client, being no browser, sent none.
	Origin string
	// Header holds the fields, with canonical names, and each name's values in the
	// order in which they came. Only Cookie, which HTTP/3 may split, is one value
	// again (RFC 9114 §4.2.1).
	Header http.Header
	// Protocol is the pseudo-header :protocol, "webtransport" or
	// "webtransport-h3".
	Protocol string
	// RemoteAddr is the client's address when the request came.
	RemoteAddr net.Addr
	// AddrValidated reports whether the client's first packet proved that it
	// receives at its address, by a token of ours from a Retry or from an earlier
	// connection (RFC 9000 §8.1.2). Without one, the handshake has proved it: no
	// request comes before that is complete, so RemoteAddr is not forged either
	// way.
	AddrValidated bool
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
	watch     watch // of the stream's sending side

	// Guarded by mu.
	mu       sync.Mutex
	answered error // nil until the request has an answer or needs none any more
	session  *Session
	route    *http.Request // what a Mux has found, nil before
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
		Method:        head.method,
		Scheme:        head.scheme,
		Authority:     head.authority,
		Path:          target.Path,
		RawPath:       head.path,
		Query:         target.Query(),
		Origin:        head.header.Get("Origin"),
		Header:        head.header,
		Protocol:      head.protocol,
		RemoteAddr:    c.quic.RemoteAddr(),
		AddrValidated: c.addrValidated,
		Subprotocols:  parseAvailableProtocols(head.header),
		Draft:         draft,
		conn:          c,
		stream:        stream,
		frames:        frames,
		supported:     supported,
		ctx:           ctx,
		cancel:        cancel,
	}, nil
}

// TLS returns the state of the connection's TLS: with PeerCertificates and
// VerifiedChains of a client that was asked for a certificate by
// [ServerConfig].TLSConfig, and the ServerName that it wants.
func (r *Request) TLS() tls.ConnectionState { return r.conn.quic.ConnectionState().TLS }

// UserAgent returns the field User-Agent, "" if the client sent none.
func (r *Request) UserAgent() string { return r.Header.Get("User-Agent") }

// Pattern returns the pattern by which a [Mux] found the handler, "" if none did.
func (r *Request) Pattern() string {
	if route := r.routed(); route != nil {
		return route.Pattern
	}
	return ""
}

// PathValue returns what the wildcard name of the [Request.Pattern] matched, ""
// if there is no such wildcard.
func (r *Request) PathValue(name string) string {
	if route := r.routed(); route != nil {
		return route.PathValue(name)
	}
	return ""
}

// routed returns what a Mux has found, or nil.
func (r *Request) routed() *http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.route
}

// Accept answers the request with success, and begins the session. Options may
// be nil. Streams and datagrams that came before are delivered. It returns
// [ErrAnswered] after an answer, and an error that matches [ErrSessionClosed] if
// the client has lost interest or the connection has ended. Of what ends the session
// once the answer has been sent, the session tells, however soon that is.
func (r *Request) Accept(options *AcceptOptions) (*Session, error) {
	session, err := r.accept(options)
	if err == nil {
		r.watch.stop() // from now on the server looks after the session
	}
	return session, err
}

func (r *Request) accept(options *AcceptOptions) (*Session, error) {
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
	if header == nil && (o.Subprotocol != "" || r.Draft == Draft02) {
		header = make(http.Header)
	}
	if o.Subprotocol != "" {
		value, err := formatProtocol(o.Subprotocol)
		if err != nil {
			return nil, fmt.Errorf("wt: subprotocol %q: %w", o.Subprotocol, err)
		}
		header.Set(fieldProtocol, value)
	}
	if name := contentField(header); name != "" {
		return nil, fmt.Errorf("wt: accept with field %q: no content follows", name)
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
	// requests never compete for one. What it has to send waits for the answer.
	session.outbox.held = true
	if !r.conn.addSession(session) {
		return nil, r.dropLocked(errors.New("wt: connection has ended or has its number of sessions"))
	}
	// A client that has the answer may close at once, and end the connection.
	session.holdForEnd()
	// The answer is queued before anything of the session can be. It is the
	// first data on the stream, so only an exhausted connection window stops it.
	if err := r.stream.TryWriteAll(b); err != nil {
		return nil, r.dropSessionLocked(session, err)
	}
	session.outbox.release()
	session.serve()
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

// dropSessionLocked is dropLocked for a session that has its place, and may have
// been given streams.
func (r *Request) dropSessionLocked(session *Session, err error) error {
	ended := &SessionError{By: Transport, Via: ViaAnswer, Err: err}
	session.finish(ended, codeRequestRejected)
	session.leave()
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
	return r.conn.answer(r.stream, b)
}

// finish ends the request when its handler has returned. An answer that is still
// owed has the status and the fields that unanswered gives.
func (r *Request) finish(unanswered func() (int, http.Header)) {
	r.mu.Lock()
	session, answered := r.session, r.answered
	r.mu.Unlock()
	switch {
	case answered == nil:
		_ = r.Reject(unanswered())
	case session != nil:
		_ = session.Close()
	case !errors.Is(answered, ErrAnswered): // nobody waits for an answer
		r.stream.CancelRead(codeRequestCancelled)
		r.stream.CancelWrite(codeRequestCancelled)
	}
}

// abort ends the request, and its session, when its handler has panicked.
func (r *Request) abort() {
	r.mu.Lock()
	session, answered := r.session, r.answered
	if answered == nil {
		r.answered = ErrAnswered
	}
	r.mu.Unlock()
	switch {
	case session != nil:
		_ = session.Reset(codeInternalError)
	case !errors.Is(answered, ErrAnswered): // else the answer is on its way
		r.stream.CancelRead(codeInternalError)
		r.stream.CancelWrite(codeInternalError)
		r.cancel(&SessionError{By: Us, Via: ViaReset, HTTPCode: codeInternalError, Err: errors.New("wt: handler panicked")})
	}
}

// streamEnded ends the context of a request that has no answer when its stream
// has ended; a session decides for itself.
func (r *Request) streamEnded() {
	r.mu.Lock()
	if session := r.session; session != nil {
		r.mu.Unlock()
		session.stopped()
		return
	}
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
