package wt

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// responseBuffer is how much of a response's body is collected before it is sent.
// A body that is complete by then has its length in the head.
const responseBuffer = 4 << 10

// httpResponse is the response to a plain request. Its methods are for one
// goroutine at a time, as with those of other http.ResponseWriters.
type httpResponse struct {
	// Static.
	stream *quic.Stream
	logger *slog.Logger
	isHead bool // the request's method is HEAD

	// Owned by the handler.
	header   http.Header // what Header returns
	fields   http.Header // those of the head, fixed by WriteHeader
	trailers []string    // names that the field Trailer has announced
	status   int
	length   int64 // by the field Content-Length, -1 if there is none
	written  int64 // bytes of the body that were accepted
	buffer   []byte
	sent     bool  // whether the head has been sent
	err      error // of sending; nothing can be sent any more

	// Guarded by mu, because reading the body may send 100 (Continue).
	mu        sync.Mutex
	decided   bool // whether the status of the final response has been decided
	continued bool // whether 100 (Continue) has been sent
}

func newHTTPResponse(stream *quic.Stream, logger *slog.Logger, isHead bool) *httpResponse {
	return &httpResponse{stream: stream, logger: logger, isHead: isHead, header: make(http.Header), length: -1}
}

// Header returns the fields of the head, and of the trailer once the head has
// been written.
func (w *httpResponse) Header() http.Header { return w.header }

// WriteHeader sends an interim response (1xx), or decides on the head of the
// final one.
func (w *httpResponse) WriteHeader(status int) {
	if status < 100 || status > 999 || status == http.StatusSwitchingProtocols {
		// RFC 9114 §4.5: there is no 101.
		panic(fmt.Sprintf("wt: status %d in an HTTP/3 response", status))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.decided {
		w.logger.Debug("superfluous WriteHeader", slog.Int("status", status))
		return
	}
	if status < 200 {
		w.sendInterimLocked(status)
		return
	}
	w.decided, w.status = true, status
	w.fields = w.header.Clone()
	for name := range listedFields(w.fields["Trailer"]) {
		w.trailers = append(w.trailers, name)
		w.fields.Del(name)
	}
	if value := w.fields.Get("Content-Length"); value != "" {
		length, err := strconv.ParseUint(value, 10, 63)
		if err != nil {
			w.logger.Debug("Content-Length is no number", slog.String("value", value))
			w.fields.Del("Content-Length")
		} else {
			w.length = int64(length)
		}
	}
}

// sendContinue asks the client for its body, unless the response has begun.
func (w *httpResponse) sendContinue() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.decided && !w.continued {
		w.sendInterimLocked(http.StatusContinue)
	}
}

// sendInterimLocked sends an interim response. It is a hint, so one for which
// there is no room at once is left out.
func (w *httpResponse) sendInterimLocked(status int) {
	var fields http.Header
	if status == http.StatusContinue {
		w.continued = true
	} else {
		fields = w.sendable(w.header)
		fields.Del("Content-Length")
	}
	b, err := appendResponseHead(nil, status, fields)
	if err == nil {
		err = w.stream.TryWriteAll(b)
	}
	if err != nil {
		w.logger.Debug("interim response not sent", slog.Int("status", status), slog.Any("error", err))
	}
}

