package codec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func TestVarint(t *testing.T) {
	for _, v := range []uint64{0, 1, 63, 64, 16383, 16384, 1<<30 - 1, 1 << 30, maxVarint} {
		b := appendVarint(nil, v)
		if got, n := parseVarint(b); got != v || n != len(b) {
			t.Errorf("%d: parsed %d of %d bytes, want %d", v, got, n, len(b))
		}
		if _, n := parseVarint(b[:len(b)-1]); n != 0 {
			t.Errorf("%d: parsed although it was cut", v)
		}
	}
}

// A frame that is longer than the limit is refused when its length is there,
// before its body is.
func TestReaderRefusesBeforeTheBodyComes(t *testing.T) {
	r := NewReader(bytes.NewReader(appendVarint(nil, 101)), 100)
	if _, err := r.Next(); CodeOf(err) != CodeFrameTooLarge {
		t.Errorf("got %v, want %s", err, CodeFrameTooLarge)
	}
}

// A length is a promise, not a reason to take memory.
func TestReaderTakesMemoryOnlyForWhatArrived(t *testing.T) {
	const limit = 16 << 20
	r := NewReader(io.MultiReader(bytes.NewReader(appendVarint(nil, limit)), bytes.NewReader(make([]byte, 1000)), iotest.ErrReader(io.ErrNoProgress)), limit)
	if _, err := r.Next(); !errors.Is(err, io.ErrNoProgress) {
		t.Fatalf("got %v", err)
	}
	if c := cap(r.buf); c > 4<<10 {
		t.Errorf("the buffer is %d bytes after 1,004 had arrived", c)
	}
}

func TestReaderGivesLargeBuffersBack(t *testing.T) {
	big := AppendMessage(nil, Message{Topic: 1, Offset: 1, Previous: 1, Payload: Bytes(make([]byte, 200<<10))})
	small := AppendSkip(nil, Skip{Topic: 1, To: 2})
	r := NewReader(io.MultiReader(bytes.NewReader(big), bytes.NewReader(small)), DefaultMaxFrame)
	for _, want := range []Type{TypeMessage, TypeSkip} {
		f, err := r.Next()
		if err != nil || f.Type != want {
			t.Fatalf("got %v, %v; want %v", f.Type, err, want)
		}
	}
	if c := cap(r.buf); c > largeBuffer {
		t.Errorf("a small frame is held in a buffer of %d bytes", c)
	}
}

func TestReaderEnds(t *testing.T) {
	whole := AppendSkip(nil, Skip{Topic: 1, To: 2})
	r := NewReader(bytes.NewReader(whole), 100)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("between frames: %v, want io.EOF", err)
	}
	r = NewReader(bytes.NewReader(whole[:2]), 100)
	if _, err := r.Next(); CodeOf(err) != CodeMalformedFrame {
		t.Errorf("within a frame: %v, want %s", err, CodeMalformedFrame)
	}
}

func TestParseDatagram(t *testing.T) {
	b := AppendSkip(nil, Skip{Topic: 1, To: 2})
	if f, err := ParseDatagram(b); err != nil || f.Type != TypeSkip {
		t.Errorf("got %v, %v", f.Type, err)
	}
	for _, bad := range [][]byte{nil, b[:2], append(bytes.Clone(b), 0)} {
		if _, err := ParseDatagram(bad); CodeOf(err) != CodeMalformedFrame {
			t.Errorf("%x: %v, want %s", bad, err, CodeMalformedFrame)
		}
	}
}

