package client

import (
	"container/list"
	"time"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/codec"
)

// sequencer puts what a subscription receives by stream and by datagram into one
// order for each topic (PROTOCOL §9), and finds what is missing. It does no I/O
// and has no lock: the subscription's guards it.
type sequencer struct {
	class  codec.Class
	base   time.Time // of the broker's clock
	topics map[uint64]*topicSequence
	byName map[string]*topicSequence
	recent list.List // of *topicSequence, the one used last at the front
	// forgotten: a topic was, so a number that is not known is no error.
	forgotten bool
	stats     *SubscriptionStats
}

// maxRemembered bounds the topics of a subscription that are remembered. The one
// whose last message is oldest is forgotten first. A broker that forgets what it
// has announced before this many (ours does after 4,096) announces again what was
// forgotten here, so nothing is lost. With another broker the messages of such a
// topic cannot be placed, since nobody knows its name any more; what is told then
// is a gap of unknown extent. It is no error of the stream: to subscribe again
// would cost all other topics a gap too, and with this many topics in use it would
// not end.
const maxRemembered = 1 << 16

// topicSequence is how far a subscription has come in one topic.
type topicSequence struct {
	num      uint64
	at       *list.Element // in recent
	name     string
	epoch    uint64
	last     uint64         // the last offset handed out, or told to be missing
	reliable uint64         // the last reliable one of these
	held     *codec.Message // the newest lossy message whose reliable one has not come
}

// item is something to hand out, and the credit that goes back when it was.
type item struct {
	message Message
	credit  int
	// datagram: it came by datagram, so that a newer one may take its place.
	datagram bool
}

func newSequencer(class codec.Class, base time.Time, stats *SubscriptionStats) *sequencer {
	return &sequencer{
		class:  class,
		base:   base,
		topics: make(map[uint64]*topicSequence),
		byName: make(map[string]*topicSequence),
		stats:  stats,
	}
}

// announce takes a topic's number (PROTOCOL §6.3). A topic that comes under a new
// number has lost its log: the old number is not used any more.
func (q *sequencer) announce(num uint64, name string, epoch, offset uint64) {
	if t := q.topics[num]; t != nil {
		q.recent.MoveToFront(t.at)
		return // announced again: what was handed out counts
	}
	if old := q.byName[name]; old != nil {
		q.forget(old)
	}
	if len(q.topics) >= maxRemembered {
		q.forget(q.recent.Back().Value.(*topicSequence))
	}
	t := &topicSequence{num: num, name: name, epoch: epoch, last: offset, reliable: offset}
	t.at = q.recent.PushFront(t)
	q.topics[num], q.byName[name] = t, t
}

// forget forgets a topic.
func (q *sequencer) forget(t *topicSequence) {
	delete(q.topics, t.num)
	delete(q.byName, t.name)
	q.recent.Remove(t.at)
	q.forgotten = true
}

// knows reports whether a topic's number was announced.
func (q *sequencer) knows(num uint64) bool { return q.topics[num] != nil }

// stream takes a message that came on the stream, and appends what is to be
// handed out. Every item's credit adds up to the message's size.
func (q *sequencer) stream(out []item, m codec.Message, size int) ([]item, error) {
	t := q.topics[m.Topic]
	if t == nil && q.forgotten {
		q.stats.UnknownTopic++
		return append(out, gapItem(Gap{Reason: codec.GapUnknown}), item{credit: size}), nil
	}
	if t == nil {
		return out, codec.Errorf(codec.CodeProtocolViolation, "a message of topic number %d, which was not announced", m.Topic)
	}
	if m.Offset <= t.last {
		if q.class == codec.ClassReliable && !m.Lossy() && m.Offset <= t.reliable {
			return out, codec.Errorf(codec.CodeProtocolViolation, "offset %d of %s came after %d", m.Offset, t.name, t.reliable)
		}
		q.stats.Late++
		return append(out, item{credit: size}), nil
	}
	out = q.handOut(out, t, m, size, false)
	return q.release(out, t), nil
}

// datagram takes a message that came as a datagram. Its topic must be known. A
// reliable message comes as a datagram for the sake of another subscription, of
// class sequenced; one of class reliable gets it on its stream.
func (q *sequencer) datagram(out []item, m codec.Message) []item {
	if q.class == codec.ClassReliable && !m.Lossy() {
		return out
	}
	t := q.topics[m.Topic]
	if m.Offset <= t.last {
		q.stats.Late++
		return out
	}
	if q.class == codec.ClassReliable && m.Reliable.Value > 0 && m.Offset-m.Reliable.Value > t.reliable {
		if t.held != nil {
			q.stats.Conflated++
			if t.held.Offset > m.Offset {
				return out
			}
		}
		t.held = &m
		return out
	}
	return q.handOut(out, t, m, 0, true)
}

// gap takes a GAP frame.
func (q *sequencer) gap(out []item, g codec.Gap) []item {
	t := q.topics[g.Topic]
	if t == nil {
		return append(out, gapItem(Gap{Reason: g.Reason, Count: g.Count.Value}))
	}
	gap := Gap{Topic: t.name, Reason: g.Reason, Count: g.Count.Value}
	if g.From.Set {
		gap.From = &Position{t.epoch, max(g.From.Value, t.last)}
	}
	if g.To.Set {
		if g.To.Value <= t.last {
			return out // what is missing was told already
		}
		gap.To = &Position{t.epoch, g.To.Value}
		t.last = g.To.Value
		t.reliable = max(t.reliable, g.To.Value)
	}
	return q.release(append(out, gapItem(gap)), t)
}

// skip takes a SKIP frame.
func (q *sequencer) skip(out []item, s codec.Skip) []item {
	t := q.topics[s.Topic]
	if t == nil || s.To <= t.last {
		return out
	}
	t.last = s.To
	t.reliable = max(t.reliable, s.To)
	return q.release(out, t)
}

// release hands out the lossy message that was held, if its time has come.
func (q *sequencer) release(out []item, t *topicSequence) []item {
	m := t.held
	switch {
	case m == nil:
	case m.Offset <= t.last:
		t.held = nil
		q.stats.Late++
	case m.Offset-m.Reliable.Value <= t.reliable:
		t.held = nil
		out = q.handOut(out, t, *m, 0, true)
	}
	return out
}

// handOut appends m, and before it a gap if messages are missing.
func (q *sequencer) handOut(out []item, t *topicSequence, m codec.Message, credit int, datagram bool) []item {
	if before := m.Offset - m.Previous; before > t.last {
		out = append(out, gapItem(Gap{
			Topic:  t.name,
			From:   &Position{t.epoch, t.last},
			To:     &Position{t.epoch, before},
			Reason: codec.GapLost,
			Count:  before - t.last,
		}))
	}
	t.last = m.Offset
	q.recent.MoveToFront(t.at)
	if !m.Lossy() {
		t.reliable = m.Offset
	}
	return append(out, item{
		credit:   credit,
		datagram: datagram,
		message: Message{
			Topic:     t.name,
			Position:  Position{t.epoch, m.Offset},
			Time:      q.base.Add(time.Duration(m.Time) * time.Millisecond),
			Publisher: uuid.UUID(m.Publisher),
			Lossy:     m.Lossy(),
			Payload:   m.Payload,
		},
	})
}

func gapItem(g Gap) item { return item{message: Message{Topic: g.Topic, Gap: &g}} }
