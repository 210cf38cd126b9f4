package wt

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
)

// httpBody is the body of a plain request: the payloads of its DATA frames. It is
// read as it comes, so that QUIC's windows bound what is held of it. Read and
// Close may be called concurrently with each other and with the response.
type httpBody struct {
	// Static.
	conn   *conn
	stream *quic.Stream
	frames *frameReader
	length int64       // by Content-Length, -1 if there is none
	begin  func()      // called before the first wait, where it is not nil
	fields http.Header // gets the trailer's fields at the end

	closed atomic.Bool

	// Owned by whoever holds reading, which a Read does while it waits: as with
	// other bodies, a second one comes after the first.
	reading sync.Mutex
	begun   bool
	read    int64 // bytes of payload, those of the current frame included
	trailer bool  // whether the trailer has been read
	err     error // what every further Read returns
}

// newHTTPBody makes the body of a request whose HEADERS have been read. It is nil
// if the stream has ended with them, as far as is known.
func newHTTPBody(c *conn, stream *quic.Stream, frames *frameReader, r *http.Request) (*httpBody, error) {
	b := &httpBody{conn: c, stream: stream, frames: frames, length: r.ContentLength, fields: r.Trailer}
	consumed := int64(frames.consumed())
	var over atomic.Bool
	stream.SetReceiveFinalSizeCallback(func(size int64) { over.Store(size == consumed) })
	stream.SetReceiveFinalSizeCallback(nil)
	if !over.Load() {
		return b, nil
	}
	// Nothing has to be waited for: this meets the end, or the client's reset, which
	// is for the handler to see.
	var rule *protocolError
	switch _, err := b.Read(make([]byte, 1)); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case errors.As(err, &rule):
		return nil, err
	default:
		return b, nil
	}
}

// Read reads the body as it arrives. The error is io.EOF at its end, when the
// trailer's fields are in the request, and *[StreamError] if the client has reset
// the stream.
func (b *httpBody) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if !b.begun {
		b.begun = true
		if b.begin != nil {
			b.begin()
		}
	}
	var err error
	if b.frames.remaining == 0 {
		err = b.nextData()
	}
	n := 0
	if err == nil {
		n, err = b.frames.Read(p)
	}
	b.err = b.translate(err)
	return n, b.err
}

// nextData finds the next DATA frame with a payload. It returns io.EOF at the end
// of a message that is well-formed.
func (b *httpBody) nextData() error {
	for {
		typ, length, err := b.frames.next()
		switch {
		case errors.Is(err, io.EOF):
			if b.length >= 0 && b.read != b.length {
				return streamError(codeMessageError, "body of %d bytes, content-length %d", b.read, b.length)
			}
			return io.EOF
		case err != nil:
			return err
		case typ == frameData && !b.trailer:
			if b.length >= 0 && length > uint64(b.length-b.read) {
				// RFC 9114 §4.1.2
				return streamError(codeMessageError, "body beyond content-length %d", b.length)
			}
			b.read += int64(length)
			if length > 0 {
				return nil
			}
		case typ == frameHeaders && !b.trailer:
			if err := b.readTrailer(); err != nil {
				return err
			}
		case typ == frameData, typ == frameHeaders:
			// RFC 9114 §4.1
			return connectionError(codeFrameUnexpected, "frame %#x after the trailer", typ)
		default:
			if err := requestStreamFrame(typ); err != nil {
				return err
			}
			if err := b.frames.skip(); err != nil {
				return err
			}
		}
	}
}

// readTrailer reads the HEADERS after the body (RFC 9114 §4.1).
func (b *httpBody) readTrailer() error {
	b.trailer = true
	limit := b.conn.limits.maxHeaderBytes
	if b.frames.remaining > uint64(limit) {
		return streamError(codeExcessiveLoad, "trailer of %d bytes", b.frames.remaining)
	}
	section, err := b.frames.payload()
	if err != nil {
		return err
	}
	err = parseTrailer(section, limit, b.fields)
	if errors.Is(err, errHeadersTooLarge) {
		err = streamError(codeExcessiveLoad, "trailer too large")
	}
	return err
}

// parseTrailer decodes a trailer into fields. Fields that a trailer cannot have
// are left out (RFC 9110 §6.5.1).
func parseTrailer(section []byte, limit int, fields http.Header) error {
	return decodeFields(section, limit, func(name, _ string) error {
		// RFC 9114 §4.3
		return streamError(codeMessageError, "pseudo-header %q in a trailer", name)
	}, func(name, value string) error {
		if validTrailer(name) {
			fields.Add(name, value)
		}
		return nil
	})
}

// translate ends what an error of reading ends, and returns it as the handler is
// to see it.
func (b *httpBody) translate(err error) error {
	var rule *protocolError
	if errors.As(err, &rule) {
		b.conn.refuseStream(b.stream, err)
	}
	return cancellation(err)
}

// Close keeps further reads from the body. It does not wait for one that is under
// way.
func (b *httpBody) Close() error {
	b.closed.Store(true)
	return nil
}

// abandon ends the body when the handler has returned. What is left of it is not
// needed (RFC 9114 §4.1).
func (b *httpBody) abandon() {
	b.closed.Store(true)
	b.stream.CancelRead(codeNoError)
}
