package broker

import (
	"errors"
	"slices"
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
	sent    offsets[slotKey]     // the last one taken of each key that was conflated
	every   offsets[uint64]      // the last one of each topic, by number, that was offered as one of all
	sending bool                 // the sender lives
	wake    chan struct{}        // tells the sender that the writer has made progress
}

// offsets remembers the last offset of as many keys as were used last: of 1,024 at least,
// so that none is forgotten while a message is offered for one subscription after the
// other.
type offsets[K comparable] struct{ young, old map[K]uint64 }

// of returns the last offset of a key; 0 if none is remembered.
func (o *offsets[K]) of(key K) uint64 { return max(o.young[key], o.old[key]) }

func (o *offsets[K]) note(key K, offset uint64) {
	if o.young == nil || len(o.young) >= 4*maxSlots {
		o.young, o.old = make(map[K]uint64), o.young
	}
	o.young[key] = offset
}

// slotted is a message in the slot.
type slotted struct {
	frame   []byte
	topic   *topic
	key     string
	offset  uint64
	expires uint64 // ms of the broker's clock; 0: never
	lossy   bool
	// Whom it was offered for. Others that match may not have been given the messages
	// before it yet.
	sub    *subscription
	others []*subscription
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

// offerDatagramLocked puts d into the slot for a subscription, in which its class in
// force is class. A message that several subscriptions match is taken once.
func (s *session) offerDatagramLocked(sub *subscription, d *delivery, class codec.Class) {
	q := &s.slot
	if q.newest == nil {
		q.newest = make(map[slotKey]*slotted)
		q.wake = make(chan struct{}, 1)
	}
	key := slotKey{d.topic.num, d.key}
	w := q.newest[key]
	if q.every.of(key.topic) >= d.offset {
		if w := q.find(d); w != nil {
			w.others = append(w.others, sub)
		}
		return
	}
	every := class == codec.ClassUnreliable
	switch {
	case every:
		q.every.note(key.topic, d.offset)
		if w != nil && w.offset == d.offset {
			delete(q.newest, key) // from now on it keeps its place
			w.others = append(w.others, sub)
			return
		}
		if q.sent.of(key) == d.offset {
			return
		}
	case w != nil && w.offset == d.offset:
		w.others = append(w.others, sub)
		return
	case w != nil && w.offset > d.offset, q.sent.of(key) >= d.offset:
		return
	case w != nil:
		s.broker.counters.drop(DropConflated, 1)
		w.frame, w.offset, w.expires, w.lossy = d.frame, d.offset, d.extra.when(), d.lossy
		w.sub, w.others = sub, nil
		return
	}
	if len(q.order) >= maxSlots {
		oldest := s.takeSlotLocked()
		s.broker.counters.drop(DropOverflow, 1)
		s.toldLostLocked(oldest, codec.GapOverflow)
	}
	w = &slotted{
		frame: d.frame, topic: d.topic, key: d.key, offset: d.offset, expires: d.extra.when(), lossy: d.lossy, sub: sub,
	}
	q.order = append(q.order, w)
	if !every {
		q.newest[key] = w
	}
	if !q.sending && !s.stopped {
		q.sending = true
		s.wg.Go(s.sendDatagrams)
	}
}

// find returns what waits of a message; nil if it does not. It is one of the last as a
// rule.
func (q *datagramSlot) find(d *delivery) *slotted {
	for _, w := range slices.Backward(q.order) {
		if w.topic == d.topic && w.offset == d.offset {
			return w
		}
	}
	return nil
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

// meantLocked calls f for each subscription that w was offered for and that goes on.
func (s *session) meantLocked(w *slotted, f func(*subscription, codec.Class)) {
	for i := -1; i < len(w.others); i++ {
		sub := w.sub
		if i >= 0 {
			sub = w.others[i]
		}
		if !sub.out.end && !sub.out.gone && sub.knowsLocked(w.topic) {
			f(sub, sub.classOf(w.topic))
		}
	}
}

// toldLostLocked tells the subscriptions concerned that w will not come. Where
// there is no room for telling it, the next message of the topic shows the hole.
func (s *session) toldLostLocked(w *slotted, reason codec.GapReason) {
	s.meantLocked(w, func(sub *subscription, class codec.Class) {
		sub.dropped++
		t := sub.trackLocked(w.topic)
		// What is owed of the topic comes behind whatever is queued now, and lies before
		// the gap: a client that is told of the gap takes no older message any more.
		owes := t != nil && t.debt != nil
		if class == codec.ClassUnreliable || sub.lagging || owes || sub.out.queue.holes >= maxSlots {
			return
		}
		// Not as a frame: what waits before it may become a debt, and it with that.
		sub.out.queue.push(entry{kind: entryGap, topic: w.topic, from: w.offset - 1, offset: w.offset, reason: reason, count: 1, late: true})
		sub.compactLocked()
		s.scheduleLocked(sub.out)
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
		if conflated {
			q.sent.note(key, w.offset)
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
