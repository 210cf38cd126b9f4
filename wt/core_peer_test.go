package wt_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// An answer for which the connection has no window ends the streams that came for
// the session (draft-ietf-webtrans-http3-16 §6).
func TestStreamsOfUnanswerableRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan error, 1)
		begin := make(chan struct{})
		config := peerQUIC()
		config.InitialStreamReceiveWindow = 100
		p, _ := dialPeerWith(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
			<-begin
			_, err := r.Accept(&wt.AcceptOptions{Header: http.Header{"X": {strings.Repeat("x", 300)}}})
			failed <- err
		})}, config)
		p.control(usualSettings())
		request := p.bidi(connectHead())
		early := p.bidi(append(varints(0x41, uint64(request.StreamID())), "early"...))
		time.Sleep(time.Second)
		close(begin)
		if err := <-failed; err == nil {
			t.Fatal("accepted")
		}
		_ = early.SetReadDeadline(time.Now().Add(time.Minute))
		p.wantReset(early, wtSessionGone)
	})
}

// What a write has got through before it fails is counted.
func TestStatsOfBrokenWrites(t *testing.T) {
	for name, end := range map[string]func(*wt.Session, *wt.ReceiveStream){
		"stopped": func(_ *wt.Session, stream *wt.ReceiveStream) { stream.CancelRead(1) },
		"closed":  func(session *wt.Session, _ *wt.ReceiveStream) { _ = session.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := wttest.Pair(t)
				out := must(client.OpenUniStream(t.Context()))(t)
				check(t, write(out, "first"))
				in := must(server.AcceptUniStream(t.Context()))(t)
				must(io.ReadFull(in, make([]byte, 5)))(t)
				written := make(chan int)
				go func() {
					n, err := out.Write(make([]byte, 20<<20))
					if err == nil {
						t.Error("written in full")
					}
					written <- n
				}()
				time.Sleep(time.Second)
				end(server, in)
				n := <-written
				time.Sleep(time.Second)
				if got := client.Stats().Streams.BytesWritten; n == 0 || got != uint64(n)+5 {
					t.Errorf("%d bytes written, %d counted", n+5, got)
				}
			})
		})
	}
}

// Datagrams that nobody took before the session's end, or that were for no
// session, are counted.
func TestDatagramsOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.Pair(t)
		for range 3 {
			check(t, client.SendDatagram(t.Context(), []byte("x")))
		}
		time.Sleep(time.Second)
		check(t, server.Close())
		if s := server.Stats().Datagrams; s.Received != 3 || s.IncomingAbandoned != 3 {
			t.Errorf("%+v", s)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		sessions := make(chan *wt.Session, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
		p.control(usualSettings())
		refused := p.bidi(connectHead())
		_ = refused
		session := <-sessions
		other := p.bidi(connectHead()) // one too many
		p.wantReset(other, h3RequestRejected)
		check(t, p.conn.SendDatagram(append(varints(uint64(other.StreamID()/4)), 'x')))
		time.Sleep(time.Second)
		if s := session.Stats().Connection; s.StrayDatagramsDropped != 1 || s.PendingDatagramsDropped != 0 {
			t.Errorf("%+v", s)
		}
	})
}
