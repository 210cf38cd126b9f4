package client

import (
	"container/list"
	"time"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/codec"
)

// sequencer puts what a subscription receives by stream and by datagram into one
// order for each topic (PROTOCOL §9), and finds what is missing. It outlives the
// streams of its subscription: what it remembers of a topic is where the next
// stream is to go on. It does no I/O and has no lock: the subscription's guards it.
type sequencer struct {
	// Static after construction.
	class   codec.Class
	exact   bool // the pattern is one topic
	ordered bool // false in a group: messages are handed out as they come
	streams bool // nothing is taken from datagrams: a filter or a group
	noEcho  bool
	client  *Client // for replies
	stats   *SubscriptionStats

	// Of the stream at hand.
	base   time.Time                 // of the broker's clock
	behind time.Duration             // how far that clock is behind this one
	self   codec.ID                  // the client id
	topics map[uint64]*topicSequence // by number
	// toldAll: a gap of unknown extent in every topic was told when the stream began.
	toldAll bool
	// snapshots: what is older than the stream are last values: it is the first one, and
	// began now.
	snapshots bool

	byName map[string]*topicSequence
	recent list.List // of *topicSequence, the one used last at the front
	// forgotten: a topic was, so a number that is not known is no error.
	forgotten bool
	// since: of a topic that is not remembered, no message before this is missing.
	since time.Time
	// owing is how many topics of a pattern are still to be announced of which the
	// subscription has yet to get what there was when it began: nobody knows which.
	owing uint64
	// unnamed: in some topic something of that has yet to come, and the next stream
	// cannot begin there, because its from has room for so many topics only.
	unnamed bool
}

// maxRemembered bounds the topics of a subscription that are remembered. The one
// that was announced or had a message the longest ago is forgotten first. A broker
// uses numbers of the last codec.MaxAnnouncements announcements only (PROTOCOL
// §6.3): those are remembered, since between such an announcement and now at most
// twice as many topics can have been announced or used. A message of a number that is
// not known any more is a gap of unknown extent, and no error of the stream: to
// subscribe again would cost all other topics a gap too.
const maxRemembered = 2 * codec.MaxAnnouncements

// topicSequence is how far a subscription has come in one topic.
type topicSequence struct {
	num      uint64        // 0: not announced on the stream at hand
	at       *list.Element // in recent
	name     string
	epoch    uint64
	class    codec.Class    // in force
	last     uint64         // the last offset handed out, or told to be missing
	reliable uint64         // the last reliable one of these
	held     *codec.Message // the newest lossy message whose reliable one has not come
	time     time.Time      // of the last message
	keys     keyMemory      // of class sequenced

	replay uint64 // messages up to this offset were published before the stream began
	seen   uint64 // the last offset that was announced, or handed out, on the stream
	values uint64 // of those up to this offset only last values are wanted
	behind bool   // last is below replay
}

func (t *topicSequence) position() *Position { return &Position{t.epoch, t.last} }

// keyMemory remembers the last offset of at least rememberedKeys keys.
type keyMemory struct {
	young, old map[string]uint64
	forgotten  bool // of some key, it was
}

const rememberedKeys = 1024

// newer takes note of a message of a key, and reports whether none of the key was
// as new. last is what counts for a key that was forgotten.
func (k *keyMemory) newer(key string, offset, last uint64) bool {
	seen, ok := k.young[key]
	if !ok {
		seen, ok = k.old[key]
	}
	if !ok && k.forgotten {
		seen = last
	}
	if offset <= seen {
		return false
	}
	if k.young == nil {
		k.young = make(map[string]uint64)
	}
	k.young[key] = offset
	if len(k.young) == rememberedKeys {
		k.forgotten = k.forgotten || len(k.old) > 0
		k.old, k.young = k.young, nil
	}
	return true
}

// item is something to hand out, and the credit that goes back when it was.
type item struct {
	message Message
	credit  int
	// datagram: it came by datagram, so that a newer one may take its place, or, if
	// it is unreliable, it may be dropped.
	datagram, unreliable bool
}

