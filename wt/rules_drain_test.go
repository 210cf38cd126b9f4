package wt_test

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"

	"github.com/tidewire/tidewire/wt"
)

// wantUsable checks that streams and datagrams pass in both directions.
func wantUsable(t *testing.T, p *peer, session *wt.Session) {
	t.Helper()
	ctx := t.Context()
	check(t, write(must(session.OpenUniStream(ctx))(t), "x"))
	p.acceptUni(4)
	check(t, write(must(session.OpenStream(ctx))(t), "x"))
	p.acceptBidi(4)
	p.uni(append(varints(0x54, 0), "x"...))
	must(session.AcceptUniStream(ctx))(t)
	p.bidi(append(varints(0x41, 0), "x"...))
	must(session.AcceptStream(ctx))(t)
	check(t, session.SendDatagram(ctx, []byte("x")))
	must(p.conn.ReceiveDatagram(ctx))(t)
	check(t, p.conn.SendDatagram([]byte("\x00x")))
	must(session.ReceiveDatagram(ctx))(t)
	if err := session.Context().Err(); err != nil {
		t.Errorf("the session has ended: %v", err)
	}
}

// draft §4.7: WT_DRAIN_SESSION and GOAWAY are one signal to the application, and
// change nothing else.
func TestDrainReceived(t *testing.T) {
	signals := map[string]func(*peer, *quic.Stream){
		"capsule":       func(p *peer, connect *quic.Stream) { p.write(connect, data(frame(0x78ae, nil))) },
		"capsule twice": func(p *peer, connect *quic.Stream) { p.write(connect, data(frame(0x78ae, nil), frame(0x78ae, nil))) },
		"GOAWAY":        func(p *peer, _ *quic.Stream) { must(p.ctrl.Write(frame(7, varints(4))))(p.t) },
		"GOAWAY twice": func(p *peer, _ *quic.Stream) {
			must(p.ctrl.Write(append(frame(7, varints(1<<60)), frame(7, varints(4))...)))(p.t)
		},
		"both": func(p *peer, connect *quic.Stream) {
			must(p.ctrl.Write(frame(7, varints(4))))(p.t)
			p.write(connect, data(frame(0x78ae, nil)))
		},
	}
	for name, signal := range signals {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				select {
				case <-session.Draining():
					t.Fatal("draining before the signal")
				default:
				}
				signal(p, connect)
				<-session.Draining()
				wantUsable(t, p, session)
			})
		})
	}
}

// draft §4.7: WT_DRAIN_SESSION is an empty capsule, and who sent it goes on as
// well.
func TestDrainSent(t *testing.T) {
	bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
		check(t, session.Drain())
		if typ, payload := p.readFrame(connect); typ != 0 || !bytes.Equal(payload, varints(0x78ae, 0)) {
			t.Errorf("got frame %#x with %x", typ, payload)
		}
		wantUsable(t, p, session)
		select {
		case <-session.Draining():
			t.Error("our own signal came back")
		default:
		}
		closing(t, session, 0, "")
		p.wantClose(connect, 0, "")
		check(t, connect.Close())
	})
}

// draft §4.7, RFC 9114 §5.2: a server that shuts down names with GOAWAY what it
// still serves, drains its sessions, and goes on with them.
func TestShutdownDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sessions := make(chan *wt.Session, 1)
		p, server := dialPeerOf(t, wt.ServerConfig{Handler: accepting(sessions)})
		endHang(t, p)
		connect := p.session()
		session := <-sessions
		control := must(p.conn.AcceptUniStream(t.Context()))(t)
		must(readVarint(control))(t)
		p.readFrame(control)

		done := make(chan error, 1)
		go func() { done <- server.Shutdown(t.Context()) }()
		if typ, payload := p.readFrame(control); typ != 7 || !bytes.Equal(payload, varints(4)) {
			t.Errorf("got frame %#x with %x, want GOAWAY with 4", typ, payload)
		}
		if typ, payload := p.readFrame(connect); typ != 0 || !bytes.Equal(payload, varints(0x78ae, 0)) {
			t.Errorf("got frame %#x with %x, want WT_DRAIN_SESSION", typ, payload)
		}
		<-session.Draining() // the handler is to know as well
		wantUsable(t, p, session)
		p.wantReset(p.bidi(connectHead()), h3RequestRejected)
		time.Sleep(time.Minute)
		wantUsable(t, p, session)
		check(t, connect.Close())
		if rest, err := io.ReadAll(connect); err != nil || len(rest) > 0 {
			t.Errorf("after our FIN: %x, %v; want FIN", rest, err)
		}
		p.wantClosed(h3NoError)
		check(t, <-done)
	})
}

// draft §4.7: a client sends no request for a session after a server's GOAWAY.
func TestNoRequestAfterGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := peerQUIC()
		config.MaxIncomingStreams = -1 // the request has to wait for credit
		p, result := listenPeerQUIC(t.Context(), t, wt.Dialer{}, (*wt.Dialer).Dial, config)
		endHang(t, p)
		p.control(serverSettings())
		synctest.Wait()
		must(p.ctrl.Write(frame(7, varints(0))))(t)
		began := time.Now()
		if answer := <-result; answer.err == nil {
			t.Error("dial succeeded")
		}
		if time.Since(began) != 0 {
			t.Errorf("dial returned after %v", time.Since(began))
		}
		for _, f := range framesOf[qlog.StreamFrame](p.received) {
			if f.StreamID%4 == 0 {
				t.Error("a request was sent")
			}
		}
	})
}
