package broker

import (
	"math"

	"github.com/tidewire/tidewire/codec"
)

// outlet is one stream's way down: what waits to be written on it. All its fields
// but the static ones are guarded by the session's mu; only the session's writer
// calls Write and Close on the stream.
type outlet struct {
	// Static after construction.
	stream Stream
	rank   int           // the session's writer takes lower ranks first
	sub    *subscription // nil on the control stream and on publications
	acks   *acks         // of a publication; nil otherwise
	// done is called by the writer, without the lock, after FIN was written (err
	// is nil) or the stream has failed.
	done func(err error)

	queue queue
	sent  uint64 // bytes of messages
	limit uint64 // PROTOCOL §6.4
	ready bool   // in the session's list, or in the writer's hands
	end   bool   // FIN after what is queued
	gone  bool   // nothing more is written
}

// Ranks of outlets.
const (
	rankControl = 0                                 // and acknowledgements
	rankFirst   = 1                                 // plus the priority of a subscription
	ranks       = rankFirst + codec.MaxPriority + 1 // how many there are
)

func newOutlet(stream Stream, rank int) *outlet {
	return &outlet{stream: stream, rank: rank, limit: math.MaxUint64}
}

// sendable reports whether the writer would find something to do.
func (o *outlet) sendable() bool {
	if o.gone {
		return false
	}
	if e := o.queue.front(); e != nil {
		return e.message == nil || o.sent < o.limit
	}
	return o.end || o.acks != nil && o.acks.pending() || o.sub != nil && (o.sub.lagging || o.sub.bus)
}

// entry is a frame that waits.
type entry struct {
	frame   []byte
	message *topic // the message's topic; nil for other frames, which need no credit
	offset  uint64 // of the message
	charged bool   // it counts against the bounds on what waits
	// What was conflated into this one: messages with offsets above from.
	conflated uint64
	from      uint64
}

// queue is a first-in-first-out queue of entries that can be reached by number.
type queue struct {
	entries []entry // entries[head:] wait
	head    int
	first   uint64 // the number of entries[head]
	bytes   int    // of frames that are charged
}

func (q *queue) len() int { return len(q.entries) - q.head }

func (q *queue) front() *entry {
	if q.len() == 0 {
		return nil
	}
	return &q.entries[q.head]
}

// push appends e and returns its number.
func (q *queue) push(e entry) uint64 {
	if q.head > 0 && len(q.entries) == cap(q.entries) {
		n := copy(q.entries, q.entries[q.head:])
		clear(q.entries[n:])
		q.entries, q.head = q.entries[:n], 0
	}
	q.entries = append(q.entries, e)
	if e.charged {
		q.bytes += len(e.frame)
	}
	return q.first + uint64(q.len()) - 1
}

// pop removes the front.
func (q *queue) pop() entry {
	e := q.entries[q.head]
	q.entries[q.head] = entry{}
	q.head++
	q.first++
	if e.charged {
		q.bytes -= len(e.frame)
	}
	if q.head == len(q.entries) {
		// An idle subscription keeps no large buffer.
		if cap(q.entries) > 64 {
			q.entries = nil
		}
		q.entries, q.head = q.entries[:0], 0
	}
	return e
}

// at returns the entry with a number; nil if it is gone.
func (q *queue) at(number uint64) *entry {
	if number < q.first || number-q.first >= uint64(q.len()) {
		return nil
	}
	return &q.entries[q.head+int(number-q.first)]
}
