package broker_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// A session that wants a topic both reliably and sequenced gets its reliable
// messages by datagram too; the reliable subscription goes by its stream alone.
func TestReliableBesideSequenced(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		c, p := dial(t, n), dial(t, n)
		reliable := subscribe(t, c, "x", nil)
		subscribe(t, c, "x", &client.SubscribeOptions{Class: client.Sequenced})
		const count = 200
		for i := range count {
			publish(t, p, "x", fmt.Sprint(i))
		}
		for i, m := range take(t, reliable, count) {
			if text(m) != fmt.Sprint(i) {
				t.Fatalf("item %d is %q", i, text(m))
			}
		}
	})
}

// A client that asks for more credit than the broker gives goes on within the
// broker's.
func TestCreditAboveTheBrokers(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{Limits: codec.Limits{SubscriptionCredit: 16 << 10}})
		c, p := dial(t, n), dial(t, n)
		sub := subscribe(t, c, "x", &client.SubscribeOptions{Credit: 1 << 20})
		const count = 100
		for i := range count {
			publish(t, p, "x", strings.Repeat("a", 1000)+fmt.Sprint(i))
		}
		for i, m := range take(t, sub, count) {
			if !strings.HasSuffix(text(m), "a"+fmt.Sprint(i)) {
				t.Fatalf("item %d is %q", i, text(m))
			}
		}
	})
}

// A member of a group that asks for more credit than the broker gives gets on.
func TestGroupCreditAboveTheBrokers(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		const messages = 50
		b := newBroker(t, n, broker.Config{Limits: codec.Limits{SubscriptionCredit: 1000}})
		c := dial(t, n)
		sub, err := c.Subscribe(t.Context(), "jobs", &client.SubscribeOptions{Group: "g", Credit: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for range messages {
			if _, err := b.Publish(t.Context(), "jobs", make([]byte, 100), nil); err != nil {
				t.Fatal(err)
			}
		}
		got := 0
		for _, err := range sub.Messages(within(t)) {
			if err != nil {
				t.Fatalf("after %d messages: %v", got, err)
			}
			if got++; got == messages {
				break
			}
		}
	})
}
