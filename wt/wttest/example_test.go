package wttest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// A session's two ends, without a socket.
func ExamplePair() {
	_ = func(t *testing.T) { // a test
		client, server := wttest.Pair(t)
		if err := client.CloseWithError(7, "enough"); err != nil {
			t.Fatal(err)
		}
		<-server.Context().Done()
		var ended *wt.SessionError
		if err := context.Cause(server.Context()); !errors.As(err, &ended) || ended.Code != 7 {
			t.Errorf("ended with %v", err)
		}
	}
}

// A slow link that loses one packet in ten, in virtual time.
func ExamplePairWith() {
	_ = func(t *testing.T) { // a test
		synctest.Test(t, func(t *testing.T) {
			client, server := wttest.PairWith(t, wttest.Options{
				Link: wttest.Link{Latency: 40 * time.Millisecond, Rate: 1 << 20, Loss: 0.1},
				Seed: 1,
			})
			_, _ = client, server // use them
		})
	}
}

// A network that fails for a while, under sessions of several clients.
func ExampleServe() {
	_ = func(t *testing.T) { // a test
		synctest.Test(t, func(t *testing.T) {
			network := wttest.NewNetwork(t, wttest.Link{Latency: 10 * time.Millisecond}, 1)
			server := wttest.Serve(t, network, wt.ServerConfig{
				Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
					if _, err := r.Accept(nil); err == nil {
						<-ctx.Done()
					}
				}),
			})
			first, err := server.Dialer(wt.Dialer{}).Dial(t.Context(), server.URL+"first")
			if err != nil {
				t.Fatal(err)
			}
			defer first.Close()
			second, err := server.Dialer(wt.Dialer{}).Dial(t.Context(), server.URL+"second")
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()

			network.Partition()
			time.Sleep(10 * time.Second)
			network.Heal()
			time.Sleep(10 * time.Second)
			if err := context.Cause(first.Context()); err != nil {
				t.Errorf("a session did not outlive ten seconds without network: %v", err)
			}
		})
	}
}

// A packet that is made to overtake those before it.
func ExampleEndpoint_Hold() {
	_ = func(t *testing.T) { // a test
		synctest.Test(t, func(t *testing.T) {
			network := wttest.NewNetwork(t, wttest.Link{}, 0)
			endpoint := network.NewEndpoint()
			client, server := wttest.PairWith(t, wttest.Options{
				Network: network,
				Dialer:  wt.Dialer{PacketConn: endpoint},
			})
			endpoint.Hold()
			for _, text := range []string{"first", "second"} {
				if err := client.SendDatagram(t.Context(), []byte(text)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // until each has left in a packet of its own
			}
			endpoint.ReleaseReversed()
			if b, err := server.ReceiveDatagram(t.Context()); err != nil || string(b) != "second" {
				t.Errorf("got %q, %v", b, err)
			}
		})
	}
}
