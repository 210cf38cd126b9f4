package wt

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go/quicvarint"
)

// chunks cuts a stream into reads of one to three bytes, so that parsers meet
// every boundary.
type chunks struct {
	b    []byte
	turn int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	c.turn++
	n := copy(p[:min(len(p), 1+c.turn%3)], c.b)
	c.b = c.b[n:]
	return n, nil
}

// wantRule checks that an error is the end of the input or a rule that was
// broken, with a code.
func wantRule(t *testing.T, err error) {
	t.Helper()
	var rule *protocolError
	if err == nil || errors.Is(err, io.EOF) || errors.As(err, &rule) && rule.code != 0 {
		return
	}
	t.Errorf("error %v has no code", err)
}

func FuzzCapsules(f *testing.F) {
	f.Add(appendCloseCapsule(nil, 7, "reason"))
	f.Add(append(appendCapsule(nil, capsuleDrain, nil), appendCapsule(nil, 0x1234, make([]byte, 300))...))
	f.Add(append(appendFrameHeader(nil, 0x21, 3), 1, 2, 3))
	f.Add([]byte{0, 2, 0x68, 0x43})
	f.Fuzz(func(t *testing.T, b []byte) {
		read := func(r io.Reader) (types []uint64, code uint32, reason string, err error) {
			capsules := newCapsuleReader(dataReader{newFrameReader(r)})
			for {
				typ, _, err := capsules.next()
				if err != nil {
					return types, 0, "", err
				}
				types = append(types, typ)
				if typ != capsuleClose {
					continue
				}
				value, err := capsules.value(maxCloseSize)
				if err != nil {
					return types, 0, "", err
				}
				code, reason, err := parseCloseCapsule(value)
				return types, code, reason, err
			}
		}
		types, code, reason, err := read(bytes.NewReader(b))
		wantRule(t, err)
		if !utf8.ValidString(reason) || len(reason) > maxReason {
			t.Errorf("reason %q", reason)
		}
		// However the stream is cut, it means the same.
		types2, code2, reason2, err2 := read(&chunks{b: b})
		if !slices.Equal(types, types2) || code != code2 || reason != reason2 || (err == nil) != (err2 == nil) {
			t.Errorf("in chunks: %x %d %q %v; at once: %x %d %q %v", types2, code2, reason2, err2, types, code, reason, err)
		}
	})
}

func FuzzFlowCapsules(f *testing.F) {
	f.Add(appendCapsule(appendCapsule(nil, capsuleMaxData, []byte{0x41, 0}), capsuleMaxStreamsUni, []byte{9}))
	f.Add(appendCapsule(nil, capsuleStreamsBidi, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}))
	f.Fuzz(func(t *testing.T, b []byte) {
		limits := settings{initialMaxData: 100, initialMaxBidi: 1, initialMaxUni: 1}
		flow := newFlow(&Session{draft: Draft16}, limits, limits)
		capsules := newCapsuleReader(dataReader{newFrameReader(&chunks{b: b})})
		for {
			before := []uint64{flow.data.limit, flow.bidi.limit, flow.uni.limit}
			typ, _, err := capsules.next()
			if err == nil && isFlowCapsule(typ) {
				err = flow.handleCapsule(typ, capsules)
			}
			for i, limit := range []uint64{flow.data.limit, flow.bidi.limit, flow.uni.limit} {
				if limit < before[i] || i > 0 && limit > maxStreams {
					t.Errorf("limit %d went from %d to %d", i, before[i], limit)
				}
			}
			if err != nil {
				wantRule(t, err)
				return
			}
		}
	})
}

