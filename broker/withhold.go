package broker

import "github.com/tidewire/tidewire/codec"

// echo is a run of a topic's messages that were withheld and not told yet: those with
// offsets above from, up to and including to. The zero value is none.
type echo struct{ from, to uint64 }

// withholds reports whether a message is none that the client asked for: its own, or
// one that its filter does not let through.
func (sub *subscription) withholds(publisher codec.ID, headers codec.Headers) bool {
	return sub.noEcho && publisher == sub.session.id || sub.filter != nil && !sub.filter.Match(headers)
}

// withholdLocked takes note of a message that is withheld. It is told before the next
// message of the topic (PROTOCOL §6.7): most runs are long, and some never end.
func (sub *subscription) withholdLocked(t *track, d *delivery) {
	if sub.classOf(d.topic) == codec.ClassUnreliable {
		return // nobody counts these
	}
	if t != nil && t.debt != nil {
		t.debt.to = max(t.debt.to, d.offset) // whoever pays withholds it again
		return
	}
	sub.last = d.offset
	if t == nil {
		if !sub.knowsLocked(d.topic) {
			return // TOPIC will begin behind it
		}
		t = sub.makeTrackLocked(d.topic)
	}
	if t.echo.to != 0 && t.echo.to != d.previous {
		sub.tellEchoLocked(t) // something went by datagram between
	}
	if t.echo.to == 0 {
		t.echo.from = d.previous
	}
	t.echo.to = d.offset
}

// skipBeforeLocked tells, behind a TOPIC frame, what was withheld before it: a client
// that knew the topic goes on where it was.
func (sub *subscription) skipBeforeLocked(tp *topic, before uint64) {
	if sub.forgot && (sub.noEcho || sub.filter != nil) && before > 0 {
		sub.out.queue.push(entry{kind: entrySkip, topic: tp, from: before, offset: before})
	}
}

// tellEchoLocked queues what tells of a run.
func (sub *subscription) tellEchoLocked(t *track) {
	e := t.echo
	t.echo = echo{}
	if e.from > 0 && sub.airs(t.topic) {
		// SKIP covers all that has not come, so what was sent by datagram before the
		// run is told first. A client that has got it ignores the gap.
		sub.out.queue.push(entry{kind: entryGap, topic: t.topic, from: e.from, offset: e.from, reason: codec.GapLost, count: unknownCount})
	}
	sub.out.queue.push(entry{kind: entrySkip, topic: t.topic, from: e.from, offset: e.to})
	sub.compactLocked()
}

// settleEchoLocked tells of all runs of topics that the client knows from the stream: the
// subscription ends.
func (sub *subscription) settleEchoLocked() {
	if sub.own.echo.to != 0 {
		sub.tellEchoLocked(&sub.own)
	}
	for _, t := range sub.tracks {
		if t != nil && t.echo.to != 0 && sub.toldLocked(t) {
			sub.tellEchoLocked(t)
		}
	}
}
