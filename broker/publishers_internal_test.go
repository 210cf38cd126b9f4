package broker

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// What a publisher remembers is what was published, or that it was.
func TestPublisherRemembers(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := &publisher{turn: make(chan struct{}, 1)}
		published := make(map[uint64]uint64) // offsets by sequence
		offset, top := uint64(0), uint64(0)
		for range 1500 {
			sequence := top + 1
			switch r.IntN(10) {
			case 0: // again
				sequence = 1 + r.Uint64N(top+1)
			case 1: // some are left out
				sequence += r.Uint64N(5)
			case 2:
				if r.IntN(20) == 0 {
					if err := p.answered(t.Context(), r.Uint64N(top+2)); err != nil {
						t.Fatal(err)
					}
				}
			}
			pos, fresh, err := p.begin(t.Context(), sequence)
			got := pos.Offset
			if err != nil || got != 0 && pos.Epoch != 5 {
				t.Fatal(pos, err)
			}
			want, before := published[sequence]
			switch {
			case fresh && before:
				t.Fatalf("seed %d: %d is published twice", seed, sequence)
			case !fresh && got != 0 && got != want:
				t.Fatalf("seed %d: %d has offset %d, want %d", seed, sequence, got, want)
			case !fresh && got == 0 && sequence > p.floor:
				t.Fatalf("seed %d: %d is refused without reason", seed, sequence)
			}
			if !fresh {
				continue
			}
			if r.IntN(10) == 0 { // refused
				p.end(sequence, Position{})
				top = max(top, sequence)
				continue
			}
			offset++
			if r.IntN(4) == 0 { // somebody else's came between
				offset++
			}
			p.end(sequence, Position{5, offset})
			published[sequence] = offset
			top = max(top, sequence)
		}
		if len(p.runs) > maxRuns {
			t.Errorf("%d runs", len(p.runs))
		}
	}
}

// Who publishes alone costs one run, however many messages there are.
func TestPublisherAloneIsOneRun(t *testing.T) {
	p := &publisher{turn: make(chan struct{}, 1)}
	for i := uint64(1); i <= 100_000; i++ {
		if _, fresh, err := p.begin(t.Context(), i); !fresh || err != nil {
			t.Fatal(i, fresh, err)
		}
		p.end(i, Position{1, i + 7})
	}
	if len(p.runs) != 1 {
		t.Errorf("%d runs", len(p.runs))
	}
	if pos, fresh, err := p.begin(t.Context(), 500); pos != (Position{1, 507}) || fresh || err != nil {
		t.Errorf("the 500th: %v, fresh %v, %v", pos, fresh, err)
	}
	// A position of one epoch is never paired with another one.
	if _, fresh, err := p.begin(t.Context(), 100_001); !fresh || err != nil {
		t.Fatal(fresh, err)
	}
	p.end(100_001, Position{2, 1})
	for sequence, want := range map[uint64]Position{500: {2, 0}, 100_001: {2, 1}} {
		if pos, fresh, err := p.begin(t.Context(), sequence); pos != want || fresh || err != nil {
			t.Errorf("%d after another epoch: %v, fresh %v, %v; want %v", sequence, pos, fresh, err, want)
		}
	}
}

func TestPublishersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(Config{Topics: []TopicConfig{{Pattern: "short", Deduplicate: time.Second}, {Pattern: "none", Deduplicate: -1}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		get := func(name string) *topic {
			tp, err := b.topics.get(name, false)
			if err != nil {
				t.Fatal(err)
			}
			return tp
		}
		long, short := get("long"), get("short")
		if p := b.publishers.hold(get("none"), codec.ID{1}); p != nil {
			t.Error("a topic without deduplication remembers a publisher")
		}
		p, q := b.publishers.hold(long, codec.ID{1}), b.publishers.hold(short, codec.ID{1})
		if p == q || b.publishers.hold(long, codec.ID{1}) != p || b.publishers.hold(long, codec.ID{2}) == p {
			t.Error("publishers are mixed up")
		}
		time.Sleep(time.Hour)
		b.publishers.release(short, q)
		b.publishers.release(long, p)
		b.publishers.release(long, p)
		time.Sleep(time.Second)
		if b.publishers.hold(short, codec.ID{1}) != q {
			t.Error("a publisher is forgotten within its window")
		}
		b.publishers.release(short, q)
		time.Sleep(1001 * time.Millisecond)
		if b.publishers.hold(short, codec.ID{1}) == q {
			t.Error("a publisher is remembered beyond its window")
		}
		if b.publishers.hold(long, codec.ID{1}) != p {
			t.Error("a publisher of a topic with another window is forgotten")
		}
		b.publishers.release(long, p)
		time.Sleep(time.Hour)
		b.publishers.release(long, b.publishers.hold(long, codec.ID{3}))
		if n := b.publishers.count(); n != 3 { // 1 in short and 2 in long are held, 3 is new
			t.Errorf("%d publishers are remembered, want 3", n)
		}
	})
}

func TestRecentIDsAreBounded(t *testing.T) {
	var all atomic.Int64
	var a, b recentIDs
	for i := range maxTopicIDs + 10 {
		a.add(fmt.Sprint(i), uint64(i+1), uint64(i), &all)
	}
	if len(a.offsets) != maxTopicIDs || len(a.order) != maxTopicIDs || a.find("9") != 0 || a.find("10") != 11 || all.Load() != maxTopicIDs {
		t.Errorf("%d ids, %d in order, %d counted", len(a.offsets), len(a.order), all.Load())
	}
	all.Store(maxIDs)
	b.add("x", 1, 1, &all)
	if b.find("x") != 0 || all.Load() != maxIDs {
		t.Errorf("a topic without ids takes one beyond the bound of all: %d", all.Load())
	}
	a.add("x", 1, maxTopicIDs+20, &all)
	if a.find("x") != 1 || a.find("10") != 0 || len(a.offsets) != maxTopicIDs || all.Load() != maxIDs {
		t.Errorf("a topic with ids does not forget its own first: %d", all.Load())
	}
	a.forget(maxTopicIDs+100, 100, &all)
	if len(a.order) != 11 { // ten and x
		t.Errorf("%d ids within the window", len(a.order))
	}
	a.drop(1000, &all)
	if a.offsets != nil || a.order != nil || all.Load() != maxIDs-maxTopicIDs {
		t.Errorf("%d ids are left, %d counted", len(a.order), all.Load())
	}
}

// A message whose session has ended before its turn came has no answer: a refusal that still
// arrived would be final, and the client publishes it on its next connection.
func TestNoAnswerFromAnEndedSession(t *testing.T) {
	b := newTestBroker(t, Config{})
	s := idleSession(b)
	s.id, s.principal = codec.ID{1}, anyone{}
	s.control = newOutlet(idleStream{}, rankControl)
	m := codec.Publish{Sequence: 1, Topic: "t", Payload: codec.Text("x"), Order: codec.Some(1)}
	s.publishOnce(m, nil)
	if n := s.control.queue.len(); n != 1 {
		t.Fatalf("%d frames answer it", n)
	}
	s.cancel(errReplaced)
	m.Sequence, m.Order = 2, codec.Some(2)
	s.publishOnce(m, nil)
	if n := s.control.queue.len(); n != 1 || b.Stats().Rejected != 0 {
		t.Errorf("%d frames answer it and the one before it, %d were rejected", n, b.Stats().Rejected)
	}
}
