package broker

import (
	"cmp"
	"slices"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// pong answers PING with the broker's view of the connection, and of the
// subscriptions if they were asked for: those with the lowest numbers, where there
// are more than one PONG holds (PROTOCOL §5.9).
func (s *session) pong(p codec.Ping) {
	w := codec.Pong{Number: p.Number}
	if path := s.conn.Stats(); path.PacketsSent > 0 {
		w.Sent, w.Lost = codec.Some(path.PacketsSent), codec.Some(path.PacketsLost)
		if path.RTT > 0 {
			w.RTT = codec.Some(uint64(path.RTT / time.Microsecond))
		}
	}
	if p.Subscriptions {
		s.awaitControlRoom()
		w.Subscriptions = s.health()
	}
	s.sendControl(codec.AppendPong(nil, w))
}

// health returns how the session's subscriptions stand.
func (s *session) health() []codec.SubscriptionHealth {
	s.mu.Lock()
	list := make([]codec.SubscriptionHealth, 0, len(s.subs))
	for _, sub := range s.subs {
		if !sub.opening {
			list = append(list, sub.healthLocked())
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b codec.SubscriptionHealth) int { return cmp.Compare(a.Subscription, b.Subscription) })
	return list[:min(len(list), codec.MaxHealth)]
}

// healthLocked returns how a subscription stands.
func (sub *subscription) healthLocked() codec.SubscriptionHealth {
	return codec.SubscriptionHealth{
		Subscription: sub.number,
		Bytes:        uint64(sub.out.queue.bytes + sub.parkedBytes),
		Messages:     uint64(sub.out.queue.messages + len(sub.parked)),
		Conflated:    sub.conflated,
		Dropped:      sub.dropped,
	}
}

// maxLargeAnswers bounds the frames that wait for the control stream before the
// next large one is made.
const maxLargeAnswers = 16

// awaitControlRoom waits until little waits for the control stream, before an answer
// is made that may be tens of KiB. A client that asks and does not read so waits for
// itself alone: what it sends on the control stream is not read meanwhile.
func (s *session) awaitControlRoom() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.control.queue.len() > maxLargeAnswers && !s.control.gone && s.ctx.Err() == nil {
		s.changed.Wait()
	}
}
