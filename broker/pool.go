package broker

import (
	"slices"
	"sync"

	"github.com/tidewire/tidewire/codec"
)

// pool gives each message to one of its members. A member holds at most its credit
// unfinished; what no member can take waits here, in one queue for all, so that
// whoever is ready first gets it, and little has to be handed over when one ends. The
// alternative, a queue a member, lets messages wait for a slow member while others
// are idle.
//
// While something waits no member has room: whoever makes room calls pumpLocked.
type pool struct {
	// Static after construction.
	broker *Broker
	group  string
	filter codec.Filter
	entry  *subscription // what the router knows; it has no session

	mu      sync.Mutex
	closed  bool           // it has no member, and gets none any more; written under groups.mu too
	members []*groupMember // guarded by mu
	next    int            // where the search for a member begins; guarded by mu
	again   []*parcel      // what ended members have left, before waiting; guarded by mu
	waiting []*parcel      // guarded by mu
	bytes   int            // of waiting; guarded by mu
	missed  uint64         // messages that there was no room for and that no member was told of; guarded by mu
}

// parcel is a message on its way through a group. Its frame counts against the
// broker's budget until a member has finished it.
type parcel struct {
	topic   *topic
	frame   []byte // MESSAGE
	offset  uint64
	expires uint64 // 0: never
}

func (x *parcel) size() uint64 { return uint64(len(x.frame)) }

func (x *parcel) expired(now uint64) bool { return x.expires > 0 && x.expires <= now }

// ticket is a message that a member was given and has not finished.
type ticket struct {
	parcel *parcel
	missed uint64 // messages that a gap before it tells of
}

// spoiled names a message that has expired before it could be written to its member: by
// the first byte of its frame, which the parcel shares. Offsets tell nothing apart where
// the bus has brought messages.
type spoiled *byte

// giving is how far a pool goes to take a message.
type giving int

const (
	giveReady giving = iota // to a member that can take it now
	giveWait                // or it waits for one
	giveUp                  // or it is dropped, and a member is told
)

// give takes x. It reports false if it cannot.
func (p *pool) give(x *parcel, how giving) bool {
	budget, n := p.broker.budget, len(x.frame)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if len(p.again)+len(p.waiting) == 0 && budget.take(n, true) {
		if p.handLocked(x) {
			return true
		}
		budget.give(n)
	}
	if how == giveReady {
		return false
	}
	reason := DropBudget
	if p.bytes+n > p.broker.config.MaxQueueBytes && p.bytes > 0 {
		reason = DropOverflow
	} else if budget.take(n, false) {
		p.waiting = append(p.waiting, x)
		p.bytes += n
		return true
	}
	if how == giveWait {
		return false
	}
	p.missed++
	p.broker.counters.drop(reason, 1)
	return true
}

// handLocked gives x to the member that holds the fewest messages, and of these to
// the one whose turn it is; false if none has room.
func (p *pool) handLocked(x *parcel) bool {
	for {
		best := -1
		for i := range p.members {
			at := (p.next + i) % len(p.members)
			m := p.members[at]
			if m.gone || m.full || m.held >= m.credit {
				continue
			}
			if best < 0 || len(m.tickets) < len(p.members[best].tickets) {
				best = at
			}
			if len(m.tickets) == 0 {
				break // none holds fewer
			}
		}
		if best < 0 {
			return false
		}
		m := p.members[best]
		switch m.sub.session.hand(m, x, p.missed) {
		case handTaken:
			p.next = (best + 1) % len(p.members)
			m.tickets = append(m.tickets, ticket{x, p.missed})
			p.missed = 0
			m.held += x.size()
			return true
		case handFull:
			m.full = true
		case handEnded:
			m.gone = true
		}
	}
}

// pumpLocked gives what waits to members as long as they have room.
func (p *pool) pumpLocked() {
	now := p.broker.now()
	for {
		from := &p.again
		if len(p.again) == 0 {
			from = &p.waiting
		}
		if len(*from) == 0 {
			p.again, p.waiting = nil, nil
			return
		}
		x := (*from)[0]
		switch {
		case x.expired(now):
			p.broker.budget.give(len(x.frame))
			p.broker.counters.drop(DropExpired, 1)
		case !p.handLocked(x):
			return
		}
		if from == &p.waiting {
			p.bytes -= len(x.frame)
		}
		(*from)[0] = nil
		*from = (*from)[1:]
	}
}

// ready lets a member take messages once open has told its client that it may; not if
// open fails. Nothing is given in between: what is published after the client knows
// finds the member ready.
func (p *pool) ready(m *groupMember, open func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := open(); err != nil {
		return err
	}
	m.full = false
	p.pumpLocked()
	return nil
}