// hasBody reports whether a response of the status can have a body (RFC 9110
// §15.3.5, §15.4.5).
func hasBody(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// Write writes a part of the body.
func (w *httpResponse) Write(p []byte) (int, error) {
	if !w.isDecided() {
		w.WriteHeader(http.StatusOK)
	}
	if !hasBody(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if w.length >= 0 && int64(len(p)) > w.length-w.written {
		return 0, http.ErrContentLength
	}
	if w.err != nil {
		return 0, w.err
	}
	if w.isHead {
		w.written += int64(len(p))
		if !w.sent { // for the type of the content
			w.buffer = append(w.buffer, p[:min(len(p), responseBuffer-len(w.buffer))]...)
		}
		return len(p), nil
	}
	if len(w.buffer)+len(p) <= responseBuffer {
		w.buffer = append(w.buffer, p...)
	} else if err := w.send(p, false); err != nil {
		return 0, err
	}
	w.written += int64(len(p))
	return len(p), nil
}

func (w *httpResponse) isDecided() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.decided
}

// Flush sends what has been written.
func (w *httpResponse) Flush() { _ = w.FlushError() }

// FlushError is Flush, for [http.ResponseController].
func (w *httpResponse) FlushError() error {
	if !w.isDecided() {
		w.WriteHeader(http.StatusOK)
	}
	return w.send(nil, false)
}

// SetReadDeadline bounds the reads of the request's body. A body of which a read
// has failed stays so.
func (w *httpResponse) SetReadDeadline(deadline time.Time) error {
	return w.stream.SetReadDeadline(deadline)
}

// SetWriteDeadline bounds the writes of the response. A response of which a write
// has failed is reset when its handler returns.
func (w *httpResponse) SetWriteDeadline(deadline time.Time) error {
	return w.stream.SetWriteDeadline(deadline)
}

// EnableFullDuplex does nothing: reading and writing never wait for each other.
func (w *httpResponse) EnableFullDuplex() error { return nil }

// send sends the head, if that has not been done, what is in the buffer, and p.
// At the end of the response it sends the trailer.
func (w *httpResponse) send(p []byte, end bool) error {
	if w.err != nil {
		return w.err
	}
	var b []byte
	if !w.sent {
		w.sent = true
		b, w.err = w.appendHead(b, p, end)
	}
	if w.isHead {
		w.buffer, p = nil, nil
	}
	if n := len(w.buffer) + len(p); n > 0 {
		b = appendFrameHeader(b, frameData, uint64(n))
		b = append(b, w.buffer...)
		w.buffer = w.buffer[:0]
	}
	if end && w.err == nil {
		b, w.err = w.appendTrailer(b)
	}
	if w.err == nil && len(b) > 0 {
		_, w.err = w.stream.Write(b)
	}
	if w.err == nil && len(p) > 0 {
		_, w.err = w.stream.Write(p)
	}
	w.err = cancellation(w.err)
	return w.err
}

// appendHead appends the HEADERS frame of the final response, whose body begins
// with what is in the buffer and p, and is complete with it at the end.
func (w *httpResponse) appendHead(b, p []byte, end bool) ([]byte, error) {
	fields := w.sendable(w.fields)
	if _, there := fields["Date"]; !there {
		if _, suppressed := w.fields["Date"]; !suppressed {
			fields.Set("Date", time.Now().UTC().Format(http.TimeFormat))
		}
	}
	switch {
	case !hasBody(w.status):
		if w.status == http.StatusNoContent {
			fields.Del("Content-Length") // RFC 9110 §8.6
		}
	default:
		begin := w.buffer
		if len(begin) < sniffLength {
			begin = append(begin[:len(begin):len(begin)], p[:min(len(p), sniffLength-len(begin))]...)
		}
		_, typed := w.fields["Content-Type"]
		if !typed && fields.Get("Content-Encoding") == "" && len(begin) > 0 {
			fields.Set("Content-Type", http.DetectContentType(begin))
		}
		_, measured := w.fields["Content-Length"]
		if !measured && end && (w.written > 0 || !w.isHead) {
			fields.Set("Content-Length", strconv.FormatInt(w.written, 10))
		}
	}
	return appendResponseHead(b, w.status, fields)
}

// sniffLength is what http.DetectContentType considers.
const sniffLength = 512

// appendTrailer appends the HEADERS frame of the trailer, if there is one.
func (w *httpResponse) appendTrailer(b []byte) ([]byte, error) {
	if w.isHead || !hasBody(w.status) {
		return b, nil
	}
	trailer := make(http.Header)
	for _, name := range w.trailers {
		if values, there := w.header[name]; there {
			trailer[name] = values
		}
	}
	for name, values := range w.header {
		if name, late := strings.CutPrefix(name, http.TrailerPrefix); late && validTrailer(name) {
			trailer[http.CanonicalHeaderKey(name)] = values
		}
	}
	if trailer = w.sendable(trailer); len(trailer) == 0 {
		return b, nil
	}
	return appendHeaders(b, nil, trailer)
}

// sendable returns the fields that an HTTP/3 message can have. Handlers are
// written for every version of HTTP, so what only others have is left out (RFC
// 9114 §4.2).
func (w *httpResponse) sendable(header http.Header) http.Header {
	fields := make(http.Header, len(header))
	for name, values := range header {
		if strings.HasPrefix(name, http.TrailerPrefix) || isConnectionField(strings.ToLower(name), "") {
			continue
		}
		if !validToken(name) {
			w.logger.Debug("field left out", slog.String("name", name))
			continue
		}
		for _, value := range values {
			value = strings.Trim(value, " \t")
			if !validFieldValue(value) {
				w.logger.Debug("field left out", slog.String("name", name))
				continue
			}
			fields[name] = append(fields[name], value)
		}
	}
	return fields
}

// finish completes the response when the handler has returned. If it fails the
// response cannot be completed.
func (w *httpResponse) finish() error {
	if !w.isDecided() {
		w.WriteHeader(http.StatusOK)
	}
	if err := w.send(nil, true); err != nil {
		return err
	}
	if w.length > w.written && hasBody(w.status) && !w.isHead {
		return fmt.Errorf("wt: body of %d bytes, Content-Length %d", w.written, w.length)
	}
	return w.stream.Close()
}

// abort resets a response that cannot be completed.
func (w *httpResponse) abort() { w.stream.CancelWrite(codeInternalError) }
