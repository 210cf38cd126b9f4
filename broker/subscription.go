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
	// newest is, for each topic of a sequenced subscription, the number of the
	// message that waits in the queue.
	newest map[uint64]uint64
	// lagging: the queue was full; what comes is dropped until the queue is empty,
	// so that the subscriber meets one gap and not many.
	lagging bool
	gaps    map[uint64]*lag // by topic number
	blind   bool            // more topics have gaps than gaps holds
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
	sub := &subscription{session: s, number: f.Number, pattern: f.Pattern, class: f.Class}
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
	if err := s.open(sub); err != nil {
		s.mu.Lock()
		delete(s.subs, f.Number)
		s.mu.Unlock()
		return err
	}
	b.counters.subscriptions.Add(1)
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
	b.router.add(sub)
	var answer codec.Subscribed
	if sub.topic != nil {
		pos := sub.topic.position()
		sub.start, sub.last = pos.Offset, pos.Offset
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
			return
		}
		if sub.topic != nil && d.offset <= sub.start {
			continue // sequenced before the subscription began
		}
		sub.announceLocked(d)
		sub.last = d.offset
		switch {
		case (d.lossy || sub.class == codec.ClassSequenced) && s.offerDatagramLocked(d):
		case sub.class == codec.ClassSequenced && sub.conflateLocked(d):
		default:
			sub.queueLocked(d)
		}
	}
	s.scheduleLocked(sub.out)
}

// announceLocked makes sure that the client knows the topic's number before it
// meets it on this stream or in a datagram (PROTOCOL §6.3).
func (sub *subscription) announceLocked(d *delivery) {
	if sub.topic != nil {
		return // SUBSCRIBED did
	}
	if _, ok := sub.announced[d.topic.num]; ok {
		return
	}
	if len(sub.announced) >= maxAnnounced {
		clear(sub.announced)
	}
	sub.announced[d.topic.num] = struct{}{}
	sub.out.queue.push(entry{frame: codec.AppendTopic(nil, codec.Topic{
		Topic: d.topic.num, Name: d.topic.name, Epoch: d.topic.epoch, Offset: d.previous,
	})})
}

// conflateLocked puts d in the place of the message of its topic that waits; false
// if none does.
func (sub *subscription) conflateLocked(d *delivery) bool {
	number, ok := sub.newest[d.topic.num]
	if !ok {
		return false
	}
	e := sub.out.queue.at(number)
	if e == nil || !sub.session.broker.budget.take(len(d.frame)) {
		return false
	}
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
	b := sub.session.broker
	full := sub.out.queue.bytes+len(d.frame) > b.config.MaxQueueBytes && sub.out.queue.bytes > 0
	switch {
	case sub.lagging || full:
		b.counters.drop(DropOverflow, 1)
		sub.missLocked(d)
	case !b.budget.take(len(d.frame)):
		b.counters.drop(DropBudget, 1)
		sub.missLocked(d)
	default:
		number := sub.out.queue.push(entry{frame: d.frame, message: d.topic, offset: d.offset})
		if sub.newest != nil {
			sub.newest[d.topic.num] = number
		}
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
	if sub.out.end || sub.out.gone {
		return
	}
	sub.out.queue.push(entry{frame: codec.AppendGap(nil, codec.Gap{Reason: codec.GapBus})})
	s.broker.counters.gaps.Add(1)
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.out.gone {
		return
	}
	s.discardLocked(sub.out)
	s.endLocked(sub, codec.End{Code: codec.CodeOK})
}

// endLocked lets a subscription end after what is queued.
func (s *session) endLocked(sub *subscription, e codec.End) {
	if sub.out.end || sub.out.gone {
		return
	}
	if sub.topic != nil {
		e.Epoch, e.Offset = codec.Some(sub.topic.epoch), codec.Some(sub.last)
	}
	var gaps []byte
	if sub.lagging {
		gaps = sub.appendGapsLocked(nil)
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
	if !sub.out.end {
		s.discardLocked(sub.out)
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
	// The client's side is closed, or of no interest any more.
	sub.out.stream.CancelRead(uint32(codec.CodeOK))
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
