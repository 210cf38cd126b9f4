package broker_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

var ticking = broker.Config{Topics: []broker.TopicConfig{{Pattern: "tick.>", Tick: 5 * time.Millisecond}}}

// The messages of a tick are delivered together; the acknowledgement does not wait.
func TestTickGathers(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		sub, _ := p.subscribed(codec.Subscribe{Number: 1, Pattern: "tick.a"})
		for round := range 3 {
			start := time.Now()
			for i := range 3 {
				if i > 0 {
					time.Sleep(time.Millisecond)
				}
				if _, err := b.Publish(t.Context(), "tick.a", fmt.Sprint(round, i), nil); err != nil {
					t.Fatal(err)
				}
			}
			if d := time.Since(start); d != 2*time.Millisecond {
				t.Errorf("publishing took %v", d)
			}
			synctest.Wait()
			if n := b.Stats().Delivered; n != uint64(3*round) {
				t.Errorf("%d messages were delivered before the tick", n)
			}
			for i := range 3 {
				sub.wantMessage(fmt.Sprint(round, i))
			}
			if d := time.Since(start); d != 5*time.Millisecond {
				t.Errorf("delivered after %v, want 5 ms", d)
			}
		}
		// Between ticks nothing runs: virtual time would pass for it.
		start := time.Now()
		time.Sleep(10 * time.Second)
		if _, err := b.Publish(t.Context(), "tick.a", "later", nil); err != nil {
			t.Fatal(err)
		}
		sub.wantMessage("later")
		if d := time.Since(start); d != 10*time.Second+5*time.Millisecond {
			t.Errorf("after %v", d)
		}
	}, ticking)
}

// A burst does not wait for the tick, and order holds however it is delivered.
func TestTickUnderLoad(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		sub, _ := p.subscribed(codec.Subscribe{Number: 1, Pattern: "tick.>"})
		const messages = 5000
		start := time.Now()
		for i := range messages {
			if _, err := b.Publish(t.Context(), "tick.a", fmt.Sprint(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("publishing %d messages took %v: publishers wait for ticks", messages, d)
		}
		sub.want(codec.TypeTopic)
		for i := range messages {
			sub.wantMessage(fmt.Sprint(i))
		}
		if d := time.Since(start); d > 5*time.Millisecond {
			t.Errorf("after %v", d)
		}
	}, ticking)
}

// A topic whose messages wait for the tick is not given up: they would come to who
// subscribes to the topic that takes its place.
func TestTickHoldsItsTopic(t *testing.T) {
	config := broker.Config{MaxTopics: 1, Topics: ticking.Topics}
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		post(t, b, "tick.a", "waits")
		_, err := b.Publish(t.Context(), "other", "x", nil)
		wantCode(t, err, codec.CodeOverloaded)
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
		post(t, b, "other", "x")
		p, _ := welcomedPeer(t, n)
		sub, _ := p.subscribed(codec.Subscribe{Number: 1, Pattern: "other"})
		post(t, b, "other", "y")
		sub.wantMessage("y")
	}, config)
}

// What is published while a tick delivers waits for the next one, and is not lost. Publishers
// wake at the tick, so that they publish while it delivers.
func TestTickBesidePublishers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const publishers, rounds, burst = 4, 100, 20
		n := &memNetwork{}
		b := newBroker(t, n, ticking)
		c := dial(t, n)
		sub := subscribe(t, c, "tick.>", nil)
		var wg sync.WaitGroup
		for range publishers {
			wg.Go(func() {
				for range rounds {
					time.Sleep(5 * time.Millisecond)
					for range burst {
						if _, err := b.Publish(t.Context(), "tick.a", "m", nil); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		count := 0
		for m, err := range sub.Messages(within(t)) {
			if err != nil || m.Gap != nil {
				t.Errorf("after %d messages: gap %v, error %v", count, m.Gap, err)
				break
			}
			if count++; count == publishers*rounds*burst {
				break
			}
		}
		wg.Wait()
	})
}

// What waits for its tick when the broker shuts down is delivered before the streams
// end, and at once.
func TestShutdownFlushesTicks(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		sub, _ := p.subscribed(codec.Subscribe{Number: 1, Pattern: "tick.a"})
		for _, topic := range []string{"tick.a", "tick.b"} {
			if _, err := b.Publish(t.Context(), topic, "last", nil); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		ended := make(chan error)
		go func() { ended <- b.Shutdown(context.Background()) }()
		sub.wantMessage("last")
		sub.wantEnd(codec.CodeShuttingDown)
		if d := time.Since(start); d != 0 {
			t.Errorf("after %v", d)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}, ticking)
}
