package client

import (
	"context"
	"fmt"
	"testing"

	"github.com/tidewire/tidewire/codec"
)

// A subscription that has no connection, as far as what it hands out goes.
func looseSubscription(class Class) *Subscription {
	s := newSubscription(nil, ">", SubscribeOptions{Class: class})
	s.begun = true
	return s
}

// drain takes everything that waits.
func drain(s *Subscription) (items []Message) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		s.mu.Lock()
		empty := s.inbox.empty()
		s.mu.Unlock()
		if empty {
			return items
		}
		m, _, err, ok := s.next(ctx)
		if err != nil || !ok {
			panic(fmt.Sprint(err, ok))
		}
		items = append(items, m)
	}
}

// covered checks that offsets and the extents of gaps of one topic follow one
// another without a hole, and returns the last offset.
func covered(t *testing.T, items []Message) uint64 {
	t.Helper()
	last := uint64(0)
	for _, m := range items {
		if g := m.Gap; g != nil {
			if g.From.Offset != last || g.To.Offset <= last {
				t.Fatalf("gap (%d,%d] after %d", g.From.Offset, g.To.Offset, last)
			}
			last = g.To.Offset
			continue
		}
		if m.Position.Offset != last+1 {
			t.Fatalf("offset %d after %d", m.Position.Offset, last)
		}
		last++
	}
	return last
}

// However many messages come while the application is slow, and whatever is
// missing between them, few wait, the newest among them, and every hole is told.
func TestSlowApplicationKeepsTheNewest(t *testing.T) {
	for name, step := range map[string]uint64{"dense": 1, "with gaps": 2} {
		t.Run(name, func(t *testing.T) {
			s := looseSubscription(Sequenced)
			s.sequence.announce(nil, announcement{num: 1, name: "x", epoch: 1, offset: 0})
			const count = 20_000
			for i := range uint64(count) {
				s.datagram(codec.Message{Topic: 1, Offset: step * (i + 1), Previous: 1})
			}
			if n := s.Stats().Waiting; n > manyLoose+1 {
				t.Errorf("%d items wait", n)
			}
			items := drain(s)
			if last := items[len(items)-1]; last.Gap != nil || last.Position.Offset != step*count {
				t.Errorf("the last item is %+v", last)
			}
			if last := covered(t, items); last != step*count {
				t.Errorf("covered up to %d", last)
			}
			if n := s.Stats().Conflated; n == 0 || n >= count {
				t.Errorf("%d messages were conflated", n)
			}
		})
	}
}

// Of more topics than the bound the newest stay, and the gap is told before them,
// even if no message follows.
func TestOverflowIsTold(t *testing.T) {
	s := looseSubscription(Sequenced)
	const count = maxLoose + 500
	for i := range uint64(count) {
		s.sequence.announce(nil, announcement{num: i + 1, name: fmt.Sprint("t", i), epoch: 1, offset: 0})
		s.datagram(codec.Message{Topic: i + 1, Offset: 1, Previous: 1})
	}
	items := drain(s)
	if g := items[0].Gap; g == nil || g.Reason != codec.GapOverflow || g.Count != 500 || g.Topic != "" {
		t.Fatalf("the first item is %+v", items[0])
	}
	if len(items) != maxLoose+1 || items[1].Topic != "t500" || items[maxLoose].Topic != fmt.Sprint("t", count-1) {
		t.Errorf("%d items, from %s to %s", len(items), items[1].Topic, items[len(items)-1].Topic)
	}
	if n := s.Stats().Overflow; n != 500 {
		t.Errorf("%d messages were counted", n)
	}
}

// A gap alone, with nothing behind it, is handed out.
func TestOverflowGapAlone(t *testing.T) {
	var stats SubscriptionStats
	b := newInbox(&stats)
	for i := range maxLoose + 1 {
		b.pushLoose(Message{Topic: fmt.Sprint(i)})
	}
	for b.entries.Len() > 0 {
		b.remove(b.back())
	}
	if m, _ := b.pop(); m.Gap == nil || m.Gap.Topic != "0" || m.Gap.Count != 1 || !b.empty() {
		t.Errorf("got %+v", m)
	}
}

