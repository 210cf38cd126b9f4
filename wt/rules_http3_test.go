package wt_test

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// The rules of HTTP/3 that sessions stand on: critical streams, frames and their
// places. Those of requests and of QPACK that h3spec asks for are in
// h3spec_test.go.

// bareRoles runs a script on a connection on which the peer has sent nothing:
// first with the package as server, then with it as client. settings are what a
// peer in that role usually sends.
func bareRoles(t *testing.T, f func(t *testing.T, p *peer, settings []byte)) {
	t.Helper()
	t.Run("server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
			endHang(t, p)
			f(t, p, usualSettings())
		})
	})
	t.Run("client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, result := listenPeer(t.Context(), t, wt.Dialer{})
			endHang(t, p)
			f(t, p, serverSettings())
			if answer := <-result; answer.err == nil {
				<-answer.session.Context().Done()
			}
		})
	})
}

// unis opens unidirectional streams one after another. The connection may end
// before all is written.
func (p *peer) unis(streams ...[]byte) {
	for _, b := range streams {
		if stream, err := p.conn.OpenUniStream(); err == nil {
			_, _ = stream.Write(b)
		}
	}
}

// What ends a connection on its critical streams, with which code, in both roles.
func TestCriticalStreams(t *testing.T) {
	goaway := func(id uint64) []byte { return frame(7, varints(id)) }
	control := func(frames ...[]byte) []byte { return append(varints(0), slices.Concat(frames...)...) }
	cases := map[string]struct {
		streams func(settings []byte) [][]byte
		code    uint64
	}{
		"RFC 9114 §6.2.1: no SETTINGS first":       {func([]byte) [][]byte { return [][]byte{control(goaway(0))} }, h3MissingSettings},
		"RFC 9114 §6.2.1: GREASE before SETTINGS":  {func(s []byte) [][]byte { return [][]byte{control(frame(0x21, nil), s)} }, h3MissingSettings},
		"RFC 9114 §6.2.1: second control stream":   {func(s []byte) [][]byte { return [][]byte{control(s), control(s)} }, h3StreamCreation},
		"RFC 9114 §7.2.4: second SETTINGS":         {func(s []byte) [][]byte { return [][]byte{control(s, s)} }, h3FrameUnexpected},
		"RFC 9114 §7.2.4.1: setting of HTTP/2":     {func([]byte) [][]byte { return [][]byte{control(settingsFrame(2, 0))} }, h3SettingsError},
		"RFC 9114 §7.2.4: setting twice":           {func([]byte) [][]byte { return [][]byte{control(settingsFrame(0x33, 1, 0x33, 1))} }, h3SettingsError},
		"RFC 9114 §7.2.4: unknown setting twice":   {func([]byte) [][]byte { return [][]byte{control(settingsFrame(0x99, 1, 0x99, 1))} }, h3SettingsError},
		"RFC 9114 §7.1: SETTINGS cut":              {func([]byte) [][]byte { return [][]byte{control(frame(4, varints(0x33)))} }, h3FrameError},
		"RFC 9114 §7.1: SETTINGS cut in a varint":  {func([]byte) [][]byte { return [][]byte{control(frame(4, []byte{0x33, 0x40}))} }, h3FrameError},
		"RFC 9114 §7.2.1: DATA on control":         {func(s []byte) [][]byte { return [][]byte{control(s, data([]byte("x")))} }, h3FrameUnexpected},
		"RFC 9114 §7.2.2: HEADERS on control":      {func(s []byte) [][]byte { return [][]byte{control(s, headers("x", "y"))} }, h3FrameUnexpected},
		"RFC 9114 §7.2.5: PUSH_PROMISE on control": {func(s []byte) [][]byte { return [][]byte{control(s, frame(5, varints(0)))} }, h3FrameUnexpected},
		"RFC 9114 §7.2.8: HTTP/2 frame on control": {func(s []byte) [][]byte { return [][]byte{control(s, frame(6, nil))} }, h3FrameUnexpected},
		"RFC 9114 §7.2.6: GOAWAY of two varints":   {func(s []byte) [][]byte { return [][]byte{control(s, frame(7, varints(4, 4)))} }, h3FrameError},
		"RFC 9114 §7.2.6: empty GOAWAY":            {func(s []byte) [][]byte { return [][]byte{control(s, frame(7, nil))} }, h3FrameError},
		"RFC 9114 §7.2.6: long GOAWAY":             {func(s []byte) [][]byte { return [][]byte{control(s, frame(7, make([]byte, 9)))} }, h3FrameError},
		"RFC 9114 §5.2: GOAWAY increases":          {func(s []byte) [][]byte { return [][]byte{control(s, goaway(4), goaway(8))} }, h3IDError},
		"RFC 9204 §4.2: second encoder stream":     {func(s []byte) [][]byte { return [][]byte{control(s), varints(2), varints(2)} }, h3StreamCreation},
		"RFC 9204 §4.2: second decoder stream":     {func(s []byte) [][]byte { return [][]byte{control(s), varints(3), varints(3)} }, h3StreamCreation},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bareRoles(t, func(_ *testing.T, p *peer, settings []byte) {
				p.unis(c.streams(settings)...)
				p.wantClosed(quicCode(c.code))
			})
		})
	}
}

