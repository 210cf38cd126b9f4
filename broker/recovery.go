package broker

import (
	"log/slog"

	"github.com/tidewire/tidewire/codec"
)

// debt is what a subscription owes of a topic: messages that had no room, or that
// came before it began. While there is one, what comes for the topic only makes it
// longer, so that the topic's offsets increase on the stream. A goroutine of the
// session pays it from the topic's log when the queue has drained; without a log it
// becomes a gap then.
//
// The session's mu guards it.
type debt struct {
	track *track
	// owed says what to read: the messages above from, up to and including to.
	owed
	count uint64 // how many messages it has
	// hopeless: no log keeps the messages, and they are counted as dropped already.
	hopeless bool
}

// lowWater is how many bytes may wait for a subscription that pays its debts.
const lowWater = 32 << 10

// drainedLocked reports whether there is room to pay debts, or to tell gaps.
func (sub *subscription) drainedLocked() bool {
	return sub.out.queue.bytes <= min(lowWater, sub.session.broker.config.MaxQueueBytes/4)
}

// missLocked takes note of a message that has no room.
func (sub *subscription) missLocked(d *delivery, reason codec.GapReason) {
	drop := dropReason(reason)
	if !sub.lagging && sub.out.queue.bytes+len(d.frame) <= sub.session.broker.config.MaxQueueBytes {
		drop = DropBudget
	}
	sub.lagging = true
	t := sub.trackLocked(d.topic)
	if t == nil || t.debt == nil {
		if t = sub.indebtLocked(d.topic, owed{from: d.previous, to: d.previous, reason: reason}); t == nil {
			if sub.blind == 0 {
				sub.blind = reason
			}
			sub.dropLocked(drop, 1)
			return
		}
	}
	t.debt.reason = stronger(t.debt.reason, reason)
	sub.widenLocked(t.debt, d, drop)
}

// widenLocked makes a debt longer by a message.
func (sub *subscription) widenLocked(b *debt, d *delivery, drop DropReason) {
	if d.offset <= b.from {
		return // it comes late, from the datagrams
	}
	b.to = max(b.to, d.offset)
	b.count++
	if b.hopeless {
		sub.dropLocked(drop, 1)
	}
}

// keeps reports whether the topic has a history.
func (tp *topic) keeps() bool { return tp.log != nil && tp.config.History.Count > 0 }

// readable reports whether the topic's log may have something that is owed.
func (tp *topic) readable() bool { return tp.keeps() || tp.log != nil && !tp.log.Empty() }

// indebtLocked makes a debt of a topic, or adds to the one that there is; nil if there
// are too many.
func (sub *subscription) indebtLocked(tp *topic, o owed) *track {
	s := sub.session
	if t := sub.trackLocked(tp); (t == nil || t.debt == nil) && sub.topic == nil &&
		(len(sub.debts) >= maxDebts || s.debts >= maxSessionDebts) {
		return nil
	}
	t := sub.makeTrackLocked(tp)
	o.topic = tp
	if t.echo.to != 0 {
		// What was withheld and not told yet becomes a part of it.
		o.from, o.to = min(o.from, t.echo.from), max(o.to, t.echo.to)
		t.echo = echo{}
	}
	if o.snapshot == 0 && o.from < t.snapshot {
		o.snapshot = t.snapshot
	}
	if b := t.debt; b != nil {
		b.from, b.to = min(b.from, o.from), max(b.to, o.to)
		b.snapshot, b.replay = max(b.snapshot, o.snapshot), max(b.replay, o.replay)
		b.fresh, b.unsure = b.fresh || o.fresh, b.unsure || o.unsure
		return t
	}
	t.debt = &debt{track: t, owed: o, hopeless: !tp.keeps()}
	tp.pins.Add(1) // its log is not given up while it is owed
	s.debts++
	sub.debts = append(sub.debts, t.debt)
	return t
}

// dropReason is how a gap is counted.
func dropReason(r codec.GapReason) DropReason {
	switch r {
	case codec.GapHistory:
		return DropHistory
	case codec.GapPriority:
		return DropPriority
	case codec.GapExpired:
		return DropExpired
	case codec.GapConflated:
		return DropConflated
	}
	return DropOverflow
}

// tellLocked lets messages be queued again, after the gaps that no log can fill.
func (sub *subscription) tellLocked() {
	sub.lagging = false
	for i := 0; i < len(sub.debts); {
		b := sub.debts[i]
		if b.topic.readable() {
			i++
			continue
		}
		if b.from < b.snapshot {
			sub.pushHoleLocked(entry{kind: entrySkip, topic: b.topic, from: b.from, offset: b.snapshot})
			b.from = b.snapshot
		}
		count := countOf(b.count)
		if b.unsure {
			count = unknownCount
		}
		if b.from < b.to {
			sub.pushHoleLocked(entry{kind: entryGap, topic: b.topic, from: b.from, offset: b.to, reason: b.reason, count: count})
		}
		sub.paidLocked(b)
	}
	if sub.blind != 0 {
		sub.out.queue.push(entry{frame: codec.AppendGap(nil, codec.Gap{Reason: sub.blind})})
		sub.session.broker.counters.gap(sub.blind)
		sub.blind = 0
	}
}

// countOf is the count of a gap entry.
func countOf(n uint64) uint32 { return uint32(min(n, unknownCount)) }

