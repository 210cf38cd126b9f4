package wt

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// Send order is W3C WebTransport's finer measure of priority: of the streams in a
// group, those of the highest order go first, and groups share what the
// connection can carry. QUIC has eight urgencies and takes turns among streams of
// the same one. So a stream with an order is asked each time that QUIC is about to
// pack some of it, and gives its turn away while another has more right to it.

// SendGroup is a group of sending streams of a session. Within it the streams
// with the highest send order are sent first; between groups with something to
// send, bytes are shared evenly (W3C WebTransport, "WebTransportSendGroup").
type SendGroup struct {
	session *Session

	// Guarded by the scheduler's mu.
	sent   uint64 // bytes, raised to that of the others whenever the group was idle
	active int    // streams that write
}

// groupQuantum is how many bytes a group may be ahead of another.
const groupQuantum = 16 << 10

// patience is how long a stream gives its turn to another that is not asked for
// data, and so is held up by the peer's flow control.
const patience = 50 * time.Millisecond

// linger is how long a stream keeps its place after a write, for the next one.
// Without it every gap between small writes would be somebody else's turn.
const linger = time.Millisecond

// sendScheduler decides between the streams of a session that have a send order.
type sendScheduler struct {
	// Guarded by mu. It is held while QUIC packs, so nothing blocks with it, or
	// calls QUIC.
	mu      sync.Mutex
	group   *SendGroup // of streams that were given none; made when needed
	writing []*turn    // in a write that QUIC may ask for data, or lingering after one
	waiting []*turn    // have given their turn away
}

// turn is a stream's part in the schedule.
type turn struct {
	// Static.
	h      *halves
	wakeUp chan struct{} // holds one token

	// Guarded by the scheduler's mu.
	order   int64
	group   *SendGroup
	asked   uint64 // by QUIC, how often
	stalled bool   // it was not asked for so long that others do not wait
	yielded bool   // in its last answer to QUIC
	present bool   // it is among those that write
	// lingers is until when it stays there after a write; zero within one.
	lingers time.Time
}

// NewSendGroup returns a group for the session's sending streams.
func (s *Session) NewSendGroup() *SendGroup { return &SendGroup{session: s} }

// setSendOrder gives the stream an order within its group.
func (h *halves) setSendOrder(order int64) {
	s := &h.session.schedule
	s.mu.Lock()
	h.turnLocked().order = order
	s.mu.Unlock()
	s.reconsider()
}

// setSendGroup moves the stream into a group, nil for that of the streams without.
func (h *halves) setSendGroup(group *SendGroup) error {
	if group != nil && group.session != h.session {
		return errors.New("wt: the send group is one of another session")
	}
	s := &h.session.schedule
	s.mu.Lock()
	t := h.turnLocked()
	if group == nil {
		group = s.groupLocked(h.session)
	}
	if t.present {
		t.group.active--
		s.enterLocked(group)
	}
	t.group = group
	s.mu.Unlock()
	s.reconsider()
	return nil
}

// turnLocked returns the stream's turn, and makes it if there is none.
func (h *halves) turnLocked() *turn {
	t := h.turn.Load()
	if t == nil {
		t = &turn{h: h, wakeUp: make(chan struct{}, 1), group: h.session.schedule.groupLocked(h.session)}
		h.turn.Store(t)
	}
	return t
}

func (s *sendScheduler) groupLocked(session *Session) *SendGroup {
	if s.group == nil {
		s.group = session.NewSendGroup()
	}
	return s.group
}

// enterLocked notes that a stream of the group begins to write. A group that was
// idle has no claim on what it did not use.
func (s *sendScheduler) enterLocked(group *SendGroup) {
	if group.active == 0 {
		least, found := uint64(0), false
		for _, w := range s.writing {
			if w.group != group && (!found || w.group.sent < least) {
				least, found = w.group.sent, true
			}
		}
		group.sent = max(group.sent, least)
	}
	group.active++
}

