package broker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// slowly lets everybody in, and those with the token "slow" a second later.
type slowly struct{}

func (slowly) Authenticate(ctx context.Context, c broker.Credentials) (broker.Principal, error) {
	if c.Token == "slow" {
		time.Sleep(time.Second)
	}
	return broker.Open{}.Authenticate(ctx, c)
}

// A session that its client has given up while it was being welcomed does not replace the
// one that the client has begun since, whether its connection still seems to stand or not.
func TestLateSessionReplacesNothing(t *testing.T) {
	for _, closed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := &memNetwork{}
			newBroker(t, n, broker.Config{Authenticator: slowly{}})
			first, w := welcomedPeer(t, n)
			hello := codec.Hello{Version: codec.Version, Resume: codec.Resume{Client: w.Client, Secret: w.Secret}}
			_ = first.conn.CloseWithError(uint32(codec.CodeReplaced), "")
			greet := func(token string) *peer {
				p := newPeer(t, n)
				p.control = p.open()
				hello.Token = token
				p.control.send(codec.AppendHello(nil, hello))
				return p
			}
			late := greet("slow")
			synctest.Wait()
			if closed {
				_ = late.conn.CloseWithError(uint32(codec.CodeReplaced), "")
			}
			live := greet("")
			live.control.want(codec.TypeWelcome)
			time.Sleep(2 * time.Second)
			if !closed {
				late.control.wantEnd(codec.CodeReplaced)
			}
			live.wantAlive()
		})
	}
}
