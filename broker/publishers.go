package broker

import (
	"cmp"
	"container/list"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// publishers is what the broker remembers of who has published to which topic, so
// that a message that comes again is answered and not delivered again (PROTOCOL
// §7.6). A publisher is remembered as long as it is held, and for the topic's window
// after that.
type publishers struct {
	// Static after construction.
	broker *Broker

	mu   sync.Mutex
	byID map[publisherKey]*publisher // guarded by mu
	idle list.List                   // those that nobody holds, in the order in which they were let go; guarded by mu
}

// publisherKey names a publisher of a topic. A topic that was evicted comes back
// with another number, and nothing is remembered: it has another epoch.
type publisherKey struct {
	topic uint64
	id    codec.ID
}

// publisher is one client's count of messages to one topic.
type publisher struct {
	// Static after construction.
	key publisherKey

	holders int           // guarded by the publishers' mu
	until   uint64        // when it is forgotten, if nobody holds it; guarded by the publishers' mu
	element *list.Element // in idle; nil: it is held; guarded by the publishers' mu

	// turn is taken by who publishes a message, until it has its place. So an old
	// connection of a client, which may still be within the bus, and a new one see
	// what the other has published.
	turn chan struct{}

	// Owned by who has the turn.
	last  uint64 // the highest sequence that was published
	floor uint64 // of the sequences up to it no position is known
	epoch uint64 // of the positions in runs
	runs  []run  // what was published above floor, by sequence
}

// run is messages with consecutive sequences and consecutive offsets.
type run struct{ sequence, offset, count uint64 }

const (
	// maxRuns bounds the runs of a publisher. Who publishes alone needs one; with
	// others in between each message may be one.
	maxRuns = 256
	// maxIdlePublishers bounds the publishers that are remembered and not held.
	maxIdlePublishers = 100_000
)

func newPublishers(b *Broker) *publishers {
	return &publishers{broker: b, byID: make(map[publisherKey]*publisher)}
}

// hold returns the publisher of a topic with a client's id, until release; nil if the
// topic does not remember any.
func (ps *publishers) hold(tp *topic, id codec.ID) *publisher {
	if tp.config.Deduplicate == 0 {
		return nil
	}
	key := publisherKey{tp.num, id}
	now := ps.broker.now()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.forgetLocked(now)
	p := ps.byID[key]
	if p != nil && p.element != nil {
		ps.idle.Remove(p.element)
		p.element = nil
		if p.until < now {
			p = nil
		}
	}
	if p == nil {
		p = &publisher{key: key, turn: make(chan struct{}, 1)}
		ps.byID[key] = p
	}
	p.holders++
	return p
}

// release takes back one hold. p may be nil.
func (ps *publishers) release(tp *topic, p *publisher) {
	if p == nil {
		return
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p.holders--; p.holders > 0 {
		return
	}
	now := ps.broker.now()
	p.until = now + uint64(tp.config.Deduplicate.Milliseconds())
	p.element = ps.idle.PushBack(p)
	ps.forgetLocked(now)
}

// forgetLocked forgets who has not published for long, and who is too many.
func (ps *publishers) forgetLocked(now uint64) {
	for e := ps.idle.Front(); e != nil && (ps.idle.Len() > maxIdlePublishers || e.Value.(*publisher).until < now); e = ps.idle.Front() {
		delete(ps.byID, ps.idle.Remove(e).(*publisher).key)
	}
}

// count returns how many publishers are remembered.
func (ps *publishers) count() int {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return len(ps.byID)
}

// begin takes the turn to publish the message with a sequence. fresh is false if the
// message was published before: then the position is the one that it got, with offset
// 0 if that is not known any more, and there is no turn. An error is that of ctx.
func (p *publisher) begin(ctx context.Context, sequence uint64) (pos Position, fresh bool, err error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return Position{}, false, context.Cause(ctx)
	}
	if err := ctx.Err(); err != nil { // a session that has ended publishes nothing
		<-p.turn
		return Position{}, false, context.Cause(ctx)
	}
	if sequence > p.last {
		return Position{}, true, nil
	}
	offset, fresh := p.find(sequence)
	pos = Position{p.epoch, offset}
	if !fresh {
		<-p.turn
	}
	return pos, fresh, nil
}

// end gives the turn back. pos is that of the message; its offset is 0 if it was not
// published.
func (p *publisher) end(sequence uint64, pos Position) {
	if pos.Offset > 0 {
		if pos.Epoch != p.epoch { // the topic was evicted, although it is held here
			p.floor, p.runs, p.epoch = p.last, nil, pos.Epoch
		}
		p.add(sequence, pos.Offset)
	}
	<-p.turn
}

// find returns the offset of a sequence up to last. fresh tells that it has none,
// because it was refused or left out.
func (p *publisher) find(sequence uint64) (offset uint64, fresh bool) {
	if sequence <= p.floor {
		return 0, false
	}
	i := p.at(sequence)
	if i < 0 || sequence-p.runs[i].sequence >= p.runs[i].count {
		return 0, true
	}
	return p.runs[i].offset + sequence - p.runs[i].sequence, false
}

// at returns the index of the last run that begins at or before sequence; -1 if there
// is none.
func (p *publisher) at(sequence uint64) int {
	i, found := slices.BinarySearchFunc(p.runs, sequence, func(r run, sequence uint64) int { return cmp.Compare(r.sequence, sequence) })
	if found {
		return i
	}
	return i - 1
}

// add takes note of what was published.
func (p *publisher) add(sequence, offset uint64) {
	if sequence > p.last {
		p.last = sequence
		if n := len(p.runs); n > 0 {
			r := &p.runs[n-1]
			if sequence == r.sequence+r.count && offset == r.offset+r.count {
				r.count++
				return
			}
		}
	}
	if len(p.runs) == maxRuns {
		drop := p.runs[maxRuns/2-1]
		p.floor = max(p.floor, drop.sequence+drop.count-1)
		p.runs = p.runs[:copy(p.runs, p.runs[maxRuns/2:])]
		if sequence <= p.floor {
			return
		}
	}
	p.runs = slices.Insert(p.runs, p.at(sequence)+1, run{sequence, offset, 1})
}

// answered forgets the positions of the sequences below first, which the client will
// not ask for. An error is that of ctx.
func (p *publisher) answered(ctx context.Context, first uint64) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	floor := min(max(first, 1)-1, p.last)
	if floor <= p.floor {
		return nil
	}
	p.floor = floor
	p.runs = slices.DeleteFunc(p.runs, func(r run) bool { return r.sequence+r.count <= first })
	return nil
}

