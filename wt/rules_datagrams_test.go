package wt_test

import (
	"bytes"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"

	"github.com/tidewire/tidewire/wt"
)

// draft §4.5, RFC 9297 §2.1: a datagram is a quarter of the CONNECT stream's id,
// at any length, and the payload as it is, which may be empty.
func TestDatagramFormat(t *testing.T) {
	bothRoles(t, func(t *testing.T, p *peer, _ *quic.Stream, session *wt.Session) {
		ctx := t.Context()
		for _, payload := range [][]byte{[]byte("payload"), {}, {0}, bytes.Repeat([]byte{0xff}, 1000)} {
			check(t, session.SendDatagram(ctx, payload))
			if b := must(p.conn.ReceiveDatagram(ctx))(t); !bytes.Equal(b, append([]byte{0}, payload...)) {
				t.Errorf("sent %x for %x", b, payload)
			}
			for _, id := range [][]byte{{0}, {0x40, 0}, {0x80, 0, 0, 0}, {0xc0, 0, 0, 0, 0, 0, 0, 0}} {
				check(t, p.conn.SendDatagram(append(bytes.Clone(id), payload...)))
				if b := must(session.ReceiveDatagram(ctx))(t); !bytes.Equal(b, payload) {
					t.Errorf("received %x for %x", b, payload)
				}
			}
		}
	})
}

// RFC 9297 §2.1: a datagram that is too short for its id, or names one that no
// stream can have, ends the connection.
func TestMalformedDatagrams(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":               {},
		"cut id":              {0xc0, 0, 0},
		"id of 2^60":          varints(1 << 60),
		"id of 2^62-1":        varints(1<<62 - 1),
		"id of 2^60, payload": append(varints(1<<60), "payload"...),
	} {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, p *peer, _ *quic.Stream, session *wt.Session) {
				check(t, p.conn.SendDatagram(b))
				p.wantClosed(h3DatagramError)
				<-session.Context().Done()
			})
		})
	}
}

// draft §6, RFC 9297 §2.1: no datagram leaves once the session is over.
func TestNoDatagramsAfterEnd(t *testing.T) {
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				check(t, session.SendDatagram(t.Context(), []byte("before")))
				must(p.conn.ReceiveDatagram(t.Context()))(t)
				end(t, p, connect, session)
				<-session.Context().Done()
				if err := session.SendDatagram(t.Context(), []byte("after")); !errors.Is(err, wt.ErrSessionClosed) {
					t.Errorf("SendDatagram returned %v", err)
				}
				synctest.Wait()
				if n := len(framesOf[qlog.DatagramFrame](p.received)); n != 1 {
					t.Errorf("%d datagrams, want 1", n)
				}
			})
		})
	}
}

// draft §3.1, RFC 9297 §2.1.1: no datagram, and no CONNECT, leaves a client before it knows
// that the server takes them.
func TestNothingBeforeSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, result := listenPeer(t.Context(), t, wt.Dialer{})
		synctest.Wait()
		p.received.mu.Lock()
		for _, f := range p.received.frames {
			switch f := f.(type) {
			case *qlog.DatagramFrame:
				t.Error("a datagram before SETTINGS")
			case *qlog.StreamFrame:
				if f.StreamID%4 == 0 {
					t.Error("a request before SETTINGS")
				}
			}
		}
		p.received.mu.Unlock()
		p.control(serverSettings())
		connect := must(p.conn.AcceptStream(t.Context()))(t)
		p.readHeaders(connect)
		p.write(connect, headers(":status", "200"))
		answer := <-result
		must(answer.session, answer.err)(t)
	})
}

// draft §4.6: what a client cannot keep until the answer is refused, or dropped.
func TestClientBuffersLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, connect, result := answerPeer(t, wt.Dialer{MaxPendingStreams: 24})
		for range 24 {
			p.uni(append(varints(0x54, 0), "x"...))
			synctest.Wait()
		}
		p.wantStopped(p.uni(append(varints(0x54, 0), "x"...)).Context(), wtBufferedRejected)
		excess := p.bidi(append(varints(0x41, 0), "x"...))
		p.wantReset(excess, wtBufferedRejected)
		p.wantStopped(excess.Context(), wtBufferedRejected)
		for i := range 20 {
			check(t, p.conn.SendDatagram([]byte{0, byte(i)}))
			synctest.Wait()
		}
		p.write(connect, headers(":status", "200"))
		answer := <-result
		session := must(answer.session, answer.err)(t)
		for range 24 {
			must(session.AcceptUniStream(t.Context()))(t)
		}
		check(t, p.conn.SendDatagram([]byte{0, 100}))
		for i := range byte(17) {
			want := i
			if i == 16 {
				want = 100
			}
			if b := must(session.ReceiveDatagram(t.Context()))(t); !bytes.Equal(b, []byte{want}) {
				t.Errorf("datagram %x, want %x", b, want)
			}
		}
	})
}

// RFC 9297 §2: a request that gives datagrams no meaning ends with
// H3_DATAGRAM_ERROR when one comes for it, and nothing else does.
func TestDatagramOfPlainRequest(t *testing.T) {
	for name, early := range map[string]bool{"after it": false, "before it": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, ended, sessions := make(chan struct{}, 1), make(chan struct{}), make(chan *wt.Session, 1)
				p := dialPeer(t, wt.ServerConfig{
					Handler: accepting(sessions),
					HTTPHandler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						began <- struct{}{}
						<-r.Context().Done()
						close(ended)
					}),
				})
				endHang(t, p)
				p.control(usualSettings())
				request := must(p.conn.OpenStream())(t)
				if early {
					check(t, p.conn.SendDatagram([]byte("\x00x")))
					synctest.Wait()
				}
				p.write(request, headers(":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/"))
				if !early {
					<-began
					check(t, p.conn.SendDatagram([]byte("\x00x")))
				}
				p.wantReset(request, h3DatagramError)
				p.wantStopped(request.Context(), h3DatagramError)
				<-ended
				p.wantStatus(p.bidi(connectHead()), "200")
				check(t, (<-sessions).Context().Err())
			})
		})
	}
}
