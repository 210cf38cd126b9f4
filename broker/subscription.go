package broker

import (
	"github.com/tidewire/tidewire/codec"
)

// subscription is a session's interest in a pattern. It has no goroutine: what it
// gets is pushed into its outlet, and the session's writer empties that.
type subscription struct {
	// Static after construction.
	session *session
	number  uint64
	pattern string
	class   codec.Class
	topic   *topic // of an exact pattern, pinned; nil otherwise
	start   uint64 // the topic's offset when the subscription began

	// Guarded by the session's mu.
	out       *outlet
	announced map[uint64]struct{} // topic numbers, of a pattern that is not exact
	last      uint64              // offset of the last message that was pushed, of an exact pattern
	written   uint64              // offset of the last message that the writer took, of an exact pattern
	// opening: the bus is being asked; the router does not know the subscription
	// yet. An end that comes meanwhile waits in ended, for open to carry it out.
	opening bool
	ended   *codec.End
	// newest is, for each topic of a sequenced subscription, the number of the
	// message that waits in the queue.
	newest map[uint64]uint64
	// lagging: the queue was full; what comes is dropped until the queue is empty,
	// so that the subscriber meets one gap and not many.
	lagging bool
	gaps    map[uint64]*lag // by topic number
	blind   bool            // more topics have gaps than gaps holds
	bus     bool            // a gap of the bus waits in the queue
}

// lag is what a subscription has missed of a topic.
type lag struct {
	topic    *topic
	from, to uint64
	count    uint64
}

const (
	// maxLags bounds the topics whose gaps are kept apart.
	maxLags = 256
	// maxAnnounced bounds the topics of a pattern that are remembered as announced.
	// Beyond it all are forgotten and announced again, which is allowed.
	maxAnnounced = 4096
)

