package wt_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// The limits of a server that is configured with none: what docs/conformance.md
// says of their defaults. That fields change them is tested beside.

// 24 streams and 16 datagrams wait for their session (draft §4.6, §8), and
// not for long.
func TestDefaultPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sessions := make(chan *wt.Session, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
		p.control(usualSettings())
		connect := must(p.conn.OpenStream())(t) // id 0, not yet sent
		for i := range 24 {
			if i%2 == 0 {
				p.uni(append(varints(0x54, 0), "x"...))
			} else {
				p.bidi(append(varints(0x41, 0), "x"...))
			}
		}
		synctest.Wait()
		p.wantStopped(p.uni(append(varints(0x54, 0), "x"...)).Context(), wtBufferedRejected)
		for i := range 20 {
			check(t, p.conn.SendDatagram([]byte{0, byte(i)}))
			synctest.Wait()
		}
		time.Sleep(4 * time.Second)
		p.write(connect, connectHead())
		p.wantStatus(connect, "200")
		session := <-sessions
		for range 12 {
			must(session.AcceptUniStream(t.Context()))(t)
			must(session.AcceptStream(t.Context()))(t)
		}
		for i := range byte(16) {
			if b := must(session.ReceiveDatagram(t.Context()))(t); !bytes.Equal(b, []byte{i}) {
				t.Errorf("datagram %x, want %x", b, i)
			}
		}
		check(t, p.conn.SendDatagram([]byte{0, 100}))
		if b := must(session.ReceiveDatagram(t.Context()))(t); !bytes.Equal(b, []byte{100}) {
			t.Errorf("datagram %x after those that were dropped", b)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
		p.control(usualSettings())
		began := time.Now()
		p.wantReset(p.bidi(varints(0x41, 400)), wtBufferedRejected)
		if time.Since(began) != 5*time.Second {
			t.Errorf("refused after %v, want 5s", time.Since(began))
		}
	})
}

// draft §8: 900 streams that stall before they say what they are hold up no other,
// and are refused after five seconds.
func TestDefaultStalledStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sessions := make(chan *wt.Session, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
		p.session()
		session := <-sessions
		began := time.Now()
		stalled := make([]*quic.Stream, 900)
		for i := range stalled {
			stalled[i] = p.bidi([]byte{0x40})
		}
		for range 100 {
			p.bidi(append(varints(0x41, 0), "x"...))
			must(session.AcceptStream(t.Context()))(t)
		}
		if took := time.Since(began); took > 100*time.Millisecond { // QUIC paces its packets
			t.Errorf("the streams behind were accepted after %v", took)
		}
		for _, stream := range stalled {
			p.wantReset(stream, h3RequestIncomplete)
		}
		if took := time.Since(began); took < 5*time.Second || took > 5*time.Second+100*time.Millisecond {
			t.Errorf("refused after %v, want 5s", took)
		}
	})
}

// A connection without a request lasts ten seconds, and so does a request without
// SETTINGS.
func TestDefaultHandshakeTimeout(t *testing.T) {
	for name, f := range map[string]func(*peer){
		"no request":             func(p *peer) { p.control(usualSettings()) },
		"nothing":                func(*peer) {},
		"stream without headers": func(p *peer) { p.bidi([]byte{1}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
				began := time.Now()
				f(p)
				p.wantClosed(h3NoError)
				if took := time.Since(began); took < 10*time.Second || took > 16*time.Second {
					t.Errorf("closed after %v, want 10s to 16s", took)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
		began := time.Now()
		p.wantReset(p.bidi(connectHead()), h3RequestIncomplete)
		if time.Since(began) != 10*time.Second {
			t.Errorf("reset after %v, want 10s", time.Since(began))
		}
	})
}

// Fields of 16 KiB are taken, as RFC 9114 §4.2.2 counts them, and more are
// answered with 431.
func TestDefaultHeaderLimit(t *testing.T) {
	size := func(pairs ...string) (sum int) {
		for i := 0; i < len(pairs); i += 2 {
			sum += len(pairs[i]) + len(pairs[i+1]) + 32
		}
		return sum
	}
	base := size(":method", "CONNECT", ":scheme", "https", ":authority", "localhost:4433", ":path", "/",
		":protocol", "webtransport-h3", "x", "")
	sessions := make(chan *wt.Session, 1)
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
	p.control(usualSettings())
	p.wantStatus(p.bidi(connectHead("x", strings.Repeat("x", 16<<10-base+1))), "431")
	// The frame alone says too much.
	p.wantStatus(p.bidi(varints(1, 16<<10+1)), "431")
	p.wantStatus(p.bidi(connectHead("x", strings.Repeat("x", 16<<10-base))), "200")
	<-sessions
}

// SETTINGS of 8 KiB are taken, and more are too much.
func TestSettingsLimit(t *testing.T) {
	bareRoles(t, func(_ *testing.T, p *peer, _ []byte) {
		p.unis(append(varints(0), varints(4, 8<<10+1)...))
		p.wantClosed(h3ExcessiveLoad)
	})
	payload := varints(0x33, 1, 0x2c7cf000, 1)
	for id := uint64(1 << 61); len(payload) < 8<<10; id++ {
		payload = append(payload, varints(id)...)
		payload = append(payload, 0xc0, 0, 0, 0, 0, 0, 0, 0)
		if rest := 8<<10 - len(payload); rest > 0 && rest < 16 {
			payload = append(payload, varints(id+1<<20)...)
			payload = append(payload, make([]byte, rest-8)...)
		}
	}
	if len(payload) != 8<<10 {
		t.Fatalf("the test's SETTINGS are %d bytes", len(payload))
	}
	sessions := make(chan *wt.Session, 1)
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
	p.control(frame(4, payload))
	p.wantStatus(p.bidi(connectHead()), "200")
	<-sessions

	small := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions), MaxSettingsBytes: 100})
	small.unis(append(varints(0), varints(4, 101)...))
	small.wantClosed(h3ExcessiveLoad)
}