// GAP frames of the broker alone are bounded too: of one topic they are one, of
// many the oldest become one of unknown extent.
func TestGapsAreBounded(t *testing.T) {
	var stats SubscriptionStats
	b := newInbox(&stats)
	for i := range uint64(5000) {
		b.pushGap(Gap{Topic: "x", From: &Position{1, i}, To: &Position{1, i + 1}, Reason: codec.GapOverflow, Count: 1})
	}
	if m, _ := b.pop(); m.Gap.From.Offset != 0 || m.Gap.To.Offset != 5000 || m.Gap.Count != 5000 || m.Gap.Reason != codec.GapOverflow || !b.empty() {
		t.Errorf("got %+v", m.Gap)
	}
	for i := range 5000 {
		b.pushGap(Gap{Topic: fmt.Sprint(i), Reason: codec.GapBus})
	}
	if b.len() != maxLoose {
		t.Errorf("%d gaps wait", b.len())
	}
	if m, _ := b.pop(); m.Gap.Topic != "" || m.Gap.Count != 0 {
		t.Errorf("got %+v", m.Gap)
	}
}

// Reliable messages are never dropped nor moved, and gaps stay where they are
// between them.
func TestReliableMessagesStay(t *testing.T) {
	s := looseSubscription(Reliable)
	s.sequence.announce(nil, announcement{num: 1, name: "x", epoch: 1, offset: 0})
	const count = 3000
	for i := range uint64(count) {
		var items []item
		items = s.sequence.gap(items, codec.Gap{Topic: 1, From: codec.Some(3 * i), To: codec.Some(3*i + 1), Reason: codec.GapOverflow, Count: codec.Some(1)})
		items, err := s.sequence.stream(items, codec.Message{Topic: 1, Offset: 3*i + 2, Previous: 1}, 10)
		if err != nil {
			t.Fatal(err)
		}
		s.pushLocked(items)
		s.datagram(codec.Message{Topic: 1, Offset: 3*i + 3, Previous: 1, Reliable: codec.Some(1)})
	}
	if s.inbox.credit != 10*count {
		t.Errorf("%d bytes of credit wait", s.inbox.credit)
	}
	items := drain(s)
	reliable, lossy := 0, 0
	for _, m := range items {
		switch {
		case m.Gap != nil:
		case m.Lossy:
			lossy++
		default:
			reliable++
		}
	}
	if last := covered(t, items); last != 3*count || reliable != count || s.inbox.credit != 0 {
		t.Errorf("%d reliable messages, up to offset %d; %d bytes of credit are left", reliable, last, s.inbox.credit)
	}
	if m := items[len(items)-1]; !m.Lossy || lossy > manyLoose+1 {
		t.Errorf("%d lossy messages wait, the newest is %+v", lossy, m)
	}
}

// Of the messages of a key that wait the newest stays, behind those of other keys
// that came before it, and a gap is in its place.
func TestKeysWaitOnTheirOwn(t *testing.T) {
	s := looseSubscription(Sequenced)
	s.sequence.announce(nil, announcement{num: 1, name: "x", epoch: 1})
	const keys, count = 100, 5000
	for i := range uint64(count) {
		s.datagram(codec.Message{Topic: 1, Offset: i + 1, Previous: 1, Key: fmt.Sprint(i % keys)})
	}
	items := drain(s)
	newest := make(map[string]uint64)
	for _, m := range items {
		if m.Gap == nil {
			newest[m.Key] = m.Position.Offset
		}
	}
	for i := range uint64(keys) {
		if got := newest[fmt.Sprint(i)]; got != count-keys+i+1 {
			t.Errorf("key %d: the newest is %d", i, got)
		}
	}
	if last := covered(t, items); last != count || len(items) > 2*keys+2*manyLoose {
		t.Errorf("%d items up to %d", len(items), last)
	}
}