// subscribe begins a subscription; first is the first frame of its stream.
func (s *session) subscribe(stream Stream, first codec.Frame) error {
	f, err := codec.ParseSubscribe(first)
	if err != nil {
		return err
	}
	if f.Class != codec.ClassReliable && f.Class != codec.ClassSequenced {
		return codec.Errorf(codec.CodeUnsupportedClass, "this broker does not offer class %s yet; use reliable or sequenced", f.Class)
	}
	if err := s.permitSubscribe(f.Pattern); err != nil {
		return err
	}
	b := s.broker
	pattern := f.Pattern
	if f.Presence {
		if pattern, err = b.presencePattern(pattern); err != nil {
			return err
		}
	}
	sub := &subscription{session: s, number: f.Number, pattern: pattern, class: f.Class, opening: true}
	sub.out = newOutlet(stream, rankFirst+int(f.Priority))
	sub.out.sub = sub
	sub.out.limit = min(f.Credit, b.config.Limits.SubscriptionCredit)
	sub.out.done = sub.finished
	if f.Class == codec.ClassSequenced {
		sub.newest = make(map[uint64]uint64)
	}
	stream.SetPriority(int8(f.Priority), true)

	// The place is taken before the bus is asked, which may wait.
	s.mu.Lock()
	err = nil
	switch {
	case s.stopped || s.draining:
		err = codec.Errorf(codec.CodeShuttingDown, "the session ends")
	case s.subs[f.Number] != nil:
		err = codec.Errorf(codec.CodeDuplicateNumber, "subscription %d is open", f.Number)
	case uint64(len(s.subs)) >= b.config.Limits.Subscriptions:
		err = codec.Errorf(codec.CodeTooManySubscriptions, "the session has its %d subscriptions", b.config.Limits.Subscriptions)
	default:
		s.subs[f.Number] = sub
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	// A token that was replaced meanwhile is seen here, or by AUTH in s.subs.
	err = s.permitSubscribe(f.Pattern)
	if err == nil {
		err = s.open(sub)
	}
	if err != nil {
		s.mu.Lock()
		delete(s.subs, f.Number) // still this one: the number is taken as long as it is here
		s.mu.Unlock()
		s.checkDrained()
		return err
	}
	stream.OnReceiveEnd(func() { s.unsubscribe(sub) })
	return nil
}

// open makes sub receive what its pattern matches from now on.
func (s *session) open(sub *subscription) error {
	b := s.broker
	if err := b.bus.Subscribe(s.ctx, sub.pattern); err != nil {
		return asCoded(err, codec.CodeBusUnavailable)
	}
	if codec.IsExact(sub.pattern) {
		tp, err := b.topics.get(sub.pattern, true)
		if err != nil {
			b.bus.Unsubscribe(sub.pattern)
			return err
		}
		sub.topic = tp
	} else {
		sub.announced = make(map[uint64]struct{})
	}

	// SUBSCRIBED must stand in the queue before the first message does, so the lock
	// is held while the subscription appears in the router. An offset that is read
	// after that covers every message that a match made before could have missed.
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.ended != nil {
		b.bus.Unsubscribe(sub.pattern)
		if sub.topic != nil {
			sub.topic.unpin()
		}
		return errorOf(*sub.ended)
	}
	sub.opening = false
	b.counters.subscriptions.Add(1)
	b.router.add(sub)
	var answer codec.Subscribed
	if sub.topic != nil {
		pos := sub.topic.position()
		sub.start, sub.last, sub.written = pos.Offset, pos.Offset, pos.Offset
		answer = codec.Subscribed{Topic: sub.topic.num, Epoch: pos.Epoch, Offset: pos.Offset}
	}
	sub.out.queue.push(entry{frame: codec.AppendSubscribed(nil, answer)})
	s.scheduleLocked(sub.out)
	return nil
}

// push gives messages of one topic to a subscription. It never blocks: each is
// queued, conflated or dropped, and counted.
func (s *session) push(sub *subscription, deliveries []delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range deliveries {
		d := &deliveries[i]
		if sub.out.end || sub.out.gone {
			s.broker.counters.drop(DropEnded, uint64(len(deliveries)-i))
			break
		}
		if sub.topic != nil && d.offset <= sub.start {
			continue // sequenced before the subscription began
		}
		sub.last = d.offset
		switch {
		case sub.byDatagram(d) && s.fitsDatagram(d) && sub.announceLocked(d):
			s.offerDatagramLocked(d)
		case sub.class == codec.ClassSequenced && sub.conflateLocked(d):
		default:
			sub.queueLocked(d)
		}
	}
	s.scheduleLocked(sub.out)
}

// byDatagram reports whether d travels by datagram to this subscription, if it fits
// (PROTOCOL §9).
func (sub *subscription) byDatagram(d *delivery) bool {
	return d.lossy || sub.class == codec.ClassSequenced
}

// knowsLocked reports whether a topic's number was announced on the stream.
func (sub *subscription) knowsLocked(tp *topic) bool {
	if sub.topic != nil {
		return sub.topic == tp // SUBSCRIBED did
	}
	_, ok := sub.announced[tp.num]
	return ok
}

// announcementLocked returns the TOPIC frame that must come before a topic's first
// message; nil if none must (PROTOCOL §6.3).
func (sub *subscription) announcementLocked(tp *topic, before uint64) []byte {
	if sub.knowsLocked(tp) {
		return nil
	}
	return codec.AppendTopic(nil, codec.Topic{Topic: tp.num, Name: tp.name, Epoch: tp.epoch, Offset: before})
}

// announcedLocked takes note of an announcement.
func (sub *subscription) announcedLocked(tp *topic) {
	if len(sub.announced) >= maxAnnounced {
		clear(sub.announced)
	}
	sub.announced[tp.num] = struct{}{}
}

// announceLocked makes sure that the client learns the topic's number from this
// stream, for a message that goes by datagram. It reports false if there is no
// room for telling it.
func (sub *subscription) announceLocked(d *delivery) bool {
	frame := sub.announcementLocked(d.topic, d.previous)
	if frame == nil {
		return true
	}
	if sub.lagging || !sub.roomLocked(len(frame)) {
		return false
	}
	sub.out.queue.push(entry{frame: frame, charged: true})
	sub.announcedLocked(d.topic)
	return true
}

// roomLocked reports whether n more bytes may wait for the subscription, and counts
// them if so.
func (sub *subscription) roomLocked(n int) bool {
	empty := sub.out.queue.bytes == 0
	if sub.out.queue.bytes+n > sub.session.broker.config.MaxQueueBytes && !empty {
		return false
	}
	return sub.session.chargeLocked(n, empty)
}

// conflateLocked puts d in the place of the message of its topic that waits; false
// if none does.
func (sub *subscription) conflateLocked(d *delivery) bool {
	number, ok := sub.newest[d.topic.num]
	if !ok {
		return false
	}
	e := sub.out.queue.at(number)
	if e == nil || !sub.session.chargeLocked(len(d.frame), true) {
		return false
	}
	sub.session.queued -= len(e.frame)
	sub.session.broker.budget.give(len(e.frame))
	sub.out.queue.bytes += len(d.frame) - len(e.frame)
	if e.conflated == 0 {
		e.from = e.offset - 1
	}
	e.conflated++
	e.frame, e.offset = d.frame, d.offset
	sub.session.broker.counters.drop(DropConflated, 1)
	return true
}

// queueLocked appends d to the queue, or takes note of it as missed.
func (sub *subscription) queueLocked(d *delivery) {
	announcement := sub.announcementLocked(d.topic, d.previous)
	n := len(announcement) + len(d.frame)
	if sub.lagging || !sub.roomLocked(n) {
		reason := DropOverflow
		if !sub.lagging && sub.out.queue.bytes+n <= sub.session.broker.config.MaxQueueBytes {
			reason = DropBudget
		}
		sub.session.broker.counters.drop(reason, 1)
		sub.missLocked(d)
		return
	}
	if announcement != nil {
		sub.out.queue.push(entry{frame: announcement, charged: true})
		sub.announcedLocked(d.topic)
	}
	number := sub.out.queue.push(entry{frame: d.frame, message: d.topic, offset: d.offset, charged: true})
	if sub.newest != nil {
		sub.newest[d.topic.num] = number
	}
}

func (sub *subscription) missLocked(d *delivery) {
	sub.lagging = true
	g := sub.gaps[d.topic.num]
	if g == nil {
		if len(sub.gaps) >= maxLags {
			sub.blind = true
			return
		}
		if sub.gaps == nil {
			sub.gaps = make(map[uint64]*lag)
		}
		g = &lag{topic: d.topic, from: d.previous}
		sub.gaps[d.topic.num] = g
	}
	g.to = d.offset
	g.count++
}

// appendGapsLocked tells what was missed; from then on messages are queued again.
func (sub *subscription) appendGapsLocked(b []byte) []byte {
	for num, g := range sub.gaps {
		if announcement := sub.announcementLocked(g.topic, g.from); announcement != nil {
			b = append(b, announcement...)
			sub.announcedLocked(g.topic)
		}
		b = codec.AppendGap(b, codec.Gap{
			Topic: num, Epoch: codec.Some(g.topic.epoch), From: codec.Some(g.from), To: codec.Some(g.to),
			Reason: codec.GapOverflow, Count: codec.Some(g.count),
		})
	}
	n := uint64(len(sub.gaps))
	if sub.blind {
		b = codec.AppendGap(b, codec.Gap{Reason: codec.GapOverflow})
		n++
	}
	sub.session.broker.counters.gaps.Add(n)
	sub.lagging, sub.gaps, sub.blind = false, nil, false
	return b
}

// lost tells a subscription that messages were lost on the bus.
func (s *session) lost(sub *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.out.end || sub.out.gone || sub.bus {
		return // one that waits says it all
	}
	sub.bus = true
	s.scheduleLocked(sub.out)
}

// grant raises the credit of a subscription (PROTOCOL §5.5).
func (s *session) grant(f codec.Flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.subs[f.Subscription]
	if sub == nil {
		return
	}
	// The client may have at most its credit open at a time.
	limit := min(f.Limit, sub.out.sent+s.broker.config.Limits.SubscriptionCredit)
	if limit > sub.out.limit {
		sub.out.limit = limit
		s.scheduleLocked(sub.out)
	}
}

// unsubscribe ends a subscription at the client's wish: what waits is discarded.
// It does not block: the transport calls it.
func (s *session) unsubscribe(sub *subscription) {
	s.revoke(sub, codec.End{Code: codec.CodeOK})
}

// endLocked lets a subscription end after what is queued.
func (s *session) endLocked(sub *subscription, e codec.End) {
	if sub.out.end || sub.out.gone {
		return
	}
	if sub.opening {
		if sub.ended == nil {
			sub.ended = &e
		}
		return
	}
	var gaps []byte
	if sub.lagging {
		gaps = sub.appendGapsLocked(nil)
	}
	if sub.topic != nil {
		// What waits comes before END; what was discarded does not.
		last := sub.written
		if sub.out.queue.len() > 0 || gaps != nil {
			last = sub.last
		}
		e.Epoch, e.Offset = codec.Some(sub.topic.epoch), codec.Some(last)
	}
	sub.out.end = true
	sub.session.broker.counters.streamEnd(e.Code)
	sub.out.queue.push(entry{frame: codec.AppendEnd(gaps, e)})
	s.scheduleLocked(sub.out)
}

// revoke ends a subscription at once: what waits is discarded.
func (s *session) revoke(sub *subscription, e codec.End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !sub.out.end && !sub.out.gone {
		s.discardLocked(sub.out)
		sub.lagging, sub.gaps, sub.blind, sub.bus = false, nil, false, false
	}
	s.endLocked(sub, e)
}

// finished is called by the writer when the stream has got its END and FIN, or
// has failed.
func (sub *subscription) finished(err error) {
	s := sub.session
	if err != nil && s.ctx.Err() == nil {
		code := codec.CodeSlowSubscriber
		sub.out.stream.CancelWrite(uint32(code))
		if isTimeout(err) {
			// END cannot follow half a frame (PROTOCOL §5.6).
			s.sendControl(codec.AppendStreamEnd(nil, codec.StreamEnd{
				Subscription: sub.number, Code: code, Retry: codec.Some(1000),
				Reason: "the stream did not take what there was credit for",
			}))
		}
	}
	s.letGo(sub.out.stream, err)
	sub.close()
	s.mu.Lock()
	delete(s.subs, sub.number)
	s.mu.Unlock()
	s.checkDrained()
}

// close takes the subscription out of the router and the bus.
func (sub *subscription) close() {
	b := sub.session.broker
	b.router.remove(sub)
	b.bus.Unsubscribe(sub.pattern)
	if sub.topic != nil {
		sub.topic.unpin()
	}
	b.counters.subscriptions.Add(-1)
}
