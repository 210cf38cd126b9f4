package wt

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/dunglas/httpsfv"
	"github.com/quic-go/quic-go"
)

// Plain HTTP/3: requests that are none for a session, and the http.Handler that
// answers them.

// serveHTTP answers a plain request. What it returns is an error of the client's,
// and the stream still has to be ended.
func (s *Server) serveHTTP(c *conn, stream *quic.Stream, frames *frameReader, head requestHead) error {
	if s.config.HTTPHandler == nil {
		return c.refuse(stream, http.StatusNotFound, nil)
	}
	if head.scheme != "https" {
		// RFC 9110 §7.4: not the origin that this connection is for.
		return c.refuse(stream, http.StatusMisdirectedRequest, nil)
	}
	// The stream's context ends with the client's interest in the answer, with the
	// connection, and when the answer is complete.
	ctx := context.WithValue(stream.Context(), http.LocalAddrContextKey, c.quic.LocalAddr())
	r, err := newHTTPRequest(ctx, head)
	if err != nil {
		return err
	}
	tls := c.quic.ConnectionState().TLS
	r.TLS, r.RemoteAddr = &tls, c.quic.RemoteAddr().String()
	setPriority(stream, head.header)

	w := newHTTPResponse(stream, s.config.Logger, r.Method == http.MethodHead)
	body, err := newHTTPBody(c, stream, frames, r)
	switch {
	case err != nil:
		return err
	case body == nil:
		r.Body, r.ContentLength, r.Trailer = http.NoBody, 0, nil
	default:
		r.Body = body
		if strings.EqualFold(head.header.Get("Expect"), "100-continue") {
			body.begin = w.sendContinue
		}
	}
	returned := false
	defer func() {
		if !returned {
			s.logPanic(recover(), head.path)
			w.abort()
		} else if err := w.finish(); err != nil {
			s.config.Logger.Debug("response not complete", "path", head.path, "error", err)
			w.abort()
		}
		c.noteAnswer()
		if body != nil {
			body.abandon()
		}
		if r.MultipartForm != nil {
			_ = r.MultipartForm.RemoveAll()
		}
	}()
	s.config.HTTPHandler.ServeHTTP(w, r)
	returned = true
	return nil
}

// addPlain registers a plain request, which has no datagrams. One that has
// overtaken it ends it.
func (c *conn) addPlain(stream *quic.Stream) {
	id := uint64(stream.StreamID())
	c.mu.Lock()
	if c.plain == nil {
		c.plain = make(map[uint64]*quic.Stream)
	}
	c.plain[id] = stream
	waiters, datagrams := c.pending.takeLocked(id)
	c.strays += uint64(len(datagrams))
	c.mu.Unlock()
	for _, waiter := range waiters {
		waiter <- nil
	}
	if len(datagrams) > 0 {
		refuseDatagrams(stream)
	}
}

func (c *conn) removePlain(stream *quic.Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.plain, uint64(stream.StreamID()))
}

// refuseDatagrams ends a request that a datagram came for and that gives
// datagrams no meaning (RFC 9297 §2).
func refuseDatagrams(stream *quic.Stream) {
	stream.CancelRead(codeDatagramError)
	stream.CancelWrite(codeDatagramError)
}

// newHTTPRequest makes the request that a handler sees of a checked head, without
// its body.
func newHTTPRequest(ctx context.Context, head requestHead) (*http.Request, error) {
	target := &url.URL{Path: head.path}
	if head.path != "*" {
		var err error
		if target, err = url.ParseRequestURI(head.path); err != nil {
			return nil, streamError(codeMessageError, ":path: %v", err)
		}
	}
	length, err := contentLength(head.header)
	if err != nil {
		return nil, err
	}
	head.header.Del("Host")
	r := &http.Request{
		Method:        head.method,
		URL:           target,
		Proto:         "HTTP/3.0",
		ProtoMajor:    3,
		Header:        head.header,
		ContentLength: length,
		Host:          head.authority,
		RequestURI:    head.path,
		// What the trailer announces, and whatever else it then has.
		Trailer: make(http.Header),
	}
	for name := range listedFields(head.header["Trailer"]) {
		r.Trailer[name] = nil
	}
	head.header.Del("Trailer")
	return r.WithContext(ctx), nil
}

