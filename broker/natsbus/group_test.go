package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
)

// member collects what a member of a group gets.
type member struct {
	sub  *client.Subscription
	done chan struct{}
	stop context.CancelFunc

	mu  sync.Mutex
	got map[string]int
}

func joinGroup(t *testing.T, c *client.Client, group, pattern string) *member {
	t.Helper()
	sub, err := c.Subscribe(within(t), pattern, &client.SubscribeOptions{Group: group})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &member{sub: sub, done: make(chan struct{}), stop: stop, got: make(map[string]int)}
	go func() {
		defer close(m.done)
		for item, err := range sub.Messages(ctx) {
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("member: %v", err)
				}
				return
			}
			m.mu.Lock()
			m.got[string(item.Payload.Data)]++
			m.mu.Unlock()
		}
	}()
	t.Cleanup(m.leave)
	return m
}

func (m *member) leave() {
	m.stop()
	<-m.done
}

func (m *member) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.got)
}

// once checks that of n messages each came to one of the members, once, and that each
// member got some.
func once(t *testing.T, n int, members ...*member) {
	t.Helper()
	total := func() (sum int) {
		for _, m := range members {
			sum += m.count()
		}
		return sum
	}
	eventually(t, func() bool { return total() >= n })
	all := make(map[string]int)
	for i, m := range members {
		m.mu.Lock()
		if len(m.got) == 0 {
			t.Errorf("member %d got nothing", i)
		}
		for text, k := range m.got {
			all[text] += k
		}
		m.mu.Unlock()
	}
	for text, k := range all {
		if k != 1 {
			t.Errorf("%s came %d times", text, k)
		}
	}
	if len(all) != n {
		t.Errorf("%d of %d messages came", len(all), n)
	}
}

// A group spans brokers and plain NATS clients, that of the publisher as well. What is
// in no group gets everything.
func TestGroupSpansBrokers(t *testing.T) {
	s := natsServer(t, 0)
	for _, group := range []string{"workers", "a group", "=odd"} {
		_, alice := newBroker(t, s, "")
		_, bob := newBroker(t, s, "")
		here, there := joinGroup(t, alice, group, "jobs.*"), joinGroup(t, bob, group, "jobs.*")
		all := subscribe(t, bob, "jobs.>")
		members := []*member{here, there}
		if group == "workers" {
			nc := plainClient(t, s.ClientURL())
			plain := &member{done: make(chan struct{}), stop: func() {}, got: make(map[string]int)}
			close(plain.done)
			if _, err := nc.QueueSubscribe("jobs.*", group, func(m *nats.Msg) {
				plain.mu.Lock()
				defer plain.mu.Unlock()
				plain.got[string(m.Data)]++
			}); err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			members = append(members, plain)
		}
		const n = 200
		for i := range n {
			publish(t, alice, "jobs.x", fmt.Sprint(i))
		}
		once(t, n, members...)
		publish(t, alice, "jobs.x", "end")
		if items := until(t, all, "end"); len(items) != n+1 {
			t.Errorf("%d items without a group", len(items))
		}
		here.leave()
		there.leave()
		_, _ = here.sub.Close(), there.sub.Close()
	}
}

// What the last member here has not finished goes to a member of another broker.
func TestGroupHandsOverToAnotherBroker(t *testing.T) {
	s := natsServer(t, 0)
	_, alice := newBroker(t, s, "p")
	_, bob := newBroker(t, s, "p")
	// It holds everything, and finishes nothing.
	sub, err := alice.Subscribe(within(t), "jobs.*", &client.SubscribeOptions{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	all := subscribe(t, bob, "jobs.*")
	const n = 50
	for i := range n {
		publish(t, bob, "jobs.x", fmt.Sprint(i))
	}
	eventually(t, func() bool { return sub.Stats().Waiting >= n })
	there := joinGroup(t, bob, "g", "jobs.x")
	_ = alice.Close()
	once(t, n, there)
	// Nobody else got them again.
	publish(t, bob, "jobs.x", "end")
	if items := until(t, all, "end"); len(items) != n+1 {
		t.Errorf("%d items without a group", len(items))
	}
}

// A request goes to one member of a group, wherever that is, and is answered from
// there; members of the asker's own broker are as good.
func TestRequestToGroupAcrossBrokers(t *testing.T) {
	s := natsServer(t, 0)
	_, alice := newBroker(t, s, "")
	_, bob := newBroker(t, s, "")
	var served atomic.Int64
	join := func(c *client.Client, name string) *client.Subscription {
		sub, err := c.Subscribe(within(t), "svc", &client.SubscribeOptions{Group: "g"})
		if err != nil {
			t.Fatal(err)
		}
		serve(t, sub, func(client.Message) (string, map[string]string) {
			served.Add(1)
			return name, nil
		})
		return sub
	}
	asked := int64(0)
	ask := func() string {
		t.Helper()
		m, err := alice.Request(within(t), "svc", "?", nil)
		if err != nil {
			t.Fatal(err)
		}
		asked++
		return string(m.Payload.Data)
	}
	own := join(alice, "alice")
	for range 5 { // the only member is here
		if who := ask(); who != "alice" {
			t.Fatalf("%s has answered", who)
		}
	}
	join(bob, "bob")
	seen := make(map[string]bool)
	for i := 0; i < 60 && (i < 20 || len(seen) < 2); i++ {
		seen[ask()] = true
	}
	if len(seen) != 2 {
		t.Errorf("only %v have answered", seen)
	}
	if n := served.Load(); n != asked {
		t.Errorf("%d requests came to members %d times", asked, n)
	}
	_ = own.Close()
	if who := ask(); who != "bob" {
		t.Fatalf("%s has answered", who)
	}
}

// What has an idempotency key goes over the bus once, although it is published again,
// by several at the same time: groups and plain NATS clients do not look for copies.
func TestIdempotencyKeyCrossesOnce(t *testing.T) {
	s := natsServer(t, 0)
	b, alice := newBroker(t, s, "")
	_, bob := newBroker(t, s, "")
	worker := joinGroup(t, bob, "g", "jobs.*")
	nc := plainClient(t, s.ClientURL())
	plain, err := nc.SubscribeSync("jobs.x")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	var publishing sync.WaitGroup
	for range 20 {
		publishing.Go(func() {
			if p, err := b.Publish(within(t), "jobs.x", "once", &broker.PublishOptions{ID: "id"}); err != nil || p.Offset != 1 {
				t.Errorf("%v, %v", p, err)
			}
		})
	}
	publishing.Wait()
	if p, err := alice.Publish(within(t), "jobs.x", "once", &client.PublishOptions{ID: "id"}); err != nil || p.Offset != 1 {
		t.Errorf("%v, %v", p, err)
	}
	publish(t, alice, "jobs.x", "end")
	for _, want := range []string{"once", "end"} {
		if m, err := plain.NextMsg(deadline); err != nil || string(m.Data) != want {
			t.Fatalf("%v, %v; want %s", m, err, want)
		}
	}
	eventually(t, func() bool { return worker.count() == 2 })
	worker.mu.Lock()
	defer worker.mu.Unlock()
	if worker.got["once"] != 1 {
		t.Errorf("the group got it %d times", worker.got["once"])
	}
}