func newSequencer(class codec.Class, stats *SubscriptionStats) *sequencer {
	return &sequencer{
		class:   class,
		ordered: true,
		topics:  make(map[uint64]*topicSequence),
		byName:  make(map[string]*topicSequence),
		stats:   stats,
	}
}

// begin prepares for a new stream.
func (q *sequencer) begin(base time.Time, self codec.ID) {
	q.base, q.self, q.toldAll = base, self, false
	for _, t := range q.topics {
		t.num, t.held = 0, nil // what was held shows as lost, if it does not come again
	}
	q.topics = make(map[uint64]*topicSequence)
}

// resume takes note of a position from which a topic goes on.
func (q *sequencer) resume(name string, p Position) {
	t := q.add(name)
	t.epoch, t.last, t.reliable = p.Epoch, p.Offset, p.Offset
}

// add makes room for a topic, and remembers it.
func (q *sequencer) add(name string) *topicSequence {
	if len(q.byName) >= maxRemembered {
		q.forget(q.recent.Back().Value.(*topicSequence))
	}
	t := &topicSequence{name: name, class: q.class}
	t.at = q.recent.PushFront(t)
	q.byName[name] = t
	return t
}

// forget forgets a topic.
func (q *sequencer) forget(t *topicSequence) {
	if q.topics[t.num] == t {
		delete(q.topics, t.num)
	}
	delete(q.byName, t.name)
	q.recent.Remove(t.at)
	q.forgotten = true
	if t.time.After(q.since) {
		q.since = t.time
	}
}

// announcement is what SUBSCRIBED and TOPIC tell of a topic.
type announcement struct {
	num    uint64
	name   string
	epoch  uint64
	offset uint64
	last   codec.Optional
	class  codec.Optional
}

// announce takes a topic's number (PROTOCOL §6.3). Where the stream does not go on
// where the one before has ended, it appends a gap.
func (q *sequencer) announce(out []item, a announcement) []item {
	class := q.class
	if a.class.Set {
		class = codec.Class(a.class.Value)
	}
	if t := q.topics[a.num]; t != nil {
		t.class = class
		q.recent.MoveToFront(t.at)
		return out // announced again: what was handed out counts
	}
	if a.last.Set && q.owing > 0 {
		q.owing--
	}
	t := q.byName[a.name]
	switch {
	case t != nil && t.num != 0:
		// Under a new number: it has lost its log, and the old number is not used
		// any more.
		delete(q.topics, t.num)
		q.forgotten = true
		*t = topicSequence{at: t.at, name: t.name, epoch: a.epoch, last: a.offset}
		q.recent.MoveToFront(t.at)
	case t == nil:
		t = q.add(a.name)
		t.epoch, t.last = a.epoch, a.offset
	default:
		out = q.goOn(out, t, a, class)
	}
	t.num, t.class, t.reliable, t.seen = a.num, class, a.offset, a.offset
	t.replay = a.offset
	if a.last.Set {
		t.replay = a.last.Value
		if q.snapshots {
			t.values = t.replay
		}
	}
	q.topics[a.num] = t
	t.behind = true
	return q.caughtUp(out, t)
}

// goOn takes up a topic that was known before the stream began.
func (q *sequencer) goOn(out []item, t *topicSequence, a announcement, class codec.Class) []item {
	told := q.toldAll || class == codec.ClassUnreliable || !q.ordered
	switch {
	case t.epoch != a.epoch:
		if !told {
			out = append(out, gapItem(Gap{Topic: t.name, From: t.position(), Reason: codec.GapReconnect}))
		}
		t.epoch, t.last, t.values, t.keys = a.epoch, a.offset, 0, keyMemory{}
	case a.offset > t.last:
		if !told {
			out = append(out, gapItem(Gap{
				Topic:  t.name,
				From:   t.position(),
				To:     &Position{a.epoch, a.offset},
				Reason: codec.GapReconnect,
				Count:  a.offset - t.last,
			}))
		}
		t.last = a.offset
	case q.exact:
		t.last = a.offset // the broker knows better: see gap
	}
	return out
}