// pushHoleLocked queues a gap or a skip, and before it what must be announced.
func (sub *subscription) pushHoleLocked(e entry) {
	if frame := sub.announcementLocked(e.topic, e.from); frame != nil {
		sub.out.queue.push(entry{frame: frame})
		sub.announcedLocked(e.topic)
		sub.skipBeforeLocked(e.topic, e.from)
	}
	sub.out.queue.push(e)
	sub.last = e.offset
	sub.compactLocked()
}

// paidLocked ends a debt.
func (sub *subscription) paidLocked(b *debt) {
	for i := range sub.debts {
		if sub.debts[i] == b {
			last := len(sub.debts) - 1
			copy(sub.debts[i:], sub.debts[i+1:])
			sub.debts[last] = nil
			sub.debts = sub.debts[:last]
			break
		}
	}
	sub.releaseDebtLocked(b)
}

func (sub *subscription) releaseDebtLocked(b *debt) {
	b.track.debt = nil
	b.topic.unpin()
	sub.session.debts--
}

// forgiveLocked ends all debts, and forgets what was to be told: the subscription ends.
func (sub *subscription) forgiveLocked() {
	sub.own.echo = echo{}
	for _, t := range sub.tracks {
		if t != nil {
			t.echo = echo{}
		}
	}
	for _, b := range sub.debts {
		sub.releaseDebtLocked(b)
	}
	sub.debts, sub.lagging, sub.blind = nil, false, 0
	for i := range sub.parked {
		sub.session.releaseLocked(sub.out, len(sub.parked[i].frame))
	}
	sub.parked, sub.parkedBytes = nil, 0
}

// recoverLocked goes on where the queue has drained: with the gaps, and with the
// goroutine that pays debts.
func (sub *subscription) recoverLocked() {
	s := sub.session
	// Without credit nothing could follow: a subscriber that is stalled is not sent
	// gaps, and no room is taken for it.
	if sub.parking || sub.out.end || sub.out.gone || !sub.out.credited() || !sub.drainedLocked() {
		return
	}
	sub.tellLocked()
	if len(sub.debts) > 0 && !sub.refilling && !s.stopped {
		sub.refilling = true
		s.wg.Go(func() { s.refill(sub) })
	}
}

// refill pays debts, a page at a time, as long as there is room. The lock is not held
// while a log is read.
func (s *session) refill(sub *subscription) {
	for {
		s.mu.Lock()
		if len(sub.debts) == 0 || sub.out.end || sub.out.gone || s.stopped ||
			!sub.out.credited() || !sub.drainedLocked() {
			sub.refilling = false
			s.mu.Unlock()
			return
		}
		b := sub.debts[0]
		page := reader{owed: b.owed, class: sub.classOf(b.topic), filter: sub.filter, air: sub.airs(b.topic), now: s.broker.now}
		if sub.noEcho {
			page.own = s.id
		}
		s.mu.Unlock()

		through, err := page.read(s.ctx)
		if err != nil {
			if s.ctx.Err() == nil {
				s.log.Warn("history could not be read", slog.String("topic", b.topic.name), slog.Any("error", err))
			}
			through = page.to
			page.hole(through, b.reason, unknownCount)
		}

		s.mu.Lock()
		// What waited may have become a part of the debt meanwhile: then it is read again.
		more := b.track.debt != b || b.from != page.from || sub.payLocked(b, page.entries, through)
		s.scheduleLocked(sub.out)
		if !more {
			sub.refilling = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

// airs reports whether lossy messages of a topic travel by datagram: their loss shows
// in the client, and is not told here.
func (sub *subscription) airs(tp *topic) bool {
	return sub.session.slot.max.Load() > 0 && sub.byDatagram(sub.classOf(tp), true)
}

// payLocked queues what was read for a debt, up to and including through. It reports
// whether there was room for all of it.
func (sub *subscription) payLocked(b *debt, page []entry, through uint64) bool {
	q := &sub.out.queue
	class := sub.classOf(b.topic)
	for i := range page {
		e := &page[i]
		if e.kind == entryMessage {
			d := delivery{topic: b.topic, frame: e.frame, offset: e.offset, previous: e.from, key: e.key(), extra: e.extra}
			if conflates(class) {
				sub.replaceLocked(&d)
			}
			if !sub.appendLocked(&d, class, true) {
				if q.len() > 0 {
					return false // the writer comes back when it has drained
				}
				// The budget of the broker is spent: nothing would ever wake the payment.
				n := b.to - b.from
				sub.dropLocked(DropBudget, n)
				sub.pushHoleLocked(entry{
					kind: entryGap, topic: b.topic, from: b.from, offset: b.to,
					reason: stronger(codec.GapOverflow, b.reason), count: countOf(n),
				})
				sub.paidLocked(b)
				return true
			}
		} else {
			if e.kind == entryGap && e.count != unknownCount && !b.hopeless {
				sub.dropLocked(dropReason(e.reason), uint64(e.count))
			}
			sub.pushHoleLocked(*e)
		}
		b.from = e.offset
	}
	b.from = max(b.from, through)
	if b.from >= b.to {
		sub.paidLocked(b)
	} else if len(sub.debts) > 1 {
		// The topics of a pattern take turns.
		copy(sub.debts, sub.debts[1:])
		sub.debts[len(sub.debts)-1] = b
	}
	return true
}
