package broker

import (
	"github.com/tidewire/tidewire/codec"
)

// entryKind is what waits in a queue.
type entryKind uint8

const (
	entryFrame   entryKind = iota // a frame that is written as it is, and needs no credit
	entryMessage                  // a MESSAGE frame
	entryGap                      // messages of a topic that will not come
	entrySkip                     // messages of a topic that are withheld
	entryNone                     // nothing any more
)

// entry is what waits for an outlet.
type entry struct {
	frame []byte // of a frame or message
	topic *topic // of all but a frame
	// What of the topic the entry speaks of: offsets above from, up to and
	// including offset. A message is the one at offset.
	from, offset uint64
	extra        *extra // of a message; nil: it has none
	count        uint32 // of a gap: how many messages; unknownCount: nobody knows
	kind         entryKind
	class        codec.Class // of a message: in force for its topic
	reason       codec.GapReason
	lossy        bool // of a message
	charged      bool // it counts against the bounds on what waits
	// late, of a gap: it tells of a datagram that did not go out. Messages of the topic
	// that are newer may have been queued, and written, before it.
	late bool
}

// extra is what few messages have. The entries of all subscriptions share it.
type extra struct {
	key     string
	expires uint64 // ms of the broker's clock; 0: never
}

// extraOf returns the extra of a message; nil if it has none.
func extraOf(key string, expires uint64) *extra {
	if key == "" && expires == 0 {
		return nil
	}
	return &extra{key, expires}
}

// when returns when the message expires; 0: never.
func (x *extra) when() uint64 {
	if x == nil {
		return 0
	}
	return x.expires
}

// key returns the key of a message.
func (e *entry) key() string {
	if e.extra == nil {
		return ""
	}
	return e.extra.key
}

// expires returns when a message expires; 0: never.
func (e *entry) expires() uint64 { return e.extra.when() }

// unknownCount is the count of a gap of which nobody knows how many messages it has.
const unknownCount = 1<<32 - 1

// queue is a first-in-first-out queue of entries that can be reached by number. What
// was taken out of its middle leaves a hole at its place, so that a gap is told where
// it belongs. For each topic the offsets in a queue increase.
type queue struct {
	entries  []entry // entries[head:] wait
	head     int
	first    uint64 // the number of entries[head]
	lead     uint64 // no frame and no message has a number below it
	bytes    int    // of frames that are charged
	messages int    // that wait
	holes    int    // gaps, skips and nothings
	expiring int    // messages that expire
}

func (q *queue) len() int { return len(q.entries) - q.head }

// next returns the first frame or message; nil if there is none. Only holes are
// before it.
func (q *queue) next() *entry {
	if q.holes == 0 && q.head < len(q.entries) {
		q.lead = q.first
		return &q.entries[q.head]
	}
	for q.lead = max(q.lead, q.first); ; q.lead++ {
		e := q.at(q.lead)
		if e == nil || e.kind <= entryMessage {
			return e
		}
	}
}

// push appends e and returns its number. A gap or skip that goes on where the last
// entry ends becomes one with it.
func (q *queue) push(e entry) uint64 {
	*q.place() = e
	number := q.first + uint64(q.len()) - 1
	switch e.kind {
	case entryMessage:
		q.messages++
		if e.expires() != 0 {
			q.expiring++
		}
	case entryFrame:
	default:
		q.holes++
		q.fold(number)
	}
	if e.charged {
		q.bytes += len(e.frame)
	}
	return number
}

// place appends an empty entry.
func (q *queue) place() *entry {
	if len(q.entries) == cap(q.entries) && q.head > 0 {
		n := copy(q.entries, q.entries[q.head:])
		clear(q.entries[n:])
		q.entries, q.head = q.entries[:n], 0
	}
	if len(q.entries) < cap(q.entries) {
		q.entries = q.entries[:len(q.entries)+1] // which was cleared
	} else {
		q.entries = append(q.entries, entry{})
	}
	return &q.entries[len(q.entries)-1]
}

// pushMessage is push for the message d, of which nothing need be folded.
func (q *queue) pushMessage(d *delivery, class codec.Class) uint64 {
	e := q.place()
	e.frame, e.topic, e.from, e.offset, e.extra = d.frame, d.topic, d.previous, d.offset, d.extra
	e.kind, e.class, e.lossy, e.charged = entryMessage, class, d.lossy, true
	q.messages++
	q.bytes += len(d.frame)
	if d.extra.when() != 0 {
		q.expiring++
	}
	return q.first + uint64(q.len()) - 1
}

