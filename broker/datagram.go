package broker

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// datagramSlot holds what is to go out as datagrams: of a key the newest message only,
// unless a subscription of class unreliable wants every one. A sender of its own
// empties it, because the transport's SendDatagram blocks, and must not hold up the
// streams.
type datagramSlot struct {
	// max is the most bytes of a datagram; 0: this session has none.
	max atomic.Int64

	// Guarded by the session's mu.
	order   []*slotted           // what waits, in the order of sending
	newest  map[slotKey]*slotted // those of them that a newer message takes the place of
	sent    map[slotKey]uint64   // the last offset taken of each key that was conflated
	every   map[uint64]uint64    // the last offset of each topic, by number, that was offered as one of all
	sending bool                 // the sender lives
	wake    chan struct{}        // tells the sender that the writer has made progress
}

// slotted is a message in the slot.
type slotted struct {
	frame   []byte
	topic   *topic
	key     string
	offset  uint64
	expires uint64 // ms of the broker's clock; 0: never
	lossy   bool
}

const (
	// maxSlots bounds the messages in the slot.
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

// offerDatagramLocked puts d into the slot for a subscription of a class. A message
// that several subscriptions match is taken once.
func (s *session) offerDatagramLocked(d *delivery, class codec.Class) {
	q := &s.slot
	if q.newest == nil {
		q.newest = make(map[slotKey]*slotted)
		q.sent = make(map[slotKey]uint64)
		q.every = make(map[uint64]uint64)
		q.wake = make(chan struct{}, 1)
	}
	key := slotKey{d.topic.num, d.key}
	w := q.newest[key]
	if q.every[key.topic] >= d.offset {
		return
	}
	every := class == codec.ClassUnreliable
	switch {
	case every:
		q.every[key.topic] = d.offset
		if w != nil && w.offset == d.offset {
			delete(q.newest, key) // from now on it keeps its place
			return
		}
		if q.sent[key] == d.offset {
			return
		}
	case w != nil && w.offset >= d.offset, q.sent[key] >= d.offset:
		return
	case w != nil:
		s.broker.counters.drop(DropConflated, 1)
		w.frame, w.offset, w.expires, w.lossy = d.frame, d.offset, d.extra.when(), d.lossy
		return
	}
	if len(q.order) >= maxSlots {
		oldest := s.takeSlotLocked()
		s.broker.counters.drop(DropOverflow, 1)
		s.toldLostLocked(oldest, codec.GapOverflow)
	}
	w = &slotted{d.frame, d.topic, d.key, d.offset, d.extra.when(), d.lossy}
	q.order = append(q.order, w)
	if !every {
		q.newest[key] = w
	}
	if !q.sending && !s.stopped {
		q.sending = true
		s.wg.Go(s.sendDatagrams)
	}
}

// takeSlotLocked takes what waits for longest.
func (s *session) takeSlotLocked() *slotted {
	q := &s.slot
	w := q.order[0]
	q.order = append(q.order[:0], q.order[1:]...)
	q.order[:cap(q.order)][len(q.order)] = nil
	if key := (slotKey{w.topic.num, w.key}); q.newest[key] == w {
		delete(q.newest, key)
	}
	return w
}

// meantLocked calls f for each subscription that w was meant for: it takes w by
// datagram, and knows its topic.
func (s *session) meantLocked(w *slotted, f func(*subscription, codec.Class)) {
	for _, sub := range s.subs {
		if sub.member != nil || sub.opening || sub.out.end || sub.out.gone || !codec.Match(sub.pattern, w.topic.name) || !sub.knowsLocked(w.topic) {
			continue
		}
		t := sub.trackLocked(w.topic)
		if class := sub.classOf(w.topic); sub.byDatagram(class, w.lossy) && (t == nil || w.offset > t.start) {
			f(sub, class)
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
	s.meantLocked(w, func(sub *subscription, class codec.Class) {
		sub.dropped++
		t := sub.trackLocked(w.topic)
		// What is owed of the topic comes behind whatever is queued now, and lies before
		// the gap: a client that is told of the gap takes no older message any more.
		owes := t != nil && t.debt != nil
		if class != codec.ClassUnreliable && !sub.lagging && !owes && sub.roomLocked(len(gap)) {
			sub.out.queue.push(entry{frame: gap, charged: true})
			s.broker.counters.gap(reason)
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
		key := slotKey{q.order[0].topic.num, q.order[0].key}
		conflated := q.newest[key] == q.order[0]
		w := s.takeSlotLocked()
		if len(q.sent) >= 4*maxSlots {
			clear(q.sent)
		}
		if len(q.every) >= 4*maxSlots {
			clear(q.every)
		}
		if conflated {
			q.sent[key] = w.offset
		}
		if w.expires != 0 && w.expires <= s.broker.now() {
			s.broker.counters.drop(DropExpired, 1)
			s.toldLostLocked(w, codec.GapExpired)
			s.mu.Unlock()
			continue
		}
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
	d := delivery{
		topic: w.topic, frame: w.frame, offset: w.offset, previous: w.offset - 1,
		lossy: w.lossy, key: w.key, extra: extraOf(w.key, w.expires),
	}
	s.meantLocked(w, func(sub *subscription, class codec.Class) {
		t := sub.trackLocked(w.topic)
		switch class {
		case codec.ClassReliable:
			sub.queueLocked(t, &d)
		case codec.ClassUnreliable:
			sub.queueNewerLocked(&d)
		default:
			key := slotKey{d.topic.num, d.key}
			if e := sub.out.queue.at(sub.newest[key]); e != nil && e.topic == d.topic && e.key() == d.key && e.offset >= d.offset {
				return // a newer one waits already
			}
			sub.queueNewestLocked(t, &d)
		}
		s.scheduleLocked(sub.out)
	})
}

// discardDatagramsLocked counts what the slot still holds when the session has ended.
func (s *session) discardDatagramsLocked() {
	s.broker.counters.drop(DropEnded, uint64(len(s.slot.order)))
	s.slot.order, s.slot.newest = nil, nil
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
	if _, err := s.publish(m.Topic, s.broker.topics.config(m.Topic), m, false); err != nil {
		if codec.CodeOf(err) == codec.CodeRateLimited {
			return DropRateLimited, false
		}
		return DropBadDatagram, false
	}
	return 0, true
}
