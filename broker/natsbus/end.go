package natsbus

import (
	"context"

	"github.com/nats-io/nats.go"
)

// An interest has not ended when its subscription at NATS has: of the messages that this
// has brought, copies of other subscriptions may still be under way, and copies of either
// wait in the inbox. Until all of them were handled it counts among those that bring
// copies. That is a round trip to the server after it has ended there, and then what is
// in the inbox.

// dropLocked removes an interest that nobody wants, and reports whether the caller is to
// end it. What has not begun yet is ended by begin.
func (b *bus) dropLocked(in *interest) bool {
	if in.refs > 0 {
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
}

// end ends the subscriptions of an interest. It writes into the connection's buffer; if the
// connection is away there is nothing to unsubscribe from. What is under way for a group is
// still taken: nobody else gets it.
func (b *bus) end(in *interest) {
	for _, sub := range in.subs {
		if sub.Queue != "" {
			_ = sub.Drain()
		} else {
			_ = sub.Unsubscribe()
		}
	}
	if in.group != "" {
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

// settle waits for the server where interests have ended, and puts their mark, as long as
// there are some. That goes for all at once which end meanwhile.
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
		if b.nc.IsConnected() {
			// An error means that nothing more comes, or nothing for so long.
			ctx, cancel := context.WithTimeout(context.Background(), subscribeTimeout)
			_ = b.nc.FlushWithContext(ctx)
			cancel()
		}
		b.inbox.put(func() { b.settled(ended) })
	}
}

// settled forgets interests of which nothing comes any more. The receiver calls it.
func (b *bus) settled(ended []*interest) {
	subs := make(map[*nats.Subscription]bool, len(ended))
	b.mu.Lock()
	for _, in := range ended {
		b.copies.add(in.pattern, -1)
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
}
