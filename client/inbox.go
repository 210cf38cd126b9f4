package client

import (
	"container/list"

	"github.com/tidewire/tidewire/codec"
)

// inbox is what waits for the application, in order. It does no I/O and has no
// lock: the subscription's guards it.
//
// What came by stream is bounded by the subscription's credit. What needs no
// credit, messages that came by datagram and gaps, is loose: there are at most
// maxLoose of these, and of the many that wait only the newest message of each key
// of a topic is kept, with a gap in the place of those before it. Beyond that the
// oldest goes, so that the newest values stay, and missed tells of it before
// everything else that waits. A gap is told too early rather than too late: who
// fetches the state when told of a gap has everything that was lost by then.
type inbox struct {
	entries list.List           // of *entry
	loose   list.List           // of *entry: those that are loose
	tails   map[string]*entry   // the last entry of a topic of which one is loose
	keyed   map[topicKey]*entry // the loose message of a key
	missed  *Gap                // what was dropped for want of room
	credit  uint64              // of what waits
	stats   *SubscriptionStats
}

type topicKey struct{ topic, key string }

// entry is a gap, a message, or a message with a gap before it, of one topic.
type entry struct {
	topic      string
	gap        *Gap
	message    *Message
	credit     int
	size       int    // of the message, if it came by stream
	unreliable bool   // it goes without a gap
	next, prev *entry // of the same topic, as far as they are known

	at, looseAt *list.Element // nil when it is not there
}

const (
	// manyLoose is from how many loose entries on a newer message takes the place
	// of an older one of its key.
	manyLoose = 64
	// maxLoose bounds the loose entries.
	maxLoose = 1024
)

func newInbox(stats *SubscriptionStats) inbox {
	return inbox{tails: make(map[string]*entry), keyed: make(map[topicKey]*entry), stats: stats}
}

// empty reports whether nothing waits.
func (b *inbox) empty() bool { return b.missed == nil && b.entries.Len() == 0 }

// len returns how many entries wait.
func (b *inbox) len() int { return b.entries.Len() }

// pop takes what is next, and the credit that goes back with it. The inbox must
// not be empty.
func (b *inbox) pop() (m Message, credit int) {
	if gap := b.missed; gap != nil {
		b.missed = nil
		return Message{Topic: gap.Topic, Gap: gap}, 0
	}
	e := b.entries.Front().Value.(*entry)
	if gap := e.gap; gap != nil {
		e.gap = nil
		if e.message == nil {
			b.remove(e)
		}
		return Message{Topic: gap.Topic, Gap: gap}, 0
	}
	b.remove(e)
	b.credit -= uint64(e.credit)
	return *e.message, e.credit
}

// clear drops everything.
func (b *inbox) clear() { *b = newInbox(b.stats) }

// forgetCredit lets what waits go without credit: another stream counts now. Of what has
// none the oldest messages stay, up to most bytes; a gap tells of the others.
func (b *inbox) forgetCredit(most int) {
	var size int
	var dropped uint64
	for at := b.entries.Front(); at != nil; {
		e := at.Value.(*entry)
		at = at.Next()
		e.credit = 0
		if size += e.size; size > most && e.size > 0 {
			b.remove(e)
			dropped++
			if e.gap != nil {
				b.pushGap(*e.gap)
			}
		}
	}
	b.credit = 0
	if dropped > 0 {
		b.stats.Overflow += dropped
		b.pushGap(Gap{Reason: codec.GapOverflow, Count: dropped})
	}
}

// pushGap queues a gap, or widens the one of its topic that is the last of it.
func (b *inbox) pushGap(g Gap) {
	tail := b.tails[g.Topic]
	if g.Topic == "" && tail != b.back() {
		tail = nil // any topic may have gone on behind it
	}
	if tail != nil && tail.message == nil {
		tail.gap = mergeGaps(tail.gap, &g)
		return
	}
	if g.Topic == "" {
		// What comes behind a gap of all topics must not take a place before it.
		clear(b.tails)
		clear(b.keyed)
	}
	b.append(&entry{topic: g.Topic, gap: &g}, true)
	b.bound()
}

// pushReliable queues a message that needs credit.
func (b *inbox) pushReliable(m Message, credit int) {
	b.credit += uint64(credit)
	if e := b.back(); e != nil && e.message == nil && e.topic == m.Topic && !m.mark {
		e.message, e.credit, e.size = &m, credit, credit
		b.loose.Remove(e.looseAt)
		e.looseAt = nil
		return
	}
	b.append(&entry{topic: m.Topic, message: &m, credit: credit, size: credit}, false)
}

// pushLoose queues a message that needs no credit. One of the same key that waits
// may give its place to it.
func (b *inbox) pushLoose(m Message) {
	key := topicKey{m.Topic, m.Key}
	many := b.loose.Len() >= manyLoose
	if old := b.keyed[key]; many && old != nil {
		b.stats.Conflated++
		if b.conflate(old, &m) {
			return
		}
	}
	if tail := b.tails[m.Topic]; tail != nil && tail.message == nil && (many || tail == b.back()) {
		tail.message = &m
		b.keyed[key] = tail
		return
	}
	e := &entry{topic: m.Topic, message: &m}
	b.append(e, true)
	b.keyed[key] = e
	b.bound()
}