func FuzzCloseCapsule(f *testing.F) {
	f.Add(uint32(0), "")
	f.Add(uint32(1<<32-1), "größe\xff")
	f.Fuzz(func(t *testing.T, code uint32, reason string) {
		cut := closeReason(reason)
		if utf8.ValidString(reason) && len(reason) <= maxReason && cut != reason {
			t.Errorf("reason %q became %q", reason, cut)
		}
		capsules := newCapsuleReader(dataReader{newFrameReader(bytes.NewReader(appendCloseCapsule(nil, code, cut)))})
		if typ, _, err := capsules.next(); typ != capsuleClose || err != nil {
			t.Fatalf("type %#x, %v", typ, err)
		}
		value, err := capsules.value(maxCloseSize)
		if err != nil {
			t.Fatal(err)
		}
		gotCode, gotReason, err := parseCloseCapsule(value)
		if gotCode != code || gotReason != cut || err != nil {
			t.Errorf("round trip gave %d, %q, %v", gotCode, gotReason, err)
		}
	})
}

func FuzzStreamHeader(f *testing.F) {
	f.Add(appendStreamHeader(nil, frameWebTransport, 0))
	f.Add(appendStreamHeader(nil, streamWebTransport, 1<<62-4))
	f.Add([]byte{0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		varints := &varintReader{r: &chunks{b: b}}
		typ, err := varints.read()
		if err != nil {
			if len(b) > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("type cut short: %v", err)
			}
			return
		}
		if want, n, err := quicvarint.Parse(b); err != nil || want != typ || n > len(b) {
			t.Errorf("type %d, want %d, %v", typ, want, err)
		}
		id, err := readSessionID(varints)
		if err == nil && id%4 != 0 {
			t.Errorf("session id %d accepted", id)
		}
	})
}

