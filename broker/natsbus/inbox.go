package natsbus

import (
	"sync"

	"github.com/nats-io/nats.go"
)

// inbox is what came from NATS and waits for the broker, in its order, with marks in
// between. A mark is something that the receiver does when it has handled all that was
// in the inbox before: that messages were lost there, or that no more come of a
// subscription. Told at once, it would come before up to Config.Queue messages that are
// older.
//
// The NATS client fills the channel, and drops what has no room; so a mark cannot be an
// item of it: it would have to wait for room, or be dropped. It has the number of the last
// message before it instead.
//
// The inbox does not bound the marks, who puts them does: of losses a pattern, or a group's
// share, has one at most.
type inbox struct {
	messages chan *nats.Msg
	wake     chan struct{} // one place: a mark was put while the receiver waited

	mu      sync.Mutex
	taken   uint64 // how many messages were taken; guarded by mu
	waiting bool   // one more may have been taken; guarded by mu
	marks   []mark // by their places; guarded by mu
}

type mark struct {
	place uint64 // the number of messages before it
	do    func()
}

func newInbox(size int) *inbox {
	return &inbox{messages: make(chan *nats.Msg, size), wake: make(chan struct{}, 1)}
}

// put puts a mark behind all that is in the inbox. do is called by the receiver, with no
// lock held. It does not block, so the NATS client's call-backs may call it.
func (in *inbox) put(do func()) {
	in.mu.Lock()
	place := in.taken + uint64(len(in.messages))
	if in.waiting {
		place++
	}
	if n := len(in.marks); n > 0 {
		place = max(place, in.marks[n-1].place)
	}
	in.marks = append(in.marks, mark{place, do})
	waiting := in.waiting
	in.mu.Unlock()
	if waiting {
		select {
		case in.wake <- struct{}{}:
		default: // it will wake
		}
	}
}

// next waits for what comes next: a message, or what a mark does. Both are nil when stop
// is closed. One goroutine calls it: the receiver.
func (in *inbox) next(stop <-chan struct{}) (*nats.Msg, func()) {
	for {
		select {
		case <-stop:
			return nil, nil
		default:
		}
		m, do := in.take()
		if m != nil || do != nil {
			return m, do
		}
		select {
		case m = <-in.messages:
		case <-in.wake:
		case <-stop:
			return nil, nil
		}
		in.mu.Lock()
		in.waiting = false
		if m != nil {
			in.taken++
		}
		in.mu.Unlock()
		if m != nil {
			return m, nil
		}
	}
}

// take returns what there is next; if there is nothing the receiver is waiting. A message
// is taken and counted under one lock, so that no mark gets a place before it.
func (in *inbox) take() (*nats.Msg, func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.marks) == 0 || in.marks[0].place > in.taken {
		select {
		case m := <-in.messages:
			in.taken++
			return m, nil
		default:
		}
	}
	if len(in.marks) == 0 {
		in.waiting = true
		return nil, nil
	}
	// Its place is reached, or nothing is left that could be before it.
	do := in.marks[0].do
	in.marks[0] = mark{}
	in.marks = in.marks[1:]
	return nil, do
}
