package broker

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tidewire/tidewire/codec"
)

const (
	// maxBatch is the most bytes that one write takes while nothing blocks.
	maxBatch = 64 << 10
	// minBatch is the most bytes that one write takes after a write has blocked:
	// what was handed to the transport can no longer be conflated or overtaken.
	minBatch = 4 << 10
	// blocked is how long a write may take and still count as one that did not
	// block.
	blocked = 10 * time.Millisecond
	// turn is how long a stream may hold the writer. What it has not taken by then
	// waits, so that what is more urgent goes between: a long message on a slow link
	// takes many turns.
	turn = 100 * time.Millisecond
)

// buffers holds the writers' buffers.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, maxBatch+messageOverhead+4096); return &b }}

// schedule makes sure that the writer comes to o. The session's mu is held.
func (s *session) scheduleLocked(o *outlet) {
	if o.ready || s.stopped || !o.sendable() {
		return
	}
	o.ready = true
	s.ready[o.rank] = append(s.ready[o.rank], o)
	if !s.writing {
		s.writing = true
		s.wg.Go(s.write)
	}
}

// nextLocked takes the outlet whose turn it is: the one that waits for longest in
// the first rank. The session's mu is held.
func (s *session) nextLocked() *outlet {
	for r := range s.ready {
		if list := s.ready[r]; len(list) > 0 {
			o := list[0]
			list[0] = nil
			s.ready[r] = list[1:]
			if len(list) == 1 {
				s.ready[r] = nil
			}
			return o
		}
	}
	return nil
}

// write is the session's one writer. It lives while there is something to write.
//
// An outlet whose batch is not written yet comes first in its rank, so one batch of
// each rank waits at most, and one more each time that the client changes the priority
// of such a subscription. They count against the bounds on what waits.
func (s *session) write() {
	pooled := buffers.Get().(*[]byte)
	buf := *pooled
	defer func() {
		if cap(buf) <= 2*maxBatch {
			*pooled = buf[:0]
		}
		buffers.Put(pooled)
	}()
	most := maxBatch
	for {
		s.mu.Lock()
		o := s.nextLocked()
		if o == nil || s.stopped {
			s.writing = false
			s.current = nil
			s.streamed, s.datagrammed = 0, 0
			s.mu.Unlock()
			s.wakeDatagrams()
			return
		}
		batch := o.rest
		again := batch.b != nil
		if !again {
			buf, batch.messages = o.takeLocked(s, buf[:0], most)
			batch.b, batch.size = buf, len(buf)
			s.streamed += len(buf)
		}
		end := o.end && o.queue.len() == 0
		s.current = o.stream
		var late []spoiled
		if o.sub != nil {
			late, o.sub.spoiled = o.sub.spoiled, nil
		}
		s.mu.Unlock()
		if late != nil {
			o.sub.member.pool.Load().takeBack(o.sub.member, late)
		}

		start := time.Now()
		n, err := s.put(o, batch.b, start)
		whole := n == len(batch.b)
		if err == nil && whole && end {
			err = o.stream.Close()
		}
		if batch.messages > 0 && err == nil && whole {
			s.broker.counters.delivered.Add(batch.messages)
			s.broker.counters.deliveredBytes.Add(uint64(batch.size))
		}
		if time.Since(start) < blocked {
			most = min(2*most, maxBatch)
		} else {
			most = minBatch
		}

		s.mu.Lock()
		o.ready, o.rest = false, unwritten{}
		if again {
			s.restsLocked(-len(batch.b))
		}
		switch {
		case err != nil || whole && end:
			o.gone = true
			s.discardLocked(o)
		case !whole:
			batch.b = batch.b[n:]
			if !again {
				batch.b = bytes.Clone(batch.b) // the buffer is for other streams
			}
			o.ready, o.rest = true, batch
			s.restsLocked(len(batch.b))
			s.ready[o.rank] = slices.Insert(s.ready[o.rank], 0, o)
		default:
			s.scheduleLocked(o)
		}
		s.mu.Unlock()
		s.wakeDatagrams()
		if o.gone && o.done != nil {
			o.done(err)
		}
	}
}

// put writes as much of b as the stream takes in a turn, which begins at start. It fails
// if the stream has taken nothing at all for Config.WriteTimeout.
func (s *session) put(o *outlet, b []byte, start time.Time) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	timeout := s.broker.config.WriteTimeout
	if err := o.stream.SetWriteDeadline(start.Add(min(turn, timeout-o.stalled))); err != nil {
		return 0, err
	}
	n, err = o.stream.Write(b)
	if n > 0 || err == nil {
		o.stalled = 0
	} else {
		o.stalled += time.Since(start)
	}
	if err != nil && isTimeout(err) && o.stalled < timeout {
		err = nil
	}
	return n, err
}

// restsLocked counts n more bytes that wait in rests of batches.
func (s *session) restsLocked(n int) {
	s.rests += n
	s.queued += n
	s.broker.budget.hold(n)
}

