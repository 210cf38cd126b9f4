package broker

import "github.com/tidewire/tidewire/codec"

// slotKey is what has one newest value: a key of a topic (PROTOCOL §9).
type slotKey struct {
	topic uint64 // its number
	key   string
}

// queueNewestLocked appends a message in the place of the one of its key that waits.
// It goes behind all others: in the place of the older one it would stand before
// messages of the topic with lower offsets.
func (sub *subscription) queueNewestLocked(t *track, d *delivery) {
	sub.replaceLocked(d)
	switch {
	case t != nil && t.debt != nil:
		sub.widenLocked(t.debt, d, DropOverflow)
	case sub.appendLocked(d, codec.ClassLatest, false):
	case !d.lossy && (d.topic.keeps() || d.retain && d.topic.log != nil):
		// The log has the newest of each key when there is room again.
		sub.missLocked(d, codec.GapOverflow)
	case !sub.makeRoomLocked(len(d.frame)) || !sub.appendLocked(d, codec.ClassLatest, false):
		sub.missLocked(d, codec.GapOverflow)
	}
}

// replaceLocked takes the message whose place d takes out of the queue.
func (sub *subscription) replaceLocked(d *delivery) {
	key := slotKey{d.topic.num, d.key}
	if number, ok := sub.newest[key]; ok {
		delete(sub.newest, key)
		sub.punchLocked(number, codec.GapConflated)
		sub.compactLocked()
	}
}

// queueNewerLocked appends a message of class unreliable. The oldest gives way, and
// nobody is told.
func (sub *subscription) queueNewerLocked(d *delivery) {
	if sub.appendLocked(d, codec.ClassUnreliable, false) ||
		sub.makeRoomLocked(len(d.frame)) && sub.appendLocked(d, codec.ClassUnreliable, false) {
		return
	}
	sub.dropLocked(DropOverflow, 1)
}

// makeRoomLocked drops the oldest messages that may be dropped until n more bytes
// have room. It reports whether they have.
func (sub *subscription) makeRoomLocked(n int) bool {
	q := &sub.out.queue
	number := max(sub.oldest, q.first)
	for !sub.hasRoomLocked(n) {
		e := q.at(number)
		if e == nil {
			break
		}
		if e.droppable() {
			delete(sub.newest, slotKey{e.topic.num, e.key()})
			sub.punchLocked(number, codec.GapOverflow)
		}
		number++
	}
	sub.oldest = number
	sub.compactLocked()
	return sub.hasRoomLocked(n)
}

// droppable reports whether e may give way to newer messages: nobody is promised it,
// or it could not be given later either.
func (e *entry) droppable() bool {
	return e.kind == entryMessage && (e.class == codec.ClassUnreliable || conflates(e.class) && (e.lossy || !e.topic.keeps()))
}

// hasRoomLocked reports whether roomLocked would.
func (sub *subscription) hasRoomLocked(n int) bool {
	if !sub.roomLocked(n) {
		return false
	}
	sub.session.releaseLocked(sub.out, n)
	return true
}

// punchLocked takes a message out of the middle of the queue, and counts it.
func (sub *subscription) punchLocked(number uint64, reason codec.GapReason) {
	q := &sub.out.queue
	e := q.at(number)
	if e.charged {
		sub.session.releaseLocked(sub.out, len(e.frame))
	}
	switch reason {
	case codec.GapConflated:
		sub.conflated++
		sub.session.broker.counters.drop(DropConflated, 1)
	case codec.GapExpired:
		sub.dropLocked(DropExpired, 1)
	default:
		sub.dropLocked(DropOverflow, 1)
	}
	q.punch(number, reason, e.class != codec.ClassUnreliable)
}

// dropLocked counts messages that will not come.
func (sub *subscription) dropLocked(reason DropReason, n uint64) {
	sub.dropped += n
	sub.session.broker.counters.drop(reason, n)
}

// compactLocked bounds the holes in the queue.
func (sub *subscription) compactLocked() {
	q := &sub.out.queue
	if !q.compact() {
		return
	}
	sub.oldest = 0
	clear(sub.newest)
	for i := range q.entries[q.head:] {
		if e := &q.entries[q.head+i]; e.kind == entryMessage && conflates(e.class) {
			sub.newest[slotKey{e.topic.num, e.key()}] = q.first + uint64(i)
		}
	}
}

// conflates reports whether only the newest message of each key waits in a queue.
func conflates(class codec.Class) bool {
	return class == codec.ClassLatest || class == codec.ClassSequenced
}

// expireLocked takes what has expired out of the queue, and reports whether there
// was something.
func (sub *subscription) expireLocked() bool {
	q := &sub.out.queue
	now := sub.session.broker.now()
	before := q.messages
	for i := range q.len() {
		number := q.first + uint64(i)
		if e := q.at(number); e.kind == entryMessage && e.expires() != 0 && e.expires() <= now {
			sub.unlistLocked(e, number)
			sub.punchLocked(number, codec.GapExpired)
		}
	}
	sub.compactLocked()
	return q.messages < before
}

// unlistLocked takes note that a message does not wait any more.
func (sub *subscription) unlistLocked(e *entry, number uint64) {
	if !conflates(e.class) {
		return
	}
	key := slotKey{e.topic.num, e.key()}
	if sub.newest[key] == number {
		delete(sub.newest, key)
	}
}
