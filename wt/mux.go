package wt

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// Mux is a [Handler] that hands each request to the handler whose pattern fits
// its authority and path best. The patterns are those of [http.ServeMux]:
// "/chat/{room}", "example.com/feed", "/files/{path...}", "/exact/{$}"; see there
// for what they match, which of two is the better one, and which conflict. A
// pattern may begin with the method "CONNECT", which every request for a session
// has, and with no other.
//
// A request that no pattern fits is left unanswered, so that the server refuses
// it with 404, or with 405 where [ServerConfig.HTTPHandler] serves its path. As in
// net/http, one whose path is not clean, or lacks the slash at the end that the
// only fitting pattern has, is answered with 307 and the proper path in Location.
// No client of WebTransport follows it, but it says what is wrong.
//
// The zero value is a Mux without patterns. Its methods are safe for concurrent
// use.
type Mux struct {
	routes http.ServeMux // of values of type route
}

// NewMux returns a Mux without patterns.
func NewMux() *Mux { return &Mux{} }

// Handle registers the handler for a pattern. It panics if the pattern is
// malformed, has a method other than CONNECT, or conflicts with a registered one,
// and if the handler is nil.
func (m *Mux) Handle(pattern string, handler Handler) {
	if handler == nil {
		panic("wt: nil handler for pattern " + pattern)
	}
	if method, _, found := strings.Cut(pattern, " "); found && method != http.MethodConnect {
		panic("wt: pattern " + pattern + " has a method other than CONNECT")
	}
	m.routes.Handle(pattern, route{handler})
}

// HandleFunc registers a function as the handler for a pattern, as [Mux.Handle]
// does.
func (m *Mux) HandleFunc(pattern string, handler func(ctx context.Context, r *Request)) {
	if handler == nil {
		panic("wt: nil handler for pattern " + pattern)
	}
	m.Handle(pattern, HandlerFunc(handler))
}

// ServeWebTransport hands the request to the handler that fits it best. The
// handler finds the pattern and what its wildcards matched in [Request.Pattern]
// and [Request.PathValue].
func (m *Mux) ServeWebTransport(ctx context.Context, r *Request) {
	target, err := url.ParseRequestURI(r.RawPath)
	if err != nil {
		return // of no request that came from a client
	}
	if clean := cleanPath(target.EscapedPath()); clean != target.EscapedPath() {
		if target.RawQuery != "" {
			clean += "?" + target.RawQuery
		}
		_ = r.Reject(http.StatusTemporaryRedirect, http.Header{"Location": {clean}})
		return
	}
	// net/http takes the host of a CONNECT as it is, port included, and looks for
	// a missing slash under the host of the URL.
	host := r.Authority
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	target.Host = host
	found := &http.Request{
		Method: http.MethodConnect, URL: target, Host: host, RequestURI: r.RawPath,
		Proto: "HTTP/3.0", ProtoMajor: 3, Header: r.Header,
	}
	var result routing
	m.routes.ServeHTTP(&result, found)
	switch {
	case result.handler != nil:
		r.mu.Lock()
		r.route = found
		r.mu.Unlock()
		result.handler.ServeWebTransport(ctx, r)
	case result.status >= 300 && result.status <= 399:
		_ = r.Reject(result.status, http.Header{"Location": result.header["Location"]})
	}
}

// cleanPath removes empty, "." and ".." elements from an absolute path, and keeps
// a slash at its end.
func cleanPath(p string) string {
	clean := path.Clean(p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}

// route is a handler as net/http's router keeps it.
type route struct{ handler Handler }

// ServeHTTP does not serve anything: it tells its handler to the routing.
func (t route) ServeHTTP(w http.ResponseWriter, _ *http.Request) { w.(*routing).handler = t.handler }

// routing takes what net/http's router decides: a route, or an answer, of which
// the body is dropped.
type routing struct {
	handler Handler
	status  int
	header  http.Header
}

func (r *routing) Header() http.Header {
	if r.header == nil {
		r.header = make(http.Header)
	}
	return r.header
}

func (r *routing) WriteHeader(status int) { r.status = status }

func (r *routing) Write(p []byte) (int, error) { return len(p), nil }
