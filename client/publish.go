package client

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// PublishOptions change one message. nil is the default.
type PublishOptions struct {
	// Key names the value within its topic, at most 255 bytes: of messages that
	// wait for a slow subscriber of class Latest or Sequenced only the newest of
	// each key is kept, and a retained message is the last value of its key.
	Key string
	// TTL is how long the message counts. The broker drops it afterwards, wherever
	// it waits, and tells a gap. It is rounded up to a millisecond; 0 is for ever.
	TTL time.Duration
	// Headers are small texts that travel with the message: at most 16, a name of at
	// most 64 bytes of printable ASCII, a value of at most 512, all together at most
	// 4 KiB. Filters look at them.
	Headers map[string]string
	// Retain makes the message the last value of its topic, or of its Key, which new
	// subscriptions get first. One with an empty payload clears it. Only reliable
	// messages are retained.
	Retain bool
	// ID is an idempotency key, at most 64 bytes: what was published to the topic
	// with the same one a short time ago (2 minutes, unless the broker is configured
	// otherwise) is not published again, whoever published it, and Publish returns
	// the position that it got then.
	ID string
}

// Publish publishes a reliable message and waits for its acknowledgement: the bus
// has given it a position. That does not mean delivery (PROTOCOL §7.4). The value
// becomes a payload as codec.Encode says. Options that break a limit are an *Error
// with CodeInvalidOption.
//
// Messages that are published to a topic one after the other keep their order.
// Publish waits for a connection. If the connection is lost while the answer is
// awaited, the error has CodeConnectionLost, and the message may have been
// published or not.
func (c *Client) Publish(ctx context.Context, topic string, value any, opts *PublishOptions) (Position, error) {
	m, err := outgoingMessage(topic, value, codec.ModeReliable, opts)
	if err != nil {
		return Position{}, err
	}
	conn, err := c.connected(ctx)
	if err != nil {
		return Position{}, err
	}
	return conn.publish(ctx, topic, m)
}

// PublishLossy publishes a message of which only the newest counts (PROTOCOL §9).
// It goes as a datagram if it fits into one, and is not acknowledged: nil means
// that it was handed to the connection. It waits for a connection until ctx ends.
// It cannot be retained.
func (c *Client) PublishLossy(ctx context.Context, topic string, value any, opts *PublishOptions) error {
	m, err := outgoingMessage(topic, value, codec.ModeLossy, opts)
	if err != nil {
		return err
	}
	conn, err := c.connected(ctx)
	if err != nil {
		return err
	}
	return conn.publishLossy(ctx, topic, m)
}

// outgoingMessage checks what is to be published, and makes a PUBLISH of it.
func outgoingMessage(topic string, value any, mode codec.Mode, opts *PublishOptions) (codec.Publish, error) {
	if err := codec.CheckTopic(topic); err != nil {
		return codec.Publish{}, err
	}
	if codec.IsSystem(topic) {
		return codec.Publish{}, codec.Errorf(codec.CodeSystemTopic, "topics that begin with $ or _ belong to the system")
	}
	payload, err := codec.Encode(value)
	if err != nil {
		return codec.Publish{}, err
	}
	m := codec.Publish{Mode: mode, Payload: payload}
	if opts == nil {
		return m, nil
	}
	m.Key, m.Retain, m.ID, m.Headers = opts.Key, opts.Retain, opts.ID, packHeaders(opts.Headers)
	switch {
	case len(m.Key) > codec.MaxKey:
		return m, codec.Errorf(codec.CodeInvalidOption, "a key of %d bytes; the limit is %d", len(m.Key), codec.MaxKey)
	case len(m.ID) > codec.MaxID:
		return m, codec.Errorf(codec.CodeInvalidOption, "an idempotency key of %d bytes; the limit is %d", len(m.ID), codec.MaxID)
	case opts.TTL < 0:
		return m, codec.Errorf(codec.CodeInvalidOption, "a negative time to live")
	case m.Retain && mode == codec.ModeLossy:
		return m, codec.Errorf(codec.CodeInvalidOption, "a lossy message is not retained")
	case opts.TTL > 0:
		m.TTL = codec.Some(uint64((opts.TTL + time.Millisecond - 1) / time.Millisecond))
	}
	return m, codec.CheckHeaders(m.Headers)
}

// packHeaders makes headers in the order of their names.
func packHeaders(h map[string]string) codec.Headers {
	if len(h) == 0 {
		return nil
	}
	packed := make(codec.Headers, 0, len(h))
	for _, name := range slices.Sorted(maps.Keys(h)) {
		packed = append(packed, codec.Header{Name: name, Value: h[name]})
	}
	return packed
}
