package wt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

const h3FlowControl = 0x045d4487

// Types of the capsules of flow control (draft §5.6).
const (
	maxData           = 0x190b4d3d
	maxStreamData     = 0x190b4d3e
	maxStreamsBidi    = 0x190b4d3f
	maxStreamsUni     = 0x190b4d40
	dataBlocked       = 0x190b4d41
	streamDataBlocked = 0x190b4d42
	blockedBidi       = 0x190b4d43
	blockedUni        = 0x190b4d44
)

// flowLimits are limits of flow control that the package sets its peer.
type flowLimits struct{ data, bidi, uni int64 }

// oneStreamEach are the limits that a peer sets: 100 bytes, and one stream of each
// kind.
var oneStreamEach = []uint64{0x2b61, 100, 0x2b64, 1, 0x2b65, 1}

// flowRoles is bothRoles under flow control: theirs are the peer's settings, ours
// what the package sets, by default what it does by itself.
func flowRoles(t *testing.T, theirs []uint64, ours flowLimits, f func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session)) {
	t.Helper()
	if ours.data == 0 {
		ours.data = 1 << 20
	}
	bothRolesWith(t, ruleOptions{
		server: wt.ServerConfig{MaxSessionData: ours.data, MaxIncomingStreams: ours.bidi, MaxIncomingUniStreams: ours.uni},
		dialer: wt.Dialer{MaxSessionData: ours.data, QUICConfig: &quic.Config{
			KeepAlivePeriod: 10 * time.Second, MaxIncomingStreams: ours.bidi, MaxIncomingUniStreams: ours.uni}},
		settings: theirs,
	}, f)
}

// wantCapsule reads one DATA frame with one capsule of a varint.
func (p *peer) wantCapsule(stream io.Reader, typ, value uint64) {
	p.t.Helper()
	frameType, payload := p.readFrame(stream)
	if want := frame(typ, varints(value)); frameType != 0 || !bytes.Equal(payload, want) {
		p.t.Fatalf("got frame %#x with %x, want DATA with %x", frameType, payload, want)
	}
}

// draft §5.4, §5.6.4, §5.6.5: no more data is sent than the peer allows, headers
// apart, over all streams; who is held up says so.
func TestFlowControlSendsData(t *testing.T) {
	flowRoles(t, []uint64{0x2b61, 100, 0x2b64, 10, 0x2b65, 10}, flowLimits{}, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
		ctx := t.Context()
		first := must(session.OpenUniStream(ctx))(t)
		must(first.Write(make([]byte, 60)))(t)
		p.acceptUni(3 + 60)
		out := must(session.OpenStream(ctx))(t)
		written := make(chan error, 1)
		go func() {
			_, err := out.Write(make([]byte, 90))
			written <- err
		}()
		in, _ := p.acceptBidi(3 + 40)
		p.wantCapsule(connect, dataBlocked, 100)
		synctest.Wait()
		if len(written) > 0 {
			t.Error("a write beyond the limit returned")
		}
		p.write(connect, data(frame(maxData, varints(150))))
		must(io.ReadFull(in, make([]byte, 50)))(t)
		check(t, <-written)
		if err := out.TryWriteAll([]byte("x")); !errors.Is(err, wt.ErrWouldBlock) {
			t.Errorf("TryWriteAll beyond the limit returned %v", err)
		}
		// What a stream that is reset has sent is spent.
		out.CancelWrite(0)
		if err := first.TryWriteAll([]byte("x")); !errors.Is(err, wt.ErrWouldBlock) {
			t.Errorf("TryWriteAll after a reset returned %v", err)
		}
	})
}

// draft §5.3, §5.6.2, §5.6.3: no more streams are opened over the session's
// lifetime than the peer allows, the CONNECT stream apart; who is held up says so.
func TestFlowControlOpensStreams(t *testing.T) {
	kinds := map[string]struct {
		blocked, more uint64
		open          func(*testing.T, *wt.Session) (io.WriteCloser, error)
	}{
		"uni": {blockedUni, maxStreamsUni, func(t *testing.T, s *wt.Session) (io.WriteCloser, error) {
			return s.OpenUniStream(t.Context())
		}},
		"bidi": {blockedBidi, maxStreamsBidi, func(t *testing.T, s *wt.Session) (io.WriteCloser, error) {
			return s.OpenStream(t.Context())
		}},
	}
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			flowRoles(t, oneStreamEach, flowLimits{}, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				stream := must(kind.open(t, session))(t)
				check(t, stream.Close()) // it counts all the same
				opened := make(chan error, 1)
				go func() {
					_, err := kind.open(t, session)
					opened <- err
				}()
				p.wantCapsule(connect, kind.blocked, 1)
				synctest.Wait()
				if len(opened) > 0 {
					t.Error("a stream beyond the limit was opened")
				}
				p.write(connect, data(frame(kind.more, varints(2))))
				check(t, <-opened)
				short, cancel := context.WithCancel(t.Context())
				cancel()
				if _, err := session.OpenStream(short); name == "bidi" && !errors.Is(err, context.Canceled) {
					t.Errorf("OpenStream without allowance returned %v", err)
				}
			})
		})
	}
}

