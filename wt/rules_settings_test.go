package wt_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// readSettings reads the type of a control stream and its SETTINGS.
func (p *peer) readSettings() map[uint64]uint64 {
	p.t.Helper()
	control := must(p.conn.AcceptUniStream(p.t.Context()))(p.t)
	if typ := must(readVarint(control))(p.t); typ != 0 {
		p.t.Fatalf("stream of type %#x, want control", typ)
	}
	typ, payload := p.readFrame(control)
	if typ != 4 {
		p.t.Fatalf("frame %#x, want SETTINGS", typ)
	}
	got := make(map[uint64]uint64)
	for r := bytes.NewReader(payload); r.Len() > 0; {
		id := must(readVarint(r))(p.t)
		got[id] = must(readVarint(r))(p.t)
	}
	return got
}

// draft §5.1, §5.5: a client declares limits of flow control if it is told to.
func TestClientDeclaresLimits(t *testing.T) {
	p, result := listenPeer(t.Context(), t, wt.Dialer{MaxSessionData: 7000,
		QUICConfig: &quic.Config{MaxIncomingStreams: 80, MaxIncomingUniStreams: 90}})
	got := p.readSettings()
	if got[0x2b61] != 7000 || got[0x2b65] != 80 || got[0x2b64] != 90 {
		t.Errorf("limits of flow control: %x", got)
	}
	check(t, p.conn.CloseWithError(h3NoError, ""))
	<-result
}

// draft §3.1, RFC 9297 §2.1.1, RFC 9220 §3: settings that are 0 or 1 are nothing
// else.
func TestSettingValues(t *testing.T) {
	for _, id := range []uint64{0x33, 8} {
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
		p.control(settingsFrame(id, 2))
		p.wantClosed(h3SettingsError)
	}
	for _, id := range []uint64{0x33, 8, 0x2c7cf000} {
		p, result := listenPeer(t.Context(), t, wt.Dialer{})
		settings := []uint64{id, 2}
		for _, other := range []uint64{0x33, 8, 0x2c7cf000} {
			if other != id {
				settings = append(settings, other, 1)
			}
		}
		p.control(settingsFrame(settings...))
		p.wantClosed(h3SettingsError)
		if (<-result).err == nil {
			t.Errorf("dial succeeded with setting %#x of 2", id)
		}
	}
}

// draft §3.1: sessions of a client that lacks what the draft requires of it are
// malformed. ENABLE_CONNECT_PROTOCOL and reset_stream_at are not demanded.
func TestServerRequires(t *testing.T) {
	cases := map[string]struct {
		settings   []uint64
		datagrams  bool // as a transport parameter
		resets     bool // likewise
		acceptable bool
	}{
		"all":                     {[]uint64{0x33, 1, 0x2c7cf000, 1}, true, true, true},
		"no SETTINGS_H3_DATAGRAM": {[]uint64{0x2c7cf000, 1}, true, true, false},
		"H3_DATAGRAM of 0":        {[]uint64{0x33, 0, 0x2c7cf000, 1}, true, true, false},
		"no QUIC datagrams":       {[]uint64{0x33, 1, 0x2c7cf000, 1}, false, true, false},
		"no reset_stream_at":      {[]uint64{0x33, 1, 0x2c7cf000, 1}, true, false, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sessions := make(chan *wt.Session, 1)
			config := peerQUIC()
			config.EnableDatagrams, config.EnableStreamResetPartialDelivery = c.datagrams, c.resets
			p, _ := dialPeerWith(t, wt.ServerConfig{Handler: accepting(sessions)}, config)
			p.control(settingsFrame(c.settings...))
			stream := p.bidi(connectHead())
			if c.acceptable {
				p.wantStatus(stream, "200")
				return
			}
			p.wantReset(stream, h3MessageError)
			p.wantReset(p.bidi(connectHead()), h3MessageError)
			if len(sessions) > 0 {
				t.Error("the handler got the request")
			}
		})
	}
}

// draft §3.1, §7.1: a server answers no request before it has the client's
// SETTINGS, and gives a client that sends none up.
func TestRequestWaitsForSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sessions := make(chan *wt.Session, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
		stream := p.bidi(connectHead())
		time.Sleep(9 * time.Second)
		if len(sessions) > 0 {
			t.Error("the handler got the request before SETTINGS")
		}
		p.control(usualSettings())
		p.wantStatus(stream, "200")
		<-sessions
	})
	synctest.Test(t, func(t *testing.T) {
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HandshakeTimeout: 4 * time.Second})
		began := time.Now()
		stream := p.bidi(connectHead())
		p.wantReset(stream, h3RequestIncomplete)
		if time.Since(began) != 4*time.Second {
			t.Errorf("reset after %v", time.Since(began))
		}
	})
}

