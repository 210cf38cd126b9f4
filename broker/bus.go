package broker

import (
	"context"

	"github.com/tidewire/tidewire/codec"
)

// Message is a message on its way to the bus or from it. What it refers to is not
// changed after it was given away.
type Message struct {
	Topic     string
	Mode      codec.Mode
	Payload   codec.Payload
	Publisher codec.ID // zero: not a client of Tidewire

	Key     string        // PROTOCOL §4.5; "" is none
	Expires uint64        // ms of this broker's clock (PROTOCOL §4.6); 0: never
	Headers codec.Headers // not changed after they were given away
	Retain  bool          // the last value of its key; never set on a lossy message
	ID      string        // the idempotency key (PROTOCOL §7.6); "" is none
	Reply   []byte        // of a request, where replies go (PROTOCOL §7.7)
}

// Position is where a message stands in its topic (PROTOCOL §4.2).
type Position struct {
	Epoch  uint64
	Offset uint64
}

// Bus carries messages between brokers. The local bus, which Config has by
// default, carries them nowhere; broker/natsbus carries them over NATS.
//
// All methods may be called concurrently. Those with a context return when it
// ends.
type Bus interface {
	// Publish brings m to the Sink of this broker and to every other broker that
	// has subscribed to it, and returns its position in this broker. Messages that
	// one goroutine publishes to one topic stay in order. An error means that m
	// was not sequenced; if it is a *codec.Error its code is what the client gets.
	Publish(ctx context.Context, m Message) (Position, error)
	// Subscribe tells that this broker wants what pattern matches. It is called
	// once for each subscription, so more than once for one pattern. When it has
	// returned, no later message of another broker is missed.
	Subscribe(ctx context.Context, pattern string) error
	// Unsubscribe takes one Subscribe back. It must not block.
	Unsubscribe(pattern string)
	// Close ends the bus, and waits until it no longer calls the Sink.
	Close(ctx context.Context) error
}

// Sink is the broker as its bus sees it. Its methods may be called concurrently
// and do not block on clients.
type Sink interface {
	// Sequence gives m the next offset of its topic and delivers it to the
	// subscriptions of this broker. It refuses what is above the payload limit.
	Sequence(m Message) (Position, error)
	// Lost tells that an unknown number of messages that pattern matches did not
	// reach this broker. pattern is one that Subscribe was called with.
	Lost(pattern string)
}

// OpenBus makes the bus of a broker. New calls it once.
type OpenBus func(sink Sink) (Bus, error)

// OpenLocalBus makes the bus of a broker that stands alone.
func OpenLocalBus(sink Sink) (Bus, error) { return localBus{sink}, nil }

type localBus struct{ sink Sink }

func (b localBus) Publish(_ context.Context, m Message) (Position, error) { return b.sink.Sequence(m) }
func (localBus) Subscribe(context.Context, string) error                  { return nil }
func (localBus) Unsubscribe(string)                                       {}
func (localBus) Close(context.Context) error                              { return nil }
