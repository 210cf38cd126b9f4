package broker

import (
	"slices"

	"github.com/tidewire/tidewire/codec"
)

// beginning is where a subscription begins in one topic.
type beginning struct {
	topic *topic
	// snapshot: with its last values.
	snapshot bool
	// values: with last values alone of what is above after and not above this.
	values uint64
	// after: with the messages above it; if clamp is set, with none.
	after uint64
	clamp bool
	// fresh: all of this epoch is new to the client. beyond: the client was where
	// the topic never has been.
	fresh, beyond bool
	// told: the client must learn of the topic, even if nothing is owed.
	told bool
	// unsure: how much is missing is not known.
	unsure bool
	// heard: behind which offset messages that the bus may have lost are told; not set:
	// none are. It is looked at when the router knows the subscription: from then on it is
	// told of them itself.
	heard codec.Optional
	// last is the topic's last offset when the subscription began.
	last uint64
}

// openTopic begins a subscription to one topic, which is pinned.
func (s *session) openTopic(sub *subscription, f codec.Subscribe) error {
	tp := sub.topic
	seen := tp.position()
	begin, err := s.beginning(tp, f, sub.classOf(tp))
	if err != nil {
		return err
	}
	return s.beginTopic(sub, f, begin, seen)
}

// beginTopic makes sub receive what its topic gets. It stood at seen before begin was
// found: messages, and losses of the bus, may have come since.
func (s *session) beginTopic(sub *subscription, f codec.Subscribe, begin beginning, seen Position) error {
	tp := sub.topic
	gone := s.broker.topics.evictedSince(sub.pattern, f.From)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := sub.beginLocked(); err != nil {
		return err
	}
	sub.gone = gone
	pos := tp.position()
	if f.From.Kind == codec.FromNow && f.Group == "" && !f.NoRetained && pos != seen {
		begin.snapshot = tp.log != nil // one may have come since the log was looked at
	}
	if f.From.Kind == codec.FromTime && pos != seen && begin.clamp && sub.classOf(tp) != codec.ClassUnreliable {
		begin.clamp, begin.after = false, seen.Offset // what has come since then is younger than the time
	}
	begin.last = pos.Offset
	sub.own = track{topic: tp, start: pos.Offset, announced: 1}
	sub.last, sub.written = pos.Offset, pos.Offset
	o, owes := begin.owed()
	if owes {
		sub.last, sub.written = o.from, o.from
	}
	answer := codec.Subscribed{
		Topic: tp.num, Epoch: pos.Epoch, Offset: sub.last,
		Time: codec.Some(s.broker.now()), Class: sub.classTold(tp),
	}
	if owes {
		answer.Last = codec.Some(pos.Offset)
	}
	sub.out.queue.push(entry{frame: codec.AppendSubscribed(nil, answer)})
	sub.bus = sub.bus || begin.lost()
	sub.beginGapsLocked()
	if owes {
		sub.oweBeginLocked(o)
	}
	sub.tellBeginLocked(begin)
	sub.recoverLocked()
	s.scheduleLocked(sub.out)
	return nil
}

// oweBeginLocked takes note of what is owed of a topic from the beginning; false if it can
// only be told.
func (sub *subscription) oweBeginLocked(o owed) bool {
	o.unsure = o.unsure || sub.noEcho || sub.filter != nil
	if t := sub.trackLocked(o.topic); t != nil {
		t.snapshot = o.snapshot
	}
	t := sub.indebtLocked(o.topic, o)
	if t == nil {
		sub.blind, sub.lagging = codec.GapHistory, true
		return false
	}
	t.debt.count += o.to - o.from
	return true
}

// tellBeginLocked tells what cannot be known of a topic.
func (sub *subscription) tellBeginLocked(begin beginning) {
	tp := begin.topic
	if !begin.told {
		return
	}
	if frame := sub.announcementLocked(tp, begin.last); frame != nil {
		sub.out.queue.push(entry{frame: frame})
		sub.announcedLocked(tp)
	}
	if begin.beyond {
		sub.out.queue.push(entry{frame: codec.AppendGap(nil, codec.Gap{
			Topic: tp.num, Epoch: codec.Some(tp.epoch), Reason: codec.GapHistory,
		})})
		sub.session.broker.counters.gap(codec.GapHistory)
	}
}

