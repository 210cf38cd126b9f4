package codec

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"
)

// seedFrames adds the bytes of every vector.
func seedFrames(f *testing.F) {
	type vector struct {
		Hex string `json:"hex"`
	}
	for _, file := range []string{"frames.json", "rejected.json"} {
		for _, v := range readVectors[vector](f, file) {
			f.Add(unhex(f, v.Hex))
		}
	}
}

// FuzzParse: every parser of the type that a frame names gives a coded error or
// a value, and a value survives being written and parsed again.
func FuzzParse(f *testing.F) {
	seedFrames(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, n, err := NextFrame(b, MaxFirstFrame)
		if err != nil {
			if !errors.Is(err, ErrShort) {
				wantCoded(t, err)
			}
			return
		}
		if n > len(b) || frame.Size() != n {
			t.Fatalf("a frame of %d bytes, size %d, out of %d", n, frame.Size(), len(b))
		}
		c, ok := frameCodecs[frame.Type]
		if !ok {
			return
		}
		v, err := c.parse(frame)
		if err != nil {
			wantCoded(t, err)
			return
		}
		again, _, err := NextFrame(c.write(nil, v), 2*MaxFirstFrame)
		if err != nil {
			t.Fatalf("written again, %+v is no frame: %v", v, err)
		}
		w, err := c.parse(again)
		if err != nil || !reflect.DeepEqual(fields(v), fields(w)) {
			t.Fatalf("%+v became %+v, %v", v, w, err)
		}
	})
}

// FuzzReader: however a stream is cut, a Reader gives the frames that NextFrame
// gives.
func FuzzReader(f *testing.F) {
	seedFrames(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(iotest.OneByteReader(bytes.NewReader(b)), MaxFirstFrame)
		whole := NewReader(bytes.NewReader(b), MaxFirstFrame)
		for {
			x, errX := r.Next()
			y, errY := whole.Next()
			if (errX == nil) != (errY == nil) || CodeOf(errX) != CodeOf(errY) || !bytes.Equal(x.body, y.body) {
				t.Fatalf("byte by byte %x, %v; whole %x, %v", x.body, errX, y.body, errY)
			}
			if errX != nil {
				if !errors.Is(errX, io.EOF) {
					wantCoded(t, errX)
				}
				return
			}
		}
	})
}

// FuzzTopic: the grammar and the relations of patterns agree with each other.
func FuzzTopic(f *testing.F) {
	type match struct{ Pattern, Topic string }
	for _, v := range readVectors[match](f, "matches.json") {
		f.Add(v.Pattern, v.Topic)
	}
	f.Add("a\xff", "a")
	f.Fuzz(func(t *testing.T, a, b string) {
		if CheckTopic(a) == nil && CheckPattern(a) != nil {
			t.Fatalf("topic %q is no pattern", a)
		}
		if CheckPattern(a) != nil || CheckPattern(b) != nil {
			return
		}
		if IsExact(a) != (CheckTopic(a) == nil) {
			t.Fatalf("IsExact(%q)", a)
		}
		if !Contains(a, a) {
			t.Fatalf("%q does not contain itself", a)
		}
		if IsExact(b) && Match(a, b) != Contains(a, b) {
			t.Fatalf("Match(%q, %q) and Contains differ", a, b)
		}
		if Contains(a, b) && IsSystem(a) != IsSystem(b) {
			t.Fatalf("%q contains %q across the border of the system", a, b)
		}
	})
}

func wantCoded(t *testing.T, err error) {
	t.Helper()
	if e, ok := errors.AsType[*Error](err); !ok || e.Code.Range() != RangeRequest {
		t.Fatalf("not a coded error of the request: %v", err)
	}
}