// caughtUp appends the mark that everything was handed out that there was when the
// stream began.
func (q *sequencer) caughtUp(out []item, t *topicSequence) []item {
	if t.behind && t.last >= t.replay {
		t.behind = false
		if q.exact {
			out = append(out, item{message: Message{Topic: t.name, mark: true}})
		}
	}
	return out
}

// knows reports whether a topic's number was announced.
func (q *sequencer) knows(num uint64) bool { return q.topics[num] != nil }

// stream takes a message that came on the stream, and appends what is to be
// handed out. Every item's credit adds up to the message's size.
func (q *sequencer) stream(out []item, m codec.Message, size int) ([]item, error) {
	t := q.topics[m.Topic]
	switch {
	case t == nil && q.forgotten:
		q.stats.UnknownTopic++
		if q.class != codec.ClassUnreliable {
			out = append(out, gapItem(Gap{Reason: codec.GapUnknown}))
		}
		return append(out, item{credit: size}), nil
	case t == nil:
		return out, codec.Errorf(codec.CodeProtocolViolation, "a message of topic number %d, which was not announced", m.Topic)
	case !q.ordered || t.class == codec.ClassUnreliable:
		return q.handOut(out, t, m, size, false), nil
	case m.Offset > t.last:
		out = q.handOut(out, t, m, size, false)
		return q.release(out, t), nil
	case t.class == codec.ClassReliable && !m.Lossy() && m.Offset <= t.reliable:
		return out, codec.Errorf(codec.CodeProtocolViolation, "offset %d of %s came after %d", m.Offset, t.name, t.reliable)
	case q.newerOfKey(t, m):
		return q.handOut(out, t, m, size, false), nil
	}
	q.stats.Late++
	if !m.Lossy() {
		t.reliable = max(t.reliable, m.Offset)
	}
	out = append(out, item{credit: size})
	return q.release(out, t), nil
}

// newerOfKey reports whether a message that is not the newest of its topic is that
// of its key, as far as the class looks at keys (PROTOCOL §9).
func (q *sequencer) newerOfKey(t *topicSequence, m codec.Message) bool {
	return t.class == codec.ClassSequenced && m.Key != "" && t.keys.newer(m.Key, m.Offset, t.last)
}