// rivalLocked returns one that t is to give its turn to, or nil.
func (s *sendScheduler) rivalLocked(t *turn) *turn {
	var now time.Time
	for i := 0; i < len(s.writing); i++ {
		w := s.writing[i]
		if !w.lingers.IsZero() {
			if now.IsZero() {
				now = time.Now()
			}
			if !now.Before(w.lingers) {
				s.leaveLocked(w)
				i-- // another is in its place
				continue
			}
		}
		switch {
		case w == t || w.stalled:
		case w.group == t.group && w.order > t.order,
			w.group != t.group && w.group.sent+groupQuantum < t.group.sent:
			return w
		}
	}
	return nil
}

// leaveLocked takes t out of those that write.
func (s *sendScheduler) leaveLocked(t *turn) {
	if !t.present {
		return
	}
	t.present = false
	t.group.active--
	i := slices.Index(s.writing, t)
	last := len(s.writing) - 1
	s.writing[i], s.writing[last] = s.writing[last], nil
	s.writing = s.writing[:last]
}

// reconsider wakes those who need not wait any longer.
func (s *sendScheduler) reconsider() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reconsiderLocked()
}

func (s *sendScheduler) reconsiderLocked() {
	for _, t := range s.waiting {
		if s.rivalLocked(t) == nil {
			t.signal()
		}
	}
}

func (t *turn) signal() {
	select {
	case t.wakeUp <- struct{}{}:
	default:
	}
}

// take answers QUIC, which could send n bytes of the stream now, with how many may
// go. It is called while QUIC packs.
func (t *turn) take(n int) int {
	s := &t.h.session.schedule
	s.mu.Lock()
	defer s.mu.Unlock()
	t.asked++
	t.stalled = false
	if t.yielded = s.rivalLocked(t) != nil; t.yielded {
		return 0
	}
	if flow := t.h.session.flow; flow != nil {
		n = flow.take(n)
	}
	t.group.sent += uint64(n)
	s.reconsiderLocked()
	return n
}

// write writes p in the stream's turns.
func (t *turn) write(p []byte) (int, error) {
	written := 0
	for {
		t.begin()
		n, err := t.h.send.WriteWithLimit(p[written:], t.take)
		yielded := t.end(err == nil)
		written += n
		if !errors.Is(err, quic.ErrWriteLimitReached) {
			return written, err
		}
		if yielded {
			err = t.await()
		} else {
			err = t.h.session.flow.awaitData(t.h)
		}
		if err != nil {
			return written, err
		}
	}
}

// begin notes that QUIC may ask for data from now on.
func (t *turn) begin() {
	s := &t.h.session.schedule
	s.mu.Lock()
	defer s.mu.Unlock()
	t.stalled, t.yielded, t.lingers = false, false, time.Time{}
	if !t.present {
		t.present = true
		s.enterLocked(t.group)
		s.writing = append(s.writing, t)
	}
}

// end notes that it does not any more, and reports whether the turn was given
// away. After a complete write the stream lingers.
func (t *turn) end(complete bool) (yielded bool) {
	s := &t.h.session.schedule
	s.mu.Lock()
	defer s.mu.Unlock()
	if complete {
		t.lingers = time.Now().Add(linger)
		return false
	}
	s.leaveLocked(t)
	s.reconsiderLocked()
	return t.yielded
}

// leave takes a stream that has ended out of the schedule.
func (t *turn) leave() {
	s := &t.h.session.schedule
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked(t)
	s.reconsiderLocked()
}

// await waits until nobody has more right to be sent, or who has it is not sent
// either.
func (t *turn) await() error {
	s := &t.h.session.schedule
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, t)
	defer func() {
		i := slices.Index(s.waiting, t)
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}()
	for {
		rival := s.rivalLocked(t)
		if rival == nil {
			return nil
		}
		wait, asked := patience, rival.asked
		lingers := rival.lingers
		if !lingers.IsZero() {
			wait = time.Until(lingers)
		}
		s.mu.Unlock()
		timer := time.NewTimer(wait)
		done, err := t.h.awaitSignal(t.wakeUp, timer.C)
		inVain := !timer.Stop()
		s.mu.Lock()
		if done {
			return err
		}
		if inVain && lingers.IsZero() && rival.lingers.IsZero() && rival.asked == asked {
			rival.stalled = true
		}
	}
}
