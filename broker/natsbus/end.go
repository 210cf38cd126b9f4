package natsbus

import (
	"context"

	"github.com/nats-io/nats.go"
)

// An interest has not ended when its subscription at NATS has: of the messages that this
// has brought, copies of other subscriptions may still be under way, and copies of either
// wait in the inbox. Until all of them were handled it counts among those that bring
// copies: for a round trip to the server after it has ended there, and then until what is
// in the inbox was handled.

// dropLocked removes an interest that nobody wants or holds, and reports whether the caller is to
// end it. What has not begun yet is ended by begin.
func (b *bus) dropLocked(in *interest) bool {
	if in.refs > 0 || in.held > 0 || in.timer != nil {
		return false
	}
	b.removeLocked(in)
	if in.state != stands {
		return false
	}
	b.endLocked(in)
	return true
}

func (b *bus) endLocked(in *interest) {
	b.removeLocked(in)
	in.state = ends
	if in.group == "" {
		b.ending[in] = struct{}{}
	}
}

// end ends the subscriptions of an interest. What is under way for a group is still taken:
// nobody else gets it. While the connection is away nothing is, and a subscription that
// drains then would be made again when it is back, for nobody.
func (b *bus) end(in *interest) {
	if in.group != "" {
		for _, sub := range in.subs {
			if b.queues.IsConnected() {
				_ = sub.Drain()
			}
			if !b.queues.IsConnected() {
				_ = sub.Unsubscribe()
			}
		}
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = append(b.ended, in)
	if !b.settling && !b.closed {
		b.settling = true
		b.wg.Go(b.settle)
	}
}

// settle ends interests at NATS and puts their mark, as long as there are some; all that
// end meanwhile are next. The first round trip is for one that has just begun and takes
// over from one that ends here: the server may be sending a message that it matched
// before it knew the new one. The second is for the copies of what the old one brought.
func (b *bus) settle() {
	for {
		b.mu.Lock()
		ended := b.ended
		b.ended = nil
		b.settling = len(ended) > 0 && !b.closed
		settling := b.settling
		b.mu.Unlock()
		if !settling {
			return
		}
		b.roundTrip()
		for _, in := range ended {
			for _, sub := range in.subs {
				_ = sub.Unsubscribe()
			}
		}
		b.roundTrip()
		b.inbox.put(func() { b.settled(ended) })
	}
}

// roundTrip waits until all that the server has sent is in the inbox. An error means that
// nothing more comes, or nothing for so long.
func (b *bus) roundTrip() {
	if b.nc.IsConnected() {
		ctx, cancel := context.WithTimeout(context.Background(), subscribeTimeout)
		defer cancel()
		_ = b.nc.FlushWithContext(ctx)
	}
}

// settled forgets interests of which nothing comes any more. The receiver calls it.
func (b *bus) settled(ended []*interest) {
	subs := make(map[*nats.Subscription]bool, len(ended))
	b.mu.Lock()
	for _, in := range ended {
		delete(b.ending, in)
		if in.counts {
			b.copies.add(in.pattern, -1)
		}
		for _, sub := range in.subs {
			subs[sub] = true
		}
	}
	b.mu.Unlock()
	b.dedupe.end(subs, func(topic string) int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.copies.of(topic)
	})
	for _, in := range ended {
		close(in.gone)
	}
}
