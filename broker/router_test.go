package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/codec"
)

// randomName returns a topic, or, if wild is set, a pattern, of few tokens, so that
// many match each other.
func randomName(rng *rand.Rand, wild bool) string {
	tokens := []string{"a", "b", "c", "$s", "_i"}
	var parts []string
	for range 1 + rng.IntN(4) {
		parts = append(parts, tokens[rng.IntN(len(tokens))])
		if wild && rng.IntN(3) == 0 {
			parts[len(parts)-1] = "*"
		}
	}
	if wild && rng.IntN(4) == 0 {
		parts[len(parts)-1] = ">"
	}
	return strings.Join(parts, ".")
}

// The trie agrees with codec.Match on every pair, while subscriptions come and go.
func TestRouterAgreesWithMatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(wild bool) string { return randomName(rng, wild) }
	var r router
	var live []*subscription
	for range 5000 {
		switch {
		case len(live) < 40 || rng.IntN(2) == 0:
			sub := &subscription{pattern: random(true)}
			if codec.CheckPattern(sub.pattern) != nil {
				t.Fatal(sub.pattern)
			}
			r.add(sub)
			live = append(live, sub)
		default:
			i := rng.IntN(len(live))
			r.remove(live[i])
			r.remove(live[i]) // again: a no-op
			live = slices.Delete(live, i, i+1)
		}
		topic := random(false)
		var want []*subscription
		for _, sub := range live {
			if codec.Match(sub.pattern, topic) {
				want = append(want, sub)
			}
		}
		if got := r.match(nil, topic); !sameSubs(got, want) {
			t.Fatalf("%s: %d match, want %d", topic, len(got), len(want))
		}
		pattern := random(true)
		want = want[:0]
		for _, sub := range live {
			if sub.pattern == pattern {
				want = append(want, sub)
			}
		}
		if got := r.exactly(nil, pattern); !sameSubs(got, want) {
			t.Fatalf("exactly %s: %d, want %d", pattern, len(got), len(want))
		}
	}
	for _, sub := range live {
		r.remove(sub)
	}
	if !r.root.empty() {
		t.Error("nodes are left over")
	}
}

func sameSubs(a, b []*subscription) bool {
	if len(a) != len(b) {
		return false
	}
	for _, s := range a {
		if !slices.Contains(b, s) {
			return false
		}
	}
	return true
}

func TestQueue(t *testing.T) {
	var q queue
	tp := &topic{num: 1}
	var next, front uint64
	rng := rand.New(rand.NewPCG(3, 4))
	for range 10_000 {
		if rng.IntN(2) == 0 || q.len() == 0 {
			number := q.push(entry{frame: make([]byte, 3), kind: entryMessage, topic: tp, offset: next, charged: true})
			if number != next {
				t.Fatalf("number %d, want %d", number, next)
			}
			next++
		} else {
			if e := q.pop(); e.offset != front {
				t.Fatalf("popped %d, want %d", e.offset, front)
			}
			front++
		}
		if q.len() != int(next-front) || q.bytes != 3*q.len() {
			t.Fatalf("%d entries of %d bytes, want %d", q.len(), q.bytes, next-front)
		}
		if q.len() > 0 {
			number := front + uint64(rng.IntN(q.len()))
			if e := q.at(number); e == nil || e.offset != number {
				t.Fatalf("number %d is %v", number, e)
			}
		}
		if q.at(next) != nil || front > 0 && q.at(front-1) != nil {
			t.Fatal("an entry that is not there")
		}
	}
}

// A topic that nothing holds gives way to a new one, and begins a new epoch.
func TestTopicsAreBounded(t *testing.T) {
	b, err := New(Config{MaxTopics: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	pinned, err := b.topics.get("pinned", true)
	if err != nil {
		t.Fatal(err)
	}
	first, err := b.Publish(t.Context(), "t0", "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := b.Publish(t.Context(), fmt.Sprint("t", i), "x", nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.Stats().Topics; n != 3 {
		t.Errorf("%d topics", n)
	}
	if again, err := b.topics.get("pinned", false); err != nil || again != pinned {
		t.Errorf("the pinned topic was evicted: %v", err)
	}
	again, err := b.Publish(t.Context(), "t0", "x", nil)
	if err != nil || again.Epoch == first.Epoch || again.Offset != 1 {
		t.Errorf("t0 came back at %+v, was at %+v, %v", again, first, err)
	}
	for _, name := range []string{"p1", "p2"} {
		if _, err := b.topics.get(name, true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Publish(t.Context(), "one.more", "x", nil); codec.CodeOf(err) != codec.CodeOverloaded {
		t.Errorf("a topic beyond the bound: %v", err)
	}
}

func BenchmarkRouterMatch(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var r router
			for i := range n {
				pattern := fmt.Sprintf("org%d.room%d.messages", i%100, i)
				switch i % 100 {
				case 98:
					pattern = fmt.Sprintf("org%d.*.x%d", i%100, i)
				case 99:
					pattern = fmt.Sprintf("org%d.room%d.>", i%100, i)
				}
				r.add(&subscription{pattern: pattern})
			}
			dst := make([]*subscription, 0, 16)
			b.ReportAllocs()
			for b.Loop() {
				dst = r.match(dst[:0], "org7.room507.messages")
			}
			if len(dst) != 1 {
				b.Fatalf("%d matches", len(dst))
			}
		})
	}
}

func BenchmarkRouterAddRemove(b *testing.B) {
	var r router
	for i := range 100_000 {
		r.add(&subscription{pattern: fmt.Sprintf("org%d.room%d.messages", i%100, i)})
	}
	sub := &subscription{pattern: "org7.room507.messages"}
	b.ReportAllocs()
	for b.Loop() {
		r.add(sub)
		r.remove(sub)
	}
}
