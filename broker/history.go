package broker

import (
	"github.com/tidewire/tidewire/codec"
)

// historyPage is a page of a topic's history on its way to a client (PROTOCOL
// §6.8). The goroutine that serves its stream reads the log, and waits for the
// writer in between, so that little of a page waits in memory.
type historyPage struct {
	// Static after construction.
	session *session
	topic   *topic // pinned
	out     *outlet
	fetch   codec.Fetch
	last    uint64 // the topic's last offset when the page began

	// Owned by serve.
	buf      []byte // frames that are not queued yet
	bytes    int    // of all frames of messages
	messages uint64 // that were given
	at       uint64 // the offset that was reached
	gap      codec.Gap
	lost     bool // that the bus has missed something in several places was told
}

const (
	// pageChunk is about how many bytes of a page wait at a time.
	pageChunk = 32 << 10
	// pageRank is that of subscriptions with the usual priority.
	pageRank = rankFirst + 3
)

// servePage answers FETCH; first is the first frame of its stream.
func (s *session) servePage(stream Stream, first codec.Frame) error {
	f, err := codec.ParseFetch(first)
	if err != nil {
		return err
	}
	if err := s.permitSubscribe(f.Topic); err != nil {
		return err
	}
	if s.broker.topics.config(f.Topic).History.Count == 0 {
		return codec.Errorf(codec.CodeNotOffered, "%q is configured without history", f.Topic)
	}
	s.mu.Lock()
	full := s.pages >= codec.MaxPages
	if !full {
		s.pages++
	}
	s.mu.Unlock()
	if full {
		return codec.Errorf(codec.CodeTooManyRequests, "the session reads %d pages already: wait for one to end", codec.MaxPages)
	}
	tp, err := s.broker.topics.get(f.Topic, true)
	if err != nil {
		s.pageEnded()
		return err
	}
	defer tp.unpin()
	p := &historyPage{session: s, topic: tp, out: newOutlet(stream, pageRank), fetch: f, last: tp.position().Offset}
	p.out.done = func(err error) {
		if err != nil {
			stream.CancelWrite(uint32(codec.CodeOK))
		}
		s.letGo(stream, err)
		s.pageEnded()
	}
	stream.SetPriority(pageRank-rankFirst, true)
	p.end(p.serve())
	return nil
}

// pageEnded gives back the place of a page.
func (s *session) pageEnded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages--
}

// serve queues the page but for its end. more tells that the history goes on behind
// p.at.
func (p *historyPage) serve() (more bool, err error) {
	oldest, _, err := p.topic.log.Read(p.session.ctx, 0, p.last, 1, 0)
	if err != nil {
		return false, err
	}
	answer := codec.Page{Topic: p.topic.num, Epoch: p.topic.epoch, Last: p.last}
	if len(oldest) > 0 {
		answer.First = oldest[0].Offset
	}
	p.buf = codec.AppendPage(p.buf, answer)
	if p.fetch.Backward {
		return p.backward()
	}
	return p.forward()
}

func (p *historyPage) forward() (more bool, err error) {
	ctx, log, from := p.session.ctx, p.topic.log, p.fetch.From
	begin := codec.Some(from.Offset)
	switch from.Kind {
	case codec.FromPosition:
		p.at = from.Offset
		if from.Epoch == p.topic.epoch {
			break
		}
		from = codec.From{Kind: codec.FromBeginning}
		fallthrough
	default:
		if from.Kind == codec.FromNow {
			from.Kind = codec.FromBeginning
		}
		begin.Set = false // what is missing before it may reach back to anywhere
		if p.at, err = log.Seek(ctx, from); err != nil {
			return false, err
		}
	}
	for {
		records, base, err := log.Read(ctx, p.at, p.last, p.room()+1, codec.MaxPageBytes)
		if err != nil {
			return false, err
		}
		if to := min(base, p.last); to > p.at {
			p.missing(begin, to, codec.GapHistory, 0)
			p.at = to
		}
		for i := range records {
			if !p.give(&records[i]) {
				return true, nil
			}
		}
		if len(records) == 0 {
			p.lapsed(p.at, p.last+1)
			return false, nil
		}
		begin = codec.Some(p.at)
	}
}

