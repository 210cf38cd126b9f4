package wt

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// What may be said on the QPACK streams of a connection without a dynamic
// table, whole and byte by byte.
func TestQPACKStreams(t *testing.T) {
	const (
		encoderError   = 0x201
		decoderError   = 0x202
		criticalClosed = 0x104
	)
	cases := map[string]struct {
		read func(io.Reader) error
		sent []byte
		code uint64
	}{
		"encoder: nothing":                                     {readQPACKEncoder, nil, criticalClosed},
		"encoder §4.3.1: capacity 0, twice":                    {readQPACKEncoder, []byte{0x20, 0x20}, criticalClosed},
		"encoder §4.3.1: capacity 1":                           {readQPACKEncoder, []byte{0x21}, encoderError},
		"encoder §4.3.1: capacity 31":                          {readQPACKEncoder, []byte{0x3f, 0x00}, encoderError},
		"encoder §4.3.1: capacity 4096":                        {readQPACKEncoder, []byte{0x20, 0x3f, 0xe1, 0x1f}, encoderError},
		"encoder §4.3.1: cut within the capacity":              {readQPACKEncoder, []byte{0x3f, 0xe1}, criticalClosed},
		"encoder §4.3.2: insert with static name":              {readQPACKEncoder, []byte{0xc0, 0x01, 'a'}, encoderError},
		"encoder §4.3.2: insert with dynamic name":             {readQPACKEncoder, []byte{0x80, 0x01, 'a'}, encoderError},
		"encoder §4.3.3: insert with literal name":             {readQPACKEncoder, []byte{0x41, 'a', 0x01, 'a'}, encoderError},
		"encoder §4.3.4: duplicate":                            {readQPACKEncoder, []byte{0x00}, encoderError},
		"encoder §4.1.1: integer without end":                  {readQPACKEncoder, append([]byte{0x3f}, bytes.Repeat([]byte{0x80}, 40)...), encoderError},
		"decoder: nothing":                                     {readQPACKDecoder, nil, criticalClosed},
		"decoder §4.4.1: section acknowledgment":               {readQPACKDecoder, []byte{0x80}, decoderError},
		"decoder §4.4.2: cancellations":                        {readQPACKDecoder, []byte{0x40, 0x7f, 0x00, 0x44}, criticalClosed},
		"decoder §4.4.2: cancellation of the last stream":      {readQPACKDecoder, []byte{0x7f, 0xbd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}, criticalClosed},
		"decoder §4.4.2: cancellation beyond the last stream":  {readQPACKDecoder, []byte{0x7f, 0xc1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}, decoderError},
		"decoder §4.4.2: cut within a cancellation":            {readQPACKDecoder, []byte{0x7f}, criticalClosed},
		"decoder §4.4.3: increment":                            {readQPACKDecoder, []byte{0x01}, decoderError},
		"decoder §4.4.3: increment of 0":                       {readQPACKDecoder, []byte{0x00}, decoderError},
		"decoder §4.4.3: increment after cancellation":         {readQPACKDecoder, []byte{0x48, 0x02}, decoderError},
		"decoder §4.4.2: integer without end":                  {readQPACKDecoder, append([]byte{0x7f}, bytes.Repeat([]byte{0xff}, 40)...), decoderError},
		"decoder §4.4.1: byte of a cancellation that looks so": {readQPACKDecoder, []byte{0x7f, 0x80, 0x01}, criticalClosed},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{bytes.NewReader(c.sent), iotest.OneByteReader(bytes.NewReader(c.sent)), iotest.DataErrReader(bytes.NewReader(c.sent))} {
				var rule *protocolError
				if err := c.read(r); !errors.As(err, &rule) || rule.code != c.code || !rule.connection {
					t.Errorf("got %v, want a connection error with %#x", err, c.code)
				}
			}
		})
	}
	// The end of the connection is not the end of the stream.
	gone := errors.New("gone")
	for _, read := range []func(io.Reader) error{readQPACKEncoder, readQPACKDecoder} {
		if err := read(iotest.ErrReader(gone)); !errors.Is(err, gone) {
			t.Errorf("got %v, want %v", err, gone)
		}
	}
}

// wantQPACKStreamEnd checks what a QPACK stream ended with: its own code, or
// that of its end.
func wantQPACKStreamEnd(t *testing.T, b []byte, read func(io.Reader) error, own uint64) {
	t.Helper()
	var whole, cut *protocolError
	if err := read(bytes.NewReader(b)); !errors.As(err, &whole) || !whole.connection || whole.code != own && whole.code != codeClosedCriticalStream {
		t.Fatalf("got %v", err)
	}
	if err := read(&chunks{b: b}); !errors.As(err, &cut) || *cut != *whole {
		t.Errorf("in chunks: %v; at once: %v", err, whole)
	}
}

func FuzzQPACKEncoderStream(f *testing.F) {
	f.Add([]byte{0x20})
	f.Add([]byte{0x3f, 0x80, 0x00})
	f.Add([]byte{0x41, 'a', 0x01, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		wantQPACKStreamEnd(t, b, readQPACKEncoder, codeQPACKEncoderStreamError)
	})
}

func FuzzQPACKDecoderStream(f *testing.F) {
	f.Add([]byte{0x40, 0x7f, 0x80, 0x01})
	f.Add([]byte{0x80})
	f.Add([]byte{0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		wantQPACKStreamEnd(t, b, readQPACKDecoder, codeQPACKDecoderStreamError)
	})
}
