package broker

import (
	"errors"
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
	lossy  bool
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

// fitsDatagram reports whether d fits into a datagram; false if there are none.
func (s *session) fitsDatagram(d *delivery) bool {
	return int64(len(d.frame)) <= s.slot.max.Load()
}

// offerDatagramLocked puts d into the slot. A message that several subscriptions
// match is taken once.
func (s *session) offerDatagramLocked(d *delivery) {
	q := &s.slot
	if q.waiting == nil {
		q.waiting = make(map[uint64]*slotted)
		q.sent = make(map[uint64]uint64)
		q.wake = make(chan struct{}, 1)
	}
	w := q.waiting[d.topic.num]
	switch {
	case w != nil && w.offset >= d.offset, q.sent[d.topic.num] >= d.offset:
		return
	case w != nil:
		s.broker.counters.drop(DropConflated, 1)
		w.frame, w.offset, w.lossy = d.frame, d.offset, d.lossy
		return
	}
	if len(q.order) >= maxSlots {
		oldest := q.waiting[q.order[0]]
		delete(q.waiting, q.order[0])
		q.order = append(q.order[:0], q.order[1:]...)
		s.broker.counters.drop(DropOverflow, 1)
		s.toldLostLocked(oldest, codec.GapOverflow)
	}
	q.waiting[d.topic.num] = &slotted{d.frame, d.topic, d.offset, d.lossy}
	q.order = append(q.order, d.topic.num)
	if !q.sending && !s.stopped {
		q.sending = true
		s.wg.Go(s.sendDatagrams)
	}
}

// meantLocked calls f for each subscription that w was meant for: it takes w by
// datagram, and knows its topic.
func (s *session) meantLocked(w *slotted, f func(*subscription)) {
	d := delivery{topic: w.topic, offset: w.offset, lossy: w.lossy}
	for _, sub := range s.subs {
		if !sub.opening && !sub.out.end && !sub.out.gone && sub.byDatagram(&d) && w.offset > sub.start &&
			codec.Match(sub.pattern, w.topic.name) && sub.knowsLocked(w.topic) {
			f(sub)
		}
	}
}

// toldLostLocked tells the subscriptions concerned that w will not come. Where
// there is no room for telling it, the next message of the topic shows the hole.
func (s *session) toldLostLocked(w *slotted, reason codec.GapReason) {
	gap := codec.AppendGap(nil, codec.Gap{
		Topic: w.topic.num, Epoch: codec.Some(w.topic.epoch), From: codec.Some(w.offset - 1), To: codec.Some(w.offset),
		Reason: reason, Count: codec.Some(1),
	})
	s.meantLocked(w, func(sub *subscription) {
		if !sub.lagging && sub.roomLocked(len(gap)) {
			sub.out.queue.push(entry{frame: gap, charged: true})
			s.broker.counters.gaps.Add(1)
			s.scheduleLocked(sub.out)
		}
	})
}

// sendDatagrams empties the slot. It lives while there is something in it.
func (s *session) sendDatagrams() {
	s.slot.max.Store(int64(s.conn.MaxDatagramSize())) // it grows as the path is probed
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
			s.mu.Lock()
			s.toldLostLocked(w, codec.GapLost)
			s.mu.Unlock()
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
	s.changed.Broadcast()
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
	d := delivery{topic: w.topic, frame: w.frame, offset: w.offset, previous: w.offset - 1, lossy: w.lossy}
	s.meantLocked(w, func(sub *subscription) {
		if e := sub.out.queue.at(sub.newest[w.topic.num]); sub.newest != nil && e != nil && e.message == w.topic && e.offset >= w.offset {
			return // a newer one waits already
		}
		if sub.class != codec.ClassSequenced || !sub.conflateLocked(&d) {
			sub.queueLocked(&d)
		}
		s.scheduleLocked(sub.out)
	})
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
	if _, err := s.publish(m.Topic, s.broker.topics.config(m.Topic), m); err != nil {
		if codec.CodeOf(err) == codec.CodeRateLimited {
			return DropRateLimited, false
		}
		return DropBadDatagram, false
	}
	return 0, true
}
