package broker

import (
	"errors"
	"os"
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
func (s *session) write() {
	pooled := buffers.Get().(*[]byte)
	buf := *pooled
	defer func() {
		if cap(buf) <= 2*maxBatch {
			*pooled = buf[:0]
		}
		buffers.Put(pooled)
	}()
	batch := maxBatch
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
		var messages uint64
		buf, messages = o.takeLocked(s, buf[:0], batch)
		end := o.end && o.queue.len() == 0
		s.current = o.stream
		s.streamed += len(buf)
		s.mu.Unlock()

		start := time.Now()
		err := o.stream.SetWriteDeadline(start.Add(s.broker.config.WriteTimeout))
		if err == nil && len(buf) > 0 {
			_, err = o.stream.Write(buf)
		}
		if err == nil && end {
			err = o.stream.Close()
		}
		if messages > 0 && err == nil {
			s.broker.counters.delivered.Add(messages)
			s.broker.counters.deliveredBytes.Add(uint64(len(buf)))
		}
		if time.Since(start) < blocked {
			batch = min(2*batch, maxBatch)
		} else {
			batch = minBatch
		}

		s.mu.Lock()
		o.ready = false
		if err != nil || end {
			o.gone = true
			s.discardLocked(o)
		} else {
			s.scheduleLocked(o)
		}
		s.mu.Unlock()
		s.wakeDatagrams()
		if o.gone && o.done != nil {
			o.done(err)
		}
	}
}

// takeLocked appends up to about limit bytes of what waits, as far as credit
// goes, and returns how many messages that were.
func (o *outlet) takeLocked(s *session, b []byte, limit int) ([]byte, uint64) {
	var messages uint64
	for len(b) < limit {
		e := o.queue.front()
		if e == nil {
			if o.sub != nil && o.sub.lagging {
				b = o.sub.appendGapsLocked(b)
			}
			if o.sub != nil && o.sub.bus {
				b = codec.AppendGap(b, codec.Gap{Reason: codec.GapBus})
				s.broker.counters.gaps.Add(1)
				o.sub.bus = false
			}
			if o.acks != nil && o.acks.pending() {
				b = o.acks.appendLocked(b)
			}
			break
		}
		if e.message == nil {
			b = append(b, s.popLocked(o).frame...)
			continue
		}
		if o.sent >= o.limit || len(b) > 0 && len(b)+len(e.frame) > limit {
			break
		}
		if e.conflated > 0 {
			b = codec.AppendGap(b, codec.Gap{
				Topic: e.message.num, Epoch: codec.Some(e.message.epoch),
				From: codec.Some(e.from), To: codec.Some(e.offset - 1),
				Reason: codec.GapConflated, Count: codec.Some(e.conflated),
			})
			s.broker.counters.gaps.Add(1)
		}
		if o.sub.newest != nil {
			delete(o.sub.newest, e.message.num)
		}
		out := s.popLocked(o)
		b = append(b, out.frame...)
		o.sent += uint64(len(out.frame))
		o.sub.written = out.offset
		messages++
	}
	return b, messages
}

// popLocked takes the front of what waits for o, and its bytes off the bounds.
func (s *session) popLocked(o *outlet) entry {
	e := o.queue.pop()
	if e.charged {
		s.queued -= len(e.frame)
		s.broker.budget.give(len(e.frame))
	}
	return e
}

// chargeLocked reports whether n more bytes may wait for this session, and counts
// them if so. What goes into an empty queue may use the budget's reserve, so that
// a subscriber that keeps up is served however much others let wait.
func (s *session) chargeLocked(n int, empty bool) bool {
	if s.queued+n > s.broker.config.MaxSessionBytes && !empty || !s.broker.budget.take(n, empty) {
		return false
	}
	s.queued += n
	return true
}

// discardLocked drops what still waits for o.
func (s *session) discardLocked(o *outlet) {
	var dropped uint64
	for o.queue.len() > 0 {
		if s.popLocked(o).message != nil {
			dropped++
		}
	}
	if o.sub != nil {
		clear(o.sub.newest)
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
