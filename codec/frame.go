package codec

import (
	"errors"
	"io"
)

// Type is the type of a frame, its first field (PROTOCOL §2.1).
type Type uint8

// The frame types of version 1.
const (
	TypeHello         Type = 1
	TypeWelcome       Type = 2
	TypeAuth          Type = 3
	TypeAuthenticated Type = 4
	TypeNotice        Type = 5
	TypeEnd           Type = 6
	TypeFlow          Type = 7
	TypeStreamEnd     Type = 8
	TypePing          Type = 9
	TypePong          Type = 10
	TypePriority      Type = 11

	TypeSubscribe  Type = 16
	TypeSubscribed Type = 17
	TypeTopic      Type = 18
	TypeMessage    Type = 19
	TypeGap        Type = 20
	TypeSkip       Type = 21
	TypeFetch      Type = 22
	TypePage       Type = 23

	TypePublication Type = 32
	TypePublish     Type = 33
	TypeAck         Type = 34
	TypeNack        Type = 35

	TypePresence Type = 48
	TypeCount    Type = 49
	TypeCounts   Type = 50

	TypeRequest  Type = 64
	TypeResponse Type = 65
	TypeDone     Type = 66
	TypeReply    Type = 67
	TypeCancel   Type = 68
)

var typeNames = map[Type]string{
	TypeHello: "HELLO", TypeWelcome: "WELCOME", TypeAuth: "AUTH", TypeAuthenticated: "AUTHENTICATED",
	TypeNotice: "NOTICE", TypeEnd: "END", TypeFlow: "FLOW", TypeStreamEnd: "STREAM_END",
	TypePing: "PING", TypePong: "PONG", TypePriority: "PRIORITY", TypeFetch: "FETCH", TypePage: "PAGE",
	TypeSubscribe: "SUBSCRIBE", TypeSubscribed: "SUBSCRIBED", TypeTopic: "TOPIC",
	TypeMessage: "MESSAGE", TypeGap: "GAP", TypeSkip: "SKIP",
	TypePublication: "PUBLICATION", TypePublish: "PUBLISH", TypeAck: "ACK", TypeNack: "NACK",
	TypePresence: "PRESENCE", TypeCount: "COUNT", TypeCounts: "COUNTS",
	TypeRequest: "REQUEST", TypeResponse: "RESPONSE", TypeDone: "DONE", TypeReply: "REPLY", TypeCancel: "CANCEL",
}

// String returns the name that PROTOCOL.md uses, or "unknown".
func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return "unknown"
}

// Frame is one frame, cut from a stream or datagram but not yet parsed.
type Frame struct {
	Type Type
	body []byte // the array whole
	size int    // bytes on the wire, the length included
}

// Size returns the bytes of the frame on the wire, its length included.
func (f Frame) Size() int { return f.size }

// ErrShort is returned by NextFrame if b ends within a frame.
var ErrShort = errors.New("codec: incomplete frame")

// NextFrame cuts the first frame from b and returns how many bytes it took. The
// frame refers to b. If b ends within the frame the error is ErrShort. A frame
// whose body is longer than maxFrame bytes is refused as soon as its length is
// there (PROTOCOL §2.3).
func NextFrame(b []byte, maxFrame int) (Frame, int, error) {
	length, n := parseVarint(b)
	if n == 0 {
		return Frame{}, 0, ErrShort
	}
	if length > uint64(maxFrame) {
		return Frame{}, 0, Errorf(CodeFrameTooLarge, "a frame of %d bytes; the limit is %d", length, maxFrame)
	}
	end := n + int(length)
	if len(b) < end {
		return Frame{}, 0, ErrShort
	}
	f := Frame{body: b[n:end:end], size: end}
	t, err := frameType(f.body)
	if err != nil {
		return Frame{}, 0, err
	}
	f.Type = t
	return f, end, nil
}

// maxDatagramFrame is beyond every datagram: UDP carries less.
const maxDatagramFrame = 1 << 16

// ParseDatagram returns the one frame that a datagram holds (PROTOCOL §8).
func ParseDatagram(b []byte) (Frame, error) {
	f, n, err := NextFrame(b, maxDatagramFrame)
	switch {
	case errors.Is(err, ErrShort), err == nil && n != len(b):
		return Frame{}, Errorf(CodeMalformedFrame, "a datagram holds exactly one frame")
	case err != nil:
		return Frame{}, err
	}
	return f, nil
}

// Reader cuts a byte stream into frames. Its buffer begins small, grows with what
// arrives and not with what a length promises, and shrinks again after a long
// frame. It is not safe for concurrent use.
type Reader struct {
	r        io.Reader
	maxFrame int
	buf      []byte // buf[start:] is unread
	start    int
	busy     bool // the last Read filled all the room it was given
	err      error
}

const (
	// readerBuffer is the first size of a Reader's buffer. An idle stream that is
	// read keeps it for its life, so it is small.
	readerBuffer = 512
	// largeBuffer is the size beyond which reading more at once gains nothing, and
	// beyond which a buffer is not kept.
	largeBuffer = 32 << 10
)

// NewReader returns a reader of frames whose body is at most maxFrame bytes.
func NewReader(r io.Reader, maxFrame int) *Reader {
	return &Reader{r: r, maxFrame: maxFrame}
}

// SetMaxFrame changes the limit for the frames to come.
func (r *Reader) SetMaxFrame(maxFrame int) { r.maxFrame = maxFrame }

// Buffered returns the number of bytes that were read and not yet returned.
func (r *Reader) Buffered() int { return len(r.buf) - r.start }

// Next returns the next frame; it is valid until the next call. At the end of
// the stream the error is io.EOF between frames; within a frame it is an *Error
// with CodeMalformedFrame. An error stays.
func (r *Reader) Next() (Frame, error) {
	for {
		f, n, err := NextFrame(r.buf[r.start:], r.maxFrame)
		if err == nil {
			r.start += n
			return f, nil
		}
		if !errors.Is(err, ErrShort) {
			return Frame{}, err
		}
		if r.err != nil {
			if errors.Is(r.err, io.EOF) && r.Buffered() > 0 {
				return Frame{}, Errorf(CodeMalformedFrame, "the stream ended within a frame")
			}
			return Frame{}, r.err
		}
		r.fill()
	}
}

// Pending reports whether Next would return without reading.
func (r *Reader) Pending() bool {
	_, _, err := NextFrame(r.buf[r.start:], r.maxFrame)
	return !errors.Is(err, ErrShort)
}

// fill makes room and reads once.
func (r *Reader) fill() {
	rest := r.buf[r.start:]
	need := readerBuffer
	if length, n := parseVarint(rest); n > 0 {
		// NextFrame has checked the length. Doubling what is there bounds the
		// memory by twice what the peer has really sent.
		need = max(need, min(n+int(length), 2*len(rest)))
	}
	if r.busy {
		need = max(need, min(2*cap(r.buf), largeBuffer))
	}
	switch {
	case need > cap(r.buf), len(rest) == 0 && cap(r.buf) > largeBuffer:
		grown := make([]byte, len(rest), need)
		copy(grown, rest)
		r.buf = grown
	case r.start > 0:
		r.buf = r.buf[:copy(r.buf, rest)]
	}
	r.start = 0
	full := len(r.buf)
	n, err := r.r.Read(r.buf[full:cap(r.buf)])
	r.buf = r.buf[:full+n]
	r.busy = len(r.buf) == cap(r.buf)
	r.err = err
}
