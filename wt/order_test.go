package wt_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// What overtakes what is decided here by packets: a sender is held, each step
// leaves in packets of its own, and then the last arrive first.

// reversed has end send what steps do with the order of packets reversed.
func reversed(t *testing.T, end *wttest.Endpoint, steps ...func()) {
	t.Helper()
	synctest.Wait()
	end.Hold()
	for _, step := range steps {
		step()
		synctest.Wait()
	}
	if packets := end.ReleaseReversed(); packets < len(steps) {
		t.Fatalf("%d steps left in %d packets", len(steps), packets)
	}
}

// wantAll accepts a bidirectional and a unidirectional stream, and a datagram,
// whose contents name them.
func wantAll(t *testing.T, s *wt.Session) {
	t.Helper()
	b := make([]byte, 100)
	n := must(must(s.AcceptStream(t.Context()))(t).Read(b))(t)
	if string(b[:n]) != "bidi" {
		t.Errorf("bidirectional stream: %q", b[:n])
	}
	if uni := must(io.ReadAll(must(s.AcceptUniStream(t.Context()))(t)))(t); string(uni) != "uni" {
		t.Errorf("unidirectional stream: %q", uni)
	}
	if d := must(s.ReceiveDatagram(t.Context()))(t); string(d) != "datagram" {
		t.Errorf("datagram: %q", d)
	}
}

// A client's streams and datagrams overtake its request (draft §4.6).
func TestOvertakesRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{}, 0)
		sessions := make(chan *wt.Session, 1)
		host := wttest.Serve(t, n, wt.ServerConfig{Handler: accepting(sessions)})
		end := n.NewEndpoint()
		p := peerOf(t, end, host)
		p.control(usualSettings())
		var request *quic.Stream
		reversed(t, end,
			func() { request = p.bidi(connectHead()) },
			func() { p.bidi(append(varints(0x41, 0), "bidi"...)) },
			func() { check(t, p.uni(append(varints(0x54, 0), "uni"...)).Close()) },
			func() { check(t, p.conn.SendDatagram(append([]byte{0}, "datagram"...))) },
		)
		p.wantStatus(request, "200")
		wantAll(t, <-sessions)
	})
}

// A server's streams, datagrams, drain and GOAWAY overtake its answer.
func TestOvertakesAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{}, 0)
		requests := make(chan *wt.Request, 1)
		host := wttest.Serve(t, n, wt.ServerConfig{Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
			requests <- r
			<-ctx.Done()
		})})
		result := make(chan dialed, 1)
		go func() {
			session, err := host.Dialer(wt.Dialer{}).Dial(t.Context(), host.URL)
			result <- dialed{session, err}
		}()
		r := <-requests
		var s *wt.Session
		reversed(t, host.Endpoint,
			func() { s = must(r.Accept(nil))(t) },
			func() { check(t, write(must(s.OpenStream(t.Context()))(t), "bidi")) },
			func() {
				uni := must(s.OpenUniStream(t.Context()))(t)
				check(t, write(uni, "uni"))
				check(t, uni.Close())
			},
			func() { check(t, s.SendDatagram(t.Context(), []byte("datagram"))) },
			func() { check(t, s.Drain()) },
		)
		answer := <-result
		session := must(answer.session, answer.err)(t)
		wantAll(t, session)
		<-session.Draining()
		check(t, session.Close())
	})
}

// A reset that overtakes the stream's header and data still shows the stream,
// with its code, where both sides have reliable resets; elsewhere a stream whose
// code is no application's stays unseen, and nothing else is lost.
func TestResetOvertakesHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := join(t, wttest.Link{}, 0, wt.ServerConfig{}, wt.Dialer{})
		ctx := t.Context()
		var uni *wt.SendStream
		var bidi *wt.Stream
		reversed(t, j.clientEnd,
			func() { uni = must(j.client.OpenUniStream(ctx))(t); check(t, write(uni, "data")) },
			func() { uni.CancelWrite(7) },
		)
		_, err := io.ReadAll(must(j.server.AcceptUniStream(ctx))(t))
		wantStreamError(t, err, true, 7)
		reversed(t, j.clientEnd,
			func() { bidi = must(j.client.OpenStream(ctx))(t); check(t, write(bidi, "data")) },
			func() { bidi.CancelWrite(8); bidi.CancelRead(9) },
		)
		accepted := must(j.server.AcceptStream(ctx))(t)
		_, err = io.ReadAll(accepted)
		wantStreamError(t, err, true, 8)
		<-accepted.Context().Done()
		_, err = accepted.Write([]byte("x"))
		wantStreamError(t, err, true, 9)
	})

	t.Run("without reliable resets", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := wttest.NewNetwork(t, wttest.Link{}, 0)
			sessions := make(chan *wt.Session, 1)
			host := wttest.Serve(t, n, wt.ServerConfig{Handler: accepting(sessions)})
			end := n.NewEndpoint()
			p := peerWith(t, end, host, &quic.Config{EnableDatagrams: true})
			p.session()
			session := <-sessions
			var stream *quic.Stream
			reversed(t, end,
				func() { stream = p.bidi(append(varints(0x41, 0), "data"...)) },
				func() { stream.CancelWrite(0x52e4a40fa8db) },
			)
			// Its code is an application's, and there is one session it can be of.
			accepted := must(session.AcceptStream(t.Context()))(t)
			_, err := accepted.Read(make([]byte, 10))
			wantStreamError(t, err, true, 0)
			check(t, write(accepted, "answer"))
			check(t, accepted.Close())
			if b := must(io.ReadAll(stream))(t); string(b) != "answer" {
				t.Errorf("read %q", b)
			}

			// Of other codes nobody can say whose they are; nothing else is lost.
			reversed(t, end,
				func() { stream = p.bidi(append(varints(0x41, 0), "data"...)) },
				func() { stream.CancelWrite(0x10c) },
			)
			p.bidi(append(varints(0x41, 0), "next"...))
			b := make([]byte, 10)
			count := must(must(session.AcceptStream(t.Context()))(t).Read(b))(t)
			if string(b[:count]) != "next" || session.Context().Err() != nil {
				t.Errorf("read %q, session %v", b[:count], context.Cause(session.Context()))
			}
			// The direction to the peer, which cannot belong to a session, is ended too.
			if _, err := stream.Read(b); err == nil {
				t.Error("the other direction of an unseen stream goes on")
			}
		})
	})
}