// takeLocked appends up to about limit bytes of what waits, as far as credit
// goes, and returns how many messages that were.
func (o *outlet) takeLocked(s *session, b []byte, limit int) ([]byte, uint64) {
	var messages uint64
	var holes teller
	for len(b) < limit {
		e := o.queue.next()
		if e == nil {
			var more bool
			if b, more = o.idleLocked(b, &holes); !more {
				break
			}
			continue
		}
		if e.kind == entryMessage {
			if e.extra != nil && e.expires() != 0 && e.expires() <= s.broker.now() {
				if o.sub.member != nil {
					o.sub.spoiled = append(o.sub.spoiled, &e.frame[0])
					o.queue.drop()
					continue
				}
				o.sub.unlistLocked(e, o.queue.lead)
				o.sub.punchLocked(o.queue.lead, codec.GapExpired)
				continue
			}
			if !o.credited() || len(b) > 0 && len(b)+len(e.frame) > limit {
				break
			}
		}
		if o.queue.holes > 0 {
			for h := o.popHole(); h != nil; h = o.popHole() {
				b = holes.add(b, o, h)
			}
			b = holes.flush(b, o)
			e = o.queue.next()
		}
		b = append(b, e.frame...)
		if e.kind == entryMessage {
			o.sent += uint64(len(e.frame))
			o.sub.written = e.offset
			o.sub.unlistLocked(e, o.queue.first)
			messages++
		}
		if e.charged {
			s.releaseLocked(o, len(e.frame))
		}
		o.queue.drop()
	}
	if o.sub != nil && (len(o.sub.debts) > 0 || o.sub.lagging) {
		o.sub.recoverLocked()
	}
	return b, messages
}

// idleLocked appends what is told when neither frames nor messages wait. more is
// set if there are some then.
func (o *outlet) idleLocked(b []byte, holes *teller) (_ []byte, more bool) {
	for e := o.popHole(); e != nil; e = o.popHole() {
		b = holes.add(b, o, e)
	}
	b = holes.flush(b, o)
	if o.acks != nil && o.acks.pending() {
		b = o.acks.appendLocked(b)
	}
	if o.sub == nil {
		return b, false
	}
	if o.sub.lagging {
		o.sub.recoverLocked()
	}
	return b, o.queue.len() > 0
}

// popHole removes the front if it is a hole, and returns it.
func (o *outlet) popHole() *entry {
	if e := o.queue.at(o.queue.first); e == nil || e.kind <= entryMessage {
		return nil
	}
	e := o.queue.pop()
	return &e
}

// teller writes GAP and SKIP frames; gaps that follow each other become one.
type teller struct{ gap entry }

// add tells of a hole, at the latest with flush.
func (t *teller) add(b []byte, o *outlet, e *entry) []byte {
	if e.kind == entryNone {
		return b
	}
	if t.gap.kind == entryGap && t.gap.topic == e.topic && e.kind == entryGap && !t.gap.lost() && !e.lost() && t.gap.offset >= e.from {
		t.gap = merge(t.gap, *e)
		return b
	}
	b = t.flush(b, o)
	if e.kind == entryGap {
		t.gap = *e
		return b
	}
	o.sub.written = e.offset
	return codec.AppendSkip(b, codec.Skip{Topic: e.topic.num, To: e.offset})
}

// flush writes the gap that waits for others to follow.
func (t *teller) flush(b []byte, o *outlet) []byte {
	e := &t.gap
	if e.kind != entryGap {
		return b
	}
	f := codec.Gap{
		Topic: e.topic.num, Epoch: codec.Some(e.topic.epoch),
		From: codec.Some(e.from), To: codec.Some(e.offset), Reason: e.reason,
	}
	if e.count != unknownCount {
		f.Count = codec.Some(uint64(e.count))
	}
	if e.lost() {
		f.From = codec.Some(0) // whatever has not come
	}
	b = codec.AppendGap(b, f)
	o.sub.written = max(o.sub.written, e.offset)
	o.sub.session.broker.counters.gap(e.reason)
	*e = entry{}
	return b
}

// popLocked takes the front of what waits for o, and its bytes off the bounds.
func (s *session) popLocked(o *outlet) entry {
	e := o.queue.pop()
	if e.charged {
		s.releaseLocked(o, len(e.frame))
	}
	return e
}

// chargeLocked reports whether n more bytes may wait for o, and counts them if so.
// What goes into an empty queue may use the budget's reserve, so that a subscriber
// that keeps up is served however much others let wait.
func (s *session) chargeLocked(o *outlet, n int, empty bool) bool {
	if s.queued+n > s.broker.config.MaxSessionBytes && !empty || !s.broker.budget.take(n, empty) {
		return false
	}
	s.queued += n
	s.waiting[o.rank] += n
	return true
}

// releaseLocked takes back chargeLocked.
func (s *session) releaseLocked(o *outlet, n int) {
	s.queued -= n
	s.waiting[o.rank] -= n
	s.broker.budget.give(n)
}

// discardLocked drops what still waits for o.
func (s *session) discardLocked(o *outlet) {
	var dropped uint64
	for o.queue.len() > 0 {
		if s.popLocked(o).kind == entryMessage {
			dropped++
		}
	}
	if o.sub != nil {
		clear(o.sub.newest)
		o.sub.forgiveLocked()
		if o.sub.member != nil {
			return // others get what a member has not finished
		}
	}
	s.broker.counters.drop(DropEnded, dropped)
}

// isTimeout reports whether a write has failed at its deadline.
func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}