// draft §5.5: a limit that is not declared is 0 until a capsule raises it.
func TestFlowControlFromZero(t *testing.T) {
	t.Run("streams", func(t *testing.T) {
		flowRoles(t, []uint64{0x2b61, 100}, flowLimits{}, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
			opened := make(chan error, 1)
			go func() {
				stream, err := session.OpenUniStream(t.Context())
				if err == nil {
					err = write(stream, "x")
				}
				opened <- err
			}()
			p.wantCapsule(connect, blockedUni, 0)
			p.write(connect, data(frame(maxStreamsUni, varints(1))))
			p.acceptUni(4)
			check(t, <-opened)
		})
	})
	t.Run("data", func(t *testing.T) {
		flowRoles(t, []uint64{0x2b64, 1}, flowLimits{}, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
			written := make(chan error, 1)
			go func() {
				stream, err := session.OpenUniStream(t.Context())
				if err == nil {
					err = write(stream, "x")
				}
				written <- err
			}()
			in, _ := p.acceptUni(3) // the header is free
			p.wantCapsule(connect, dataBlocked, 0)
			p.write(connect, data(frame(maxData, varints(1))))
			must(io.ReadFull(in, make([]byte, 1)))(t)
			check(t, <-written)
		})
	})
}

// draft §5.6: credit comes as data is read and streams end, and is not asked for.
func TestFlowControlGrants(t *testing.T) {
	flowRoles(t, oneStreamEach, flowLimits{data: 1000, bidi: 10, uni: 10}, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
		ctx := t.Context()
		out := p.bidi(append(varints(0x41, 0), make([]byte, 700)...))
		in := must(session.AcceptStream(ctx))(t)
		must(io.ReadFull(in, make([]byte, 700)))(t)
		p.wantCapsule(connect, maxData, 1700)
		// A reset returns what was sent, read or not. The header may be of any length.
		check(t, out.Close())
		for range 5 {
			b := append([]byte{0x40, 0x54, 0x80, 0, 0, 0}, make([]byte, 200)...)
			stream := p.uni(b)
			uni := must(session.AcceptUniStream(ctx))(t)
			uni.CancelRead(0)
			<-stream.Context().Done()
			stream.CancelWrite(0)
		}
		got := make(map[uint64]uint64)
		for len(got) < 2 { // the sum of data, and five of ten streams
			_, payload := p.readFrame(connect)
			r := bytes.NewReader(payload)
			typ := must(readVarint(r))(t)
			must(readVarint(r))(t)
			got[typ] = must(readVarint(r))(t)
		}
		if got[maxStreamsUni] != 15 || got[maxData] < 2300 || got[maxData] > 2700 {
			t.Errorf("limits %v, want 15 streams and 2300 to 2700 bytes", got)
		}
	})
}

