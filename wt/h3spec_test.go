package wt_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/tidewire/tidewire/wt"
)

// The error cases of HTTP/3 and QPACK that h3spec (kazu-yamamoto/h3spec) holds
// servers to, by the rule each of them tests. The bytes are written out as far as
// they are what is wrong.

const (
	qpackEncoderStream = 0x201
	qpackDecoderStream = 0x202
)

// specServer is a server whose handler reads the bodies of plain requests.
func specServer(t *testing.T) *peer {
	t.Helper()
	return dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})})
}

// What ends the connection.
func TestH3SpecConnectionErrors(t *testing.T) {
	control := func(frames ...[]byte) []byte {
		return append(varints(0), bytes.Join(frames, nil)...)
	}
	// :method GET, :scheme https, :authority 127.0.0.1, :path /, by the static
	// table, with a prefix that asks for no insertion.
	getSection := append([]byte{0, 0, 0xd1, 0xd7, 0x50, 9}, "127.0.0.1\xc1"...)
	section := func(more ...byte) []byte { return frame(1, append(bytes.Clone(getSection), more...)) }
	cases := map[string]struct {
		uni     [][]byte // unidirectional streams
		fin     bool     // whether the last of them ends
		request []byte   // a bidirectional stream
		code    uint64
	}{
		"RFC 9114 §4.1: DATA before HEADERS":                          {request: append(data(nil), getHead("GET")...), code: h3FrameUnexpected},
		"RFC 9114 §6.2.1: first frame on control is not SETTINGS":     {uni: [][]byte{control(frame(13, varints(1)), usualSettings())}, code: h3MissingSettings},
		"RFC 9114 §7.2.1: DATA on control":                            {uni: [][]byte{control(usualSettings(), data(nil))}, code: h3FrameUnexpected},
		"RFC 9114 §7.2.2: HEADERS on control":                         {uni: [][]byte{control(usualSettings(), frame(1, nil))}, code: h3FrameUnexpected},
		"RFC 9114 §7.2.4: second SETTINGS":                            {uni: [][]byte{control(usualSettings(), settingsFrame())}, code: h3FrameUnexpected},
		"RFC 9114 §7.2.4: setting twice":                              {uni: [][]byte{control(settingsFrame(7, 100, 1, 4096, 6, 32768, 7, 100))}, code: h3SettingsError},
		"RFC 9114 §7.2.4: unknown setting twice":                      {uni: [][]byte{control(settingsFrame(64, 0, 64, 0))}, code: h3SettingsError},
		"RFC 9114 §7.2.4.1: setting of HTTP/2":                        {uni: [][]byte{control(settingsFrame(7, 100, 2, 200, 1, 4096, 6, 32768))}, code: h3SettingsError},
		"RFC 9114 §7.2.4.1: setting of HTTP/2 after a reserved one":   {uni: [][]byte{control(settingsFrame(0x21, 0, 2, 0))}, code: h3SettingsError},
		"RFC 9114 §7.1: SETTINGS ends within a setting":               {uni: [][]byte{control(frame(4, []byte{1}))}, code: h3FrameError},
		"RFC 9114 §7.2.5: CANCEL_PUSH on a request":                   {request: append(frame(3, nil), getHead("GET")...), code: h3FrameUnexpected},
		"RFC 9114 §10.5.1: frame on control of 2^30 bytes":            {uni: [][]byte{control(usualSettings(), []byte{7, 0xc0, 0, 0, 0, 0x40, 0, 0, 0})}, code: h3ExcessiveLoad},
		"RFC 9114 §7.2.3: CANCEL_PUSH of no push":                     {uni: [][]byte{control(usualSettings(), frame(3, varints(0)))}, code: h3IDError},
		"RFC 9114 §7.2.7: MAX_PUSH_ID reduced":                        {uni: [][]byte{control(usualSettings(), frame(13, varints(2)), frame(13, varints(2)), frame(13, varints(1)))}, code: h3IDError},
		"RFC 9114 §7.1: MAX_PUSH_ID with more than an id":             {uni: [][]byte{control(usualSettings(), frame(13, varints(2, 2)))}, code: h3FrameError},
		"RFC 9114 §7.1: GOAWAY without an id":                         {uni: [][]byte{control(usualSettings(), frame(7, nil))}, code: h3FrameError},
		"RFC 9204 §3.1: index beyond the static table":                {request: section(0xff, 0x24), code: qpackDecompression},
		"RFC 9204 §2.2.3: entry of a dynamic table that is not there": {request: section(0x80), code: qpackDecompression},
		"RFC 9204 §4.5.1: section that needs insertions":              {request: frame(1, []byte{2, 0, 0x80}), code: qpackDecompression},
		"RFC 9204 §4.3.1: table capacity above the limit":             {uni: [][]byte{append(varints(2), 0x3f, 0xe1, 0xc7, 0xaf, 0xa0, 0x25)}, code: qpackEncoderStream},
		"RFC 9204 §4.3.3: insertion into a table without capacity":    {uni: [][]byte{append(varints(2), 0x41, 'a', 1, 'b')}, code: qpackEncoderStream},
		"RFC 9204 §4.4.1: acknowledgment of nothing":                  {uni: [][]byte{append(varints(3), 0x80)}, code: qpackDecoderStream},
		"RFC 9204 §4.4.3: insert count increment of 0":                {uni: [][]byte{append(varints(3), 0x00)}, code: qpackDecoderStream},
		"RFC 9204 §4.4.3: insert count increment beyond insertions":   {uni: [][]byte{append(varints(3), 0x01)}, code: qpackDecoderStream},
		"RFC 9114 §6.2.1: control stream closed":                      {uni: [][]byte{control(usualSettings())}, fin: true, code: h3ClosedCritical},
		"RFC 9204 §4.2: encoder stream closed":                        {uni: [][]byte{varints(2)}, fin: true, code: h3ClosedCritical},
		"RFC 9204 §4.2: decoder stream closed":                        {uni: [][]byte{varints(3)}, fin: true, code: h3ClosedCritical},
		"RFC 9204 §4.2: encoder stream closed within an instruction":  {uni: [][]byte{append(varints(2), 0x3f)}, fin: true, code: h3ClosedCritical},
		"RFC 9114 §6.2.1: second control stream":                      {uni: [][]byte{control(usualSettings()), control(settingsFrame())}, code: h3StreamCreation},
		"RFC 9114 §6.2.2: push stream of a client":                    {uni: [][]byte{control(usualSettings()), varints(1, 0)}, code: h3StreamCreation},
		"RFC 9204 §4.2: second encoder stream":                        {uni: [][]byte{varints(2), varints(2)}, code: h3StreamCreation},
		"RFC 9204 §4.2: second decoder stream":                        {uni: [][]byte{varints(3), varints(3)}, code: h3StreamCreation},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := specServer(t)
			for i, b := range c.uni {
				stream := must(p.conn.OpenUniStream())(t)
				_, _ = stream.Write(b) // the connection may have ended
				if c.fin && i == len(c.uni)-1 {
					_ = stream.Close()
				}
			}
			if c.request != nil {
				p.bidi(c.request)
			}
			p.wantClosed(quicCode(c.code))
		})
	}
}

