package wt_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// A client's session before the server's answer. "draft" is
// draft-ietf-webtrans-http3-16.

// askPeer dials a server made by hand, which declares settings, without waiting
// for its answer. It returns the server's end, the CONNECT stream with its request
// read, and the session.
func askPeer(t *testing.T, dialer wt.Dialer, settings []byte) (*peer, *quic.Stream, *wt.Session) {
	t.Helper()
	p, result := listenPeerWith(t.Context(), t, dialer, (*wt.Dialer).DialEarly)
	p.control(settings)
	answer := <-result
	session := must(answer.session, answer.err)(t)
	stream := must(p.conn.AcceptStream(t.Context()))(t)
	p.readHeaders(stream)
	return p, stream, session
}

// draft §4: streams and datagrams go out before the answer.
func TestEarlyStreamsAndDatagrams(t *testing.T) {
	p, stream, session := askPeer(t, wt.Dialer{Subprotocols: []string{"a"}}, serverSettings())
	ctx := t.Context()
	bidi := must(session.OpenStream(ctx))(t)
	must(bidi.Write([]byte("bidi")))(t)
	uni := must(session.OpenUniStream(ctx))(t)
	must(uni.Write([]byte("uni")))(t)
	check(t, uni.Close())
	check(t, session.SendDatagram(ctx, []byte("datagram")))

	peerBidi := must(p.conn.AcceptStream(ctx))(t)
	b := make([]byte, 7)
	must(io.ReadFull(peerBidi, b))(t)
	if want := append(varints(0x41, 0), "bidi"...); string(b) != string(want) {
		t.Errorf("bidirectional stream is %q, want %q", b, want)
	}
	for { // beside the control stream
		u := must(p.conn.AcceptUniStream(ctx))(t)
		if must(readVarint(u))(t) != 0x54 {
			continue
		}
		if rest := must(io.ReadAll(u))(t); string(rest) != "\x00uni" {
			t.Errorf("unidirectional stream is %q", rest)
		}
		break
	}
	if d := must(p.conn.ReceiveDatagram(ctx))(t); string(d) != "\x00datagram" {
		t.Errorf("datagram is %q", d)
	}
	if session.Response() != nil || session.Subprotocol() != "" {
		t.Errorf("response %v and subprotocol %q before the answer", session.Response(), session.Subprotocol())
	}
	if session.Draft() != wt.Draft16 {
		t.Errorf("draft %v", session.Draft())
	}
	expired, cancel := context.WithCancel(ctx)
	cancel()
	if err := session.Ready(expired); !errors.Is(err, context.Canceled) {
		t.Errorf("Ready returned %v before the answer", err)
	}

	p.write(stream, headers(":status", "202", "wt-protocol", `"a"`, "x-tide", "high"))
	check(t, session.Ready(ctx))
	response := session.Response()
	if response.Status != 202 || response.Header.Get("X-Tide") != "high" || session.Subprotocol() != "a" {
		t.Errorf("response %v, subprotocol %q", response, session.Subprotocol())
	}
	p.write(peerBidi, []byte("back"))
	must(io.ReadFull(bidi, b[:4]))(t)
	if string(b[:4]) != "back" {
		t.Errorf("read %q", b[:4])
	}
	check(t, stream.Close())
	<-session.Context().Done()
	check(t, session.Ready(ctx)) // it was accepted, whatever came after
	check(t, session.Close())
}

