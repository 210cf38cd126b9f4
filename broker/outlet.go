package broker

import (
	"math"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// outlet is one stream's way down: what waits to be written on it. All its fields
// but the static ones are guarded by the session's mu; only the session's writer
// calls Write and Close on the stream.
type outlet struct {
	// Static after construction.
	stream Stream
	sub    *subscription // nil on the control stream and on publications
	acks   *acks         // of a publication; nil otherwise
	// done is called by the writer, without the lock, after FIN was written (err
	// is nil) or the stream has failed.
	done func(err error)

	queue queue
	rank  int    // the session's writer takes lower ranks first
	sent  uint64 // bytes of messages
	limit uint64 // PROTOCOL §6.4
	ready bool   // in the session's list, or in the writer's hands
	end   bool   // FIN after what is queued
	gone  bool   // nothing more is written

	rest    unwritten     // of the last batch, while the outlet waits for another turn
	stalled time.Duration // for how long the stream has taken nothing; owned by the writer
}

// unwritten is what a stream has not taken of a batch in one turn of the writer.
type unwritten struct {
	b        []byte
	messages uint64 // in the batch
	size     int    // of the batch
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
	if o.gone || o.sub != nil && o.sub.parking && !o.end {
		return false
	}
	if e := o.queue.next(); e != nil {
		// A hole waits for what comes after it: a subscriber without credit would
		// else be sent a gap for every message that it does not get.
		return e.kind == entryFrame || o.credited()
	}
	return o.end || o.acks != nil && o.acks.pending() || o.sub != nil && o.credited() && (o.queue.len() > 0 || o.sub.lagging)
}

// credited reports whether a message may be written (PROTOCOL §6.4).
func (o *outlet) credited() bool { return o.sent < o.limit }