// pop removes the front.
func (q *queue) pop() entry {
	e := q.entries[q.head]
	q.drop()
	return e
}

// drop removes the front.
func (q *queue) drop() {
	e := &q.entries[q.head]
	q.forget(e)
	*e = entry{}
	q.head++
	q.first++
	if q.head == len(q.entries) {
		// An idle subscription keeps no large buffer.
		if cap(q.entries) > 64 {
			q.entries = nil
		}
		q.entries, q.head = q.entries[:0], 0
	}
}

// forget takes e out of what is counted.
func (q *queue) forget(e *entry) {
	switch e.kind {
	case entryMessage:
		q.messages--
		if e.expires() != 0 {
			q.expiring--
		}
	case entryFrame:
	default:
		q.holes--
	}
	if e.charged {
		q.bytes -= len(e.frame)
	}
}

// at returns the entry with a number; nil if it is gone.
func (q *queue) at(number uint64) *entry {
	if number < q.first || number-q.first >= uint64(q.len()) {
		return nil
	}
	return &q.entries[q.head+int(number-q.first)]
}

// punch makes a hole of the message with a number: a gap with a reason, or, if told
// is not set, nothing at all.
func (q *queue) punch(number uint64, reason codec.GapReason, told bool) {
	e := q.at(number)
	q.forget(e)
	e.frame, e.extra, e.charged = nil, nil, false
	e.kind, e.reason, e.count = entryGap, reason, 1
	if !told {
		e.kind, e.topic = entryNone, nil
	}
	q.holes++
	q.fold(number)
	q.fold(number + 1)
}

// fold makes the hole with a number one with the one just before it, if both are of
// one kind and topic.
func (q *queue) fold(number uint64) {
	e, before := q.at(number), q.at(number-1)
	if e == nil || before == nil || before.topic != e.topic || !e.hole() || before.kind != e.kind || e.late != before.late || e.lost() || before.lost() {
		return
	}
	*e = merge(*before, *e)
	*before = entry{kind: entryNone}
}

// hole reports whether e is a gap or a skip.
func (e *entry) hole() bool { return e.kind == entryGap || e.kind == entrySkip }

// lost reports whether e tells of what was sent by datagram: all up to its offset that
// the client has not got.
func (e *entry) lost() bool { return e.kind == entryGap && e.reason == codec.GapLost }

// merge returns two holes of a topic as one: a gap if either is one.
func merge(a, b entry) entry {
	switch {
	case a.kind == entryGap && b.kind == entryGap:
		b.reason = stronger(a.reason, b.reason)
		if a.count == unknownCount || b.count == unknownCount || uint64(a.count)+uint64(b.count) >= unknownCount {
			b.count = unknownCount
		} else {
			b.count += a.count
		}
	case a.kind == entryGap:
		b.kind, b.reason, b.count = entryGap, a.reason, a.count
	}
	b.from = min(a.from, b.from)
	b.offset = max(a.offset, b.offset)
	return b
}

// stronger returns the reason that counts for a gap with both (PROTOCOL §6.6).
func stronger(a, b codec.GapReason) codec.GapReason {
	for _, r := range [...]codec.GapReason{
		codec.GapOverflow, codec.GapHistory, codec.GapExpired, codec.GapPriority, codec.GapConflated,
	} {
		if a == r || b == r {
			return r
		}
	}
	return a
}

// compact removes the holes that are more than what waits between them: those of a
// topic become one, unless a message of the topic is between, or only one is late. It reports whether the
// numbers of entries have changed.
func (q *queue) compact() bool {
	if q.holes < 32 || q.holes <= q.len()/2 {
		return false
	}
	kept := q.entries[:0]
	open := make(map[*topic]int) // the index of a topic's hole behind its last message
	holes := 0
	for _, e := range q.entries[q.head:] {
		switch e.kind {
		case entryNone:
			continue
		case entryMessage:
			delete(open, e.topic)
		case entryGap, entrySkip:
			if i, ok := open[e.topic]; ok && kept[i].late == e.late {
				kept[i] = merge(kept[i], e)
				continue
			}
			open[e.topic] = len(kept)
			holes++
		}
		kept = append(kept, e)
	}
	clear(q.entries[len(kept):])
	q.entries, q.head, q.lead, q.holes = kept, 0, 0, holes
	return true
}