// A server that does not accept ends the session, and all that began on it.
func TestEarlyRefused(t *testing.T) {
	cases := map[string]struct {
		answer  func(p *peer, stream, control io.Writer)
		by      wt.Party
		closing uint64 // the code of the connection
		want    func(error) bool
	}{
		"rejected": {
			answer: func(p *peer, stream, _ io.Writer) {
				must(stream.Write(headers(":status", "403", "x-why", "tide")))(p.t)
			},
			by:      wt.Peer,
			closing: h3NoError,
			want: func(err error) bool {
				var rejected *wt.RejectedError
				return errors.As(err, &rejected) && rejected.Status == 403 && rejected.Header.Get("X-Why") == "tide"
			},
		},
		"redirected": {
			answer:  func(p *peer, stream, _ io.Writer) { must(stream.Write(headers(":status", "302")))(p.t) },
			by:      wt.Peer,
			closing: h3NoError,
			want: func(err error) bool {
				var rejected *wt.RejectedError
				return errors.As(err, &rejected) && rejected.Status == 302
			},
		},
		"draft §3.3: subprotocol that was not offered": {
			answer: func(p *peer, stream, _ io.Writer) {
				must(stream.Write(headers(":status", "200", "wt-protocol", `"b"`)))(p.t)
			},
			by:      wt.Us,
			closing: wtALPNError,
			want:    func(err error) bool { return err != nil },
		},
		"reset": {
			answer:  func(_ *peer, stream, _ io.Writer) { stream.(*quic.Stream).CancelWrite(h3RequestRejected) },
			by:      wt.Peer,
			closing: h3NoError,
			want: func(err error) bool {
				var reset *wt.StreamError
				return errors.As(err, &reset) && reset.HTTPCode == h3RequestRejected && reset.Remote
			},
		},
		"RFC 9114 §5.2: GOAWAY that names the request": {
			answer:  func(p *peer, _, control io.Writer) { must(control.Write(frame(7, varints(0))))(p.t) },
			by:      wt.Peer,
			closing: h3NoError,
			want: func(err error) bool {
				var reset *wt.StreamError
				return errors.As(err, &reset) && reset.HTTPCode == h3RequestRejected && reset.Remote
			},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p, result := listenPeerWith(t.Context(), t, wt.Dialer{Subprotocols: []string{"a"}}, (*wt.Dialer).DialEarly)
			control := p.control(serverSettings())
			answer := <-result
			session := must(answer.session, answer.err)(t)
			ctx := t.Context()
			bidi := must(session.OpenStream(ctx))(t)
			must(bidi.Write([]byte("early")))(t)
			stream := must(p.conn.AcceptStream(ctx))(t)
			p.readHeaders(stream)
			c.answer(p, stream, control)

			err := session.Ready(ctx)
			if !c.want(err) {
				t.Errorf("Ready returned %v", err)
			}
			<-session.Context().Done()
			ended := context.Cause(session.Context())
			wantSessionError(t, ended, c.by, 0, "")
			if !c.want(ended) {
				t.Errorf("session ended with %v", ended)
			}
			for name, call := range map[string]func() error{
				"Read":            func() error { _, err := bidi.Read(make([]byte, 1)); return err },
				"Write":           func() error { _, err := bidi.Write([]byte("x")); return err },
				"OpenStream":      func() error { _, err := session.OpenStream(ctx); return err },
				"AcceptStream":    func() error { _, err := session.AcceptStream(ctx); return err },
				"SendDatagram":    func() error { return session.SendDatagram(ctx, nil) },
				"ReceiveDatagram": func() error { _, err := session.ReceiveDatagram(ctx); return err },
			} {
				if err := call(); !errors.Is(err, wt.ErrSessionClosed) || !c.want(err) {
					t.Errorf("%s returned %v", name, err)
				}
			}
			p.wantClosed(quicCode(c.closing))
			check(t, session.Close())
		})
	}
}

// The connection may end before the answer.
func TestEarlyLost(t *testing.T) {
	p, _, session := askPeer(t, wt.Dialer{}, serverSettings())
	waiting := make(chan error, 1)
	go func() {
		_, err := session.AcceptStream(t.Context())
		waiting <- err
	}()
	check(t, p.conn.CloseWithError(h3NoError, "gone"))
	var closed *quic.ApplicationError
	if err := session.Ready(t.Context()); !errors.As(err, &closed) {
		t.Errorf("Ready returned %v", err)
	}
	wantSessionError(t, <-waiting, wt.Transport, 0, "")
	check(t, session.Close())
}

