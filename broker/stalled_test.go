package broker_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt/wttest"
)

// One of 100 subscribers loses its network. The others lose nothing, and the
// publisher is not held up.
func TestOneOfManyLosesItsNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const subscribers, messages = 100, 20
		s := simulate(t, wttest.Link{Latency: time.Millisecond}, broker.Config{MaxQueueBytes: 64 << 10, Topics: noHistory})
		end := s.network.NewEndpoint()
		subscribe(t, s.dial(t, func() *wttest.Endpoint { return end }), "topic", &client.SubscribeOptions{Credit: 1 << 20})
		var subs []*client.Subscription
		for range subscribers - 1 {
			subs = append(subs, subscribe(t, s.dial(t, s.network.NewEndpoint), "topic", nil))
		}
		publisher := s.dial(t, s.network.NewEndpoint)

		end.Partition()
		start := time.Now()
		payload := make([]byte, 16<<10)
		for i := range messages {
			publish(t, publisher, "topic", payload)
			for k, sub := range subs {
				if m := take(t, sub, 1)[0]; m.Gap != nil || m.Position.Offset != uint64(i+1) {
					t.Fatalf("subscriber %d: message %d is at offset %d, gap %v", k, i, m.Position.Offset, m.Gap)
				}
			}
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("%d messages took %v", messages, d)
		}
		// What the dead one did not take was bounded, and what it missed was counted.
		stats := s.broker.Stats()
		if stats.QueuedBytes == 0 || stats.QueuedBytes > 64<<10 || stats.Dropped[broker.DropOverflow] == 0 {
			t.Errorf("%d bytes wait, %d messages were dropped", stats.QueuedBytes, stats.Dropped[broker.DropOverflow])
		}
	})
}

// An application that does not read its subscriptions holds up nobody: neither
// other subscriptions of its own connection, nor other clients, nor the publisher.
// When it reads again it meets what was kept, the gap, and what came after.
func TestSubscriptionsThatAreNotRead(t *testing.T) {
	const unread, messages, size = 6, 100, 8 << 10
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{MaxQueueBytes: 100 << 10, Topics: noHistory})
		c := dial(t, n)
		var stalled []*client.Subscription
		for range unread {
			stalled = append(stalled, subscribe(t, c, "topic", &client.SubscribeOptions{Credit: 64 << 10}))
		}
		beside := subscribe(t, c, "topic", &client.SubscribeOptions{Credit: 64 << 10})
		other := subscribe(t, dial(t, n), "topic", nil)

		// Publishing goes on while both live subscriptions take each message.
		publisher := dial(t, n)
		for i := range messages {
			publish(t, publisher, "topic", make([]byte, size))
			for _, sub := range []*client.Subscription{beside, other} {
				if m := take(t, sub, 1)[0]; m.Gap != nil || m.Position.Offset != uint64(i+1) {
					t.Fatalf("message %d: offset %d, gap %v", i, m.Position.Offset, m.Gap)
				}
			}
		}
		if s := b.Stats(); s.QueuedBytes > unread*(100<<10) {
			t.Errorf("%d bytes wait", s.QueuedBytes)
		}

		for i, sub := range stalled {
			var last, missed uint64
			for m, err := range sub.Messages(within(t)) {
				switch {
				case err != nil:
					t.Fatal(err)
				case m.Gap != nil:
					if m.Gap.Reason != codec.GapOverflow || m.Gap.From.Offset != last || missed > 0 {
						t.Fatalf("subscription %d: gap from %v after %d: %s", i, m.Gap.From, last, m.Gap)
					}
					last = m.Gap.To.Offset
					missed = m.Gap.Count
				case m.Position.Offset != last+1:
					t.Fatalf("subscription %d: offset %d after %d", i, m.Position.Offset, last)
				default:
					last = m.Position.Offset
				}
				if last == messages {
					break
				}
			}
			if missed < messages/2 {
				t.Errorf("subscription %d missed %d messages: it was not stalled", i, missed)
			}
		}
		publish(t, publisher, "topic", "again")
		for i, sub := range stalled {
			if m := take(t, sub, 1)[0]; text(m) != "again" {
				t.Errorf("subscription %d then got %q", i, text(m))
			}
		}
	})
}

// A client that gives credit and does not read loses the stream at the deadline;
// its other streams live, and the control stream tells what has happened.
func TestCreditWithoutReading(t *testing.T) {
	bubble(t, broker.Config{WriteTimeout: 100 * time.Millisecond}, func(t *testing.T, n *memNetwork, b *broker.Broker) {
		p, _ := welcomedPeer(t, n)
		unread, read := p.open(), p.open()
		unread.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 7, Pattern: "big", Credit: 1 << 20}))
		read.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 8, Pattern: "small", Credit: 1 << 20}))
		read.want(codec.TypeSubscribed)
		eventually(t, func() bool { return b.Stats().Subscriptions == 2 })
		for i := range 20 {
			if _, err := b.Publish(t.Context(), "big", make([]byte, 10<<10), nil); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Publish(t.Context(), "small", fmt.Sprint(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		end, err := codec.ParseStreamEnd(p.control.want(codec.TypeStreamEnd))
		if err != nil || end.Subscription != 7 || end.Code != codec.CodeSlowSubscriber || !end.Retry.Set {
			t.Errorf("%+v, %v", end, err)
		}
		for i := range 20 {
			m, err := codec.ParseMessage(read.want(codec.TypeMessage))
			if err != nil || string(m.Payload.Data) != fmt.Sprint(i) {
				t.Fatalf("message %d: %q, %v", i, m.Payload.Data, err)
			}
		}
		p.wantAlive()
	})
}

// The queues of all subscriptions together stay within the broker's budget.
func TestBudget(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		const budget = 100 << 10
		b := newBroker(t, n, broker.Config{MaxBytes: budget, Topics: noHistory})
		var subs []*client.Subscription
		for range 8 {
			subs = append(subs, subscribe(t, dial(t, n), "topic", &client.SubscribeOptions{Credit: 1}))
		}
		for range 50 {
			if _, err := b.Publish(t.Context(), "topic", make([]byte, 4<<10), nil); err != nil {
				t.Fatal(err)
			}
			if s := b.Stats(); s.QueuedBytes > budget {
				t.Fatalf("%d bytes wait", s.QueuedBytes)
			}
		}
		if b.Stats().Dropped[broker.DropBudget] == 0 {
			t.Error("nothing was dropped for the budget")
		}
		// Each subscriber can account for every message.
		var wg sync.WaitGroup
		for _, sub := range subs {
			wg.Go(func() {
				seen := uint64(0)
				for m, err := range sub.Messages(within(t)) {
					if err != nil {
						t.Error(err)
						return
					}
					if m.Gap != nil {
						seen = m.Gap.To.Offset
					} else {
						seen = m.Position.Offset
					}
					if seen == 50 {
						return
					}
				}
			})
		}
		wg.Wait()
	})
}
