package client

import (
	"context"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// Health is how the connection stands at this moment, as the broker sees it.
type Health struct {
	// RTT is the round trip: the transport's own figure, or, where it has none, how
	// long this very question took.
	RTT time.Duration
	// PacketsSent and PacketsLost count what the broker has sent on this connection;
	// 0 where the transport does not tell.
	PacketsSent, PacketsLost uint64
	// Subscriptions is what the broker holds back for each subscription, of at most
	// 1,024.
	Subscriptions map[*Subscription]SubscriptionHealth
}

// SubscriptionHealth is how a subscription stands at the broker.
type SubscriptionHealth struct {
	QueuedBytes    uint64 // wait now
	QueuedMessages uint64 // wait now
	Conflated      uint64 // messages whose place a newer one took, since the subscription began on this connection
	Dropped        uint64 // messages that were dropped, likewise; a gap told of each, except in class Unreliable
}

// Health asks the broker how the connection and its subscriptions stand. What the
// client itself has dropped is in Subscription.Stats.
func (c *Client) Health(ctx context.Context) (Health, error) {
	conn, err := c.reach(ctx)
	if err != nil {
		return Health{}, err
	}
	return conn.health(ctx)
}

func (n *connection) health(ctx context.Context) (Health, error) {
	asked := time.Now()
	frame, err := n.do(ctx, func(number uint64) []byte {
		return codec.AppendPing(nil, codec.Ping{Number: number, Subscriptions: true})
	})
	if err != nil {
		return Health{}, err
	}
	pong, ok := frame.(codec.Pong)
	if !ok {
		return Health{}, codec.Errorf(codec.CodeProtocolViolation, "PING was not answered by PONG")
	}
	h := Health{
		RTT:           time.Since(asked),
		PacketsSent:   pong.Sent.Value,
		PacketsLost:   pong.Lost.Value,
		Subscriptions: make(map[*Subscription]SubscriptionHealth, len(pong.Subscriptions)),
	}
	if pong.RTT.Set {
		h.RTT = time.Duration(pong.RTT.Value) * time.Microsecond
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range pong.Subscriptions {
		if sub := n.subs[s.Subscription]; sub != nil {
			h.Subscriptions[sub] = SubscriptionHealth{s.Bytes, s.Messages, s.Conflated, s.Dropped}
		}
	}
	return h, nil
}

// Health asks the broker how the subscription stands. It waits for a connection. The error
// has CodeConnectionLost if the connection is lost before the answer, and where the broker
// knows nothing of the subscription just now: it is being resumed, has ended, or is beyond
// the 1,024 of Client.Health.
func (s *Subscription) Health(ctx context.Context) (SubscriptionHealth, error) {
	h, err := s.client.Health(ctx)
	if err != nil {
		return SubscriptionHealth{}, err
	}
	health, ok := h.Subscriptions[s]
	if !ok {
		return health, codec.Errorf(codec.CodeConnectionLost, "the broker knows nothing of the subscription just now")
	}
	return health, nil
}
