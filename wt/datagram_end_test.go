package wt_test

import (
	"sync"
	"testing"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// The first datagram of a session comes just when its connection ends: each call
// returns, and the session ends.
func TestDatagramBesideEnd(t *testing.T) {
	rounds := 100
	if soaking() {
		rounds = 3000
	}
	n := wttest.NewNetwork(t, wttest.Link{}, 0)
	sessions := make(chan *wt.Session, 1)
	host := wttest.Serve(t, n, wt.ServerConfig{Handler: accepting(sessions)})
	for range rounds {
		end := n.NewEndpoint()
		client := must(host.Dialer(wt.Dialer{PacketConn: end}).Dial(t.Context(), host.URL))(t)
		server := <-sessions
		var sending sync.WaitGroup
		for _, s := range []*wt.Session{client, server} {
			sending.Go(func() {
				<-s.Conn().Context().Done()
				_ = s.TrySendDatagram([]byte("x"))
				<-s.Context().Done()
			})
		}
		check(t, client.Conn().CloseWithError(h3NoError, ""))
		sending.Wait()
		check(t, client.Close())
		check(t, end.Close())
	}
}
