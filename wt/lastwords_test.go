package wt_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// Firefox sends its close, and ends the connection in the next packet. Both are
// there before anyone has read the first.
func TestCloseWithTheConnectionsEnd(t *testing.T) {
	for range 50 { // who wins is a race
		synctest.Test(t, func(t *testing.T) {
			sessions := make(chan *wt.Session, 1)
			n := wttest.NewNetwork(t, wttest.Link{}, 0)
			host := wttest.Serve(t, n, wt.ServerConfig{Handler: accepting(sessions)})
			end := n.NewEndpoint()
			p := peerOf(t, end, host)
			stream := p.session()
			session := <-sessions
			synctest.Wait()

			end.Hold()
			p.write(stream, data(closeCapsule(17, "the last word")))
			check(t, stream.Close())
			synctest.Wait()
			check(t, p.conn.CloseWithError(h3NoError, ""))
			synctest.Wait()
			if packets := end.Release(); packets < 2 {
				t.Fatalf("the close and the connection's end left in %d packets", packets)
			}
			<-session.Context().Done()
			wantSessionError(t, context.Cause(session.Context()), wt.Peer, 17, "the last word")
		})
		if t.Failed() {
			return
		}
	}
}

// The end of a stream that is there before the session begins holds up nothing,
// and one that overtakes the close holds up its connection for a moment alone.
func TestEndIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sessions := make(chan *wt.Session, 1)
		n := wttest.NewNetwork(t, wttest.Link{}, 0)
		begin := make(chan struct{})
		host := wttest.Serve(t, n, wt.ServerConfig{Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
			<-begin
			accepting(sessions).ServeWebTransport(ctx, r)
		})})
		p := peerOf(t, n.NewEndpoint(), host)
		p.control(usualSettings())
		stream := p.bidi(connectHead())
		check(t, stream.Close())
		synctest.Wait()
		began := time.Now()
		close(begin)
		session := <-sessions
		<-session.Context().Done()
		wantSessionError(t, context.Cause(session.Context()), wt.Peer, 0, "")
		wantTook(t, "the end", began, 0)
	})
	synctest.Test(t, func(t *testing.T) {
		sessions := make(chan *wt.Session, 1)
		n := wttest.NewNetwork(t, wttest.Link{}, 0)
		host := wttest.Serve(t, n, wt.ServerConfig{Handler: accepting(sessions)})
		end := n.NewEndpoint()
		p := peerOf(t, end, host)
		stream := p.session()
		session := <-sessions
		began := time.Now()
		reversed(t, end,
			func() { p.write(stream, data(closeCapsule(17, "the last word"))) },
			func() { check(t, stream.Close()) },
		)
		<-session.Context().Done()
		wantSessionError(t, context.Cause(session.Context()), wt.Peer, 17, "the last word")
		if took := time.Since(began); took > time.Second {
			t.Errorf("the close took %v", took)
		}
	})
}
