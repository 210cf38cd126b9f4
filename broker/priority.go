package broker

import (
	"slices"

	"github.com/tidewire/tidewire/codec"
)

// prioritize changes the priority of a subscription (PROTOCOL §5.8). The goroutine
// that reads the control stream calls it, so changes follow each other.
func (s *session) prioritize(f codec.Priority) {
	s.mu.Lock()
	sub := s.subs[f.Subscription]
	if sub == nil || sub.out.gone {
		s.mu.Unlock()
		return
	}
	o, rank := sub.out, rankFirst+int(f.Priority)
	waits := o.queue.bytes + sub.parkedBytes
	s.waiting[o.rank] -= waits
	s.waiting[rank] += waits
	if i := slices.Index(s.ready[o.rank], o); i >= 0 {
		s.ready[o.rank] = slices.Delete(s.ready[o.rank], i, i+1)
		s.ready[rank] = append(s.ready[rank], o)
	}
	o.rank = rank
	s.mu.Unlock()
	o.stream.SetPriority(int8(f.Priority), true)
}

// takeRoomLocked makes room for n bytes in a session whose bound is reached: what
// waits for its subscription of the lowest priority below this one becomes a debt.
// It reports whether the n bytes were counted.
func (sub *subscription) takeRoomLocked(n int) bool {
	s := sub.session
	for rank := ranks - 1; s.queued+n > s.broker.config.MaxSessionBytes; {
		if rank <= sub.out.rank {
			return false
		}
		other := s.yieldsLocked(rank)
		if other == nil {
			rank--
			continue
		}
		other.yieldLocked()
	}
	return s.chargeLocked(sub.out, n, false)
}

// yieldsLocked returns a subscription of a rank that can give up room; nil if there is
// none. What is parked (begin.go), or waits for the end of a stream, stays.
func (s *session) yieldsLocked(rank int) *subscription {
	if s.waiting[rank] == 0 {
		return nil
	}
	for _, sub := range s.subs {
		if sub.out.rank == rank && sub.out.queue.bytes > 0 && !sub.out.end {
			return sub
		}
	}
	return nil
}

// yieldLocked gives up the room of what waits: it is owed from now on. Frames that
// are no messages stay.
func (sub *subscription) yieldLocked() {
	s, q := sub.session, &sub.out.queue
	waiting := slices.Clone(q.entries[q.head:])
	clear(q.entries)
	*q = queue{entries: q.entries[:0], first: q.first}
	clear(sub.newest)
	sub.oldest, sub.lagging = 0, true
	for i := range waiting {
		e := &waiting[i]
		if e.kind == entryFrame {
			if e.charged {
				s.releaseLocked(sub.out, len(e.frame))
				e.charged = false
			}
			q.push(*e)
			continue
		}
		if e.charged {
			s.releaseLocked(sub.out, len(e.frame))
		}
		if e.kind != entryNone {
			sub.oweLocked(e)
		}
	}
	s.scheduleLocked(sub.out)
}

// oweLocked makes what waited a part of its topic's debt.
func (sub *subscription) oweLocked(e *entry) {
	count, reason := uint64(1), codec.GapPriority
	switch {
	case e.kind == entrySkip:
		count = 0
	case e.lost() || e.late:
		// Behind a debt it would cover what is owed, and as a part of one have the stream
		// begin again where a datagram was. Who pays tells it again, or the client sees the
		// hole.
		if t := sub.trackLocked(e.topic); t == nil || t.debt == nil {
			sub.out.queue.push(*e)
		}
		return
	case e.kind == entryGap:
		count, reason = uint64(e.count), e.reason
	case e.class == codec.ClassUnreliable:
		sub.dropLocked(DropPriority, 1)
		return
	}
	t := sub.trackLocked(e.topic)
	if t == nil || t.debt == nil {
		if e.kind == entrySkip {
			sub.out.queue.push(*e)
			return
		}
		if t = sub.indebtLocked(e.topic, owed{from: e.from, to: e.from, reason: reason}); t == nil {
			sub.blind = codec.GapPriority
			sub.dropLocked(DropPriority, count)
			return
		}
	}
	b := t.debt
	b.from, b.to = min(b.from, e.from), max(b.to, e.offset)
	b.reason = stronger(b.reason, reason)
	b.count += count
	b.unsure = b.unsure || count == unknownCount
	if b.hopeless && e.kind == entryMessage {
		sub.dropLocked(DropPriority, count)
	}
}
