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
		encoderError = 0x201
		decoderError = 0x202
	)
	cases := map[string]struct {
		parser func() instructionParser
		sent   []byte
		code   uint64
	}{
		"encoder: nothing":                                     {encoderStream, nil, 0},
		"encoder §4.3.1: capacity 0, twice":                    {encoderStream, []byte{0x20, 0x20}, 0},
		"encoder §4.3.1: capacity 1":                           {encoderStream, []byte{0x21}, encoderError},
		"encoder §4.3.1: capacity 31":                          {encoderStream, []byte{0x3f, 0x00}, encoderError},
		"encoder §4.3.1: capacity 4096":                        {encoderStream, []byte{0x20, 0x3f, 0xe1, 0x1f}, encoderError},
		"encoder §4.3.1: cut within the capacity":              {encoderStream, []byte{0x3f, 0xe1}, 0},
		"encoder §4.3.2: insert with static name":              {encoderStream, []byte{0xc0, 0x01, 'a'}, encoderError},
		"encoder §4.3.2: insert with dynamic name":             {encoderStream, []byte{0x80, 0x01, 'a'}, encoderError},
		"encoder §4.3.3: insert with literal name":             {encoderStream, []byte{0x41, 'a', 0x01, 'a'}, encoderError},
		"encoder §4.3.4: duplicate":                            {encoderStream, []byte{0x00}, encoderError},
		"encoder §4.1.1: integer without end":                  {encoderStream, append([]byte{0x3f}, bytes.Repeat([]byte{0x80}, 40)...), encoderError},
		"decoder: nothing":                                     {decoderStream, nil, 0},
		"decoder §4.4.1: section acknowledgment":               {decoderStream, []byte{0x80}, decoderError},
		"decoder §4.4.2: cancellations":                        {decoderStream, []byte{0x40, 0x7f, 0x00, 0x44}, 0},
		"decoder §4.4.2: cancellation of the last stream":      {decoderStream, []byte{0x7f, 0xbd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}, 0},
		"decoder §4.4.2: cancellation beyond the last stream":  {decoderStream, []byte{0x7f, 0xc1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}, decoderError},
		"decoder §4.4.2: cut within a cancellation":            {decoderStream, []byte{0x7f}, 0},
		"decoder §4.4.3: increment":                            {decoderStream, []byte{0x01}, decoderError},
		"decoder §4.4.3: increment of 0":                       {decoderStream, []byte{0x00}, decoderError},
		"decoder §4.4.3: increment after cancellation":         {decoderStream, []byte{0x48, 0x02}, decoderError},
		"decoder §4.4.2: integer without end":                  {decoderStream, append([]byte{0x7f}, bytes.Repeat([]byte{0xff}, 40)...), decoderError},
		"decoder §4.4.1: byte of a cancellation that looks so": {decoderStream, []byte{0x7f, 0x80, 0x01}, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{bytes.NewReader(c.sent), iotest.OneByteReader(bytes.NewReader(c.sent)), iotest.DataErrReader(bytes.NewReader(c.sent))} {
				if got := feedAll(t, c.parser(), r); got != c.code {
					t.Errorf("code %#x, want %#x", got, c.code)
				}
			}
		})
	}
}

type instructionParser interface{ feed(b []byte) error }

func encoderStream() instructionParser { return new(qpackEncoderStream) }
func decoderStream() instructionParser { return new(qpackDecoderStream) }

// feedAll feeds a stream to a parser, and returns the code of the connection error
// that it ends with, 0 if there is none.
func feedAll(t *testing.T, parser instructionParser, r io.Reader) uint64 {
	t.Helper()
	buffer := make([]byte, 8)
	for {
		n, end := r.Read(buffer)
		if err := parser.feed(buffer[:n]); err != nil {
			var rule *protocolError
			if !errors.As(err, &rule) || !rule.connection || rule.code == 0 {
				t.Fatalf("error %v is none of the connection", err)
			}
			return rule.code
		}
		if end != nil {
			return 0
		}
	}
}

// wantFed feeds a stream whole and in pieces, which is to mean the same: nothing,
// or the error of its kind of stream.
func wantFed(t *testing.T, b []byte, parser func() instructionParser, code uint64) {
	t.Helper()
	whole, cut := feedAll(t, parser(), bytes.NewReader(b)), feedAll(t, parser(), &chunks{b: b})
	if whole != cut || whole != 0 && whole != code {
		t.Errorf("at once: code %#x, in chunks: %#x", whole, cut)
	}
}

func FuzzQPACKEncoderStream(f *testing.F) {
	f.Add([]byte{0x20})
	f.Add([]byte{0x3f, 0x80, 0x00})
	f.Add([]byte{0x41, 'a', 0x01, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		wantFed(t, b, encoderStream, codeQPACKEncoderStreamError)
	})
}

func FuzzQPACKDecoderStream(f *testing.F) {
	f.Add([]byte{0x40, 0x7f, 0x80, 0x01})
	f.Add([]byte{0x80})
	f.Add([]byte{0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		wantFed(t, b, decoderStream, codeQPACKDecoderStreamError)
	})
}
