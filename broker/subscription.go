package broker

import (
	"github.com/tidewire/tidewire/codec"
)

// subscription is a session's interest in a pattern. It has no goroutine while it
// keeps up: what it gets is pushed into its outlet, and the session's writer empties
// that. While it owes messages (recovery.go) it has one.
type subscription struct {
	// Static after construction.
	session *session
	number  uint64
	pattern string
	class   codec.Class // what the client asked for; see classOf
	noEcho  bool
	filter  codec.Filter // checked; nil lets everything through
	topic   *topic       // of an exact pattern, pinned; nil otherwise
	member  *groupMember // in a group; nil otherwise
	pool    *pool        // this is no subscription but what the router knows of a pool, with pattern alone

	// Guarded by the session's mu.
	out    *outlet
	own    track             // of the topic of an exact pattern
	tracks map[uint64]*track // of a pattern that is not exact, or in a group: the topics announced, by number; nil: nothing is special
	// announcements is how many topics were announced on the stream.
	announcements uint64
	last          uint64 // offset of the last message that was pushed, of an exact pattern
	written       uint64 // offset of the last message that the writer took, of an exact pattern
	// opening: the bus is being asked; the router does not know the subscription
	// yet. An end that comes meanwhile waits in ended, for open to carry it out.
	opening bool
	ended   *codec.End
	began   uint64 // when it was opened, in ms of the broker's clock
	// newest is, for each key that is conflated, the number of the message that waits.
	newest map[slotKey]uint64
	oldest uint64 // no message that may be dropped has a number below it
	// lagging: the queue was full; what comes is owed until it is drained, so that the
	// subscriber meets one gap and not many.
	lagging   bool
	debts     []*debt
	refilling bool            // the goroutine that pays lives
	blind     codec.GapReason // more topics are missing messages than may be owed; 0: no
	bus       bool            // it begins with a gap of the bus
	gone      bool            // it begins with a gap: topics with messages were evicted
	forgot    bool            // some of tracks were forgotten
	spoiled   []spoiled       // of a group's member: messages that have expired in its queue
	conflated uint64          // messages whose place was taken, since the beginning
	dropped   uint64          // messages that were not handed on for other reasons
	// parking: the topics of the pattern are being looked through. What comes
	// meanwhile is parked.
	parking     bool
	parked      []delivery
	parkedBytes int // of the frames in parked
}

const (
	// maxDebts bounds the topics of a subscription, and maxSessionDebts those of a
	// session, for which messages are owed. What is missing of others is told as one
	// gap of the whole pattern.
	maxDebts        = 4096
	maxSessionDebts = 16 << 10
	// maxAnnounced bounds the topics of a pattern that are remembered as announced.
	// Beyond it they are forgotten and announced again, which is allowed.
	maxAnnounced = 4096
)

