package wt

import (
	"context"
	"sync"
	"sync/atomic"
)

// queue hands items from the connection's goroutines to those of the
// application. It costs nothing while it is empty. Whoever puts bounds it: the
// streams in it by the credit that QUIC gave the peer, the datagrams by a limit.
type queue[T any] struct {
	length atomic.Int32 // of items, less head

	// Guarded by mu.
	mu    sync.Mutex
	items []T // those before head are taken out
	head  int
	// wake is nil until somebody waits, and then holds one token while items may
	// be there. A consumer that leaves items behind puts the token back, so that no
	// other consumer sleeps on.
	wake chan struct{}
}

// keepItems is the capacity that an empty queue keeps, so that a steady flow
// does not allocate.
const keepItems = 16

// put appends item. With limit > 0 it first takes out the oldest items until
// there is room, and returns how many.
func (q *queue[T]) put(item T, limit int) (dropped int) {
	q.mu.Lock()
	for limit > 0 && len(q.items)-q.head >= limit {
		q.popLocked()
		dropped++
	}
	if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, item)
	q.length.Add(1)
	q.signalLocked()
	q.mu.Unlock()
	return dropped
}

// get waits for an item until ctx or session ends.
func (q *queue[T]) get(ctx context.Context, session *Session) (T, error) {
	for {
		if err := session.endedWith(); err != nil {
			var none T
			return none, err
		}
		if item, ok := q.take(); ok {
			return item, nil
		}
		select {
		case <-q.filled():
		case <-session.ctx.Done():
		case <-ctx.Done():
			var none T
			return none, context.Cause(ctx)
		}
	}
}

// empty reports whether there is no item, for those who try again later if that
// is no longer so.
func (q *queue[T]) empty() bool { return q.length.Load() == 0 }

// take returns the oldest item if there is one.
func (q *queue[T]) take() (T, bool) {
	if q.empty() {
		var none T
		return none, false
	}
	q.mu.Lock()
	if len(q.items) == q.head {
		q.mu.Unlock()
		var none T
		return none, false
	}
	item := q.popLocked()
	q.signalLocked()
	q.mu.Unlock()
	return item, true
}

func (q *queue[T]) popLocked() T {
	q.length.Add(-1)
	item := q.items[q.head]
	var none T
	q.items[q.head] = none
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
		if cap(q.items) > keepItems {
			q.items = nil
		}
	}
	return item
}

// filled returns what yields a token once there may be an item.
func (q *queue[T]) filled() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.wake == nil {
		q.wake = make(chan struct{}, 1)
		q.signalLocked()
	}
	return q.wake
}

func (q *queue[T]) signalLocked() {
	if q.wake == nil || len(q.items) == q.head {
		return
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