func (p *historyPage) backward() (more bool, err error) {
	p.at = p.last + 1
	asked := uint64(0) // messages before this one
	if from := p.fetch.From; from.Kind == codec.FromPosition && from.Epoch == p.topic.epoch {
		p.at = min(p.at, from.Offset)
		asked = p.at
	}
	for {
		records, base, err := p.topic.log.ReadBack(p.session.ctx, p.at, p.room()+1, codec.MaxPageBytes)
		if err != nil {
			return false, err
		}
		for i := range records {
			if !p.give(&records[i]) {
				return true, nil
			}
		}
		if len(records) == 0 {
			if p.at == asked && 1 < asked && asked <= base+1 { // they were there once
				p.missing(codec.Optional{}, asked-1, codec.GapHistory, 0)
			}
			return false, nil
		}
	}
}

// room is how many messages the page may still get.
func (p *historyPage) room() int { return int(p.fetch.Limit - p.messages) }

// give queues a record, or the gap in its place. It reports false if the page is
// full.
func (p *historyPage) give(r *Record) bool {
	if r.Expires != 0 && r.Expires <= p.session.broker.now() {
		p.missing(codec.Some(r.Offset-1), r.Offset, codec.GapExpired, 1)
		p.at = r.Offset
		return true
	}
	if p.messages == p.fetch.Limit {
		return false
	}
	frame := p.topic.encode(r)
	if p.messages > 0 && p.bytes+len(frame) > codec.MaxPageBytes {
		return false
	}
	p.lapsed(min(p.at, r.Offset), max(p.at, r.Offset))
	p.tellMissing()
	p.buf = append(p.buf, frame...)
	p.bytes += len(frame)
	p.messages++
	p.at = r.Offset
	return len(p.buf) < pageChunk || p.flush()
}

// lapsed takes note of what the bus may have missed between two offsets.
func (p *historyPage) lapsed(after, before uint64) {
	// Where no offset was given up the gap has an extent of none.
	for _, l := range p.topic.lossesBetween(after, before) {
		if l.to > l.from+1 { // several places: see maxLosses
			if p.lost {
				continue
			}
			p.lost = true
		}
		p.missing(codec.Some(l.from), l.to, codec.GapBus, 0)
	}
}

// missing takes note of messages that the page leaves out. Those that expired one
// after the other are told together. A count of 0 is not known.
func (p *historyPage) missing(from codec.Optional, to uint64, reason codec.GapReason, count uint64) {
	g := &p.gap
	if g.Topic != 0 && g.Reason == reason && reason == codec.GapExpired {
		g.From = codec.Some(min(g.From.Value, from.Value))
		g.To = codec.Some(max(g.To.Value, to))
		g.Count.Value += count
		return
	}
	p.tellMissing()
	p.gap = codec.Gap{
		Topic: p.topic.num, Epoch: codec.Some(p.topic.epoch), From: from, To: codec.Some(to),
		Reason: reason, Count: codec.Optional{Value: count, Set: count > 0},
	}
}

func (p *historyPage) tellMissing() {
	if p.gap.Topic != 0 {
		p.buf = codec.AppendGap(p.buf, p.gap)
		p.session.broker.counters.gap(p.gap.Reason)
		p.gap = codec.Gap{}
	}
}

// flush queues what was gathered, and waits until it was written. It reports false if
// nobody takes it any more.
func (p *historyPage) flush() bool {
	s, o := p.session, p.out
	s.mu.Lock()
	defer s.mu.Unlock()
	// It is not charged: a chunk of each page may wait, however much waits for the
	// subscriptions, until the writer's deadline.
	o.queue.push(entry{frame: p.buf})
	p.buf = nil
	s.scheduleLocked(o)
	for o.queue.len() > 0 && !o.gone && s.ctx.Err() == nil {
		s.changed.Wait()
	}
	return !o.gone && s.ctx.Err() == nil
}

// end queues the end of the page.
func (p *historyPage) end(more bool, err error) {
	e := codec.End{Code: codec.CodeOK}
	switch {
	case err != nil:
		e = endOf(asCoded(err, codec.CodeInternal))
	case more:
		e.Epoch, e.Offset = codec.Some(p.topic.epoch), codec.Some(p.at)
	}
	p.tellMissing()
	p.session.broker.counters.streamEnd(e.Code)
	s, o := p.session, p.out
	s.mu.Lock()
	defer s.mu.Unlock()
	o.end = true
	o.queue.push(entry{frame: codec.AppendEnd(p.buf, e)})
	s.scheduleLocked(o)
}