// contentLength returns what the field Content-Length says, -1 if there is none.
// The field may be repeated if it says the same (RFC 9110 §8.6).
func contentLength(header http.Header) (int64, error) {
	values := header["Content-Length"]
	if len(values) == 0 {
		return -1, nil
	}
	length, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil || slices.ContainsFunc(values, func(v string) bool { return v != values[0] }) {
		return 0, streamError(codeMessageError, "content-length %q", values)
	}
	header["Content-Length"] = values[:1]
	return int64(length), nil
}

// listedFields yields the canonical names of fields in the values of Trailer, but
// for those that a trailer cannot have.
func listedFields(values []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, value := range values {
			for name := range strings.SplitSeq(value, ",") {
				name = strings.TrimSpace(name)
				if validTrailer(name) && !yield(http.CanonicalHeaderKey(name)) {
					return
				}
			}
		}
	}
}

// validTrailer reports whether a trailer may have a field: those that frame the
// message or route it are none for it (RFC 9110 §6.5.1).
func validTrailer(name string) bool {
	if !validToken(name) || isConnectionField(strings.ToLower(name), "") {
		return false
	}
	switch http.CanonicalHeaderKey(name) {
	case "Content-Length", "Content-Encoding", "Content-Range", "Content-Type", "Host", "Trailer",
		"Authorization", "Cookie", "Expect", "Max-Forwards", "Cache-Control", "Range", "Set-Cookie":
		return false
	}
	return true
}

// setPriority gives the answer the priority that the client asks for (RFC 9218
// §5). Without the field it shares with others, as streams do.
func setPriority(stream *quic.Stream, header http.Header) {
	urgency, incremental, ok := parsePriority(header.Values("Priority"))
	if ok {
		stream.SetPriority(urgency, incremental)
	}
}

// parsePriority parses the field Priority. It is not ok without the field, or if
// the field is malformed. Parameters of a wrong type or out of range have their
// defaults (RFC 9218 §4).
func parsePriority(values []string) (urgency int8, incremental, ok bool) {
	if len(values) == 0 {
		return 0, false, false
	}
	parameters, err := httpsfv.UnmarshalDictionary(values)
	if err != nil {
		return 0, false, false
	}
	urgency = 3
	if member, there := parameters.Get("u"); there {
		if item, isItem := member.(httpsfv.Item); isItem {
			if u, isInteger := item.Value.(int64); isInteger && 0 <= u && u <= 7 {
				urgency = int8(u)
			}
		}
	}
	if member, there := parameters.Get("i"); there {
		if item, isItem := member.(httpsfv.Item); isItem {
			incremental, _ = item.Value.(bool)
		}
	}
	return urgency, incremental, true
}

// unsupported is the answer to a request for a session that no handler has
// answered: 405 for a resource that is there and is none of WebTransport
// (draft-ietf-webtrans-http3-16 §3.2), else 404.
func (s *Server) unsupported(r *Request) (status int, header http.Header) {
	if s.config.HTTPHandler == nil {
		return http.StatusNotFound, nil
	}
	allowed := []string{http.MethodGet, http.MethodHead} // of every resource (RFC 9110 §9.1)
	if router, ok := s.config.HTTPHandler.(httpRouter); ok {
		if allowed = allowedMethods(router, r); len(allowed) == 0 {
			return http.StatusNotFound, nil
		}
	}
	return http.StatusMethodNotAllowed, http.Header{"Allow": {strings.Join(allowed, ", ")}}
}

// httpRouter is a handler that knows which requests it has a handler for, as
// *http.ServeMux does. The pattern is empty if there is none.
type httpRouter interface {
	Handler(r *http.Request) (handler http.Handler, pattern string)
}

// allowedMethods asks the router for the methods that the request's resource has.
func allowedMethods(router httpRouter, r *Request) []string {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut,
		http.MethodPatch, http.MethodDelete, http.MethodOptions} {
		plain, err := newHTTPRequest(context.Background(), requestHead{method: method, authority: r.Authority, path: r.RawPath})
		if err != nil {
			return nil
		}
		if _, pattern := router.Handler(plain); pattern != "" {
			allowed = append(allowed, method)
		}
	}
	return allowed
}