// draft §5.4, §5.6: capsules that no peer may send end the session, and its
// CONNECT stream with the code of the rule.
func TestFlowControlViolations(t *testing.T) {
	capsules := map[string]struct {
		b    []byte
		code quic.StreamErrorCode
	}{
		"§5.6.4: data limit does not increase":   {frame(maxData, varints(100)), h3FlowControl},
		"§5.6.4: data limit decreases":           {frame(maxData, varints(99)), h3FlowControl},
		"§5.6.4: data limit repeated":            {append(frame(maxData, varints(200)), frame(maxData, varints(200))...), h3FlowControl},
		"§5.6.2: stream limit does not increase": {frame(maxStreamsBidi, varints(1)), h3FlowControl},
		"§5.6.2: stream limit decreases":         {frame(maxStreamsUni, varints(0)), h3FlowControl},
		"§5.6.2: more than 2^60 streams":         {frame(maxStreamsBidi, varints(1<<60+1)), h3FlowControl},
		"§5.6.2: more than 2^60 uni streams":     {frame(maxStreamsUni, varints(1<<60+1)), h3FlowControl},
		"§5.6.3: blocked above 2^60 streams":     {frame(blockedBidi, varints(1<<60+1)), h3FlowControl},
		"§5.6.3: blocked above 2^60 uni streams": {frame(blockedUni, varints(1<<60+1)), h3FlowControl},
		"§5.4: WT_MAX_STREAM_DATA":               {frame(maxStreamData, varints(0, 1000)), h3FlowControl},
		"§5.4: WT_STREAM_DATA_BLOCKED":           {frame(streamDataBlocked, varints(0, 1000)), h3FlowControl},
		"RFC 9297 §3.3: empty capsule":           {frame(maxData, nil), h3MessageError},
		"RFC 9297 §3.3: long capsule":            {frame(maxData, make([]byte, 9)), h3MessageError},
		"RFC 9297 §3.3: two varints":             {frame(maxData, varints(1, 2)), h3MessageError},
		"RFC 9297 §3.3: half a varint":           {frame(dataBlocked, []byte{0x40}), h3MessageError},
	}
	for name, c := range capsules {
		t.Run(name, func(t *testing.T) {
			flowRoles(t, oneStreamEach, flowLimits{}, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				p.write(connect, data(c.b))
				p.wantReset(connect, c.code)
				<-session.Context().Done()
				wantSessionError(t, context.Cause(session.Context()), wt.Us, 0, "")
			})
		})
	}
	t.Run("§5.6.2: one stream too many", func(t *testing.T) {
		// A stream that is over frees QUIC's credit at once, but the session's limit
		// grows by capsule alone, which comes after two of four.
		flowRoles(t, oneStreamEach, flowLimits{uni: 4}, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
			for range 3 { // with the control stream, all that QUIC allows
				check(t, p.uni(varints(0x54, 0)).Close())
			}
			for range 3 {
				must(session.AcceptUniStream(t.Context()))(t)
			}
			for range 2 {
				stream := must(p.conn.OpenUniStreamSync(t.Context()))(t)
				must(stream.Write(varints(0x54, 0)))(t)
			}
			p.wantReset(connect, h3FlowControl)
			<-session.Context().Done()
		})
	})
	for name, send := range map[string]func(*testing.T, *peer){
		"on one stream": func(t *testing.T, p *peer) {
			check(t, p.uni(append(varints(0x54, 0), make([]byte, 1001)...)).Close())
		},
		"on two streams": func(t *testing.T, p *peer) {
			check(t, p.uni(append(varints(0x54, 0), make([]byte, 600)...)).Close())
			check(t, p.bidi(append(varints(0x41, 0), make([]byte, 401)...)).Close())
		},
		"on streams that were reset": func(_ *testing.T, p *peer) {
			for range 2 {
				stream := p.uni(append(varints(0x54, 0), make([]byte, 600)...))
				synctest.Wait()
				stream.CancelWrite(0)
			}
		},
	} {
		t.Run("§5.6.4: more data than allowed, "+name, func(t *testing.T) {
			flowRoles(t, oneStreamEach, flowLimits{data: 1000}, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				send(t, p)
				p.wantReset(connect, h3FlowControl)
				<-session.Context().Done()
				wantSessionError(t, context.Cause(session.Context()), wt.Us, 0, "")
			})
		})
	}
	// The limits are inclusive.
	t.Run("§5.6.2, §5.6.4: as much as allowed", func(t *testing.T) {
		flowRoles(t, oneStreamEach, flowLimits{data: 1000}, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
			p.write(connect, data(frame(maxStreamsBidi, varints(1<<60)), frame(blockedUni, varints(1<<60)),
				frame(dataBlocked, varints(1<<62-1)), frame(maxData, varints(1<<62-1))))
			check(t, p.uni(append(varints(0x54, 0), make([]byte, 1000)...)).Close())
			must(io.ReadAll(must(session.AcceptUniStream(t.Context()))(t)))(t)
			wantUsable(t, p, session)
		})
	})
}

