package stress

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// Permissions are revoked and given back while those who have them use them. Who may not
// subscribe gets nothing that is published meanwhile.
func TestPermissions(t *testing.T) {
	withBounds(t, func(t *testing.T, config broker.Config) {
		gate := new(guard)
		config.Authenticator = gate
		w := newWorld(t, new(inMemory), config)
		w.denials = new(denials)
		topics := names(2, "plain", "tick")
		s := subscribing{append(topics, "s.>", "s.tick.*"), byStream}
		for i := range 3 {
			p, name := w.join(client.Config{Token: guarded}), fmt.Sprint(guarded, i)
			for range 2 {
				w.work(func(d dice) { w.insist(p, d, s) })
			}
			w.work(func(dice) {
				for n := 0; w.loading(); n++ {
					_, err := p.Publish(w.watch, "guarded", fmt.Sprint(name, ".", n), nil)
					if err != nil && !denied(err) {
						w.fault("a publisher that may not always: %v", err)
					}
				}
			})
		}
		for i := range 3 {
			w.publishing(w.join(client.Config{}), fmt.Sprint("p", i), topics, 2)
		}
		w.work(func(d dice) {
			for w.loading() {
				gate.shut.Store(true)
				w.broker.Recheck(guarded)
				from := w.ledger.clock.Add(1)
				rest(w.load, d.upTo(10*time.Millisecond))
				w.denials.add(from, w.ledger.clock.Add(1))
				gate.shut.Store(false)
				rest(w.load, d.upTo(20*time.Millisecond))
			}
		})
		w.run()
		w.end()
	})
}

// guarded is the ID of the principal whose permissions come and go.
const guarded = "guarded"

// guard takes a client's token for its name.
type guard struct{ shut atomic.Bool }

// Authenticate implements broker.Authenticator.
func (g *guard) Authenticate(_ context.Context, c broker.Credentials) (broker.Principal, error) {
	return visitor{g, c.Token}, nil
}

type visitor struct {
	guard *guard
	name  string
}

func (v visitor) may() bool                { return v.name != guarded || !v.guard.shut.Load() }
func (v visitor) ID() string               { return v.name }
func (v visitor) Expires() time.Time       { return time.Time{} }
func (v visitor) CanPublish(string) bool   { return v.may() }
func (v visitor) CanSubscribe(string) bool { return v.may() }

// denied reports whether an error tells that something is not permitted.
func denied(err error) bool {
	return oneOf(err, codec.CodePublishDenied, codec.CodeSubscribeDenied, codec.CodePermissionRevoked)
}

// insist subscribes until the load ends, as often as it takes.
func (w *world) insist(p *person, d dice, s subscribing) {
	for w.loading() {
		f := w.follower("insisting", p, pick(d, s.patterns), s.options(d))
		sub, err := f.subscribe(client.From{})
		if err == nil {
			err = f.follow(w.load, d, sub, pace{slow: 20})
			_ = sub.Close()
		}
		if err != nil && !denied(err) {
			f.fault("%v", err)
		}
	}
}

// denials are the times in which the guarded principal certainly was permitted nothing.
type denials struct {
	from, to []uint64 // by the ledger's clock; owned by who revokes, then by who judges
}

func (x *denials) add(from, to uint64) { x.from, x.to = append(x.from, from), append(x.to, to) }

// judge looks for what a follower got and must not have.
func (x *denials) judge(f *follower) {
	next := 0
	for _, r := range f.receipts {
		f.world.ledger.between(r.topic, r.pos.Epoch, r.pos.Offset-1, r.pos.Offset+1, func(offset uint64, m *fact) {
			for ; next < len(x.to) && x.to[next] < m.begun; next++ {
			}
			for i := next; i < len(x.to) && x.from[i] < m.begun; i++ {
				if m.done < x.to[i] {
					f.fault("got %d of %s (%q), which was published when it was not permitted", offset, r.topic, m.name)
				}
			}
		})
	}
}