// datagram takes a message that came as a datagram. Its topic must be known. What
// the subscription gets on its stream comes by datagram for the sake of another.
func (q *sequencer) datagram(out []item, m codec.Message) []item {
	t := q.topics[m.Topic]
	if m.Offset <= t.replay {
		// It was on its way, for another subscription, before this one began. What of
		// that belongs to this one comes on its stream.
		return out
	}
	switch t.class {
	case codec.ClassLatest:
		return out
	case codec.ClassReliable:
		if !m.Lossy() {
			return out
		}
	case codec.ClassUnreliable:
		if q.streams {
			return out
		}
		return q.handOut(out, t, m, 0, true)
	}
	if q.streams {
		return out
	}
	if m.Offset <= t.last {
		if q.newerOfKey(t, m) {
			return q.handOut(out, t, m, 0, true)
		}
		q.stats.Late++
		return out
	}
	if t.class == codec.ClassReliable && m.Reliable.Value > 0 && m.Offset-m.Reliable.Value > t.reliable {
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
	switch {
	case t == nil && q.class == codec.ClassUnreliable:
		return out
	case t == nil:
		return append(out, gapItem(Gap{Reason: g.Reason, Count: g.Count.Value}))
	}
	gap := Gap{Topic: t.name, Reason: g.Reason, Count: g.Count.Value}
	if g.To.Set && g.To.Value <= t.last {
		return out // what is missing was told already
	}
	if g.From.Set {
		// Between what came and what the broker speaks of, datagrams were lost.
		out = q.lost(out, t, g.From.Value)
		gap.From = &Position{t.epoch, max(g.From.Value, t.last)}
	}
	switch {
	case g.To.Set:
		gap.To = &Position{t.epoch, g.To.Value}
		t.last = g.To.Value
		t.reliable = max(t.reliable, g.To.Value)
	case !g.From.Set && g.Reason == codec.GapHistory && t.last > t.seen:
		// The position from which the topic was to go on was beyond its end. What came
		// by datagram may have been handed out already.
		t.last = t.seen
	}
	if t.class != codec.ClassUnreliable {
		out = append(out, gapItem(gap))
	}
	return q.caughtUp(q.release(out, t), t)
}

// skip takes a SKIP frame.
func (q *sequencer) skip(out []item, s codec.Skip) []item {
	t := q.topics[s.Topic]
	if t == nil || s.To <= t.last {
		return out
	}
	t.last = s.To
	t.reliable = max(t.reliable, s.To)
	return q.caughtUp(q.release(out, t), t)
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

// lost appends a gap up to an offset, if what lies before it has not come.
func (q *sequencer) lost(out []item, t *topicSequence, to uint64) []item {
	if to <= t.last {
		return out
	}
	if t.class != codec.ClassUnreliable && q.ordered {
		out = append(out, gapItem(Gap{
			Topic:  t.name,
			From:   t.position(),
			To:     &Position{t.epoch, to},
			Reason: codec.GapLost,
			Count:  to - t.last,
		}))
	}
	t.last = to
	return out
}

// handOut appends m, and before it a gap if messages are missing.
func (q *sequencer) handOut(out []item, t *topicSequence, m codec.Message, credit int, datagram bool) []item {
	out = q.lost(out, t, m.Offset-m.Previous)
	if m.Offset > t.last && t.class == codec.ClassSequenced && m.Key != "" {
		t.keys.newer(m.Key, m.Offset, t.last)
	}
	t.last = max(t.last, m.Offset)
	t.time = q.at(m.Time)
	t.seen = max(t.seen, m.Offset)
	q.recent.MoveToFront(t.at)
	if !m.Lossy() {
		t.reliable = max(t.reliable, m.Offset)
	}
	it := item{credit: credit, datagram: datagram, unreliable: t.class == codec.ClassUnreliable}
	if !q.noEcho || m.Publisher != q.self || q.self.IsZero() {
		it.message = q.message(t, m)
	}
	return q.caughtUp(append(out, it), t)
}

// message makes of a MESSAGE what the application gets.
func (q *sequencer) message(t *topicSequence, m codec.Message) Message {
	out := Message{
		Topic:     t.name,
		Position:  Position{t.epoch, m.Offset},
		Time:      q.at(m.Time),
		Publisher: uuid.UUID(m.Publisher),
		Lossy:     m.Lossy(),
		Payload:   m.Payload,
		Key:       m.Key,
		Headers:   unpackHeaders(m.Headers),
		Retained:  m.Retain,
		Replayed:  m.Offset <= t.replay,
		Request:   m.Reply != nil,
		reply:     m.Reply,
		client:    q.client,
	}
	if m.Expires.Set {
		out.Expires = q.at(m.Expires.Value)
		out.until = out.Expires.Add(q.behind)
	}
	return out
}

// at is a moment of the broker's clock.
func (q *sequencer) at(ms uint64) time.Time { return q.base.Add(millis(ms)) }

func gapItem(g Gap) item { return item{message: Message{Topic: g.Topic, Gap: &g}} }

// from returns where the next stream is to go on, of a pattern with many topics:
// what was used last, within the limits of SUBSCRIBE. What is known and does not
// fit comes again, and is dropped as late.
func (q *sequencer) from() From {
	f := From{kind: codec.FromPositions, positions: make(map[string]Position), since: q.since, valuesOf: make(map[string]uint64)}
	bytes := 0
	q.unnamed = false
	for at := q.recent.Front(); at != nil; at = at.Next() {
		t := at.Value.(*topicSequence)
		if bytes += positionSize(t.name); bytes > maxPositionBytes || len(f.positions) == codec.MaxPositions {
			bytes = maxPositionBytes
			q.unnamed = q.unnamed || t.behind
			continue
		}
		f.positions[t.name] = *t.position()
		if t.values > t.last {
			f.valuesOf[t.name] = t.values
		}
	}
	return f
}