// draft §3.2: no session begins in 0-RTT. A client that resumes a connection is
// not offered it.
func TestNoZeroRTT(t *testing.T) {
	n := newNetwork(t, 0)
	sessions := make(chan *wt.Session, 2)
	serve(t, n.server, wt.ServerConfig{Handler: accepting(sessions), QUICConfig: &quic.Config{Allow0RTT: true}})
	transport := &quic.Transport{Conn: n.client}
	t.Cleanup(func() { _ = transport.Close() })
	tickets := &ticketCache{ClientSessionCache: tls.NewLRUClientSessionCache(1), got: make(chan struct{}, 10)}
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}, ServerName: "localhost", ClientSessionCache: tickets}
	for i := range 2 {
		conn := must(transport.DialEarly(t.Context(), &serverAddr, config, peerQUIC()))(t)
		p := &peer{t: t, conn: conn}
		if i == 1 && !conn.ConnectionState().TLS.DidResume {
			<-conn.HandshakeComplete()
			if !conn.ConnectionState().TLS.DidResume {
				t.Error("the connection was not resumed: the test shows nothing")
			}
		}
		p.wantStatus(p.session0(), "200")
		<-sessions
		if conn.ConnectionState().Used0RTT {
			t.Error("0-RTT was accepted")
		}
		if i == 0 {
			<-tickets.got
		}
		check(t, conn.CloseWithError(h3NoError, ""))
	}
}

// session0 opens the control stream and sends a request, whose answer is not read.
func (p *peer) session0() io.Reader {
	p.t.Helper()
	p.control(usualSettings())
	return p.bidi(connectHead())
}

// ticketCache tells when a ticket came.
type ticketCache struct {
	tls.ClientSessionCache
	got chan struct{}
}

// Put implements tls.ClientSessionCache.
func (c *ticketCache) Put(key string, state *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, state)
	if state != nil {
		c.got <- struct{}{}
	}
}

// RFC 9114 §7.2.4.1, §9: settings, frames and streams of unknown types are
// ignored, in both roles; so are PRIORITY_UPDATE frames (RFC 9218 §7.2).
func TestUnknownIsIgnored(t *testing.T) {
	bothRolesWith(t, ruleOptions{settings: []uint64{0x21 + 0x1f*3, 5, 1<<62 - 1, 1<<62 - 1}},
		func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
			p.uni(append(varints(0x21+0x1f*7), "grease"...))
			must(p.ctrl.Write(frame(0x21+0x1f*100, make([]byte, 5000))))(t)
			if session.Request() != nil { // a client may ask for priorities
				must(p.ctrl.Write(frame(0xf0700, append(varints(0), "u=1"...))))(t)
			}
			p.write(connect, frame(0x21+0x1f, make([]byte, 3000)))
			synctest.Wait()
			wantUsable(t, p, session)
		})
	sessions := make(chan *wt.Session, 1)
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
	p.control(usualSettings())
	p.wantStatus(p.bidi(append(append(frame(0x21, make([]byte, 3000)), frame(0x21+0x1f, nil)...), connectHead()...)), "200")
	<-sessions
}

// draft §7.1: of the drafts that both sides declare, the newest is spoken, and
// the token of the request is that draft's.
func TestNewestDraft(t *testing.T) {
	settings := []struct {
		id    uint64
		draft wt.Draft
	}{{0x2b603742, wt.Draft02}, {0xc671706a, wt.Draft07}, {0x14e9cd29, wt.Draft14}, {0x2c7cf000, wt.Draft16}}
	for i := range settings {
		declared := []uint64{8, 1, 0x33, 1}
		for _, s := range settings[:i+1] {
			declared = append(declared, s.id, 1)
		}
		want := settings[i].draft
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			p, result := listenPeer(t.Context(), t, wt.Dialer{})
			p.control(settingsFrame(declared...))
			stream := must(p.conn.AcceptStream(t.Context()))(t)
			token := p.readHeaders(stream)[":protocol"]
			p.write(stream, headers(":status", "200"))
			answer := <-result
			session := must(answer.session, answer.err)(t)
			if session.Draft() != want || (token == "webtransport-h3") != (want == wt.Draft16) {
				t.Errorf("a client speaks %v with %q, want %v", session.Draft(), token, want)
			}

			sessions := make(chan *wt.Session, 1)
			p = dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
			p.control(settingsFrame(declared...))
			p.wantStatus(p.bidi(headers(":method", "CONNECT", ":scheme", "https", ":authority", "localhost",
				":path", "/", ":protocol", token)), "200")
			if got := (<-sessions).Draft(); got != want {
				t.Errorf("a server speaks %v, want %v", got, want)
			}
		})
	}
}
