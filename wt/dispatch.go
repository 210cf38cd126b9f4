package wt

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/quic-go/quic-go"
)

// From a request stream to the handler that answers it.

// serveRequest answers a request whose HEADERS frame is the current one. It is
// the serve of a server's connections.
func (s *Server) serveRequest(c *conn, stream *quic.Stream, frames *frameReader) (kept bool) {
	head, err := readRequestHead(stream, frames, c.limits.maxHeaderBytes)
	switch {
	case errors.Is(err, errHeadersTooLarge):
		err = c.refuse(stream, http.StatusRequestHeaderFieldsTooLarge, nil)
	case err != nil:
	case head.protocol == "" && head.method == http.MethodConnect:
		// A tunnel to another host is no resource of ours, so nothing is allowed on
		// it (RFC 9110 §9.3.6, §10.2.1).
		err = c.refuse(stream, http.StatusMethodNotAllowed, http.Header{"Allow": {""}})
	case head.protocol == "":
		c.addPlain(stream)
		err = s.serveHTTP(c, stream, frames, head)
		c.removePlain(stream)
	default:
		kept, err = s.serveSession(c, stream, frames, head)
	}
	if err != nil {
		c.refuseStream(stream, err)
	}
	return kept
}

// readRequestHead reads the HEADERS frame that is the current one. The error is
// errHeadersTooLarge if the fields are larger than limit.
func readRequestHead(stream *quic.Stream, frames *frameReader, limit int) (requestHead, error) {
	if frames.remaining > uint64(limit) {
		return requestHead{}, errHeadersTooLarge
	}
	section, err := frames.payload()
	if err != nil {
		return requestHead{}, err
	}
	_ = stream.SetReadDeadline(time.Time{})
	return parseRequestHead(section, limit)
}

// serveSession answers a request with a :protocol. What it returns is an error of
// the client's, and the stream still has to be ended; or whether a handler has the
// request now.
func (s *Server) serveSession(c *conn, stream *quic.Stream, frames *frameReader, head requestHead) (kept bool, err error) {
	if _, known := (settings{}).requestDraft(head.protocol); !known {
		// RFC 9220 §3
		return false, c.refuse(stream, http.StatusNotImplemented, nil)
	}
	if head.scheme != "https" {
		return false, streamError(codeMessageError, "WebTransport over scheme %q", head.scheme)
	}
	if err := checkContentFields(head.header); err != nil {
		return false, err
	}
	// draft-ietf-webtrans-http3-16 §7.1: no request before the client's SETTINGS.
	if err := c.awaitSettingsFor(c.limits.handshakeTimeout); err != nil {
		return false, err
	}
	draft, _ := c.peer.requestDraft(head.protocol)
	if c.full() {
		// draft-ietf-webtrans-http3-16 §5.1: without flow control the excess is
		// reset, so that a client can try another connection.
		return false, streamError(codeRequestRejected, "more sessions than this connection may have")
	}
	r, err := newRequest(c, stream, frames, head, draft, s.config.Subprotocols)
	if err != nil {
		return false, err
	}
	// Reading the request has grown this goroutine's stack, and a handler may be
	// there for hours.
	return c.spawn(func() { s.handle(r) }), nil
}

// handle has the application answer a request, and sees it to its end.
func (s *Server) handle(r *Request) {
	defer r.conn.removeRequest(uint64(r.stream.StreamID()))
	returned := false
	defer func() {
		if !returned {
			s.logPanic(recover(), r.RawPath)
			r.abort()
		}
	}()
	s.ask(r)
	r.finish(func() (int, http.Header) {
		status, header := s.unsupported(r)
		s.config.Logger.Debug("request left unanswered by its handler",
			"path", r.RawPath, "pattern", r.Pattern(), "status", status)
		return status, header
	})
	returned = true
}

// ask runs what the application has for a request.
func (s *Server) ask(r *Request) {
	// A client that loses interest stops the stream.
	r.watch.start(r.stream.Context(), r.streamEnded)
	defer r.watch.stop()
	if !s.config.CheckOrigin(r) {
		s.config.Logger.Debug("origin refused", "origin", r.Origin, "authority", r.Authority)
		_ = r.Reject(http.StatusForbidden, nil)
		return
	}
	s.config.Handler.ServeWebTransport(r.ctx, r)
}

// logPanic logs what a handler panicked with: nil if its goroutine ended without
// a panic, by runtime.Goexit.
func (s *Server) logPanic(value any, path string) {
	if value == nil || value == any(http.ErrAbortHandler) {
		return
	}
	s.config.Logger.Error("handler panicked", slog.String("path", path),
		slog.String("panic", fmt.Sprint(value)), slog.String("stack", string(debug.Stack())))
}

// refuse answers a request that no handler sees.
func (c *conn) refuse(stream *quic.Stream, status int, header http.Header) error {
	b, err := appendResponseHead(nil, status, header)
	if err != nil {
		return err
	}
	return c.answer(stream, b)
}

// answer sends a whole response and ends the request.
func (c *conn) answer(stream *quic.Stream, response []byte) error {
	c.noteAnswer()
	if err := stream.TryWriteAll(response); err != nil {
		stream.CancelRead(codeRequestRejected)
		stream.CancelWrite(codeRequestRejected)
		return fmt.Errorf("wt: answer: %w", err)
	}
	// RFC 9114 §4.1: the rest of the request is not needed.
	stream.CancelRead(codeNoError)
	return stream.Close()
}
