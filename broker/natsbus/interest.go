package natsbus

import (
	"context"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/codec"
)

// wanted is what a broker wants: a pattern, or a group's share of it.
type wanted struct{ pattern, group string }

// interest is one pattern at NATS, however many subscriptions want it; in a group, one
// queue group's share of it.
type interest struct {
	wanted
	refs  int                  // guarded by the bus's mu
	ready chan struct{}        // closed when the server knows it, or err is set
	err   error                // static after ready was closed
	subs  []*nats.Subscription // nil before ready, and when nobody wants it; guarded by the bus's mu
}

// Subscribe implements broker.Bus.
func (b *bus) Subscribe(ctx context.Context, pattern, group string) error {
	if codec.IsSystem(pattern) {
		return nil // stays in the broker
	}
	w := wanted{pattern, group}
	b.mu.Lock()
	in, found := b.interests[w]
	if !found {
		w.pattern = strings.Clone(pattern)
		in = &interest{wanted: w, ready: make(chan struct{})}
		b.addLocked(in)
	}
	in.refs++
	b.mu.Unlock()
	if !found {
		// Others may wait for it as well, so it outlives this caller's context.
		b.begin(context.WithoutCancel(ctx), in)
	}
	select {
	case <-in.ready:
	case <-ctx.Done():
		b.release(in)
		return ctx.Err()
	}
	if in.err != nil {
		b.release(in)
		return codec.Errorf(codec.CodeBusUnavailable, "NATS does not take the subscription: %v", in.err)
	}
	return nil
}

// begin subscribes at NATS, and waits until the server knows it.
func (b *bus) begin(ctx context.Context, in *interest) {
	ctx, cancel := context.WithTimeout(ctx, subscribeTimeout)
	defer cancel()
	subs, err := b.subscribe(ctx, in)
	if err != nil {
		end(subs)
		subs = nil
	}
	b.mu.Lock()
	in.subs, in.err = subs, err
	var unwanted []*nats.Subscription
	if in.refs == 0 {
		unwanted, in.subs = subs, nil
	}
	if err != nil {
		b.removeLocked(in) // the next one tries anew
	}
	b.mu.Unlock()
	close(in.ready)
	end(unwanted)
}

// subscribe makes the subscriptions of an interest; what it has made comes with an
// error too.
func (b *bus) subscribe(ctx context.Context, in *interest) (subs []*nats.Subscription, err error) {
	subject := b.config.Prefix + in.pattern
	if in.group == "" {
		sub, err := b.nc.ChanSubscribe(subject, b.inbox)
		if err != nil {
			return nil, err
		}
		return []*nats.Subscription{sub}, b.nc.FlushWithContext(ctx)
	}
	for _, s := range []string{subject, handOverSubject(in.group, subject)} {
		sub, err := b.queues.ChanQueueSubscribe(s, queueOf(in.group), b.inbox)
		if err != nil {
			return subs, err
		}
		subs = append(subs, sub)
	}
	return subs, b.queues.FlushWithContext(ctx)
}

// end ends subscriptions. It writes into the connection's buffer; if the connection is
// away there is nothing to unsubscribe from. What is under way for a group is still
// taken: nobody else gets it.
func end(subs []*nats.Subscription) {
	for _, sub := range subs {
		if sub.Queue != "" {
			_ = sub.Drain()
		} else {
			_ = sub.Unsubscribe()
		}
	}
}

// addLocked puts an interest in its place.
func (b *bus) addLocked(in *interest) {
	b.interests[in.wanted] = in
	if in.group != "" {
		return
	}
	b.generation++
	if !codec.IsExact(in.pattern) {
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
		b.generation++
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

// release takes one reference back. It is that of an interest and not of a pattern:
// one that has failed may have a successor, which is none of its waiters' business.
func (b *bus) release(in *interest) {
	b.mu.Lock()
	in.refs--
	var subs []*nats.Subscription
	if in.refs == 0 {
		b.removeLocked(in)
		subs, in.subs = in.subs, nil
	}
	b.mu.Unlock()
	end(subs)
}

// lostAll tells the broker that every pattern, or every group's share, may have missed
// messages.
func (b *bus) lostAll(groups bool) {
	b.mu.Lock()
	all := make([]wanted, 0, len(b.interests))
	for w := range b.interests {
		if (w.group != "") == groups {
			all = append(all, w)
		}
	}
	b.mu.Unlock()
	for _, w := range all {
		b.sink.Lost(w.pattern, w.group)
	}
}