// What a session has to say on a CONNECT stream that the peer does not read stays
// little, however often it says it.
func TestOutgoingCapsulesAreBounded(t *testing.T) {
	bothRolesWith(t, ruleOptions{quic: func(c *quic.Config) { c.InitialStreamReceiveWindow, c.MaxStreamReceiveWindow = 256, 256 }},
		func(t *testing.T, _ *peer, connect *quic.Stream, session *wt.Session) {
			for range 10000 {
				check(t, session.Drain())
			}
			synctest.Wait()
			closing(t, session, 1, "")
			b := must(io.ReadAll(connect))(t)
			if !bytes.HasSuffix(b, data(closeCapsule(1, ""))) {
				t.Errorf("the stream ends with %x", b[max(0, len(b)-20):])
			}
			if n := bytes.Count(b, varints(0x78ae, 0)); n != 1 {
				t.Errorf("%d capsules of WT_DRAIN_SESSION", n)
			}
			check(t, connect.Close())
		})
}

// draft §8: requests that never get an answer, and sessions, are bounded by the streams that
// a client may have, 1024 by default.
func TestDefaultStreamLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
		settings := p.readSettings()
		if settings[0x2b61] != 16<<20 || settings[0x2b65] != 1024 || settings[0x2b64] != 1024 || settings[6] != 16<<10 {
			t.Errorf("SETTINGS %x", settings)
		}
		for range 1024 {
			must(p.conn.OpenStream())(t)
			must(p.conn.OpenUniStream())(t)
		}
		if _, err := p.conn.OpenStream(); err == nil {
			t.Error("1025 bidirectional streams are allowed")
		}
		if _, err := p.conn.OpenUniStream(); err == nil {
			t.Error("1025 unidirectional streams are allowed")
		}
	})
}

// RFC 9114 §7, §8: the rules hold on a connection that has been quiet for long,
// too, of which the
// package may let go of what it does not need.
func TestRulesAfterQuiet(t *testing.T) {
	cases := map[string]struct {
		breaks func(*peer, *quic.Stream)
		code   uint64 // of the connection's end; 0 if the CONNECT stream is reset
	}{
		"bad session id":       {func(p *peer, _ *quic.Stream) { p.uni(varints(0x54, 1)) }, h3IDError},
		"bad session id, bidi": {func(p *peer, _ *quic.Stream) { p.bidi(varints(0x41, 1)) }, h3IDError},
		"datagram without id":  {func(p *peer, _ *quic.Stream) { check(p.t, p.conn.SendDatagram(nil)) }, h3DatagramError},
		"second SETTINGS":      {func(p *peer, _ *quic.Stream) { must(p.ctrl.Write(usualSettings()))(p.t) }, h3FrameUnexpected},
		"control closed":       {func(p *peer, _ *quic.Stream) { check(p.t, p.ctrl.Close()) }, h3ClosedCritical},
		"second control":       {func(p *peer, _ *quic.Stream) { p.uni(varints(0)) }, h3StreamCreation},
		"HEADERS":              {func(p *peer, connect *quic.Stream) { p.write(connect, headers("x", "y")) }, h3FrameUnexpected},
		"bad close":            {func(p *peer, connect *quic.Stream) { p.write(connect, data(closeCapsule(1, "\xff"))) }, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				time.Sleep(10 * time.Minute)
				began := time.Now()
				c.breaks(p, connect)
				if c.code == 0 {
					p.wantReset(connect, h3MessageError)
				} else {
					p.wantClosed(quicCode(c.code))
				}
				<-session.Context().Done()
				if took := time.Since(began); took > time.Second {
					t.Errorf("noticed after %v", took)
				}
			})
		})
	}
	bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
		time.Sleep(10 * time.Minute)
		wantUsable(t, p, session)
		time.Sleep(10 * time.Minute)
		must(p.ctrl.Write(frame(7, varints(4))))(t)
		<-session.Draining()
		time.Sleep(10 * time.Minute)
		p.write(connect, data(closeCapsule(1, "late")))
		check(t, connect.Close())
		<-session.Context().Done()
		wantSessionError(t, context.Cause(session.Context()), wt.Peer, 1, "late")
	})
}
