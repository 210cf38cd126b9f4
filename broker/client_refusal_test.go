package broker_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt"
)

func TestTooManySessionsReachesDial(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{MaxSessions: 1})
		dial(t, n)
		_, err := tryDial(t, n)
		wantCode(t, err, codec.CodeTooManySessions)
	})
}

// handlerFunc serves sessions as a test wants it.
type handlerFunc func(session *wt.Session)

func (f handlerFunc) ServeWebTransport(_ context.Context, r *wt.Request) {
	if session, err := r.Accept(nil); err == nil {
		f(session)
		<-session.Context().Done()
	}
}

// The code with which a broker closes the connection tells why, even where no END
// came; a code that is not of the registry tells nothing.
func TestCloseCodeWithoutEnd(t *testing.T) {
	for _, c := range []struct {
		code   uint32
		want   codec.Code
		remote bool
	}{
		{uint32(codec.CodeTooManySessions), codec.CodeTooManySessions, true},
		{uint32(codec.CodeUnauthorized), codec.CodeUnauthorized, true},
		{uint32(codec.CodeOK), codec.CodeConnectFailed, false},
		{4711, codec.CodeConnectFailed, false},
	} {
		n := newWTNetwork(t)
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		n.addr = packets.LocalAddr()
		srv, err := wt.NewServer(wt.ServerConfig{TLSConfig: n.identity.TLSConfig(), Handler: handlerFunc(func(s *wt.Session) {
			_ = s.CloseWithError(c.code, "the reason")
		})})
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() { _ = srv.Serve(packets) })
		_, err = tryDial(t, n)
		wantCode(t, err, c.want)
		if e, ok := errors.AsType[*client.Error](err); !ok || e.Remote != c.remote || e.Remote && e.Reason != "the reason" {
			t.Errorf("closed with %d: %+v", c.code, e)
		}
		_ = srv.Close()
		serving.Wait()
		_ = packets.Close()
	}
}
