package broker_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// A session that lets much wait, with overlapping patterns, takes nothing from a
// subscriber that keeps up.
func TestOneSessionCannotTakeTheBudget(t *testing.T) {
	n := &memNetwork{}
	b := newBroker(t, n, broker.Config{MaxBytes: 4 << 20, MaxSessionBytes: 1 << 20})
	hog, _ := welcomedPeer(t, n)
	for i := range 20 {
		l := hog.open()
		l.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: uint64(i + 1), Pattern: ">", Credit: 1}))
		l.want(codec.TypeSubscribed)
	}
	c, publisher := dial(t, n), dial(t, n)
	sub := subscribe(t, c, "x", nil)
	for i := range 60 {
		publish(t, publisher, "junk", strings.Repeat("a", 10_000))
		publish(t, publisher, "x", fmt.Sprint(i))
		if m := take(t, sub, 1)[0]; text(m) != fmt.Sprint(i) {
			t.Fatalf("message %d is %q; %v", i, text(m), b.Stats().Dropped)
		}
	}
	if q := b.Stats().QueuedBytes; q > 1<<20+20*10_100 {
		t.Errorf("%d bytes wait for one session", q)
	}
}

// Announcements of topics that are never read are bounded like messages are.
func TestAnnouncementsAreBounded(t *testing.T) {
	n := &memNetwork{}
	b := newBroker(t, n, broker.Config{MaxTopics: 5000, MaxQueueBytes: 64 << 10, MaxHistoryBytes: 1 << 20})
	p, _ := welcomedPeer(t, n)
	l := p.open()
	l.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: ">", Credit: 1}))
	l.want(codec.TypeSubscribed)
	flood := func(messages int) uint64 {
		for i := range messages {
			if _, err := b.Publish(t.Context(), fmt.Sprintf("%s.%d", strings.Repeat("n", 200), i%5000), "x", nil); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := flood(5000)
	if after := flood(50_000); after > before+4<<20 {
		t.Errorf("the heap has grown by %d KiB", (after-before)>>10)
	}
	if q := b.Stats().QueuedBytes; q > 65<<10 {
		t.Errorf("%d bytes wait", q)
	}
}

// A client may open many subscriptions at once; they wait for each other, and none
// is refused.
func TestManySubscriptionsAtOnce(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		c := dial(t, n)
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				if _, err := c.Subscribe(within(t), fmt.Sprint("t", i), nil); err != nil {
					t.Errorf("subscription %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if s := b.Stats(); s.Subscriptions != 300 || s.StreamsRefused != 0 {
			t.Errorf("%d subscriptions, %d streams refused", s.Subscriptions, s.StreamsRefused)
		}
	})
}
