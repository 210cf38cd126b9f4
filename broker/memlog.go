package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// memoryLog is the log of a topic in a memoryStore.
//
// While it keeps nothing it is this struct alone: idle topics are many. What it
// keeps is bounded by its limits whenever a record comes, by the store's bound for
// all logs, and, as far as time is concerned, by the store's sweep and by whoever
// reads.
type memoryLog struct {
	// Static after construction.
	store  *memoryStore
	topic  string
	limits LogLimits

	mu       sync.Mutex
	kept     *kept  // nil: nothing is kept; guarded by mu
	base     uint64 // offset of the newest message that is gone; guarded by mu
	baseTime uint64 // its time; guarded by mu
	holds    holds  // what the store knows that the log keeps; guarded by mu
	closed   bool   // guarded by mu

	place int    // in the store's heap; guarded by the store's mu
	rank  uint64 // at most what rankLocked returns; guarded by the store's mu
}

// holds is what a log keeps, as far as its rank depends on it.
type holds uint8

const (
	holdsNothing holds = iota
	holdsValues        // and no history
	holdsHistory
)

// kept is what a log keeps.
type kept struct {
	history logRing
	bytes   int // of the history, as limits.Bytes counts them
	values  lastValues
	// origin is where the broker's clock began, on the store's clock.
	origin time.Duration
}

// keptOverhead is about what kept takes beside its items and values.
const keptOverhead = 512

func (k *kept) holds() holds {
	switch {
	case k == nil:
		return holdsNothing
	case k.history.len() > 0:
		return holdsHistory
	case len(k.values.byKey) > 0:
		return holdsValues
	}
	return holdsNothing
}

// Append implements Log.
func (l *memoryLog) Append(r Record) {
	reliable := !r.Reliable.Set
	value := r.Retain && l.limits.Keys > 0
	if !value && (!reliable || l.limits.Count <= 0) {
		if reliable {
			l.mu.Lock()
			l.base, l.baseTime = r.Offset, r.Time
			l.mu.Unlock()
		}
		return
	}
	it := newLogItem(&r)
	history := reliable && l.limits.Count > 0 && (l.limits.Bytes <= 0 || it.size() <= l.limits.Bytes)
	grown := 0
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	if l.kept == nil && (value || history) {
		l.kept = &kept{origin: l.store.now() - time.Duration(r.Time)*time.Millisecond}
		grown += keptOverhead
	}
	if value {
		grown += l.retainLocked(r.Key, it)
	}
	switch {
	case history:
		l.kept.history.push(it)
		l.kept.bytes += it.size()
		grown += it.cost() - l.trimLocked(it.time)
	case reliable: // it is gone at once, and all before it
		if l.kept != nil {
			grown -= l.dropLocked(l.kept.history.len())
		}
		l.base, l.baseTime = it.offset, it.time
	}
	ages := l.agesLocked()
	l.settleLocked()
	l.mu.Unlock()
	l.store.grow(grown, ages)
}

// retainLocked makes it the last value of its key, and returns by how much the log
// has grown.
func (l *memoryLog) retainLocked(key string, it logItem) int {
	v := &l.kept.values
	grown := v.set(key, it)
	if len(v.byKey) > l.limits.Keys {
		grown -= v.expire(it.time) // what has expired gives way first
	}
	for len(v.byKey) > l.limits.Keys {
		grown -= v.dropOldest()
		l.store.evicted.Add(1)
	}
	return grown
}

// trimLocked removes from the history what is beyond its limits, and returns what
// that has cost.
func (l *memoryLog) trimLocked(now uint64) (cost int) {
	h := &l.kept.history
	age := uint64(max(0, l.limits.Age) / time.Millisecond)
	for h.len() > l.limits.Count ||
		l.limits.Bytes > 0 && l.kept.bytes > l.limits.Bytes ||
		age > 0 && h.len() > 0 && h.at(0).time+age < now {
		cost += l.dropLocked(1)
	}
	return cost
}

// dropLocked removes the oldest n messages of the history, and returns what they
// have cost.
func (l *memoryLog) dropLocked(n int) (cost int) {
	for range n {
		it := l.kept.history.pop()
		l.kept.bytes -= it.size()
		l.base, l.baseTime = it.offset, it.time
		cost += it.cost()
	}
	return cost
}

// ageLocked removes what time has taken.
func (l *memoryLog) ageLocked() {
	if !l.agesLocked() {
		return
	}
	now := uint64((l.store.now() - l.kept.origin) / time.Millisecond)
	cost := l.trimLocked(now) + l.kept.values.expire(now)
	l.settleLocked()
	l.store.used.Add(-int64(cost))
}

// agesLocked reports whether time alone takes something from the log.
func (l *memoryLog) agesLocked() bool {
	return l.kept != nil && (l.limits.Age > 0 && l.kept.history.len() > 0 || l.kept.values.expiring())
}