func FuzzSettings(f *testing.F) {
	f.Add(appendSettings(nil, (&conn{limits: limits{maxHeaderBytes: defaultHeaderBytes}}).localSettings()))
	f.Add([]byte{0x33, 2})
	f.Add([]byte{2, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSettings(b)
		wantRule(t, err)
		if err != nil {
			return
		}
		again, err := parseSettings(appendSettings(nil, s))
		if err != nil || again != s {
			t.Errorf("round trip gave %+v, %v; want %+v", again, err, s)
		}
		if draft, ok := s.newestDraft(); ok && (draft < Draft02 || draft > Draft16) {
			t.Errorf("draft %d", draft)
		}
		for _, token := range []string{"webtransport", "webtransport-h3"} {
			if draft, ok := s.requestDraft(token); !ok || draft.token() != token {
				t.Errorf("token %q gave draft %v", token, draft)
			}
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add(append(appendFrameHeader(nil, 0x21, 2), 1, 2))
	f.Add(appendFrameHeader(nil, frameHeaders, 1<<40))
	f.Add([]byte{0x40, 0x41, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		frames := newFrameReader(&chunks{b: b})
		typ, _, err := frames.next()
		if err != nil {
			wantRule(t, err)
			return
		}
		err = skipToHeaders(typ, frames)
		wantRule(t, err)
		if err == nil && frames.remaining > uint64(len(b)) {
			if _, err := io.Copy(io.Discard, frames); err == nil {
				t.Error("a frame longer than its stream was read")
			}
		}
	})
}

func FuzzControlFrames(f *testing.F) {
	f.Add(append(appendFrameHeader(nil, frameSettings, 0), appendFrameHeader(nil, frameGoAway, 0)...))
	f.Add([]byte{frameSettings, 2, 0x33, 1, frameGoAway, 1, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := newConn(nil, false, limits{}, nil)
		frames := newFrameReader(&chunks{b: b})
		for first := true; ; first = false {
			typ, length, err := frames.next()
			if err == nil {
				err = c.handleControlFrame(frames, typ, length, first)
			}
			if err != nil {
				wantRule(t, err)
				return
			}
		}
	})
}

func FuzzErrorCodes(f *testing.F) {
	f.Add(uint32(0), uint64(firstApplicationCode))
	f.Add(uint32(29), uint64(lastApplicationCode))
	f.Add(uint32(1<<32-1), uint64(0x21))
	f.Fuzz(func(t *testing.T, code uint32, wire uint64) {
		mapped := uint64(httpCode(code))
		if (mapped-0x21)%0x1f == 0 || mapped < firstApplicationCode || mapped > lastApplicationCode {
			t.Errorf("code %d maps to %#x, which is not for applications", code, mapped)
		}
		if back, ok := applicationCode(mapped); !ok || back != code {
			t.Errorf("code %d came back as %d, %v", code, back, ok)
		}
		if back, ok := applicationCode(wire); ok && uint64(httpCode(back)) != wire {
			t.Errorf("wire code %#x came back as %#x", wire, uint64(httpCode(back)))
		}
	})
}

func FuzzRequestHead(f *testing.F) {
	for _, head := range []requestHead{
		{method: "CONNECT", scheme: "https", authority: "localhost:4433", path: "/x?y", protocol: "webtransport-h3"},
		{method: "GET", scheme: "https", authority: "[::1]", path: "/", header: http.Header{"Cookie": {"a=b", "c=d"}}},
	} {
		b, err := appendRequestHead(nil, head)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[2:])
	}
	f.Fuzz(func(t *testing.T, section []byte) {
		head, err := parseRequestHead(section, 4096)
		if err != nil {
			if !errors.Is(err, errHeadersTooLarge) {
				wantRule(t, err)
			}
			return
		}
		if head.method == "" || head.authority == "" || head.protocol != "" && head.method != http.MethodConnect {
			t.Errorf("accepted %+v", head)
		}
		size := 0
		for name, values := range head.header {
			if !validToken(name) {
				t.Errorf("field name %q", name)
			}
			for _, value := range values {
				size += len(name) + len(value)
				if !validFieldValue(value) {
					t.Errorf("field value %q", value)
				}
			}
		}
		if size > 4096 {
			t.Errorf("%d bytes of fields, above the limit", size)
		}
		if status, _, err := parseResponseHead(section, 4096); err == nil {
			t.Errorf("a request was accepted as a response with status %d", status)
		}
	})
}

func FuzzResponseHead(f *testing.F) {
	for _, status := range []int{103, 200, 299, 404} {
		b, err := appendResponseHead(nil, status, http.Header{"Wt-Protocol": {`"a"`}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[2:])
	}
	f.Fuzz(func(t *testing.T, section []byte) {
		status, header, err := parseResponseHead(section, 4096)
		if err != nil {
			if !errors.Is(err, errHeadersTooLarge) {
				wantRule(t, err)
			}
			return
		}
		if status < 100 || status > 999 {
			t.Errorf("accepted status %d", status)
		}
		for name, values := range header {
			for _, value := range values {
				if !validToken(name) || !validFieldValue(value) {
					t.Errorf("accepted field %q: %q", name, value)
				}
			}
		}
	})
}

func FuzzSubprotocols(f *testing.F) {
	f.Add(`"a", "b;c" ;q=1`, `"a"`)
	f.Add(`a, "b"`, `1`)
	f.Add(`("a")`, `"\""`)
	f.Fuzz(func(t *testing.T, available, chosen string) {
		header := http.Header{fieldAvailableProtocols: {available}, fieldProtocol: {chosen}}
		if offered := parseAvailableProtocols(header); len(offered) > 0 {
			text, err := formatAvailableProtocols(offered)
			if err != nil {
				t.Fatalf("offer %q cannot be written: %v", offered, err)
			}
			again := parseAvailableProtocols(http.Header{fieldAvailableProtocols: {text}})
			if !slices.Equal(offered, again) {
				t.Errorf("offer %q came back as %q", offered, again)
			}
		}
		if protocol, ok := parseProtocol(header); ok {
			text, err := formatProtocol(protocol)
			if err != nil {
				t.Fatalf("choice %q cannot be written: %v", protocol, err)
			}
			if again, ok := parseProtocol(http.Header{fieldProtocol: {text}}); !ok || again != protocol {
				t.Errorf("choice %q came back as %q", protocol, again)
			}
		}
	})
}

// A dynamic table is never referred to, so the encoder's output stands alone.
func FuzzEncodeHeaders(f *testing.F) {
	f.Add("x-name", "value")
	f.Add("Connection", "close")
	f.Fuzz(func(t *testing.T, name, value string) {
		b, err := appendResponseHead(nil, 200, http.Header{name: {value}})
		if err != nil {
			return
		}
		frames := newFrameReader(bytes.NewReader(b))
		if _, _, err := frames.next(); err != nil {
			t.Fatal(err)
		}
		section, err := frames.payload()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := qpack.NewDecoder().Decode(section)(); err != nil {
			t.Fatal(err)
		}
		status, header, err := parseResponseHead(section, 1<<20)
		if err != nil || status != 200 || header.Get(name) != value {
			t.Errorf("%q: %q came back as %v, %v", name, value, header, err)
		}
	})
}

func FuzzHTTPBody(f *testing.F) {
	f.Add(append(appendFrameHeader(nil, frameData, 2), "ab"...), int64(2))
	f.Add(append(appendFrameHeader(nil, 0x21, 1), 0), int64(-1))
	trailer, _ := appendHeaders(nil, nil, http.Header{"X-Sum": {"1"}, "Content-Length": {"2"}})
	f.Add(append(append(appendFrameHeader(nil, frameData, 1), 'a'), trailer...), int64(1))
	f.Add(append(trailer, appendFrameHeader(nil, frameData, 0)...), int64(-1))
	f.Fuzz(func(t *testing.T, b []byte, length int64) {
		body := func(r io.Reader) (*httpBody, []byte, error) {
			body := &httpBody{conn: &conn{limits: limits{maxHeaderBytes: defaultHeaderBytes}}, frames: newFrameReader(r), length: max(length, -1), fields: make(http.Header)}
			var got []byte
			for {
				err := body.nextData()
				if err == nil {
					var part []byte
					part, err = io.ReadAll(body.frames)
					got = append(got, part...)
				}
				if err != nil {
					return body, got, err
				}
			}
		}
		whole, got, err := body(bytes.NewReader(b))
		wantRule(t, err)
		if errors.Is(err, io.EOF) {
			if length >= 0 && int64(len(got)) != length {
				t.Errorf("%d bytes with length %d", len(got), length)
			}
			if whole.frames.consumed() != uint64(len(b)) {
				t.Errorf("%d bytes consumed of %d", whole.frames.consumed(), len(b))
			}
		}
		for name := range whole.fields {
			if !validTrailer(name) {
				t.Errorf("field %q in a trailer", name)
			}
		}
		cut, again, err2 := body(&chunks{b: b})
		if !bytes.Equal(got, again) || errors.Is(err, io.EOF) != errors.Is(err2, io.EOF) || len(cut.fields) != len(whole.fields) {
			t.Errorf("in chunks: %x, %v; at once: %x, %v", again, err2, got, err)
		}
	})
}

func FuzzPriority(f *testing.F) {
	for value, want := range map[string]struct {
		urgency     int8
		incremental bool
		ok          bool
	}{
		"u=0":         {0, false, true},
		"u=7, i":      {7, true, true},
		"i=?0":        {3, false, true},
		"":            {3, false, true},
		"u=8":         {3, false, true},
		"u=-1, i=1":   {3, false, true},
		"u=?1;x, i;y": {3, true, true},
		"u=(1 2)":     {3, false, true},
		"u=1, u=2":    {2, false, true},
		"u=":          {0, false, false},
	} {
		f.Add(value)
		if urgency, incremental, ok := parsePriority([]string{value}); urgency != want.urgency || incremental != want.incremental || ok != want.ok {
			f.Errorf("%q is %d, %v, %v; want %+v", value, urgency, incremental, ok, want)
		}
	}
	f.Fuzz(func(t *testing.T, value string) {
		if urgency, _, _ := parsePriority([]string{value}); urgency < 0 || urgency > 7 {
			t.Errorf("urgency %d", urgency)
		}
	})
}

func FuzzContentLength(f *testing.F) {
	f.Add("5")
	f.Add("+5")
	f.Add("9223372036854775808")
	f.Fuzz(func(t *testing.T, value string) {
		length, err := contentLength(http.Header{"Content-Length": {value}})
		if err != nil {
			wantRule(t, err)
			return
		}
		if strings.TrimLeft(value, "0") != strings.TrimLeft(strconv.FormatInt(length, 10), "0") {
			t.Errorf("%q is %d", value, length)
		}
	})
}