// RFC 9114 §4.1.2: what makes a request malformed, which costs its stream alone.
func TestH3SpecMalformedRequests(t *testing.T) {
	cases := map[string][]byte{
		"§4.3.1: no :authority and no Host":   headers(":method", "GET", ":scheme", "https", ":path", "/"),
		"§4.3.1: no :method":                  headers(":scheme", "https", ":authority", "localhost", ":path", "/"),
		"§4.3.1: no :scheme":                  headers(":method", "GET", ":authority", "localhost", ":path", "/"),
		"§4.3.1: no :path":                    headers(":method", "GET", ":scheme", "https", ":authority", "localhost"),
		"§4.3: unknown pseudo-header":         getHead("GET", ":foo", "bar"),
		"§4.3: pseudo-header of a response":   getHead("GET", ":status", "200"),
		"§4.3: pseudo-header after fields":    headers(":method", "GET", ":scheme", "https", ":authority", "localhost", "foo", "bar", ":path", "/"),
		"§4.3.1: pseudo-header twice":         getHead("GET", ":method", "GET"),
		"§4.2: connection":                    getHead("GET", "connection", "close"),
		"§4.2: keep-alive":                    getHead("GET", "keep-alive", "timeout=5"),
		"§4.2: proxy-connection":              getHead("GET", "proxy-connection", "keep-alive"),
		"§4.2: transfer-encoding":             getHead("GET", "transfer-encoding", "chunked"),
		"§4.2: upgrade":                       getHead("GET", "upgrade", "websocket"),
		"§4.2: te other than trailers":        getHead("GET", "te", "gzip"),
		"§4.2: uppercase in a name":           getHead("GET", "Foo", "bar"),
		"§4.1.2: content-length without body": getHead("POST", "content-length", "5"),
		"§4.1.2: content-length too small":    append(getHead("POST", "content-length", "2"), data([]byte("hello"))...),
		"§4.2: connection in the trailer":     append(append(getHead("POST"), data([]byte("hello"))...), headers("connection", "close")...),
		"§4.3: pseudo-header in the trailer":  append(append(getHead("POST"), data([]byte("hello"))...), headers(":path", "/")...),
	}
	for name, request := range cases {
		t.Run(name, func(t *testing.T) {
			p := specServer(t)
			stream := p.bidi(request)
			_ = stream.Close() // fails if the stream has been stopped already
			p.wantReset(stream, h3MessageError)
			other := p.bidi(getHead("GET", "te", "trailers")) // §4.2: permitted
			_ = other.Close()                                 // as before
			p.wantStatus(other, "204")
		})
	}
}

// RFC 9114 §4.1.1: a request that ends before its fields are there.
func TestH3SpecIncompleteRequest(t *testing.T) {
	p := specServer(t)
	stream := p.bidi(frame(0x21, []byte("grease")))
	check(t, stream.Close())
	p.wantReset(stream, h3RequestIncomplete)

	none := must(p.conn.OpenStream())(t)
	check(t, none.Close())
	p.wantReset(none, h3RequestIncomplete)
}