// subscribe begins a subscription; first is the first frame of its stream.
func (s *session) subscribe(stream Stream, first codec.Frame) error {
	f, err := codec.ParseSubscribe(first)
	if err != nil {
		return err
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
	sub := &subscription{
		session: s, number: f.Number, pattern: pattern, class: f.Class,
		noEcho: f.NoEcho, filter: f.Filter, opening: true,
	}
	sub.out = newOutlet(stream, rankFirst+int(f.Priority))
	sub.out.sub = sub
	sub.out.limit = min(f.Credit, b.config.Limits.SubscriptionCredit)
	sub.out.done = sub.finished
	// A message that waited in a group may be of a topic that was given up since: then a
	// member with an exact pattern is told of two topics of one name.
	if f.Group != "" || !codec.IsExact(pattern) {
		sub.tracks = make(map[uint64]*track)
	}
	if f.Group != "" {
		if sub.member, err = newMember(sub, f, b.config.Limits.SubscriptionCredit); err != nil {
			return err
		}
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
		err = codec.Errorf(codec.CodeTooManySubscriptions, "the session has its %d subscriptions: end one, or subscribe to a pattern", b.config.Limits.Subscriptions)
	default:
		s.subs[f.Number] = sub
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	// A token that was replaced meanwhile is seen here, or by AUTH in s.subs.
	err = s.permitSubscribe(f.Pattern)
	switch {
	case err != nil:
	case sub.member != nil:
		err = s.openMember(sub)
	default:
		err = s.open(sub, f)
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

// open makes sub receive what its pattern matches: from where f says to what is yet
// to come.
func (s *session) open(sub *subscription, f codec.Subscribe) error {
	b := s.broker
	since, err := b.bus.Subscribe(s.ctx, sub.pattern, "")
	if err != nil {
		return asCoded(err, codec.CodeBusUnavailable)
	}
	if (f.From.Kind == codec.FromTime || f.From.Kind == codec.FromPositions) && f.From.Time < since {
		sub.bus = true // of topics, too, that this broker has never heard of
	}
	if codec.IsExact(sub.pattern) {
		tp, err := b.topics.get(sub.pattern, true)
		if err == nil {
			sub.topic = tp
			err = s.openTopic(sub, f)
		}
		if err != nil {
			b.bus.Unsubscribe(sub.pattern, "")
			if tp != nil {
				tp.unpin()
			}
		}
		return err
	}
	if err := s.openPattern(sub, f); err != nil {
		b.bus.Unsubscribe(sub.pattern, "")
		return err
	}
	return nil
}

// beginLocked makes the router know sub. SUBSCRIBED must stand in the queue before
// the first message does, so the caller holds the lock until it does. An offset that
// is read after that covers every message that a match made before could have missed.
func (sub *subscription) beginLocked() error {
	if sub.ended != nil {
		return errorOf(*sub.ended)
	}
	sub.opening = false
	sub.began = sub.session.broker.now()
	sub.session.broker.counters.subscriptions.Add(1)
	sub.session.broker.router.add(sub)
	return nil
}

// classOf returns the class in force for a topic (PROTOCOL §6.1).
func (sub *subscription) classOf(tp *topic) codec.Class { return max(sub.class, tp.config.Class) }

// classTold returns the class in force as SUBSCRIBED and TOPIC tell it.
func (sub *subscription) classTold(tp *topic) codec.Optional {
	if c := sub.classOf(tp); c != sub.class {
		return codec.Some(uint64(c))
	}
	return codec.Optional{}
}

// push gives messages of one topic to a subscription. It never blocks: each is
// queued, conflated, owed or dropped, and counted.
func (s *session) push(sub *subscription, deliveries []delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range deliveries {
		if sub.out.end || sub.out.gone {
			s.broker.counters.drop(DropEnded, uint64(len(deliveries)-i))
			break
		}
		if sub.parking {
			sub.parkLocked(&deliveries[i])
			continue
		}
		sub.acceptLocked(&deliveries[i])
	}
	s.scheduleLocked(sub.out)
}

// acceptLocked finds the way of one message.
func (sub *subscription) acceptLocked(d *delivery) {
	t := sub.trackLocked(d.topic)
	if t != nil && t.start != 0 {
		if d.offset <= t.start {
			return // sequenced before the subscription began
		}
		t.start = 0 // what comes for a topic comes in order
	} else if d.time < sub.began {
		return // likewise: it waited to be delivered
	}
	class := sub.classOf(d.topic)
	if sub.byDatagram(class, d.lossy) && sub.session.fitsDatagram(d) && sub.announceLocked(d) {
		sub.last = d.offset
		sub.session.offerDatagramLocked(sub, d, class)
		return
	}
	if sub.withholds(d.publisher, d.headers) {
		sub.withholdLocked(t, d)
		return
	}
	switch class {
	case codec.ClassReliable:
		sub.queueLocked(t, d)
	case codec.ClassUnreliable:
		sub.queueNewerLocked(d)
	default:
		sub.queueNewestLocked(t, d)
	}
}

// byDatagram reports whether a message travels by datagram to this subscription, if
// it fits (PROTOCOL §8, §9).
func (sub *subscription) byDatagram(class codec.Class, lossy bool) bool {
	if sub.filter != nil {
		return false
	}
	return lossy && class == codec.ClassReliable || class >= codec.ClassSequenced
}

// roomLocked reports whether n more bytes may wait for the subscription, and counts
// them if so.
func (sub *subscription) roomLocked(n int) bool {
	empty := sub.out.queue.bytes == 0
	if sub.out.queue.bytes+n > sub.session.broker.config.MaxQueueBytes && !empty {
		return false
	}
	return sub.session.chargeLocked(sub.out, n, empty) || sub.takeRoomLocked(n)
}

// queueLocked appends a message of class reliable, or takes note of it as owed.
func (sub *subscription) queueLocked(t *track, d *delivery) {
	if t != nil && t.debt != nil {
		sub.widenLocked(t.debt, d, DropOverflow)
		return
	}
	if sub.lagging || !sub.appendLocked(d, codec.ClassReliable, false) {
		sub.missLocked(d, codec.GapOverflow)
	}
}

// appendLocked appends a message, and before it what must be told: what was withheld,
// unless that was told already. It reports false if there is no room.
func (sub *subscription) appendLocked(d *delivery, class codec.Class, told bool) bool {
	announcement := sub.announcementLocked(d.topic, d.previous)
	n := len(announcement) + len(d.frame)
	if !sub.roomLocked(n) && !(sub.out.queue.expiring > 0 && sub.expireLocked() && sub.roomLocked(n)) {
		return false
	}
	if announcement != nil {
		sub.out.queue.push(entry{frame: announcement, charged: true})
		sub.announcedLocked(d.topic)
		sub.skipBeforeLocked(d.topic, d.previous)
	}
	if (sub.noEcho || sub.filter != nil) && !told {
		if t := sub.trackLocked(d.topic); t != nil && t.echo.to != 0 {
			sub.tellEchoLocked(t)
		}
	}
	sub.pushMessageLocked(d, class)
	return true
}

// pushMessageLocked puts a message into the queue whose bytes are counted already.
func (sub *subscription) pushMessageLocked(d *delivery, class codec.Class) {
	number := sub.out.queue.pushMessage(d, class)
	sub.last = d.offset
	if class == codec.ClassLatest || class == codec.ClassSequenced {
		if sub.newest == nil {
			sub.newest = make(map[slotKey]uint64)
		}
		sub.newest[slotKey{d.topic.num, d.key}] = number
	}
}

// lost tells a subscription that messages were lost on the bus.
func (s *session) lost(sub *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case sub.out.end || sub.out.gone:
	case sub.opening || sub.parking:
		sub.bus = true // SUBSCRIBED comes first
	default:
		sub.lostLocked()
		s.scheduleLocked(sub.out)
	}
}

// lostLocked queues the gap of the bus: behind what came before it, and before what
// comes after it.
func (sub *subscription) lostLocked() { sub.gapOfAllLocked(codec.GapBus) }

// gapOfAllLocked queues a gap of all topics. If nothing has come since the last one,
// that says it all.
func (sub *subscription) gapOfAllLocked(reason codec.GapReason) {
	q := &sub.out.queue
	if n := len(q.entries); q.len() > 0 && q.entries[n-1].kind == entryFrame && q.entries[n-1].reason == reason {
		return
	}
	q.push(entry{frame: codec.AppendGap(nil, codec.Gap{Reason: reason}), reason: reason})
	sub.session.broker.counters.gap(reason)
}

// beginGapsLocked queues, behind SUBSCRIBED, what of all topics may be missing.
func (sub *subscription) beginGapsLocked() {
	if sub.gone {
		sub.gapOfAllLocked(codec.GapHistory)
	}
	if sub.bus {
		sub.lostLocked()
	}
}

// grant raises the credit of a subscription (PROTOCOL §5.5).
func (s *session) grant(f codec.Flow) {
	sub := s.raise(f)
	if sub != nil && sub.member != nil {
		if p := sub.member.pool.Load(); p != nil {
			p.consumed(sub.member, f.Limit)
		}
	}
}

// raise raises the credit of the subscription of f, which it returns; nil if there is
// none.
func (s *session) raise(f codec.Flow) *subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.subs[f.Subscription]
	if sub == nil {
		return nil
	}
	// The client may have at most its credit open at a time.
	limit := min(f.Limit, sub.out.sent+s.broker.config.Limits.SubscriptionCredit)
	if limit > sub.out.limit {
		sub.out.limit = limit
		if len(sub.debts) > 0 {
			sub.recoverLocked()
		}
		s.scheduleLocked(sub.out)
	}
	return sub
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
	last, ok := sub.settleLocked()
	if ok {
		e.Epoch, e.Offset = codec.Some(sub.topic.epoch), codec.Some(last)
	}
	sub.out.end = true
	sub.session.broker.counters.streamEnd(e.Code)
	sub.out.queue.push(entry{frame: codec.AppendEnd(nil, e)})
	s.scheduleLocked(sub.out)
}

// settleLocked tells what is missing before the end of the stream, and returns the
// position of an exact pattern there. What a log still has is not missing: the
// position is the one before it.
func (sub *subscription) settleLocked() (last uint64, ok bool) {
	q := &sub.out.queue
	sub.tellLocked()
	sub.settleEchoLocked()
	last = sub.written // what was discarded does not come before END
	if q.len() > 0 {
		last = sub.last
	}
	if sub.own.debt != nil {
		last = sub.own.debt.from
	}
	sub.forgiveLocked()
	return last, sub.topic != nil
}

// revoke ends a subscription at once: what waits is discarded.
func (s *session) revoke(sub *subscription, e codec.End) {
	s.mu.Lock()
	if !sub.out.end && !sub.out.gone {
		s.discardLocked(sub.out)
	}
	s.endLocked(sub, e)
	opening := sub.opening
	s.mu.Unlock()
	if sub.member != nil && !opening {
		s.broker.groups.leave(sub.member)
	}
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
	if sub.member != nil {
		b.groups.leave(sub.member)
	} else {
		b.router.remove(sub)
		b.bus.Unsubscribe(sub.pattern, "")
	}
	if sub.topic != nil {
		sub.topic.unpin()
	}
	b.counters.subscriptions.Add(-1)
}
