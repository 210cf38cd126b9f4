package broker_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/wt/wttest"
)

// values publishes reliable values of a few keys to a topic for a while: far more than
// a slow subscriber takes, which must hold up none of them. It returns how many there were
// of each key.
func values(t *testing.T, b *broker.Broker, topic string, d time.Duration) int {
	t.Helper()
	const keys = 4
	end := time.Now().Add(d)
	n := 0
	for ; time.Now().Before(end); n++ {
		for k := range keys {
			value, begun := fmt.Sprintf("%d %s", n, strings.Repeat("v", 1000)), time.Now()
			if _, err := b.Publish(t.Context(), topic, value, &broker.PublishOptions{Key: fmt.Sprint(k)}); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(begun); d > 0 {
				t.Fatalf("value %d of key %d was held up for %v", n, k, d)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return n
}

// number is the number of a value.
func number(t *testing.T, m client.Message) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(text(m), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A reader that stalls finds at most its credit in stale bytes, and then the newest
// value of each key; the publisher was not held up, and nobody was disconnected.
func TestLatestForASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const credit = 16 << 10
		s := simulate(t, wttest.Link{Latency: 10 * time.Millisecond}, broker.Config{})
		c := s.dial(t, s.network.NewEndpoint)
		sub := subscribe(t, c, "value", &client.SubscribeOptions{Class: client.Latest, Credit: credit})
		newest := values(t, s.broker, "value", 10*time.Second) - 1
		wantFresh(t, sub, newest, credit)
		if h := s.broker.Stats(); h.Dropped[broker.DropConflated] == 0 || h.Dropped[broker.DropOverflow] != 0 {
			t.Errorf("dropped %v", h.Dropped)
		}
	})
}

// wantFresh reads until the newest value of each of four keys has come.
func wantFresh(t *testing.T, sub *client.Subscription, newest, credit int) {
	t.Helper()
	stale, fresh := 0, 0
	for m, err := range sub.Messages(within(t)) {
		switch {
		case err != nil:
			t.Fatal(err)
		case m.Gap != nil:
		case number(t, m) < newest:
			stale += len(m.Payload.Data)
		default:
			fresh++
		}
		if fresh == 4 {
			break
		}
	}
	if stale > credit+2000 {
		t.Errorf("%d stale bytes with a credit of %d", stale, credit)
	}
}

// On a slow link the values that come are young: what waits for the link is conflated
// in the broker. When the link is fast again at most the credit comes in stale bytes.
func TestLatestOnASlowLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			credit = 16 << 10
			rate   = 20_000
		)
		fast := wttest.Link{Latency: 10 * time.Millisecond}
		s := simulate(t, fast, broker.Config{})
		c := s.dial(t, s.network.NewEndpoint)
		sub := subscribe(t, c, "value", &client.SubscribeOptions{Class: client.Latest, Credit: credit})
		s.network.SetLink(wttest.Link{Latency: 10 * time.Millisecond, Rate: rate, Queue: 16 << 10})

		var mu sync.Mutex
		var came []client.Message
		var ages []time.Duration
		var reading sync.WaitGroup
		reading.Go(func() {
			for m, err := range sub.Messages(within(t)) {
				if err != nil {
					return
				}
				if m.Gap == nil {
					mu.Lock()
					came = append(came, m)
					ages = append(ages, time.Since(m.Time))
					mu.Unlock()
				}
			}
		})
		newest := values(t, s.broker, "value", 15*time.Second) - 1 // about 200 kB/s
		mu.Lock()
		before := len(came)
		mu.Unlock()
		s.network.SetLink(fast)
		time.Sleep(10 * time.Second)
		_ = sub.Close()
		reading.Wait()

		oldest := time.Duration(0)
		for _, age := range ages[:before] {
			oldest = max(oldest, age)
		}
		// What is ahead of a value: the credit, and what the link itself holds.
		if bound := 3 * time.Second; oldest > bound {
			t.Errorf("a value was %v old, at %d bytes a second", oldest, rate)
		}
		stale, fresh := 0, 0
		for _, m := range came[before:] {
			if number(t, m) < newest {
				stale += len(m.Payload.Data)
			} else {
				fresh++
			}
		}
		if stale > credit+2000 {
			t.Errorf("%d stale bytes after the link was fast again, with a credit of %d", stale, credit)
		}
		if fresh != 4 || before < 100 {
			t.Errorf("%d of 4 newest values; %d came before", fresh, before)
		}
		t.Logf("%d values, the oldest %v; then %d stale bytes", before, oldest, stale)
	})
}