// errDuplicate answers what was published before and whose position is not known any
// more.
var errDuplicate = &codec.Error{Code: codec.CodeDuplicate, Reason: "it was published before"}

// errForgotten answers what was sent before, too long ago to tell whether it was
// published.
var errForgotten = &codec.Error{Code: codec.CodeForgotten, Reason: "it was sent before, and the topic does not remember for so long what was published"}

// mayForget reports whether a message that was sent first so long ago, in ms, may have
// been published and forgotten since (PROTOCOL §7.6).
func (c *TopicConfig) mayForget(age codec.Optional) bool {
	window := c.Deduplicate
	return age.Set && age.Value >= uint64((window-min(window/2, underWay)).Milliseconds())
}

// underWay is how long a message may be under way, from when its age was written to
// when it is looked for here.
const underWay = 10 * time.Second

// recentIDs are the idempotency keys that were published to a topic within its
// window (PROTOCOL §7.6).
type recentIDs struct {
	offsets map[string]uint64
	order   []recentID // the oldest first
}

type recentID struct {
	id   string
	time uint64
}

const (
	// maxTopicIDs bounds the idempotency keys that a topic remembers; then the oldest
	// are forgotten early.
	maxTopicIDs = 8192
	// maxIDs bounds those of all topics; a topic that would remember one more forgets
	// its oldest.
	maxIDs = 200_000
)

// find returns the offset of the message with an id; 0 if none is remembered.
func (r *recentIDs) find(id string) uint64 { return r.offsets[id] }

// add remembers an id. all counts those of all topics.
func (r *recentIDs) add(id string, offset, now uint64, all *atomic.Int64) {
	if all.Add(1) > maxIDs || len(r.order) == maxTopicIDs {
		r.drop(1, all)
	}
	if all.Load() > maxIDs {
		all.Add(-1)
		return
	}
	if r.offsets == nil {
		r.offsets = make(map[string]uint64)
	}
	r.offsets[id] = offset
	r.order = append(r.order, recentID{id, now})
}

// forget forgets what is older than the window.
func (r *recentIDs) forget(now, window uint64, all *atomic.Int64) {
	n := 0
	for n < len(r.order) && now-r.order[n].time > window {
		n++
	}
	r.drop(n, all)
}

// drop forgets the oldest n, or all if there are fewer.
func (r *recentIDs) drop(n int, all *atomic.Int64) {
	n = min(n, len(r.order))
	for i := range n {
		delete(r.offsets, r.order[i].id)
		r.order[i] = recentID{}
	}
	all.Add(-int64(n))
	if r.order = r.order[n:]; len(r.order) == 0 {
		r.order, r.offsets = nil, nil
	}
}