func TestUnknownTrailingFieldsAreIgnored(t *testing.T) {
	// SKIP with a third field that no version has: a map.
	b := []byte{0, 0x94, byte(TypeSkip), 1, 2, 0x81}
	b[0] = byte(len(b) - 1)
	f, _, err := NextFrame(b, 100)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := ParseSkip(f); err != nil || s != (Skip{Topic: 1, To: 2}) {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestReasonIsCutAtACharacter(t *testing.T) {
	f, _, err := NextFrame(AppendEnd(nil, End{Code: CodeInternal, Reason: "x" + strings.Repeat("é", 400)}), DefaultMaxFrame)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ParseEnd(f)
	if err != nil || len(e.Reason) > MaxReason || len(e.Reason) < MaxReason-1 || !utf8.ValidString(e.Reason) {
		t.Errorf("got %d bytes, %v", len(e.Reason), err)
	}
}

func TestCodes(t *testing.T) {
	for code, name := range codeNames {
		if code.String() != name || strings.HasPrefix(name, "code_") {
			t.Errorf("%d is %q", code, code)
		}
	}
	for code, want := range map[Code]bool{
		CodeOK: false, CodeReplaced: false, CodeMalformedFrame: false, CodeTokenExpired: false,
		CodeRateLimited: true, 399: true, CodeShuttingDown: true, 499: true,
		CodeConnectionLost: true, CodeClosed: false, 600: false,
	} {
		if code.Temporary() != want {
			t.Errorf("%s.Temporary() = %v", code, !want)
		}
	}
	wrapped := fmt.Errorf("outer: %w", Errorf(CodeSystemTopic, "no"))
	if CodeOf(wrapped) != CodeSystemTopic || !errors.Is(wrapped, &Error{Code: CodeSystemTopic}) || errors.Is(wrapped, &Error{Code: CodeInternal}) {
		t.Errorf("the code of %v is lost", wrapped)
	}
	if CodeOf(nil) != CodeOK || CodeOf(io.EOF) != CodeInternal {
		t.Error("CodeOf of no or a foreign error")
	}
}

func TestPayloads(t *testing.T) {
	type point struct {
		X int    `json:"x"`
		N string `msgpack:"name"`
	}
	p, err := Encode(point{X: 3, N: "a"})
	if err != nil || p.Encoding != EncodingMsgpack {
		t.Fatal(p, err)
	}
	var q point
	if err := p.Decode(&q); err != nil || q != (point{3, "a"}) {
		t.Errorf("got %+v, %v", q, err)
	}
	var m map[string]any
	if err := p.Decode(&m); err != nil || m["name"] != "a" || m["x"] == nil {
		t.Errorf("fields are named by their tags: %v, %v", m, err)
	}
	j, err := JSON(map[string]int{"a": 1})
	if err != nil {
		t.Fatal(err)
	}
	var jm map[string]int
	if err := j.Decode(&jm); err != nil || jm["a"] != 1 {
		t.Errorf("got %v, %v", jm, err)
	}
	var s string
	if err := Text("hi").Decode(&s); err != nil || s != "hi" {
		t.Errorf("got %q, %v", s, err)
	}
	data := []byte{1}
	var b []byte
	if err := Bytes(data).Decode(&b); err != nil || b[0] != 1 {
		t.Errorf("got %v, %v", b, err)
	}
	if data[0] = 9; b[0] != 1 {
		t.Error("decoded bytes are not a copy")
	}
	var n int
	if err := Text("1").Decode(&n); err == nil {
		t.Error("text decoded into an int")
	}
	if err := (Payload{Encoding: EncodingMsgpack, Data: []byte{0xc1}}).Decode(&n); err == nil {
		t.Error("bad MessagePack decoded")
	}
	if _, err := Encode(func() {}); err == nil {
		t.Error("a function was encoded")
	}
}

func TestIDString(t *testing.T) {
	if got := idA.String(); got != "019a3c55-7e10-7b21-8c44-deadbeef0001" {
		t.Error(got)
	}
	if (ID{}).String() != "" {
		t.Error("the zero ID has a name")
	}
}

// The path of a message takes no memory but the caller's.
func TestMessageAllocations(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector's pools drop what they hold: allocations are not counted under it")
		return
	}
	m := Message{Topic: 12, Offset: 1 << 33, Previous: 1, Time: 1 << 31, Payload: Bytes(make([]byte, 128)), Publisher: idA}
	b := AppendMessage(nil, m)
	if n := testing.AllocsPerRun(1000, func() { b = AppendMessage(b[:0], m) }); n > 0 {
		t.Errorf("AppendMessage: %v allocations", n)
	}
	if n := testing.AllocsPerRun(1000, func() {
		f, _, err := NextFrame(b, DefaultMaxFrame)
		if err == nil {
			_, err = ParseMessage(f)
		}
		if err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("ParseMessage: %v allocations", n)
	}
}

func BenchmarkAppendMessage(b *testing.B) {
	m := Message{Topic: 12, Offset: 1 << 33, Previous: 1, Time: 1 << 31, Payload: Bytes(make([]byte, 128)), Publisher: idA}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendMessage(buf[:0], m)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkParseMessage(b *testing.B) {
	buf := AppendMessage(nil, Message{Topic: 12, Offset: 1 << 33, Previous: 1, Time: 1 << 31, Payload: Bytes(make([]byte, 128)), Publisher: idA})
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		f, _, err := NextFrame(buf, DefaultMaxFrame)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := ParseMessage(f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParsePublish(b *testing.B) {
	buf := AppendPublish(nil, Publish{Sequence: 1 << 20, Payload: Bytes(make([]byte, 128))})
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		f, _, err := NextFrame(buf, DefaultMaxFrame)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := ParsePublish(f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkContains(b *testing.B) {
	for b.Loop() {
		if !Contains("chat.*.room.>", "chat.eu.room.7.messages") {
			b.Fatal("not contained")
		}
	}
}