// settleLocked lets go of an empty log's memory, and tells the store if the log's
// rank has fallen, or if it has none any more.
func (l *memoryLog) settleLocked() {
	now := l.kept.holds()
	if now == holdsNothing {
		l.letGoLocked()
	}
	if now != l.holds && (now == holdsNothing || now > l.holds) {
		l.store.rank(l)
	}
	l.holds = now
}

// letGoLocked lets go of the memory of a log that keeps nothing.
func (l *memoryLog) letGoLocked() {
	if l.kept != nil {
		l.kept = nil
		l.store.used.Add(-keptOverhead)
	}
}

// rankLocked tells when what the log keeps gives way to the records of others:
// histories come before last values, those before firm ones, and of each the oldest
// first. 0: it keeps nothing.
func (l *memoryLog) rankLocked() uint64 {
	switch l.kept.holds() {
	case holdsHistory:
		return l.kept.history.at(0).time + 1
	case holdsValues:
		rank := uint64(valuesRank)
		if l.limits.Firm {
			rank = firmRank
		}
		return rank + l.kept.values.oldest().time
	}
	return 0
}

const (
	valuesRank = 1 << 62 // above the rank of any history
	firmRank   = 1 << 63 // above that of any last value that is not firm
)

// giveWay removes what has a rank up to to, until the store's use is down to goal.
func (l *memoryLog) giveWay(to uint64, goal int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.store.used.Load() > goal {
		rank := l.rankLocked()
		if rank == 0 || rank > to {
			break
		}
		var cost int
		if rank < valuesRank {
			cost = l.dropLocked(1)
		} else {
			cost = l.kept.values.dropOldest()
			l.store.evicted.Add(1)
		}
		l.store.used.Add(-int64(cost))
	}
	if l.holds = l.kept.holds(); l.holds == holdsNothing {
		l.letGoLocked()
	}
	l.store.rank(l)
}

// beginLocked begins a read.
func (l *memoryLog) beginLocked(ctx context.Context) error {
	if l.closed {
		return ErrLogClosed
	}
	l.ageLocked()
	return ctx.Err()
}

// Read implements Log.
func (l *memoryLog) Read(ctx context.Context, after, to uint64, limit, bytes int) ([]Record, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.beginLocked(ctx); err != nil || l.kept == nil {
		return nil, l.base, err
	}
	h := &l.kept.history
	p := logPage{topic: l.topic, left: limit, bytes: bytes}
	for i := h.after(after); i < h.len() && h.at(i).offset <= to && p.add(h.at(i)); i++ {
	}
	return p.records, l.base, nil
}

// ReadBack implements Log.
func (l *memoryLog) ReadBack(ctx context.Context, before uint64, limit, bytes int) ([]Record, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.beginLocked(ctx); err != nil || l.kept == nil || before == 0 {
		return nil, l.base, err
	}
	h := &l.kept.history
	p := logPage{topic: l.topic, left: limit, bytes: bytes}
	for i := h.after(before-1) - 1; i >= 0 && p.add(h.at(i)); i-- {
	}
	return p.records, l.base, nil
}

// Seek implements Log.
func (l *memoryLog) Seek(ctx context.Context, from codec.From) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.beginLocked(ctx); err != nil {
		return 0, err
	}
	h := new(logRing)
	if l.kept != nil {
		h = &l.kept.history
	}
	first := h.len() // of the messages that are wanted
	switch from.Kind {
	case codec.FromNow:
	case codec.FromBeginning:
		first = 0
	case codec.FromLast:
		first -= int(min(from.N, uint64(h.len())))
	case codec.FromTime:
		if l.base > 0 && l.baseTime >= from.Time {
			return 0, nil
		}
		first = h.since(from.Time)
	default:
		return 0, fmt.Errorf("broker: a log does not seek from kind %d", from.Kind)
	}
	if first == 0 {
		return l.base, nil
	}
	return h.at(first - 1).offset, nil
}

// Retained implements Log.
func (l *memoryLog) Retained(ctx context.Context, after, to uint64, limit, bytes int) ([]Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.beginLocked(ctx); err != nil || l.kept == nil {
		return nil, err
	}
	p := logPage{topic: l.topic, left: limit, bytes: bytes}
	for it := range l.kept.values.after(after) {
		if it.offset > to || !p.add(it) {
			break
		}
	}
	return p.records, nil
}

// Empty implements Log.
func (l *memoryLog) Empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept == nil
}

// Close implements Log.
func (l *memoryLog) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.kept == nil {
		return
	}
	l.store.used.Add(-int64(l.kept.values.cost + l.dropLocked(l.kept.history.len())))
	l.kept.values = lastValues{}
	l.settleLocked()
}

// logPage gathers the records of a read.
type logPage struct {
	topic   string
	records []Record
	left    int // messages
	bytes   int // left
}

// add reports whether the page had room for the item.
func (p *logPage) add(it *logItem) bool {
	if p.left <= 0 || it.size() > p.bytes && len(p.records) > 0 {
		return false
	}
	p.left--
	p.bytes -= it.size()
	p.records = append(p.records, it.record(p.topic))
	return true
}