// draft §5.1: flow control is on where each side declares any of the limits, and
// off else; then its capsules are ignored, whatever they hold.
func TestFlowControlNegotiation(t *testing.T) {
	for name, theirs := range map[string][]uint64{
		"data": {0x2b61, 1}, "uni": {0x2b64, 1}, "bidi": {0x2b65, 1},
	} {
		t.Run("on by "+name, func(t *testing.T) {
			flowRoles(t, theirs, flowLimits{}, func(_ *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				p.write(connect, data(frame(maxData, varints(0))))
				p.wantReset(connect, h3FlowControl)
				<-session.Context().Done()
			})
		})
	}
	ignored := func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
		for _, typ := range []uint64{maxData, maxStreamsBidi, maxStreamsUni, dataBlocked, blockedBidi, blockedUni} {
			p.write(connect, data(frame(typ, varints(0)), frame(typ, nil), frame(typ, make([]byte, 100))))
		}
		wantUsable(t, p, session)
		wantUsable(t, p, session)
	}
	t.Run("off by the peer", func(t *testing.T) { flowRoles(t, nil, flowLimits{}, ignored) })
	t.Run("off by zeros", func(t *testing.T) {
		flowRoles(t, []uint64{0x2b61, 0, 0x2b64, 0, 0x2b65, 0}, flowLimits{}, ignored)
	})
	t.Run("off by the client", func(t *testing.T) { // which a server of this package never is
		p, connect, result := answerPeer(t, wt.Dialer{})
		p.write(connect, headers(":status", "200"))
		answer := <-result
		ignored(t, p, connect, must(answer.session, answer.err)(t))
	})
	// The capsules that limit single streams are no part of it, and forbidden.
	for name, typ := range map[string]uint64{"WT_MAX_STREAM_DATA": maxStreamData, "WT_STREAM_DATA_BLOCKED": streamDataBlocked} {
		t.Run("§5.4: "+name, func(t *testing.T) {
			bothRoles(t, func(_ *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				p.write(connect, data(frame(typ, varints(0, 1000))))
				p.wantReset(connect, h3FlowControl)
				<-session.Context().Done()
			})
		})
	}
}

// draft §5.1, §5.2: without flow control a connection carries one session at a
// time, and the excess is reset, not answered.
func TestSecondSession(t *testing.T) {
	sessions := make(chan *wt.Session, 2)
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions), MaxSessionsPerConnection: 10})
	first := p.session()
	p.wantReset(p.bidi(connectHead()), h3RequestRejected)
	p.write(first, data(closeCapsule(0, "")))
	check(t, first.Close())
	if _, err := io.ReadAll(first); err != nil {
		t.Fatal(err)
	}
	// One after another is fine.
	<-sessions
	p.wantStatus(p.bidi(connectHead()), "200")
	<-sessions
}

// draft §5.1, §5.2: with flow control a connection carries as many sessions as the
// server allows, each with its own streams, datagrams and limits.
func TestSeveralSessions(t *testing.T) {
	sessions := make(chan *wt.Session, 3)
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions), MaxSessionsPerConnection: 2, MaxSessionData: 1000})
	p.control(settingsFrame(append([]uint64{0x33, 1, 0x2c7cf000, 1}, oneStreamEach...)...))
	first := p.bidi(connectHead())
	p.wantStatus(first, "200")
	s1 := <-sessions
	second := p.bidi(connectHead())
	p.wantStatus(second, "200")
	s2 := <-sessions
	p.wantReset(p.bidi(connectHead()), h3RequestRejected)

	// Streams and datagrams find their session.
	for i, s := range []*wt.Session{s1, s2} {
		id := uint64(4 * i)
		text := []string{"first", "other"}[i]
		p.uni(append(varints(0x54, id), text...))
		b := make([]byte, 5)
		must(io.ReadFull(must(s.AcceptUniStream(t.Context()))(t), b))(t)
		check(t, p.conn.SendDatagram(append(varints(id/4), text...)))
		d := must(s.ReceiveDatagram(t.Context()))(t)
		if string(b) != text || string(d) != text {
			t.Errorf("session %d: stream %q, datagram %q", i, b, d)
		}
	}
	// One breaks its limit and ends, the other goes on.
	check(t, p.uni(append(varints(0x54, 0), make([]byte, 1001)...)).Close())
	p.wantReset(first, h3FlowControl)
	<-s1.Context().Done()
	p.uni(append(varints(0x54, 4), "still"...))
	must(s2.AcceptUniStream(t.Context()))(t)
	p.write(second, data(closeCapsule(1, "")))
	check(t, second.Close())
	if _, err := io.ReadAll(second); err != nil {
		t.Error(err)
	}
	wantSessionError(t, context.Cause(s2.Context()), wt.Peer, 1, "")
}
