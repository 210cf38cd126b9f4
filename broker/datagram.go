package broker

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// datagramSlot holds the newest message of each topic that is to go out as a
// datagram. A sender of its own empties it, because the transport's SendDatagram
// blocks, and must not hold up the streams.
type datagramSlot struct {
	// max is the most bytes of a datagram; 0: this session has none.
	max atomic.Int64
	// idle is signalled when the writer or the sender ends.
	idle sync.Cond

	// Guarded by the session's mu.
	waiting map[uint64]*slotted // by topic number
	order   []uint64            // topic numbers, the one that waits for longest first
	sent    map[uint64]uint64   // the last offset taken, by topic number
	sending bool                // the sender lives
	wake    chan struct{}       // tells the sender that the writer has made progress
}

// slotted is a message in the slot.
type slotted struct {
	frame  []byte
	topic  *topic
	offset uint64
}

const (
	// maxSlots bounds the topics in the slot.
	maxSlots = 256
	// lead is how many bytes the datagrams may be ahead of the streams while both
	// are busy: QUIC sends datagrams first, and would starve the streams.
	lead = 32 << 10
	// maxYield bounds how long a datagram waits for the streams.
	maxYield = 20 * time.Millisecond
)

// offerDatagramLocked puts d into the slot; false if it has to go by stream. A
// message that several subscriptions match is taken once.
func (s *session) offerDatagramLocked(d *delivery) bool {
	if int64(len(d.frame)) > s.slot.max.Load() {
		return false
	}
	q := &s.slot
	if q.waiting == nil {
		q.waiting = make(map[uint64]*slotted)
		q.sent = make(map[uint64]uint64)
		q.wake = make(chan struct{}, 1)
	}
	w := q.waiting[d.topic.num]
	switch {
	case w != nil && w.offset >= d.offset, q.sent[d.topic.num] >= d.offset:
		return true
	case w != nil:
		s.broker.counters.drop(DropConflated, 1)
		w.frame, w.offset = d.frame, d.offset
		return true
	}
	if len(q.order) >= maxSlots {
		delete(q.waiting, q.order[0])
		q.order = append(q.order[:0], q.order[1:]...)
		s.broker.counters.drop(DropOverflow, 1)
	}
	q.waiting[d.topic.num] = &slotted{d.frame, d.topic, d.offset}
	q.order = append(q.order, d.topic.num)
	if !q.sending && !s.stopped {
		q.sending = true
		s.wg.Go(s.sendDatagrams)
	}
	return true
}

// sendDatagrams empties the slot. It lives while there is something in it.
func (s *session) sendDatagrams() {
	for {
		s.yieldToStreams()
		s.mu.Lock()
		q := &s.slot
		if len(q.order) == 0 || s.stopped {
			q.sending = false
			s.mu.Unlock()
			return
		}
		num := q.order[0]
		q.order = append(q.order[:0], q.order[1:]...)
		w := q.waiting[num]
		delete(q.waiting, num)
		if len(q.sent) >= 4*maxSlots {
			clear(q.sent)
		}
		q.sent[num] = w.offset
		if s.writing {
			s.datagrammed += len(w.frame)
		}
		s.mu.Unlock()

		err := s.conn.SendDatagram(s.ctx, w.frame)
		switch {
		case err == nil:
			s.broker.counters.delivered.Add(1)
			s.broker.counters.deliveredBytes.Add(uint64(len(w.frame)))
		case errors.Is(err, ErrDatagramTooLarge):
			// The path has become narrower.
			s.slot.max.Store(int64(s.conn.MaxDatagramSize()))
			s.redirect(w)
		default:
			s.broker.counters.drop(DropDatagram, 1)
		}
	}
}

// yieldToStreams waits, for a bounded time, while datagrams are ahead of the
// streams and the streams are busy.
func (s *session) yieldToStreams() {
	var timeout <-chan time.Time
	for {
		s.mu.Lock()
		ahead := s.writing && !s.stopped && s.datagrammed > s.streamed+lead
		wake := s.slot.wake
		s.mu.Unlock()
		if !ahead {
			return
		}
		if timeout == nil {
			timeout = time.After(maxYield)
		}
		select {
		case <-wake:
		case <-timeout:
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// wakeDatagrams tells the sender, and whoever waits for the writer, that the
// writer has made progress or has ended.
func (s *session) wakeDatagrams() {
	s.mu.Lock()
	wake := s.slot.wake
	s.slot.idle.Broadcast()
	s.mu.Unlock()
	select {
	case wake <- struct{}{}:
	default:
	}
}

// redirect puts a message that does not fit a datagram onto the streams.
func (s *session) redirect(w *slotted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := delivery{topic: w.topic, frame: w.frame, offset: w.offset, previous: w.offset - 1}
	for _, sub := range s.subs {
		if sub.out.end || sub.out.gone || !codec.Match(sub.pattern, w.topic.name) {
			continue
		}
		if sub.class != codec.ClassSequenced || !sub.conflateLocked(&d) {
			sub.queueLocked(&d)
		}
		s.scheduleLocked(sub.out)
	}
}

// discardDatagramsLocked counts what the slot still holds when the session has ended.
func (s *session) discardDatagramsLocked() {
	s.broker.counters.drop(DropEnded, uint64(len(s.slot.order)))
	s.slot.order, s.slot.waiting = nil, nil
}

// receiveDatagrams publishes what comes as datagrams until the session ends. A
// datagram that is not a PUBLISH which this session may send is dropped and
// counted (PROTOCOL §8).
func (s *session) receiveDatagrams() {
	for {
		b, err := s.conn.ReceiveDatagram(s.ctx)
		if err != nil {
			return // the connection carries none, or has ended
		}
		if reason, ok := s.publishDatagram(b); !ok {
			s.broker.counters.drop(reason, 1)
		}
	}
}

// publishDatagram publishes a datagram, or tells why it is dropped.
func (s *session) publishDatagram(b []byte) (DropReason, bool) {
	f, err := codec.ParseDatagram(b)
	if err != nil || f.Type != codec.TypePublish {
		return DropBadDatagram, false
	}
	m, err := codec.ParsePublish(f)
	if err != nil || m.Sequence != 0 || m.Mode != codec.ModeLossy || codec.CheckTopic(m.Topic) != nil || s.permitPublish(m.Topic) != nil {
		return DropBadDatagram, false
	}
	if _, err := s.publish(m.Topic, m); err != nil {
		if codec.CodeOf(err) == codec.CodeRateLimited {
			return DropRateLimited, false
		}
		return DropBadDatagram, false
	}
	return 0, true
}
