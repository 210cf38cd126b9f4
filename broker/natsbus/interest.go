package natsbus

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/codec"
)

// wanted is what a broker wants: a pattern, or a group's share of it.
type wanted struct{ pattern, group string }

// interest is one pattern at NATS, however many subscriptions want it; in a group, one
// queue group's share of it.
type interest struct {
	wanted
	refs   int                  // guarded by the bus's mu
	held   int                  // by how many that begin; guarded by the bus's mu
	since  uint64               // when messages may last have been missed; guarded by the bus's mu
	timer  *time.Timer          // nobody wants it any more, and soon it ends; guarded by the bus's mu
	counts bool                 // among those that bring copies; guarded by the bus's mu
	state  state                // guarded by the bus's mu
	ready  chan struct{}        // closed when the server knows it, or err is set
	err    error                // static after ready was closed
	subs   []*nats.Subscription // static after ready was closed
	gone   chan struct{}        // closed when it has ended and all that it brought was handled
}

type state uint8

const (
	begins state = iota
	stands       // the server knows it
	ends
)

func newInterest(w wanted) *interest {
	return &interest{wanted: w, ready: make(chan struct{}), gone: make(chan struct{})}
}

// Subscribe implements broker.Bus. It may wait for the Sink, which so does not call it.
func (b *bus) Subscribe(ctx context.Context, pattern, group string) (since uint64, err error) {
	if codec.IsSystem(pattern) {
		return 0, nil // stays in the broker
	}
	w := wanted{pattern, group}
	b.mu.Lock()
	in, found := b.interests[w]
	if !found {
		w.pattern = strings.Clone(pattern)
		in = newInterest(w)
		b.addLocked(in)
	}
	b.wantLocked(in)
	b.mu.Unlock()
	if !found {
		// Others may wait for it as well, so it outlives this caller's context.
		b.begin(context.WithoutCancel(ctx), in)
	}
	select {
	case <-in.ready:
	case <-ctx.Done():
		b.release(in)
		return 0, ctx.Err()
	}
	if in.err != nil {
		b.release(in)
		return 0, codec.Errorf(codec.CodeBusUnavailable, "NATS does not take the subscription: %v", in.err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return in.since, nil
}

// wantLocked takes a reference, so that the interest does not end.
func (b *bus) wantLocked(in *interest) {
	in.refs++
	if in.timer != nil {
		in.timer.Stop()
		in.timer = nil
		b.lingering--
	}
}

// begin subscribes at NATS, and waits until the server knows it.
func (b *bus) begin(ctx context.Context, in *interest) {
	ctx, cancel := context.WithTimeout(ctx, subscribeTimeout)
	defer cancel()
	var others overlapping
	if in.group == "" {
		others = b.hold(in)
		in.err = b.prepare(ctx, in, others)
	}
	if in.err == nil {
		in.subs, in.err = b.subscribe(ctx, in)
	}
	if in.group == "" && in.err == nil {
		b.inbox.put(func() { b.dedupe.begin(in.subs[0]) })
	}
	b.mu.Lock()
	in.state = stands
	unwanted := b.dropLocked(in)
	if in.err != nil && !unwanted {
		b.endLocked(in) // the next one tries anew
		unwanted = true
	}
	b.mu.Unlock()
	close(in.ready)
	if unwanted {
		b.end(in)
	}
	b.letGo(others)
}

// prepare makes way for a subscription of no group: what came of those that have ended is
// handled, and the broker knows what has not come.
func (b *bus) prepare(ctx context.Context, in *interest, others overlapping) error {
	for _, ended := range others.ended {
		select {
		case <-ended.gone:
		case <-ctx.Done():
			return ctx.Err()
		case <-b.stop:
			return nats.ErrConnectionClosed
		}
	}
	b.lapsed(in, others)
	b.mu.Lock()
	defer b.mu.Unlock()
	in.counts = true
	b.copies.add(in.pattern, 1)
	return nil
}

// lapsed tells the broker that messages of others have not come, and will; where an
// interest that stands has brought them all along, it does not. It comes before the
// first of them does.
func (b *bus) lapsed(in *interest, others overlapping) {
	b.mu.Lock()
	in.since = max(1, b.sink.Now())
	covered := false
	for _, other := range others.stand {
		if codec.Contains(other.pattern, in.pattern) {
			covered = true
			in.since = min(in.since, other.since)
		}
	}
	b.mu.Unlock()
	if !covered {
		b.sink.Lapsed(in.pattern, others.listened)
	}
}

// listens reports whether the server knows the interest, which is of no group. The bus's
// mu is held.
func (in *interest) listens() bool { return in.group == "" && in.state == stands }

// subscribe makes the subscriptions of an interest; what it has made comes with an
// error too.
func (b *bus) subscribe(ctx context.Context, in *interest) (subs []*nats.Subscription, err error) {
	subject := b.config.Prefix + in.pattern
	if in.group == "" {
		sub, err := b.nc.ChanSubscribe(subject, b.inbox.messages)
		if err != nil {
			return nil, err
		}
		return []*nats.Subscription{sub}, b.nc.FlushWithContext(ctx)
	}
	for _, s := range []string{subject, handOverSubject(in.group, subject)} {
		sub, err := b.queues.ChanQueueSubscribe(s, queueOf(in.group), b.inbox.messages)
		if err != nil {
			return subs, err
		}
		subs = append(subs, sub)
	}
	return subs, b.queues.FlushWithContext(ctx)
}

// addLocked puts an interest in its place.
func (b *bus) addLocked(in *interest) {
	b.interests[in.wanted] = in
	if in.group == "" && !codec.IsExact(in.pattern) {
		b.wild[in.pattern] = in
	}
}

// removeLocked removes an interest, unless another one has its place.
func (b *bus) removeLocked(in *interest) {
	if b.interests[in.wanted] != in {
		return
	}
	delete(b.interests, in.wanted)
	if in.group == "" {
		delete(b.wild, in.pattern)
	}
}

// Unsubscribe implements broker.Bus.
func (b *bus) Unsubscribe(pattern, group string) {
	b.mu.Lock()
	in := b.interests[wanted{pattern, group}]
	b.mu.Unlock()
	if in != nil {
		b.release(in)
	}
}

// maxLingering bounds the interests that linger; beyond it they end at once.
const maxLingering = 4096

// release takes one reference back. It is that of an interest and not of a pattern:
// one that has failed may have a successor, which is none of its waiters' business.
//
// An interest that nobody wants any more lingers, so that a client that comes back has
// missed nothing that others have published. A group's share must not: others get it.
func (b *bus) release(in *interest) {
	b.mu.Lock()
	in.refs--
	if in.refs == 0 && in.listens() && b.config.Linger > 0 && b.lingering < maxLingering && !b.closed {
		b.lingerLocked(in)
		b.mu.Unlock()
		return
	}
	unwanted := b.dropLocked(in)
	b.mu.Unlock()
	if unwanted {
		b.end(in)
	}
}

// lingerLocked ends an interest after a while, unless it is wanted again. A timer that
// fires when it is too late to stop it finds itself gone, or a later one in its place.
func (b *bus) lingerLocked(in *interest) {
	b.lingering++
	var timer *time.Timer
	timer = time.AfterFunc(b.config.Linger, func() {
		b.mu.Lock()
		unwanted := false
		if in.timer == timer && !b.closed {
			in.timer = nil
			b.lingering--
			unwanted = b.dropLocked(in)
		}
		b.mu.Unlock()
		if unwanted {
			b.end(in)
		}
	})
	in.timer = timer
}