// pushUnreliable queues a message of class unreliable that came by datagram.
func (b *inbox) pushUnreliable(m Message) {
	b.append(&entry{topic: m.Topic, message: &m, unreliable: true}, true)
	b.bound()
}

// conflate takes an older message of m's key out, and leaves a gap before what
// follows in its topic. It reports whether m has its place now, which may be if
// nothing follows.
func (b *inbox) conflate(old *entry, m *Message) (done bool) {
	was := old.message.Position
	gap := mergeGaps(old.gap, &Gap{
		Topic:  old.topic,
		From:   &Position{was.Epoch, was.Offset - 1},
		To:     &Position{was.Epoch, was.Offset},
		Reason: codec.GapConflated,
		Count:  1,
	})
	next := old.next
	if next != nil && next.message == nil && next.next == nil {
		gap = mergeGaps(gap, next.gap) // sees through the gap
		b.remove(next)
		next = nil
	}
	if next == nil {
		old.gap, old.message = gap, m
		return true
	}
	next.gap = mergeGaps(gap, next.gap)
	b.remove(old)
	return false
}

// bound drops the oldest loose entries beyond the bound, and takes note of it.
func (b *inbox) bound() {
	for b.loose.Len() > maxLoose {
		e := b.loose.Front().Value.(*entry)
		b.remove(e)
		if e.message != nil {
			b.stats.Overflow++
		}
		if e.unreliable {
			continue
		}
		gap := Gap{Topic: e.topic, Reason: codec.GapOverflow}
		if e.message != nil {
			gap.Count = 1
		}
		if e.gap != nil {
			gap.Count = addCounts(e.gap.Count, gap.Count, e.message != nil)
		}
		if b.missed != nil {
			if b.missed.Topic != gap.Topic {
				gap.Topic = ""
			}
			gap.Count = addCounts(b.missed.Count, gap.Count, true)
		}
		b.missed = &gap
	}
}

// addCounts adds numbers of missing messages, of which 0 is not known; the second
// one is left out unless two is set.
func addCounts(a, b uint64, two bool) uint64 {
	if a == 0 || two && b == 0 {
		return 0
	}
	return a + b
}

// reasonRank orders the reasons of gaps: of those that a gap has, the first counts
// (PROTOCOL §6.6).
var reasonRank = map[GapReason]int{
	codec.GapOverflow:  0,
	codec.GapHistory:   1,
	codec.GapReconnect: 2,
	codec.GapBus:       3,
	codec.GapExpired:   4,
	codec.GapPriority:  5,
	codec.GapLost:      6,
	codec.GapUnknown:   7,
	codec.GapConflated: 8,
}

// mergeGaps makes one gap of two of a topic between which no message waits. Either
// may be nil.
func mergeGaps(a, b *Gap) *Gap {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	g := &Gap{Topic: a.Topic, From: a.From, To: b.To, Reason: a.Reason, Count: addCounts(a.Count, b.Count, true)}
	if reasonRank[b.Reason] < reasonRank[a.Reason] {
		g.Reason = b.Reason
	}
	// Of class sequenced an older message of another key may come behind.
	if a.From != nil && b.From != nil && a.From.Epoch == b.From.Epoch && b.From.Offset < a.From.Offset {
		g.From = b.From
	}
	if a.To != nil && b.To != nil && a.To.Epoch == b.To.Epoch && a.To.Offset > b.To.Offset {
		g.To = a.To
	}
	return g
}

// back returns the last entry; nil if there is none.
func (b *inbox) back() *entry {
	if at := b.entries.Back(); at != nil {
		return at.Value.(*entry)
	}
	return nil
}

func (b *inbox) append(e *entry, loose bool) {
	e.at = b.entries.PushBack(e)
	if loose {
		e.looseAt = b.loose.PushBack(e)
	} else if len(b.tails) == 0 {
		return
	}
	tail := b.tails[e.topic]
	if tail == nil && !loose {
		return
	}
	if tail != nil {
		e.prev, tail.next = tail, e
	}
	b.tails[e.topic] = e
}

// remove takes an entry out.
func (b *inbox) remove(e *entry) {
	b.entries.Remove(e.at)
	if e.looseAt != nil {
		b.loose.Remove(e.looseAt)
	}
	if e.message != nil {
		key := topicKey{e.topic, e.message.Key}
		if b.keyed[key] == e {
			delete(b.keyed, key)
		}
	}
	if b.tails[e.topic] == e {
		if e.prev != nil {
			b.tails[e.topic] = e.prev
		} else {
			delete(b.tails, e.topic)
		}
	}
	if e.prev != nil {
		e.prev.next = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	}
	e.at, e.looseAt, e.next, e.prev = nil, nil, nil, nil
}
