package broker

import (
	"container/heap"
	"sync"
	"sync/atomic"
	"time"
)

// memoryStore keeps logs in memory, and all of them within one bound.
//
// The logs that keep something stand in a heap by rank, that is by the age of the
// oldest record, so that room is made where the oldest records are. A rank in the
// heap may be too low: a log that drops records by itself does not tell. Whoever
// takes such a log from the heap finds that out, and puts it in its place. So
// Append touches the heap only when a log begins to keep something.
//
// Locks, in order: room, memoryLog.mu, mu.
type memoryStore struct {
	max   int64
	start time.Time

	used    atomic.Int64
	evicted atomic.Uint64
	armed   atomic.Bool // the sweep comes

	room sync.Mutex // held by whoever makes room, so that used is a bound

	mu       sync.Mutex
	logs     logHeap     // guarded by mu
	sweeper  *time.Timer // guarded by mu
	closed   bool        // guarded by mu
	sweeping sync.WaitGroup
}

const (
	// sweepEvery is how often the logs that nobody appends to or reads are looked
	// at for what time has taken.
	sweepEvery = 10 * time.Second
	// roomShare is the part of the store's bound that is freed at once: making room
	// for every single record would cost each publisher a turn.
	roomShare = 128
)

// NewMemoryStore returns a store in memory. Its records take about maxBytes at most,
// all logs together; then the oldest ones go, over all topics, messages before last
// values, and these before firm ones. 0 is 64 MiB.
func NewMemoryStore(maxBytes int64) Store {
	if maxBytes <= 0 {
		maxBytes = defaultHistoryBytes
	}
	return &memoryStore{max: maxBytes, start: time.Now()}
}

// Open implements Store.
func (s *memoryStore) Open(topic string, _ uint64, limits LogLimits) Log {
	return &memoryLog{store: s, topic: topic, limits: limits, place: -1}
}

// Bytes implements Store.
func (s *memoryStore) Bytes() int64 { return s.used.Load() }

// Evicted implements Store.
func (s *memoryStore) Evicted() uint64 { return s.evicted.Load() }

// Close implements Store.
func (s *memoryStore) Close() error {
	s.mu.Lock()
	s.closed = true
	if s.sweeper != nil && s.sweeper.Stop() {
		s.sweeping.Done()
	}
	s.mu.Unlock()
	s.sweeping.Wait()
	return nil
}

// now is the store's clock.
func (s *memoryStore) now() time.Duration { return time.Since(s.start) }

// grow counts what a log has grown by, and makes room if that was too much. No lock
// of a log is held.
func (s *memoryStore) grow(n int, ages bool) {
	if ages && !s.armed.Load() {
		s.arm()
	}
	if s.used.Add(int64(n)) <= s.max {
		return
	}
	s.room.Lock()
	defer s.room.Unlock()
	if s.used.Load() <= s.max {
		return
	}
	goal := s.max - s.max/roomShare
	for s.used.Load() > goal {
		l, to := s.next()
		if l == nil {
			return
		}
		l.giveWay(to, goal)
	}
}

// next returns the log with the lowest rank, and the rank up to which no other one
// comes before it.
func (s *memoryStore) next() (l *memoryLog, to uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.logs) == 0 {
		return nil, 0
	}
	to = 1<<64 - 1
	for _, other := range s.logs[1:min(3, len(s.logs))] { // the children of the root
		to = min(to, other.rank)
	}
	return s.logs[0], to
}

// rank puts l where it belongs in the heap. The lock of l is held.
func (s *memoryStore) rank(l *memoryLog) {
	rank := l.rankLocked()
	s.mu.Lock()
	defer s.mu.Unlock()
	in := l.place >= 0
	l.rank = rank
	switch {
	case rank == 0 && in:
		heap.Remove(&s.logs, l.place)
	case rank == 0:
	case in:
		heap.Fix(&s.logs, l.place)
	default:
		heap.Push(&s.logs, l)
	}
}

// arm lets the sweep come, unless it does already.
func (s *memoryStore) arm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.armed.Load() {
		return
	}
	s.armed.Store(true)
	s.sweeping.Add(1)
	if s.sweeper == nil {
		s.sweeper = time.AfterFunc(sweepEvery, s.sweep)
	} else {
		s.sweeper.Reset(sweepEvery)
	}
}

// sweep removes what time has taken, and comes again while there is something that
// time will take.
func (s *memoryStore) sweep() {
	defer s.sweeping.Done()
	s.mu.Lock()
	logs := append([]*memoryLog(nil), s.logs...)
	s.armed.Store(false) // what is appended from here on arms it again
	s.mu.Unlock()
	again := false
	for _, l := range logs {
		l.mu.Lock()
		l.ageLocked()
		again = again || l.agesLocked()
		l.mu.Unlock()
	}
	if again {
		s.arm()
	}
}

// logHeap is a heap of logs by rank.
type logHeap []*memoryLog

func (h logHeap) Len() int           { return len(h) }
func (h logHeap) Less(i, j int) bool { return h[i].rank < h[j].rank }

func (h logHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push implements heap.Interface.
func (h *logHeap) Push(x any) {
	l := x.(*memoryLog)
	l.place = len(*h)
	*h = append(*h, l)
}

// Pop implements heap.Interface.
func (h *logHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	l.place = -1
	return l
}
