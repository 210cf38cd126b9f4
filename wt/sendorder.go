package wt

import (
	"errors"
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

// sendScheduler decides between the streams of a session that have a send order.
type sendScheduler struct {
	// Guarded by mu. It is held while QUIC packs, so nothing blocks with it, or
	// calls QUIC.
	mu      sync.Mutex
	group   *SendGroup // of streams that were given none; made when needed
	writing []*turn    // in a write that QUIC may ask for data
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
	for _, w := range s.writing {
		if w == t {
			t.group.active--
			s.enterLocked(group)
		}
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

// yieldsLocked reports whether t is to give its turn away.
func (s *sendScheduler) yieldsLocked(t *turn) bool {
	for _, w := range s.writing {
		switch {
		case w == t || w.stalled:
		case w.group == t.group && w.order > t.order,
			w.group != t.group && w.group.sent+groupQuantum < t.group.sent:
			return true
		}
	}
	return false
}

// reconsider wakes those who need not wait any longer.
func (s *sendScheduler) reconsider() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reconsiderLocked()
}

func (s *sendScheduler) reconsiderLocked() {
	for _, t := range s.waiting {
		if !s.yieldsLocked(t) {
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
	if t.yielded = s.yieldsLocked(t); t.yielded {
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
		yielded := t.end()
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
	t.stalled, t.yielded = false, false
	s.enterLocked(t.group)
	s.writing = append(s.writing, t)
}

// end notes that it does not any more, and reports whether the turn was given
// away.
func (t *turn) end() (yielded bool) {
	s := &t.h.session.schedule
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = without(s.writing, t)
	t.group.active--
	s.reconsiderLocked()
	return t.yielded
}

// await waits until nobody has more right to be sent, or who has it is not sent
// either.
func (t *turn) await() error {
	s := &t.h.session.schedule
	s.mu.Lock()
	s.waiting = append(s.waiting, t)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting = without(s.waiting, t)
	}()
	for {
		s.mu.Lock()
		if !s.yieldsLocked(t) {
			s.mu.Unlock()
			return nil
		}
		asked := make(map[*turn]uint64, len(s.writing))
		for _, w := range s.writing {
			asked[w] = w.asked
		}
		s.mu.Unlock()
		timer := time.NewTimer(patience)
		done, err := t.h.awaitSignal(t.wakeUp, timer.C)
		waitedInVain := !timer.Stop()
		if done {
			return err
		}
		if waitedInVain {
			s.mu.Lock()
			for _, w := range s.writing {
				if before, known := asked[w]; known && before == w.asked {
					w.stalled = true
				}
			}
			s.mu.Unlock()
		}
	}
}

// without returns turns without t, in place.
func without(turns []*turn, t *turn) []*turn {
	for i, other := range turns {
		if other == t {
			turns[i] = turns[len(turns)-1]
			turns[len(turns)-1] = nil
			return turns[:len(turns)-1]
		}
	}
	return turns
}