// lost reports whether the bus may have lost messages that the subscription asks for.
func (g beginning) lost() bool { return g.heard.Set && g.topic.lostAt.Load() > g.heard.Value }

// owed returns what is owed of the topic.
func (g beginning) owed() (owed, bool) {
	o := owed{topic: g.topic, to: g.last, from: g.after, reason: codec.GapHistory, replay: g.last, fresh: g.fresh || g.beyond, unsure: g.unsure}
	switch {
	case g.snapshot:
		o.from, o.snapshot = 0, g.last
	case g.clamp:
		o.from = g.last
	default:
		o.snapshot = min(g.values, g.last)
	}
	return o, o.from < g.last
}

// beginning finds where a subscription begins in a topic.
func (s *session) beginning(tp *topic, f codec.Subscribe, class codec.Class) (beginning, error) {
	g := beginning{topic: tp, clamp: true}
	if f.From.Kind == codec.FromNow {
		if f.Group != "" || f.NoRetained || tp.log == nil || tp.log.Empty() {
			return g, nil
		}
		values, err := tp.log.Retained(s.ctx, 0, codec.MaxInteger, 1, 1)
		g.snapshot = len(values) > 0
		return g, err
	}
	if f.From.Kind == codec.FromPosition {
		at := codec.TopicPosition{Epoch: f.From.Epoch, Offset: f.From.Offset, Values: f.From.Values}
		return beginAt(tp, at, class), nil
	}
	if class == codec.ClassUnreliable {
		return g, nil // it gets nothing of what was missed
	}
	from := f.From
	if from.Kind == codec.FromPositions {
		from = codec.From{Kind: codec.FromTime, Time: f.From.Time}
	}
	if from.Kind == codec.FromTime {
		if tp.lastUsed() < from.Time {
			return g, nil
		}
		if tp.log == nil {
			return beginning{topic: tp, unsure: true}, nil
		}
	}
	if tp.log == nil {
		return g, nil
	}
	after, err := tp.log.Seek(s.ctx, from)
	// In front of all that is kept nothing is missing of it.
	return beginning{topic: tp, after: after, unsure: from.Kind == codec.FromTime, heard: codec.Some(after + 1)}, err
}

// beginAt begins behind a position.
func beginAt(tp *topic, at codec.TopicPosition, class codec.Class) beginning {
	g := beginning{topic: tp, after: at.Offset, clamp: class == codec.ClassUnreliable, heard: codec.Some(at.Offset)}
	pos := tp.position()
	switch {
	case pos.Epoch != at.Epoch:
		g.after, g.fresh, g.told = 0, true, true
	case at.Offset > pos.Offset:
		g.after, g.beyond, g.told = 0, true, true
	case tp.log != nil:
		g.values = at.Values
	}
	return g
}

