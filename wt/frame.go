package wt

import (
	"errors"
	"io"

	"github.com/quic-go/quic-go/quicvarint"
)

// Types of HTTP/3 frames (RFC 9114 §7.2).
const (
	frameData        = 0x00
	frameHeaders     = 0x01
	frameCancelPush  = 0x03
	frameSettings    = 0x04
	framePushPromise = 0x05
	frameGoAway      = 0x07
	frameMaxPushID   = 0x0d

	// frameWebTransport begins a bidirectional WebTransport stream. It has no
	// length, so it is a frame in name only (draft-ietf-webtrans-http3-16 §4.3).
	frameWebTransport = 0x41
)

// Types of unidirectional streams (RFC 9114 §6.2, RFC 9204 §4.2).
const (
	streamControl      = 0x00
	streamPush         = 0x01
	streamQPACKEncoder = 0x02
	streamQPACKDecoder = 0x03
	streamWebTransport = 0x54
)

// isHTTP2Frame reports whether typ is a frame of HTTP/2 that HTTP/3 forbids
// (RFC 9114 §7.2.8).
func isHTTP2Frame(typ uint64) bool {
	return typ == 0x02 || typ == 0x06 || typ == 0x08 || typ == 0x09
}

// appendFrameHeader appends the type and the length of a frame.
func appendFrameHeader(b []byte, typ, length uint64) []byte {
	b = quicvarint.Append(b, typ)
	return quicvarint.Append(b, length)
}

// varintReader reads varints off a stream, and nothing beyond them.
type varintReader struct {
	r       io.Reader
	scratch [8]byte
	count   int // of the bytes read
}

// read returns the next varint. The error is io.EOF if the stream ended before
// its first byte, and io.ErrUnexpectedEOF if it ended within.
func (v *varintReader) read() (uint64, error) {
	if _, err := io.ReadFull(v.r, v.scratch[:1]); err != nil {
		return 0, err
	}
	length := 1 << (v.scratch[0] >> 6)
	if _, err := io.ReadFull(v.r, v.scratch[1:length]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	v.count += length
	value := uint64(v.scratch[0] & 0x3f)
	for _, c := range v.scratch[1:length] {
		value = value<<8 | uint64(c)
	}
	return value, nil
}

// frameReader reads the frames of one stream. After next, the payload has to be
// read through the frameReader or skipped before next is called again.
type frameReader struct {
	varints   varintReader
	remaining uint64 // of the payload of the current frame
	payloads  uint64 // bytes of payload that have been read
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{varints: varintReader{r: r}}
}

// next returns type and length of the next frame, or io.EOF at the end of the
// stream.
func (f *frameReader) next() (typ, length uint64, err error) {
	if typ, err = f.varints.read(); err != nil {
		return 0, 0, truncated(err, true)
	}
	length, err = f.length(typ)
	return typ, length, err
}

// length reads what follows the type of a frame.
func (f *frameReader) length(typ uint64) (uint64, error) {
	if typ == frameWebTransport {
		return 0, connectionError(codeFrameError, "WT_STREAM signal where a frame belongs")
	}
	length, err := f.varints.read()
	if err != nil {
		return 0, truncated(err, false)
	}
	f.remaining = length
	return length, nil
}

// Read reads the payload of the current frame, and returns io.EOF at its end.
func (f *frameReader) Read(p []byte) (int, error) {
	if f.remaining == 0 {
		return 0, io.EOF
	}
	if uint64(len(p)) > f.remaining {
		p = p[:f.remaining]
	}
	n, err := f.varints.r.Read(p)
	f.remaining -= uint64(n)
	f.payloads += uint64(n)
	if errors.Is(err, io.EOF) {
		err = nil
		if f.remaining > 0 {
			err = truncated(io.EOF, false)
		}
	}
	return n, err
}

// consumed returns how many bytes of the stream have been read.
func (f *frameReader) consumed() uint64 { return uint64(f.varints.count) + f.payloads }

// payload reads the whole payload of the current frame.
// The caller has checked its length against a limit.
func (f *frameReader) payload() ([]byte, error) {
	b := make([]byte, f.remaining)
	_, err := io.ReadFull(f, b)
	return b, truncated(err, false)
}

// skip discards what is left of the current frame, as it comes.
func (f *frameReader) skip() error {
	_, err := io.Copy(io.Discard, f)
	return truncated(err, false)
}

// truncated turns the end of a stream within a frame into the error that RFC
// 9114 §7.1 names. At a boundary between frames io.EOF stays as it is.
func truncated(err error, boundary bool) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) && !boundary {
		return connectionError(codeFrameError, "stream ended within a frame")
	}
	return err
}

// requestStreamFrame says what an unexpected type of frame on a request stream
// means: nil if it is to be skipped (RFC 9114 §4.1, §7.2, §9).
func requestStreamFrame(typ uint64) error {
	switch {
	case typ == frameCancelPush, typ == frameSettings, typ == framePushPromise,
		typ == frameGoAway, typ == frameMaxPushID, isHTTP2Frame(typ):
		return connectionError(codeFrameUnexpected, "frame %#x on a request stream", typ)
	default:
		return nil
	}
}

// dataReader concatenates the payloads of the DATA frames of a CONNECT stream
// after its HEADERS. Unknown frames are skipped; known ones other than DATA are
// forbidden there (RFC 9114 §4.4).
type dataReader struct{ frames *frameReader }

// Read returns io.EOF at the end of the stream.
func (d dataReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for d.frames.remaining == 0 {
		typ, _, err := d.frames.next()
		if err != nil {
			return 0, err
		}
		if typ == frameData {
			continue
		}
		if typ == frameHeaders {
			return 0, connectionError(codeFrameUnexpected, "HEADERS after those of a CONNECT")
		}
		if err := requestStreamFrame(typ); err != nil {
			return 0, err
		}
		if err := d.frames.skip(); err != nil {
			return 0, err
		}
	}
	return d.frames.Read(p)
}
