package natsbus

import (
	"hash/maphash"

	"github.com/nats-io/nats.go"
)

// dedupe finds the copies of one message that NATS sends for overlapping patterns,
// one for each. The copies of several messages may come in any mixture.
//
// Of the copies of messages that look the same, the n-th that comes for one
// pattern is a new message if and only if no other pattern has brought n before.
// So it does not matter which pattern's copy comes first, and a pattern may begin
// or end at any time. The alternative, to listen to one pattern of those that
// overlap, loses messages when that pattern ends.
//
// Messages of brokers have an id and never look the same. Messages of plain NATS
// clients are compared by content: two equal ones within the window, while a
// pattern begins or ends, may be taken for one.
//
// It is owned by the goroutine that receives.
type dedupe struct {
	seed maphash.Seed

	// The keys of counts are those in window, a ring; the oldest is at next.
	counts map[uint64]*count
	window []uint64
	next   int
}

// count is how often messages that look the same came.
type count struct {
	delivered int
	by        map[*nats.Subscription]int
}

// dedupeWindow bounds the messages whose copies are remembered.
const dedupeWindow = 8192

func newDedupe() *dedupe {
	return &dedupe{
		seed:   maphash.MakeSeed(),
		counts: make(map[uint64]*count),
	}
}

// first reports whether m is no copy of a message that was seen.
func (d *dedupe) first(m *nats.Msg) bool {
	key := d.key(m)
	c := d.counts[key]
	if c == nil {
		if len(d.window) < dedupeWindow {
			d.window = append(d.window, key)
		} else {
			delete(d.counts, d.window[d.next])
			d.window[d.next] = key
			d.next = (d.next + 1) % dedupeWindow
		}
		c = &count{by: make(map[*nats.Subscription]int, 2)}
		d.counts[key] = c
	}
	c.by[m.Sub]++
	if c.by[m.Sub] <= c.delivered {
		return false
	}
	c.delivered++
	return true
}

// key is the same for messages that look the same.
func (d *dedupe) key(m *nats.Msg) uint64 {
	var h maphash.Hash
	h.SetSeed(d.seed)
	_, _ = h.WriteString(m.Subject)
	_ = h.WriteByte(0)
	if id := m.Header.Get(headerID); id != "" {
		_, _ = h.WriteString(id)
		return h.Sum64()
	}
	_, _ = h.Write(m.Data)
	return h.Sum64()
}
