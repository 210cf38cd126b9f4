package codec

import (
	"bytes"
	"io"
	"sync"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// Optional is an integer of the envelope that may be nil (PROTOCOL §2.1).
type Optional struct {
	Value uint64
	Set   bool
}

// Some returns an Optional that is set.
func Some(v uint64) Optional { return Optional{Value: v, Set: true} }

// packer writes one frame. Its methods cannot fail: they write to memory.
type packer struct {
	b     []byte
	start int // where the frame begins in b
	enc   *msgpack.Encoder
}

var packers = sync.Pool{New: func() any {
	p := new(packer)
	p.enc = msgpack.NewEncoder(p)
	return p
}}

// Write implements io.Writer for the encoder.
func (p *packer) Write(b []byte) (int, error) {
	p.b = append(p.b, b...)
	return len(b), nil
}

// WriteByte implements io.ByteWriter for the encoder.
func (p *packer) WriteByte(c byte) error {
	p.b = append(p.b, c)
	return nil
}

// pack begins a frame of n fields, the type not counted, behind b. Two bytes are
// set aside for the length: right for most frames, mended in frame otherwise.
func pack(b []byte, t Type, n int) *packer {
	p := packers.Get().(*packer)
	p.start = len(b)
	p.b = b
	p.b = append(p.b, 0, 0)
	p.array(n + 1)
	p.uint(uint64(t))
	return p
}

// frame ends the frame, and returns the bytes with it appended.
func (p *packer) frame() []byte {
	const reserved = 2
	body := len(p.b) - p.start - reserved
	var length [8]byte
	head := appendVarint(length[:0], uint64(body))
	if n := len(head); n != reserved {
		for range n - reserved {
			p.b = append(p.b, 0)
		}
		copy(p.b[p.start+n:], p.b[p.start+reserved:p.start+reserved+body])
		p.b = p.b[:p.start+n+body]
	}
	copy(p.b[p.start:], head)
	b := p.b
	p.b = nil
	packers.Put(p)
	return b
}

func (p *packer) array(n int)     { must(p.enc.EncodeArrayLen(n)) }
func (p *packer) uint(v uint64)   { must(p.enc.EncodeUint(v)) }
func (p *packer) text(s string)   { must(p.enc.EncodeString(s)) }
func (p *packer) none()           { must(p.enc.EncodeNil()) }
func (p *packer) reason(s string) { p.text(cutReason(s)) }

func (p *packer) bytes(b []byte) {
	must(p.enc.EncodeBytesLen(len(b)))
	p.b = append(p.b, b...)
}

func (p *packer) id(id ID) {
	if id.IsZero() {
		p.none()
		return
	}
	p.bytes(id[:])
}

func (p *packer) optional(o Optional) {
	if !o.Set {
		p.none()
		return
	}
	p.uint(o.Value)
}

func (p *packer) optionalText(s string) {
	if s == "" {
		p.none()
		return
	}
	p.text(s)
}

// must panics on an error of the encoder: writing to memory gives none.
func must(err error) {
	if err != nil {
		panic("codec: encoding to memory failed: " + err.Error())
	}
}

// unpacker reads the fields of one frame. The first error stays, and all later
// reads return zero values, so that a Parse function checks once, in done.
type unpacker struct {
	r    bytes.Reader
	body []byte
	dec  *msgpack.Decoder
	left int // fields of the array that were not read yet
	err  *Error
}

var unpackers = sync.Pool{New: func() any {
	u := new(unpacker)
	u.dec = msgpack.NewDecoder(&u.r)
	return u
}}

// unpack opens the fields of f behind the type.
func unpack(f Frame, want Type) *unpacker {
	u := unpackers.Get().(*unpacker)
	u.body, u.err = f.body, nil
	u.r.Reset(f.body)
	n, err := u.dec.DecodeArrayLen()
	if err != nil || n < 1 {
		u.malformed("the body is not an array")
		return u
	}
	u.left = n
	if t := u.uint(); u.err == nil && t != uint64(want) {
		u.err = Errorf(CodeUnexpectedFrame, "%s where %s belongs", Type(t), want)
	}
	return u
}

// frameType reads the type of a frame from its body.
func frameType(body []byte) (Type, error) {
	u := unpackers.Get().(*unpacker)
	u.body, u.err = body, nil
	u.r.Reset(body)
	n, err := u.dec.DecodeArrayLen()
	if err != nil || n < 1 {
		u.malformed("the body is not an array that begins with a type")
	}
	u.left = n
	t := u.uint()
	e := u.release()
	switch {
	case e != nil:
		return 0, e
	case t > 127:
		return 0, Errorf(CodeMalformedFrame, "frame type %d is above 127", t)
	}
	return Type(t), nil
}

// release gives u back and returns its error.
func (u *unpacker) release() *Error {
	err := u.err
	u.body = nil
	u.r.Reset(nil)
	unpackers.Put(u)
	return err
}

// done ends the reading of a frame: what follows the last field of the array is
// an error, unless fields of a later version come first.
func (u *unpacker) done() error {
	if u.err == nil && u.left == 0 && u.r.Len() > 0 {
		u.malformed("bytes behind the last field")
	}
	if err := u.release(); err != nil {
		return err
	}
	return nil
}

func (u *unpacker) malformed(reason string) {
	if u.err == nil {
		u.err = &Error{Code: CodeMalformedFrame, Reason: reason}
	}
}

// fail keeps err if it is the first.
func (u *unpacker) fail(err *Error) {
	if u.err == nil {
		u.err = err
	}
}

// peek returns the code of the next field; Nil where none is left.
func (u *unpacker) peek() byte {
	if u.err != nil || u.left == 0 {
		return msgpcode.Nil
	}
	c, err := u.dec.PeekCode()
	if err != nil {
		u.malformed("the frame ends within its fields")
		return msgpcode.Nil
	}
	return c
}

// absent reports whether the next field is nil or left out, and takes it if so.
func (u *unpacker) absent() bool {
	if u.err != nil {
		return true
	}
	if u.left == 0 {
		return true
	}
	if u.peek() != msgpcode.Nil || u.err != nil {
		return u.err != nil
	}
	_, _ = u.r.ReadByte() // the nil that peek has seen
	u.left--
	return true
}

// required takes note of a field that must be there.
func (u *unpacker) required() bool {
	if u.err != nil {
		return false
	}
	if u.left == 0 {
		u.malformed("a field is missing")
		return false
	}
	u.left--
	return true
}

func (u *unpacker) uint() uint64 {
	if !u.required() {
		return 0
	}
	c, err := u.dec.PeekCode()
	if err != nil {
		u.malformed("the frame ends within its fields")
		return 0
	}
	if c > msgpcode.PosFixedNumHigh && (c < msgpcode.Uint8 || c > msgpcode.Uint64) {
		u.malformed("a field is no unsigned integer")
		return 0
	}
	v, err := u.dec.DecodeUint64()
	if err != nil || v > MaxInteger {
		u.malformed("an integer is cut or above 2^53-1")
		return 0
	}
	return v
}

// bounded reads an integer that is at most limit.
func (u *unpacker) bounded(limit uint64) uint64 {
	v := u.uint()
	if v > limit {
		u.malformed("an integer is above its limit")
		return 0
	}
	return v
}

func (u *unpacker) optional() Optional {
	if u.absent() {
		return Optional{}
	}
	return Optional{Value: u.uint(), Set: u.err == nil}
}

// span takes the bytes of a str or bin field of at most limit bytes, without a
// copy.
func (u *unpacker) span(limit int, text bool) []byte {
	if !u.required() {
		return nil
	}
	c, err := u.dec.PeekCode()
	if err != nil {
		u.malformed("the frame ends within its fields")
		return nil
	}
	isBin := c >= msgpcode.Bin8 && c <= msgpcode.Bin32
	isText := msgpcode.IsFixedString(c) || c >= msgpcode.Str8 && c <= msgpcode.Str32
	if text && !isText || !text && !isBin {
		u.malformed("a field is of another kind")
		return nil
	}
	n, err := u.dec.DecodeBytesLen()
	if err != nil || n > u.r.Len() {
		u.malformed("the frame ends within its fields")
		return nil
	}
	if n > limit {
		u.malformed("a field is longer than its limit")
		return nil
	}
	at := len(u.body) - u.r.Len()
	if _, err := u.r.Seek(int64(n), io.SeekCurrent); err != nil {
		u.malformed("the frame ends within its fields")
		return nil
	}
	return u.body[at : at+n : at+n]
}

func (u *unpacker) bytes(limit int) []byte { return u.span(limit, false) }

func (u *unpacker) text(limit int) string {
	b := u.span(limit, true)
	if !utf8.Valid(b) {
		u.malformed("text is not UTF-8")
		return ""
	}
	return string(b)
}

func (u *unpacker) optionalText(limit int) string {
	if u.absent() {
		return ""
	}
	return u.text(limit)
}

func (u *unpacker) id() (id ID) {
	b := u.bytes(len(id))
	if u.err == nil && len(b) != len(id) {
		u.malformed("an id is not 16 bytes")
		return ID{}
	}
	copy(id[:], b)
	return id
}

func (u *unpacker) optionalID() ID {
	if u.absent() {
		return ID{}
	}
	return u.id()
}

// list opens an array of at most limit elements; they count as fields of the
// frame from here on.
func (u *unpacker) list(limit int) int {
	if !u.required() {
		return 0
	}
	if c, err := u.dec.PeekCode(); err != nil || !msgpcode.IsFixedArray(c) && c != msgpcode.Array16 && c != msgpcode.Array32 {
		u.malformed("a field is no list")
		return 0
	}
	n, err := u.dec.DecodeArrayLen()
	if err != nil || n < 0 || n > limit {
		u.malformed("a list is cut or longer than its limit")
		return 0
	}
	u.left += n
	return n
}