// RFC 9114 §6.2.1, RFC 9204 §4.2: critical streams never end, in either way.
func TestCriticalStreamsEnd(t *testing.T) {
	for name, typ := range map[string]uint64{"control": 0, "QPACK encoder": 2, "QPACK decoder": 3} {
		for how, end := range map[string]func(*quic.SendStream){
			"FIN":   func(s *quic.SendStream) { _ = s.Close() },
			"reset": func(s *quic.SendStream) { s.CancelWrite(h3NoError) },
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				bareRoles(t, func(_ *testing.T, p *peer, settings []byte) {
					var stream *quic.SendStream
					control := p.control(settings)
					if stream = control; typ != 0 {
						stream = p.uni(varints(typ))
					}
					synctest.Wait()
					end(stream)
					p.wantClosed(h3ClosedCritical)
				})
			})
		}
	}
}

// What one role alone must not send.
func TestRoleErrors(t *testing.T) {
	cases := map[string]struct {
		server    bool // whether the package is the server
		uni, bidi []byte
		code      uint64
	}{
		"RFC 9114 §6.1: server's request":          {bidi: headers(":status", "200"), code: h3StreamCreation},
		"RFC 9114 §4.6: push without MAX_PUSH_ID":  {uni: varints(1, 0), code: h3IDError},
		"RFC 9114 §7.2.7: MAX_PUSH_ID of a server": {uni: slices.Concat(varints(0), serverSettings(), frame(13, varints(1))), code: h3FrameUnexpected},
		"RFC 9114 §5.2: GOAWAY of no request":      {uni: slices.Concat(varints(0), serverSettings(), frame(7, varints(1))), code: h3IDError},
		"RFC 9114 §6.2.2: push of a client":        {server: true, uni: varints(1, 0), code: h3StreamCreation},
		"RFC 9114 §4.1: DATA before HEADERS":       {server: true, bidi: data([]byte("x")), code: h3FrameUnexpected},
		"RFC 9114 §7.2.4: SETTINGS on a request":   {server: true, bidi: usualSettings(), code: h3FrameUnexpected},
		"RFC 9114 §7.2.8: HTTP/2 frame on request": {server: true, bidi: frame(8, nil), code: h3FrameUnexpected},
		"RFC 9204 §2.2: dynamic table":             {server: true, bidi: frame(1, []byte{2, 0, 0x80}), code: qpackDecompression},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var p *peer
			if c.server {
				p = dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
			} else {
				var result <-chan dialed
				p, result = listenPeer(t.Context(), t, wt.Dialer{})
				t.Cleanup(func() {
					if (<-result).err == nil {
						t.Error("dial succeeded")
					}
				})
			}
			if c.uni != nil {
				p.unis(c.uni)
			}
			if c.bidi != nil {
				p.bidi(c.bidi)
			}
			p.wantClosed(quicCode(c.code))
		})
	}
}
