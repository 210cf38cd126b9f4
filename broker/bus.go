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
	Reply   []byte        // of a request, where replies go (PROTOCOL §7.7): see Bus

	// More tells that the publisher has another message for the topic at hand: this
	// one may wait for it, so that both are delivered together. Whoever sets it sees
	// to it that delivery goes on.
	More bool
}

// Position is where a message stands in its topic (PROTOCOL §4.2).
type Position struct {
	Epoch  uint64
	Offset uint64
}

// Bus carries messages between brokers. The local bus, which Config has by
// default, carries them nowhere; broker/natsbus carries them over NATS. Package
// bustest holds what every bus must do.
//
// All methods may be called concurrently. Those with a context return when it
// ends; the others do not block. An error that is a *codec.Error tells the client
// its code; any other becomes CodeBusUnavailable.
//
// # Requests
//
// A message with Reply set is a request (PROTOCOL §7.7). Reply is where its replies
// go: an address of this broker, which begins with a zero byte, or one that the bus
// has given, which does not. Neither is looked into by the other. The bus makes an
// address of this broker known to others in a form of its own, so that a reply comes
// back to Sink.Replied with the address as it was.
//
// # Groups
//
// Of a group (PROTOCOL §6.9) one member gets a message, in whichever broker it is. A
// bus that joins brokers chooses among all of them, this one included, and so its
// messages for groups come by Sink.Distribute alone; a broker that stands alone
// chooses by itself.
type Bus interface {
	// Publish brings m to the Sink of this broker and to every other broker that
	// has subscribed to it, and returns its position in this broker. Messages that
	// one goroutine publishes to one topic stay in order. An error means that m
	// was not sequenced.
	Publish(ctx context.Context, m Message) (Position, error)
	// Subscribe tells that this broker wants what pattern matches, or, if group is
	// not "", its share of what pattern matches. It is called once for each
	// subscription, so more than once for one pattern. When it has returned, no
	// later message of another broker is missed. since, a time of Sink.Now, is when
	// messages of others may last have been missed that pattern matches; 0: none ever
	// were. A bus that did not listen to topics that this broker has, and now does,
	// calls Sink.Lapsed before it returns.
	Subscribe(ctx context.Context, pattern, group string) (since uint64, err error)
	// Unsubscribe takes one Subscribe back. Messages for a group that are under way
	// to this broker still come.
	Unsubscribe(pattern, group string)
	// Reply brings m to whoever has published the request with this address, which
	// is one that the bus has given. m has no topic.
	Reply(ctx context.Context, address []byte, m Message) error
	// Joined reports whether the bus joins brokers and so distributes messages to
	// groups. Its answer never changes.
	Joined() bool
	// Distribute gives m, a message that this broker cannot give to a member of the
	// group any more, to a member in another broker. It reports false if there is
	// none, as far as is known at once.
	Distribute(group string, m Message) bool
	// Close ends the bus, and waits until it no longer calls the Sink. It may be called
	// again.
	Close(ctx context.Context) error
}

// Sink is the broker as its bus sees it. Its methods may be called concurrently,
// also from within the methods of Bus, and do not block on clients.
type Sink interface {
	// Sequence gives m the next offset of its topic and delivers it to the
	// subscriptions of this broker; to groups only if the bus is not Joined. It
	// refuses what is above the payload limit.
	Sequence(m Message) (Position, error)
	// Distribute gives m to one member of a group in this broker, and if there is
	// none any more back to the bus. It gives m no offset of its own.
	Distribute(group string, m Message)
	// Replied brings a reply to the request with this address of this broker. m has
	// no topic.
	Replied(address []byte, m Message)
	// NobodyThere tells that no other broker, and nobody else on the bus, has
	// subscribed to the topic of the request with this address of this broker. It is
	// called at most once for a Publish, and may come before that has returned.
	NobodyThere(address []byte)
	// Lost tells that an unknown number of messages that pattern matches did not
	// reach this broker, or, if group is not "", this broker's share of them. They
	// are what Subscribe was called with.
	Lost(pattern, group string)
	// Lapsed tells that the bus has not brought what others published to the topics
	// that pattern matches, and soon will; it comes before the first of these messages.
	// Topics for which listened reports true are excepted. Whoever reads a topic across
	// this point is told a gap.
	Lapsed(pattern string, listened func(topic string) bool)
	// Now is the broker's clock, in which a message expires: ms since it was made.
	Now() uint64
}

// OpenBus makes the bus of a broker. New calls it once.
type OpenBus func(sink Sink) (Bus, error)

// OpenLocalBus makes the bus of a broker that stands alone.
func OpenLocalBus(sink Sink) (Bus, error) { return localBus{sink}, nil }

type localBus struct{ sink Sink }

// Publish implements Bus.
func (b localBus) Publish(_ context.Context, m Message) (Position, error) {
	pos, err := b.sink.Sequence(m)
	if err == nil && m.Reply != nil {
		b.sink.NobodyThere(m.Reply)
	}
	return pos, err
}

func (localBus) Subscribe(context.Context, string, string) (uint64, error) { return 0, nil }
func (localBus) Unsubscribe(string, string)                                {}
func (localBus) Joined() bool                                              { return false }
func (localBus) Distribute(string, Message) bool                           { return false }
func (localBus) Close(context.Context) error                               { return nil }

// Reply implements Bus: the local bus has given no address.
func (localBus) Reply(context.Context, []byte, Message) error {
	return codec.Errorf(codec.CodeBusUnavailable, "the address is not of this bus")
}
