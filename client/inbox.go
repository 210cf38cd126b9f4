package client

import (
	"container/list"

	"github.com/tidewire/tidewire/codec"
)

// inbox is what waits for the application, in order. It does no I/O and has no
// lock: the subscription's guards it.
//
// Reliable messages are bounded by the subscription's credit. What needs no
// credit, lossy messages and gaps, is loose: there are at most maxLoose of these,
// and of the many that wait for one topic only the newest message is kept, with
// one gap before it. Beyond that the oldest goes, so that the newest values stay,
// and missed tells of it before everything else that waits. A gap is told too
// early rather than too late: who fetches the state when told of a gap has
// everything that was lost by then.
type inbox struct {
	entries list.List         // of *entry
	loose   list.List         // of *entry: those that are loose
	tails   map[string]*entry // the last entry of a topic, if it is loose
	missed  *Gap              // what was dropped for want of room
	credit  uint64            // of what waits
	stats   *SubscriptionStats
}

// entry is a gap, a message, or a message with a gap before it, of one topic.
type entry struct {
	topic   string
	gap     *Gap
	message *Message
	credit  int
	before  *entry // of a gap: the entry of its topic before it, if that was loose

	at, looseAt *list.Element // nil when it is not there
}

const (
	// manyLoose is from how many loose entries on a newer message takes the place
	// of an older one of its topic.
	manyLoose = 64
	// maxLoose bounds the loose entries.
	maxLoose = 1024
)

func newInbox(stats *SubscriptionStats) inbox {
	return inbox{tails: make(map[string]*entry), stats: stats}
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
	e := &entry{topic: g.Topic, gap: &g, before: tail}
	b.append(e, true)
	b.bound()
}

// pushReliable queues a message that needs credit.
func (b *inbox) pushReliable(m Message, credit int) {
	b.credit += uint64(credit)
	if e := b.back(); e != nil && e.message == nil && e.topic == m.Topic {
		e.message, e.credit, e.before = &m, credit, nil
		b.settle(e)
		return
	}
	if len(b.tails) > 0 {
		delete(b.tails, m.Topic)
	}
	b.append(&entry{topic: m.Topic, message: &m, credit: credit}, false)
}

// pushLoose queues a message that needs no credit. One that waits for the same
// topic may give its place to it.
func (b *inbox) pushLoose(m Message) {
	e := b.tails[m.Topic]
	var gap *entry
	if e != nil && e.message == nil {
		gap, e = e, e.before // sees through the gap
	}
	many := b.loose.Len() >= manyLoose
	switch {
	case many && e != nil && e.looseAt != nil && e.message != nil:
		b.stats.Conflated++
		old := e.message.Position
		e.gap = mergeGaps(e.gap, &Gap{
			Topic:  m.Topic,
			From:   &Position{old.Epoch, old.Offset - 1},
			To:     &Position{old.Epoch, old.Offset},
			Reason: codec.GapConflated,
			Count:  1,
		})
		if gap != nil {
			e.gap = mergeGaps(e.gap, gap.gap)
			b.remove(gap)
		}
		e.message = &m
		b.tails[m.Topic] = e
	case gap != nil && (many || gap == b.back()):
		gap.message, gap.before = &m, nil
	default:
		b.append(&entry{topic: m.Topic, message: &m}, true)
		b.bound()
	}
}

// bound drops the oldest loose entries beyond the bound, and takes note of it.
func (b *inbox) bound() {
	for b.loose.Len() > maxLoose {
		e := b.loose.Front().Value.(*entry)
		b.remove(e)
		gap := Gap{Topic: e.topic, Reason: codec.GapOverflow}
		if e.message != nil {
			b.stats.Overflow++
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

// mergeGaps makes one gap of two of a topic between which no message waits. The
// first may be nil.
func mergeGaps(a, b *Gap) *Gap {
	if a == nil {
		return b
	}
	g := &Gap{Topic: a.Topic, From: a.From, To: b.To, Reason: a.Reason, Count: addCounts(a.Count, b.Count, true)}
	switch {
	case a.Reason == b.Reason:
	case a.Reason == codec.GapConflated:
		g.Reason = b.Reason
	case b.Reason != codec.GapConflated:
		g.Reason = codec.GapUnknown
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
		b.tails[e.topic] = e
	}
}

// settle makes an entry one that is not loose.
func (b *inbox) settle(e *entry) {
	if e.looseAt != nil {
		b.loose.Remove(e.looseAt)
		e.looseAt = nil
	}
	if b.tails[e.topic] == e {
		delete(b.tails, e.topic)
	}
}

// remove takes an entry out.
func (b *inbox) remove(e *entry) {
	b.entries.Remove(e.at)
	e.at, e.before = nil, nil
	b.settle(e)
}