// consumed takes FLOW of a member: limit is its credit and the bytes that it has
// finished (PROTOCOL §5.5).
func (p *pool) consumed(m *groupMember, limit uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if limit <= m.credit {
		return
	}
	var released uint64
	for len(m.tickets) > 0 {
		n := m.tickets[0].parcel.size()
		if m.finished+n > limit-m.credit {
			break
		}
		m.finished += n
		released += n
		m.tickets[0] = ticket{}
		m.tickets = m.tickets[1:]
	}
	if released == 0 {
		return
	}
	if len(m.tickets) == 0 {
		m.tickets = nil
	}
	m.held -= released
	m.full = false
	m.sub.session.release(int(released))
	p.broker.budget.give(int(released))
	p.pumpLocked()
}

// takeBack drops what has expired in a member's queue. The member's client knows nothing
// of it, and so does not count it as finished.
func (p *pool) takeBack(m *groupMember, late []spoiled) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gone := make(map[spoiled]struct{}, len(late))
	for _, x := range late {
		gone[x] = struct{}{}
	}
	released, n := 0, 0
	missed := uint64(0) // the gap before it counts with what is behind it; with nothing there it is told again
	kept := m.tickets[:0]
	for _, t := range m.tickets {
		if _, ok := gone[&t.parcel.frame[0]]; ok {
			released += len(t.parcel.frame)
			missed += t.missed
			n++
			continue
		}
		t.missed, missed = t.missed+missed, 0
		kept = append(kept, t)
	}
	if n == 0 {
		return // the member has ended, and others have them
	}
	clear(m.tickets[len(kept):])
	m.tickets = kept
	m.held -= uint64(released)
	m.full = false
	m.sub.session.release(released)
	p.broker.budget.give(released)
	p.broker.counters.drop(DropExpired, uint64(n))
	p.missed += missed
	p.pumpLocked()
}

// remove takes a member out. Others get what it has not finished, before what waits.
// If there is no other one the pool is closed, and everything is returned, with the
// number of messages that nobody was told of: a gap counts only when what is behind it
// was finished.
func (p *pool) remove(m *groupMember) (orphans []*parcel, missed uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members = slices.DeleteFunc(p.members, func(o *groupMember) bool { return o == m })
	p.next = 0
	m.gone = true
	m.sub.session.release(int(m.held))
	again := make([]*parcel, 0, len(m.tickets)+len(p.again))
	for _, t := range m.tickets {
		again = append(again, t.parcel)
		p.missed += t.missed
	}
	again = append(again, p.again...)
	m.tickets, m.held = nil, 0
	if len(p.members) > 0 {
		p.again = again
		p.pumpLocked()
		return nil, 0
	}
	p.closed = true
	again = append(again, p.waiting...)
	missed, p.missed = p.missed, 0
	p.again, p.waiting, p.bytes = nil, nil, 0
	return again, missed
}

// handed is what came of handing a message to a member.
type handed int

const (
	handTaken handed = iota
	handFull         // the session has no room
	handEnded        // the subscription ends
)

// hand queues x for a member, and before it the gap of what was missed. The pool's
// mu is held, which comes before the session's.
func (s *session) hand(m *groupMember, x *parcel, missed uint64) handed {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := m.sub
	if sub.out.end || sub.out.gone || s.stopped {
		return handEnded
	}
	// A member that holds nothing takes one message whatever the session holds: who
	// holds something will finish it, and so make room.
	if s.queued+len(x.frame) > s.broker.config.MaxSessionBytes && len(m.tickets) > 0 {
		return handFull
	}
	s.queued += len(x.frame)
	if announcement := sub.announcementLocked(x.topic, x.offset-1); announcement != nil {
		sub.out.queue.push(entry{frame: announcement})
		sub.announcedLocked(x.topic)
	}
	if missed > 0 {
		gap := codec.Gap{Reason: codec.GapOverflow, Count: codec.Some(missed)}
		sub.out.queue.push(entry{frame: codec.AppendGap(nil, gap)})
		s.broker.counters.gap(codec.GapOverflow)
	}
	sub.out.queue.push(entry{
		frame: x.frame, kind: entryMessage, topic: x.topic, from: x.offset - 1, offset: x.offset, extra: extraOf("", x.expires),
	})
	s.scheduleLocked(sub.out)
	return handTaken
}

// release takes bytes that a member held off what its session holds.
func (s *session) release(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queued -= n
}