// The end of a stream overtakes its data, and the data its header.
func TestFINOvertakesData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := join(t, wttest.Link{}, 0, wt.ServerConfig{}, wt.Dialer{})
		stream := must(j.client.OpenStream(t.Context()))(t)
		reversed(t, j.clientEnd,
			func() { check(t, write(stream, "a")) },
			func() { check(t, write(stream, "b")) },
			func() { check(t, stream.Close()) },
		)
		if b := must(io.ReadAll(must(j.server.AcceptStream(t.Context()))(t)))(t); string(b) != "ab" {
			t.Errorf("read %q", b)
		}
	})
}

// A close overtakes what was sent before it. Its code and reason are what both
// sides see, and what comes late disturbs nothing.
func TestCloseOvertakesData(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := join(t, wttest.Link{}, 0, wt.ServerConfig{}, wt.Dialer{})
				end, ends := j.clientEnd, j.sides()[side]
				if side == "server" {
					end = j.host.Endpoint
				}
				ctx := t.Context()
				closed := make(chan struct{})
				reversed(t, end,
					func() { check(t, write(must(ends[0].OpenStream(ctx))(t), "bidi")) },
					func() { check(t, write(must(ends[0].OpenUniStream(ctx))(t), "uni")) },
					func() { check(t, ends[0].SendDatagram(ctx, []byte("datagram"))) },
					func() { check(t, ends[0].Drain()) },
					func() {
						go func() {
							defer close(closed)
							_ = ends[0].CloseWithError(3, "first")
						}()
					},
				)
				<-ends[1].Context().Done()
				<-closed
				wantSessionError(t, context.Cause(ends[1].Context()), wt.Peer, 3, "first")
				wantSessionError(t, context.Cause(ends[0].Context()), wt.Us, 3, "first")
				<-j.client.Conn().Context().Done()
				var app *quic.ApplicationError
				if err := context.Cause(j.client.Conn().Context()); !errors.As(err, &app) || app.ErrorCode != h3NoError {
					t.Errorf("the connection ended with %v", err)
				}
			})
		})
	}
}

// A connection whose packets arrive in reverse from the first on is one none the
// less: SETTINGS come after the request, and the request after its streams.
func TestEverythingReversed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{}, 0)
		sessions := make(chan *wt.Session, 1)
		host := wttest.Serve(t, n, wt.ServerConfig{Handler: accepting(sessions)})
		end := n.NewEndpoint()
		p := peerOf(t, end, host)
		var request *quic.Stream
		reversed(t, end,
			func() { p.control(usualSettings()) },
			func() { p.uni(varints(2)) }, // QPACK
			func() { p.uni(varints(3)) },
			func() { request = p.bidi(connectHead()) },
			func() { p.write(request, data(frame(0x78ae, nil))) },
			func() { p.bidi(append(varints(0x41, 0), "bidi"...)) },
			func() { check(t, p.uni(append(varints(0x54, 0), "uni"...)).Close()) },
			func() { check(t, p.conn.SendDatagram(append([]byte{0}, "datagram"...))) },
		)
		p.wantStatus(request, "200")
		s := <-sessions
		wantAll(t, s)
		<-s.Draining()
	})
}

// A reset that arrives just when this side gives up reading is no clean end, even
// where it falls behind the last byte that was read: neither for the call that
// waits nor for later ones.
func TestResetBesideCancelRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := join(t, wttest.Link{}, 0, wt.ServerConfig{}, wt.Dialer{})
		b := make([]byte, 10)
		for range 100 {
			stream := must(j.client.OpenUniStream(t.Context()))(t)
			check(t, write(stream, "x"))
			accepted := must(j.server.AcceptUniStream(t.Context()))(t)
			must(accepted.Read(b))(t)
			waited := make(chan error, 1)
			go func() {
				_, err := accepted.Read(make([]byte, 10))
				waited <- err
			}()
			synctest.Wait()
			stream.CancelWrite(7)
			accepted.CancelRead(7)
			first := <-waited
			synctest.Wait()
			_, second := accepted.Read(b)
			for _, err := range []error{first, second} {
				var cancelled *wt.StreamError
				if !errors.As(err, &cancelled) || cancelled.Code != 7 {
					t.Fatalf("reads ended with %v, then %v", first, second)
				}
			}
		}
	})
	t.Run("of a session", func(t *testing.T) {
		for range 20 {
			synctest.Test(t, func(t *testing.T) {
				j := join(t, wttest.Link{}, 0, wt.ServerConfig{}, wt.Dialer{})
				check(t, write(must(j.client.OpenStream(t.Context()))(t), ""))
				accepted := must(j.server.AcceptStream(t.Context()))(t)
				waited := make(chan error, 1)
				go func() {
					_, err := accepted.Read(make([]byte, 10))
					waited <- err
				}()
				synctest.Wait()
				check(t, j.client.CloseWithError(3, "over"))
				wantSessionError(t, <-waited, wt.Peer, 3, "over")
				synctest.Wait()
				_, err := accepted.Read(make([]byte, 10))
				wantSessionError(t, err, wt.Peer, 3, "over")
			})
		}
	})
}
