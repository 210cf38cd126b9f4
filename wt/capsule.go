package wt

import (
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/quic-go/quic-go/quicvarint"
)

// Types of capsules (draft-ietf-webtrans-http3-16 §4.7, §5.6, §6).
const (
	capsuleClose = 0x2843
	capsuleDrain = 0x78ae
)

// maxReason bounds the reason of a close, in bytes
// (draft-ietf-webtrans-http3-16 §6).
const maxReason = 1024

// maxCloseSize bounds the payload of a close: code and reason.
const maxCloseSize = 4 + maxReason

// capsuleReader reads capsules off the concatenated DATA of a CONNECT stream
// (RFC 9297 §3.2), wherever the DATA frames are cut.
type capsuleReader struct {
	varints   varintReader
	remaining uint64 // of the value of the current capsule
}

func newCapsuleReader(r io.Reader) *capsuleReader {
	return &capsuleReader{varints: varintReader{r: r}}
}

// next skips what is left of the current capsule and returns type and length of
// the next, or io.EOF if the stream ended before it.
func (c *capsuleReader) next() (typ, length uint64, err error) {
	if c.remaining > 0 {
		n, err := io.CopyN(io.Discard, c.varints.r, int64(c.remaining))
		c.remaining -= uint64(n)
		if err != nil {
			return 0, 0, incomplete(err)
		}
	}
	if typ, err = c.varints.read(); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		return 0, 0, incomplete(err)
	}
	if length, err = c.varints.read(); err != nil {
		return 0, 0, incomplete(err)
	}
	c.remaining = length
	return typ, length, nil
}

// value reads the value of the current capsule, of at most limit bytes.
func (c *capsuleReader) value(limit uint64) ([]byte, error) {
	if c.remaining > limit {
		return nil, streamError(codeMessageError, "capsule of %d bytes, more than %d", c.remaining, limit)
	}
	b := make([]byte, c.remaining)
	n, err := io.ReadFull(c.varints.r, b)
	c.remaining -= uint64(n)
	return b, incomplete(err)
}

// empty checks that the current capsule has no value.
func (c *capsuleReader) empty() error {
	if c.remaining > 0 {
		// RFC 9297 §3.3
		return streamError(codeMessageError, "capsule of %d bytes, none expected", c.remaining)
	}
	return nil
}

// end waits for the end of the stream, and returns nil for it. Data is an error.
// The last capsule has been read.
func (c *capsuleReader) end() error {
	if _, err := io.ReadFull(c.varints.r, make([]byte, 1)); err == nil {
		return streamError(codeMessageError, "data after WT_CLOSE_SESSION")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// incomplete turns the end of the stream within a capsule into the error that
// RFC 9297 §3.3 names.
func incomplete(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return streamError(codeMessageError, "stream ended within a capsule")
	}
	return err
}

// contentField returns the name of a field that describes content, which a
// message does not have where capsules follow it (RFC 9297 §3.2), or "".
func contentField(header http.Header) string {
	for name := range header {
		if strings.EqualFold(name, "Content-Length") || strings.EqualFold(name, "Content-Type") {
			return name
		}
	}
	return ""
}

// checkContentFields refuses a peer's message with fields that describe content.
func checkContentFields(header http.Header) error {
	if name := contentField(header); name != "" {
		return streamError(codeMessageError, "field %q in front of capsules", name)
	}
	return nil
}

// appendCapsule appends a DATA frame that holds one capsule.
func appendCapsule(b []byte, typ uint64, value []byte) []byte {
	header := appendFrameHeader(make([]byte, 0, 16), typ, uint64(len(value)))
	b = appendFrameHeader(b, frameData, uint64(len(header)+len(value)))
	b = append(b, header...)
	return append(b, value...)
}

// appendCloseCapsule appends a DATA frame with the capsule WT_CLOSE_SESSION.
// The reason has been through closeReason.
func appendCloseCapsule(b []byte, code uint32, reason string) []byte {
	value := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(reason)), code)
	return appendCapsule(b, capsuleClose, append(value, reason...))
}

// parseCloseCapsule parses the value of the capsule WT_CLOSE_SESSION.
func parseCloseCapsule(value []byte) (code uint32, reason string, err error) {
	if len(value) < 4 || len(value) > maxCloseSize {
		return 0, "", streamError(codeMessageError, "WT_CLOSE_SESSION of %d bytes", len(value))
	}
	if !utf8.Valid(value[4:]) {
		return 0, "", streamError(codeMessageError, "reason of WT_CLOSE_SESSION is not UTF-8")
	}
	return binary.BigEndian.Uint32(value), string(value[4:]), nil
}

// closeReason makes a reason valid UTF-8 of at most maxReason bytes, cut at the
// boundary of a character.
func closeReason(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) <= maxReason {
		return reason
	}
	end := maxReason
	for !utf8.RuneStart(reason[end]) {
		end--
	}
	return reason[:end]
}

// appendStreamHeader appends what a stream of a session begins with: its type
// or signal, and the session's id (draft-ietf-webtrans-http3-16 §4.2, §4.3).
func appendStreamHeader(b []byte, typ, session uint64) []byte {
	b = quicvarint.Append(b, typ)
	return quicvarint.Append(b, session)
}

// readSessionID reads the session's id that follows a stream's type.
func readSessionID(v *varintReader) (uint64, error) {
	id, err := v.read()
	if err != nil {
		return 0, err
	}
	return id, checkSessionID(id)
}

// checkSessionID holds every session's id to be the id of a client-initiated
// bidirectional stream (draft-ietf-webtrans-http3-16 §4).
func checkSessionID(id uint64) error {
	if id%4 != 0 {
		return connectionError(codeIDError, "session id %d", id)
	}
	return nil
}
