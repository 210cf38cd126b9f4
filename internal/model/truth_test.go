package model

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// truth is what brokers have sequenced, topic by topic.
type truth struct {
	mu     sync.Mutex
	topics map[string]*history // guarded by mu
}

// history is a topic's sequence over all its epochs, oldest first.
type history struct {
	epochs []uint64 // in order of their beginning
	facts  []fact
	sorted bool
}

// fact is one message that was sequenced.
type fact struct {
	epoch   int // index in epochs
	offset  uint64
	lossy   bool
	key     string
	headers codec.Headers
	retain  bool
	data    string
	at      time.Time
}

func newTruth() *truth { return &truth{topics: make(map[string]*history)} }

// tap is the sink of a broker, between the bus and the broker itself.
type tap struct {
	broker.Sink
	truth *truth
}

// open makes the local bus, tapped.
func (t *truth) open(sink broker.Sink) (broker.Bus, error) {
	return broker.OpenLocalBus(&tap{Sink: sink, truth: t})
}

// Sequence implements broker.Sink.
func (t *tap) Sequence(m broker.Message) (broker.Position, error) {
	pos, err := t.Sink.Sequence(m)
	if err == nil && !codec.IsSystem(m.Topic) {
		t.truth.record(m, pos)
	}
	return pos, err
}

func (t *truth) record(m broker.Message, pos broker.Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.topics[m.Topic]
	if h == nil {
		h = new(history)
		t.topics[m.Topic] = h
	}
	epoch := slices.Index(h.epochs, pos.Epoch)
	if epoch < 0 {
		epoch = len(h.epochs)
		h.epochs = append(h.epochs, pos.Epoch)
	}
	h.facts = append(h.facts, fact{
		epoch: epoch, offset: pos.Offset, lossy: m.Mode == codec.ModeLossy, key: m.Key,
		headers: m.Headers, retain: m.Retain, data: string(m.Payload.Data), at: time.Now(),
	})
}

// of returns a topic's history in order. Nothing is recorded any more.
func (t *truth) of(topic string) *history {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.topics[topic]
	if h == nil {
		return new(history)
	}
	if !h.sorted {
		slices.SortFunc(h.facts, func(a, b fact) int { return compare(a.epoch, a.offset, b.epoch, b.offset) })
		h.sorted = true
	}
	return h
}

func compare(epochA int, a uint64, epochB int, b uint64) int {
	switch {
	case epochA != epochB:
		return epochA - epochB
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// find returns the place of a position in facts; -1 if nothing was sequenced there.
func (h *history) find(epoch, offset uint64) int {
	e := slices.Index(h.epochs, epoch)
	i, ok := slices.BinarySearchFunc(h.facts, offset, func(f fact, o uint64) int { return compare(f.epoch, f.offset, e, o) })
	if !ok {
		return -1
	}
	return i
}

// check reports what is wrong with the truth itself: a message that was sequenced
// twice, or a publisher's messages out of order.
func (t *truth) check() (faults []string) {
	t.mu.Lock()
	names := make([]string, 0, len(t.topics))
	for name := range t.topics {
		names = append(names, name)
	}
	t.mu.Unlock()
	slices.Sort(names)
	for _, name := range names {
		h := t.of(name)
		seen := make(map[string]bool)
		last := make(map[string]int)
		for _, f := range h.facts {
			if seen[f.data] {
				faults = append(faults, fmt.Sprintf("%s: %q was sequenced twice", name, f.data))
			}
			seen[f.data] = true
			who, n := author(f.data)
			kind := fmt.Sprintf("%s %v", who, f.lossy) // a datagram may overtake a stream
			if n < last[kind] && !f.lossy {
				faults = append(faults, fmt.Sprintf("%s: %q was sequenced after %d of %s", name, f.data, last[kind], who))
			}
			last[kind] = n
		}
	}
	return faults
}

// body names a message: who published it, and his how many'th it is.
func body(who string, n int) string { return fmt.Sprintf("%s:%d", who, n) }

// author takes body apart.
func author(data string) (who string, n int) {
	for i := range data {
		if data[i] == ':' {
			_, _ = fmt.Sscan(data[i+1:], &n)
			return data[:i], n
		}
	}
	return data, 0
}
