package natsbus

import (
	"hash/maphash"
	"slices"

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
// Once all patterns have brought the same number, all copies have come, and the count is
// forgotten: what looks the same later has nothing to do with it, and a pattern that begins
// later has missed nothing. One that begins while there is a count is taken to begin with
// the last message counted.
//
// Messages of brokers have an id and never look the same. Messages of plain NATS
// clients are compared by content: two equal ones within the window, while a
// pattern begins or ends, may be taken for one.
//
// It is owned by the goroutine that receives.
type dedupe struct {
	seed maphash.Seed

	// Those of which copies are expected.
	counts map[uint64]*count
	// A ring of the last counts, with those that are forgotten; the oldest is at next.
	window []*count
	next   int
	made   uint64 // how many counts were made
	// How many were made when NATS knew a subscription.
	began map[*nats.Subscription]uint64
}

// count is how often messages that look the same came.
type count struct {
	key       uint64
	topic     string
	made      uint64 // which one it is
	delivered int
	by        []brought
}

// brought is how often one subscription brought them.
type brought struct {
	sub *nats.Subscription
	n   int
}

// dedupeWindow bounds the messages whose copies are remembered.
const dedupeWindow = 8192

func newDedupe() *dedupe {
	return &dedupe{
		seed:   maphash.MakeSeed(),
		counts: make(map[uint64]*count),
		began:  make(map[*nats.Subscription]uint64),
	}
}

// first reports whether m, of a topic of which so many copies come, is no copy of a
// message that was seen.
func (d *dedupe) first(m *nats.Msg, topic string, copies int) bool {
	key := d.key(m)
	c := d.counts[key]
	if c == nil {
		c = d.count(key, topic)
	}
	i := slices.IndexFunc(c.by, func(b brought) bool { return b.sub == m.Sub })
	if i < 0 {
		i = len(c.by)
		c.by = append(c.by, brought{m.Sub, d.missed(c, m.Sub)})
	}
	c.by[i].n++
	first := c.by[i].n > c.delivered
	if first {
		c.delivered++
	}
	if c.complete(copies) {
		d.forget(c)
	}
	return first
}

// missed returns how many of the messages of a count a subscription that brings one for
// the first time has not brought and will not: all but the last, if it began later.
func (d *dedupe) missed(c *count, sub *nats.Subscription) int {
	if c.delivered < 2 {
		return 0
	}
	if made, ok := d.began[sub]; ok && made < c.made {
		return 0
	}
	return c.delivered - 1
}

// complete reports whether all of so many copies have come.
func (c *count) complete(copies int) bool {
	return len(c.by) >= copies && !slices.ContainsFunc(c.by, func(b brought) bool { return b.n != c.by[0].n })
}

// count makes a count, in place of the oldest one.
func (d *dedupe) count(key uint64, topic string) *count {
	var c *count
	if len(d.window) < dedupeWindow {
		c = new(count)
		d.window = append(d.window, c)
	} else {
		c = d.window[d.next]
		d.forget(c)
		d.next = (d.next + 1) % dedupeWindow
	}
	d.made++
	*c = count{key: key, topic: topic, made: d.made, by: c.by}
	d.counts[key] = c
	return c
}

// forget empties a count; its place in the window stays.
func (d *dedupe) forget(c *count) {
	if d.counts[c.key] == c {
		delete(d.counts, c.key)
	}
	clear(c.by) // they may have ended
	c.topic, c.by = "", c.by[:0]
}

// begin takes note that NATS knows a subscription.
func (d *dedupe) begin(sub *nats.Subscription) { d.began[sub] = d.made }

// end forgets subscriptions of which nothing comes any more, nor copies of what they have
// brought. copies returns how many there are now of a topic's messages.
func (d *dedupe) end(subs map[*nats.Subscription]bool, copies func(topic string) int) {
	for sub := range subs {
		delete(d.began, sub)
	}
	for _, c := range d.counts {
		c.by = slices.DeleteFunc(c.by, func(b brought) bool { return subs[b.sub] })
		c.delivered = 0
		for _, b := range c.by {
			c.delivered = max(c.delivered, b.n)
		}
		if len(c.by) == 0 || c.complete(copies(c.topic)) {
			d.forget(c)
		}
	}
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
