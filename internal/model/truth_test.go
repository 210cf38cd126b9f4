package model

import (
	"fmt"
	"slices"
	"strings"
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
	expires bool
	id      string // the idempotency key
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
	if m.ID != "" && slices.ContainsFunc(h.facts, func(f fact) bool { return f.epoch == epoch && f.offset == pos.Offset && f.id == m.ID }) {
		return // it was published before, and this is where
	}
	h.facts = append(h.facts, fact{
		epoch: epoch, offset: pos.Offset, lossy: m.Mode == codec.ModeLossy, key: m.Key,
		headers: m.Headers, retain: m.Retain, expires: m.Expires > 0, id: m.ID, data: string(m.Payload.Data), at: time.Now(),
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
		once := make(map[string]bool)
		last := make(map[string]int)
		for i, f := range h.facts {
			if i > 0 && compare(f.epoch, f.offset, h.facts[i-1].epoch, h.facts[i-1].offset) == 0 {
				faults = append(faults, fmt.Sprintf("%s: %q and %q have the same position", name, f.data, h.facts[i-1].data))
			}
			if f.data == "" {
				continue // it clears an entry
			}
			again := seen[f.data]
			if again && f.id == "" {
				faults = append(faults, fmt.Sprintf("%s: %q was sequenced twice", name, f.data))
			}
			seen[f.data] = true
			if f.id != "" {
				// Another broker does not know of it.
				key := fmt.Sprint(f.epoch, f.id)
				if once[key] {
					faults = append(faults, fmt.Sprintf("%s: %q was sequenced at %v with the idempotency key %s, which was used before: %v", name, f.data, f.at, f.id, h.using(f.id)))
				}
				once[key] = true
			}
			if again {
				continue
			}
			who, n := author(f.data)
			kind := fmt.Sprintf("%s %v", who, f.lossy) // a datagram may overtake a stream
			if n < last[kind] && !f.lossy && !strings.HasSuffix(who, "/request") {
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

// using returns what was sequenced with an idempotency key.
func (h *history) using(id string) (list []string) {
	for _, f := range h.facts {
		if f.id == id {
			list = append(list, fmt.Sprintf("%q at %v, epoch %d offset %d", f.data, f.at, f.epoch, f.offset))
		}
	}
	return list
}