// Class unreliable drops the oldest, tells no gap, and conflates nothing.
func TestUnreliableDropsTheOldest(t *testing.T) {
	s := looseSubscription(Unreliable)
	s.sequence.announce(nil, announcement{num: 1, name: "x", epoch: 1})
	for i := range uint64(2 * maxLoose) {
		s.datagram(codec.Message{Topic: 1, Offset: 2*i + 2, Previous: 1})
	}
	s.datagram(codec.Message{Topic: 1, Offset: 1, Previous: 1})
	items := drain(s)
	if len(items) != maxLoose || items[maxLoose-1].Position.Offset != 1 || items[0].Gap != nil || s.stats.Overflow != maxLoose+1 {
		t.Errorf("%d items, %d dropped, the first is %+v", len(items), s.stats.Overflow, items[0])
	}
}

// A subscription remembers a bounded number of topics: those used last.
func TestRememberedTopicsAreBounded(t *testing.T) {
	var stats SubscriptionStats
	q := newSequencer(Reliable, &stats)
	q.announce(nil, announcement{num: 1, name: "used", epoch: 1, offset: 0})
	q.announce(nil, announcement{num: 2, name: "unused", epoch: 1, offset: 0})
	for i := range uint64(maxRemembered) {
		q.announce(nil, announcement{num: i + 3, name: fmt.Sprint("t", i), epoch: 1, offset: 0})
		if _, err := q.stream(nil, codec.Message{Topic: 1, Offset: i + 1, Previous: 1}, 1); err != nil {
			t.Fatal(err)
		}
	}
	if len(q.topics) != maxRemembered || len(q.byName) != maxRemembered || q.recent.Len() != maxRemembered || !q.knows(1) || q.knows(2) {
		t.Errorf("%d topics are remembered", len(q.topics))
	}
	out, err := q.stream(nil, codec.Message{Topic: 2, Offset: 1, Previous: 1}, 7)
	if err != nil || len(out) != 2 || out[0].message.Gap == nil || out[1].credit != 7 || stats.UnknownTopic != 1 {
		t.Errorf("a message of a topic that was forgotten: %+v, %v", out, err)
	}
	for i := range uint64(10) { // a topic that loses its log again and again
		q.announce(nil, announcement{num: 1<<20 + i, name: "again", epoch: i + 1, offset: 0})
	}
	if q.knows(1<<20+8) || !q.knows(1<<20+9) {
		t.Error("the numbers that a topic had before are still known")
	}
}

// What comes behind a gap of all topics stays behind it, although a message of its key
// waits before the gap and would give its place to it otherwise.
func TestGapOfAllTopicsIsABarrier(t *testing.T) {
	s := looseSubscription(Sequenced)
	for i := range 2 * manyLoose {
		topic := fmt.Sprintf("t%d", i)
		s.inbox.pushLoose(Message{Topic: topic, Position: Position{1, 1}})
	}
	s.inbox.pushGap(Gap{Reason: codec.GapReconnect})
	s.inbox.pushLoose(Message{Topic: "t0", Position: Position{2, 1}})
	items := drain(s)
	if len(items) != 2*manyLoose+2 {
		t.Fatalf("%d items", len(items))
	}
	gap, last := items[len(items)-2], items[len(items)-1]
	if gap.Gap == nil || gap.Gap.Reason != codec.GapReconnect || last.Topic != "t0" || last.Position.Epoch != 2 {
		t.Errorf("at the end: %v, %v", gap, last)
	}
}

// A member of a group that is stalled over many connections keeps what waits of the
// first ones, within its credit. A gap tells of the others.
func TestStalledMemberIsBounded(t *testing.T) {
	const size, credit, each = 100, 1000, 8
	s := looseSubscription(Reliable)
	n, told := uint64(0), uint64(0)
	for range 5 {
		for range each {
			n++
			s.inbox.pushReliable(Message{Topic: "t", Position: Position{1, n}}, size)
		}
		s.inbox.forgetCredit(credit)
	}
	items := drain(s)
	for i, m := range items {
		switch {
		case m.Gap == nil && m.Position.Offset != uint64(i+1):
			t.Errorf("item %d has offset %d", i, m.Position.Offset)
		case m.Gap != nil:
			told += m.Gap.Count
		}
	}
	if len(items) != credit/size+1 || told != n-credit/size {
		t.Errorf("%d items, %d messages were told to be missing", len(items), told)
	}
	if s.inbox.credit != 0 || s.stats.Overflow != told {
		t.Errorf("credit %d, %+v", s.inbox.credit, s.stats)
	}
}