// The answer is waited for as long as AnswerTimeout, by whoever waits.
func TestAnswerTimeout(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"default": 30 * time.Second, "3s": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dialer := wt.Dialer{}
				if name != "default" {
					dialer.AnswerTimeout = timeout
				}
				p, _, session := askPeer(t, dialer, serverSettings())
				began := time.Now()
				err := session.Ready(t.Context())
				if waited := time.Since(began); waited != timeout || err == nil {
					t.Errorf("Ready returned %v after %v, want an error after %v", err, waited, timeout)
				}
				<-session.Context().Done()
				wantSessionError(t, context.Cause(session.Context()), wt.Us, 0, "")
				p.wantClosed(h3NoError)
			})
		})
	}
}

// draft §3.2: in draft 16 capsules may go before the answer. Earlier drafts leave
// them to RFC 9297, where they begin with it.
func TestCloseBeforeAnswer(t *testing.T) {
	capsule := data(frame(0x2843, append([]byte{0, 0, 0, 7}, "early"...)))
	for name, c := range map[string]struct {
		settings []byte
		held     bool
	}{
		"draft 16": {serverSettings(), false},
		"draft 14": {settingsFrame(8, 1, 0x33, 1, 0x14e9cd29, 1), true},
		"draft 02": {settingsFrame(8, 1, 0x33, 1, 0x2b603742, 1), true},
	} {
		read := func(p *peer, stream *quic.Stream) {
			p.t.Helper()
			if b := must(io.ReadAll(stream))(p.t); string(b) != string(capsule) {
				p.t.Errorf("after the request came %x, want %x", b, capsule)
			}
		}
		closing := func(session *wt.Session) <-chan error {
			closed := make(chan error, 1)
			go func() { closed <- session.CloseWithError(7, "early") }()
			return closed
		}
		t.Run(name+", accepted", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, stream, session := askPeer(t, wt.Dialer{}, c.settings)
				closed := closing(session)
				if !c.held {
					read(p, stream)
				}
				synctest.Wait()
				p.write(stream, headers(":status", "200"))
				if c.held {
					read(p, stream)
				}
				check(t, stream.Close())
				check(t, <-closed)
				wantSessionError(t, context.Cause(session.Context()), wt.Us, 7, "early")
				p.wantClosed(h3NoError)
			})
		})
		t.Run(name+", not answered", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, stream, session := askPeer(t, wt.Dialer{}, c.settings)
				began := time.Now()
				closed := closing(session)
				if !c.held {
					read(p, stream)
				}
				wantSessionError(t, session.Ready(t.Context()), wt.Us, 7, "early")
				check(t, <-closed)
				if waited := time.Since(began); waited != 2*time.Second {
					t.Errorf("Close returned after %v", waited)
				}
				p.wantClosed(h3NoError)
			})
		})
	}
}

// A server of the package holds what comes before its handler accepts, and the
// client saves a round trip.
func TestEarlyWithServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency = 50 * time.Millisecond // one way
		n := newNetwork(t, latency)
		sessions := make(chan *wt.Session, 1)
		_, identity := serve(t, n.server, wt.ServerConfig{Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
			time.Sleep(time.Second)
			session := must(r.Accept(nil))(t)
			sessions <- session
			<-ctx.Done()
		})})
		ctx := t.Context()
		dialer := wt.Dialer{PacketConn: n.client, CertificateHashes: [][32]byte{identity.Hash()}}
		began := time.Now()
		client := must(dialer.DialEarly(ctx, serverURL))(t)
		if waited := time.Since(began); waited >= 4*latency {
			t.Errorf("DialEarly took %v, two round trips or more", waited)
		}
		for i := range 24 { // as many as the server holds by default
			stream := must(client.OpenUniStream(ctx))(t)
			must(fmt.Fprint(stream, i))(t)
			check(t, stream.Close())
		}
		for range 16 {
			check(t, client.SendDatagram(ctx, []byte("early")))
		}
		server := <-sessions
		for range 24 {
			must(io.ReadAll(must(server.AcceptUniStream(ctx))(t)))(t)
		}
		for range 16 {
			must(server.ReceiveDatagram(ctx))(t)
		}
		check(t, client.Ready(ctx))
		check(t, client.Close())
	})
}