// openPattern begins a subscription to a pattern that is not exact. What comes while
// the topics are looked through is parked.
func (s *session) openPattern(sub *subscription, f codec.Subscribe) error {
	s.mu.Lock()
	if err := sub.beginLocked(); err != nil {
		s.mu.Unlock()
		return err
	}
	answer := codec.Subscribed{Time: codec.Some(s.broker.now())}
	// SUBSCRIBED goes out when all topics were looked through: what is published after
	// the client has it is none of what they kept.
	sub.parking = f.Group == "" && (f.From.Kind != codec.FromNow || !f.NoRetained)
	if !sub.parking {
		sub.out.queue.push(entry{frame: codec.AppendSubscribed(nil, answer)})
		sub.beginGapsLocked()
		s.scheduleLocked(sub.out)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	list, err := s.beginnings(sub, f)
	gone := s.broker.topics.evictedSince(sub.pattern, f.From)

	s.mu.Lock()
	defer s.mu.Unlock()
	sub.gone = gone
	if err != nil && s.ctx.Err() == nil {
		sub.blind, sub.lagging = codec.GapHistory, true
	}
	if !sub.out.end && !sub.out.gone {
		sub.beginPatternLocked(answer, list)
	}
	for _, g := range list {
		g.topic.unpin()
	}
	sub.parking = false
	parked := sub.parked
	sub.parked, sub.parkedBytes = nil, 0
	for i := range parked {
		s.releaseLocked(sub.out, len(parked[i].frame))
		if sub.out.end || sub.out.gone {
			continue
		}
		if t := sub.trackLocked(parked[i].topic); t != nil && t.debt != nil && parked[i].offset > t.start {
			t.debt.from = min(t.debt.from, parked[i].previous) // more has come than could be parked
		}
		sub.acceptLocked(&parked[i])
	}
	sub.recoverLocked()
	s.scheduleLocked(sub.out)
	return nil
}

// beginPatternLocked answers with SUBSCRIBED, and takes note of what is owed of the
// topics of a pattern.
func (sub *subscription) beginPatternLocked(answer codec.Subscribed, list []beginning) {
	var owing []beginning
	for i := range list {
		g := &list[i]
		g.last = g.topic.position().Offset
		if len(sub.tracks) < maxAnnounced {
			sub.makeTrackLocked(g.topic).start = g.last
		}
		if o, owes := g.owed(); owes && sub.oweBeginLocked(o) {
			owing = append(owing, *g)
		}
	}
	if len(owing) > 0 {
		answer.Topics = codec.Some(uint64(len(owing)))
	}
	sub.out.queue.push(entry{frame: codec.AppendSubscribed(nil, answer)})
	sub.bus = sub.bus || slices.ContainsFunc(list, beginning.lost)
	sub.beginGapsLocked()
	for _, g := range list {
		sub.tellBeginLocked(g)
	}
	// Whoever is cut off while it is given what is owed of the first topics can say then
	// where it is in the others: as many as it can name.
	for _, g := range owing[:min(len(owing), codec.MaxPositions)] {
		if frame := sub.announcementLocked(g.topic, g.last); frame != nil && sub.roomLocked(len(frame)) {
			sub.out.queue.push(entry{frame: frame, charged: true})
			sub.announcedLocked(g.topic)
		}
	}
}

// beginnings finds the topics with which a pattern begins, and pins them.
func (s *session) beginnings(sub *subscription, f codec.Subscribe) (list []beginning, err error) {
	table := s.broker.topics
	listed := make(map[string]struct{}, len(f.From.Positions))
	for _, at := range f.From.Positions {
		if _, twice := listed[at.Topic]; twice || !codec.Match(sub.pattern, at.Topic) {
			continue
		}
		// The topic is made if it is gone: its new epoch tells the client.
		tp, e := table.get(at.Topic, true)
		if e != nil {
			err = e
			continue
		}
		listed[tp.name] = struct{}{}
		list = append(list, beginAt(tp, at, sub.classOf(tp)))
	}
	for _, tp := range table.matching(sub.pattern) {
		if _, done := listed[tp.name]; done {
			continue
		}
		g, e := s.beginning(tp, f, sub.classOf(tp))
		if e != nil {
			err = e // of a topic that was evicted meanwhile, say
			continue
		}
		g.last = tp.position().Offset
		if _, owes := g.owed(); !owes {
			continue
		}
		tp.pins.Add(1)
		list = append(list, g)
	}
	return list, err
}

// parkLocked keeps a message until the topics of a pattern were looked through.
func (sub *subscription) parkLocked(d *delivery) {
	n := len(d.frame)
	if sub.parkedBytes+n > sub.session.broker.config.MaxQueueBytes || !sub.session.chargeLocked(sub.out, n, false) {
		sub.missLocked(d, codec.GapOverflow)
		return
	}
	sub.parkedBytes += n
	sub.parked = append(sub.parked, *d)
}
