package client

import (
	"context"
	"fmt"
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
	// it waits, and tells a gap. What has waited longer in this client is not sent:
	// the error has CodeExpired. It is rounded up to a millisecond; 0 is for ever.
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
// Without a connection they wait for one, within the bounds of Config.Offline; a
// time to live counts from the call on.
//
// A message whose answer was awaited when the connection was lost is published
// again on the next one, and the broker drops what it has already, if the broker
// knows this client still, or if the message has an ID, and the topic remembers for so
// long what was published (2 minutes, unless it is configured otherwise). Otherwise the
// error has CodeConnectionLost, and the message may have been published or not. The position is the zero one if the broker has published the
// message before and does not know any more where.
//
// If ctx ends before the message was sent, it is not. If it ends later, the message
// may be published or not.
func (c *Client) Publish(ctx context.Context, topic string, value any, opts *PublishOptions) (Position, error) {
	m, err := outgoingMessage(topic, value, codec.ModeReliable, opts)
	if err != nil {
		return Position{}, err
	}
	if err := ctx.Err(); err != nil {
		return Position{}, err
	}
	p, sent, err := c.enqueue(topic, []codec.Publish{m}, false)
	if err != nil {
		return Position{}, err
	}
	return p.await(ctx, sent[0])
}

// await waits for the result of a message, which is taken back if ctx ends before
// it was sent.
func (p *publisher) await(ctx context.Context, o *outgoing) (Position, error) {
	select {
	case <-o.result.done:
	case <-ctx.Done():
		p.abandon(o, ctx.Err())
		return Position{}, ctx.Err()
	}
	return o.result.position, o.result.err
}

// PublishAsync publishes a reliable message and does not wait: messages of one
// goroutine to one topic keep their order. The result is that of Publish, or has
// CodeQueueFull if too many have no answer yet: see Config.Offline.
func (c *Client) PublishAsync(topic string, value any, opts *PublishOptions) *PublishResult {
	m, err := outgoingMessage(topic, value, codec.ModeReliable, opts)
	if err != nil {
		return failedResult(err)
	}
	_, sent, err := c.enqueue(topic, []codec.Publish{m}, true)
	if err != nil {
		return failedResult(err)
	}
	return &sent[0].result
}

// Outgoing is one message of a batch.
type Outgoing struct {
	Value any
	PublishOptions
}

// PublishBatch publishes reliable messages to one topic, one behind the other, and
// waits for the answers, which mostly come as one. It is no transaction: some may be
// refused. The positions are those of the messages, the zero one where it failed,
// and the error is the first one.
func (c *Client) PublishBatch(ctx context.Context, topic string, messages []Outgoing) ([]Position, error) {
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	batch := make([]codec.Publish, 0, len(messages))
	for i := range messages {
		m, err := outgoingMessage(topic, messages[i].Value, codec.ModeReliable, &messages[i].PublishOptions)
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
		batch = append(batch, m)
	}
	if len(batch) == 0 || ctx.Err() != nil {
		return nil, ctx.Err()
	}
	p, sent, err := c.enqueue(topic, batch, false)
	if err != nil {
		return nil, err
	}
	positions := make([]Position, len(sent))
	for i, o := range sent {
		at, failed := p.await(ctx, o)
		positions[i] = at
		if failed != nil && err == nil {
			err = fmt.Errorf("message %d: %w", i, failed)
		}
	}
	return positions, err
}

// PublishLossy publishes a message of which only the newest counts (PROTOCOL §9).
// It goes as a datagram if it fits into one, and is not acknowledged: nil means
// that it was handed to the connection, or that there is none: then it is dropped and
// counted in Stats.Unsent, since it would soon be out of date, unless Config.Offline
// refuses to publish without a connection. If the connection takes no more just now it
// waits until ctx ends. It cannot be retained, and has no ID.
func (c *Client) PublishLossy(ctx context.Context, topic string, value any, opts *PublishOptions) error {
	m, err := outgoingMessage(topic, value, codec.ModeLossy, opts)
	if err != nil {
		return err
	}
	conn, err := c.connection()
	if err != nil {
		return err
	}
	if conn == nil {
		c.unsent.Add(1)
		return nil
	}
	if err = conn.publishLossy(ctx, topic, m); err != nil && conn.ctx.Err() != nil && c.ctx.Err() == nil {
		c.unsent.Add(1)
		return nil
	}
	return err
}

// publishLossy sends a message that is not answered.
func (n *connection) publishLossy(ctx context.Context, topic string, m codec.Publish) error {
	if err := n.checkPayload(m); err != nil {
		return err
	}
	m.Topic, m.Mode = topic, codec.ModeLossy
	frame := codec.AppendPublish(nil, m)
	if n.welcome.Capabilities&codec.CapDatagrams != 0 && len(frame) <= n.conn.MaxDatagramSize() {
		err := n.conn.SendDatagram(ctx, frame)
		if err != nil && n.ctx.Err() != nil {
			return n.interrupted()
		}
		return err
	}
	return n.sendMessage(ctx, frame)
}

// outgoingMessage checks what is to be published, and makes a PUBLISH of it.
func outgoingMessage(topic string, value any, mode codec.Mode, opts *PublishOptions) (codec.Publish, error) {
	if err := checkTopic(topic); err != nil {
		return codec.Publish{}, err
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
	case m.ID != "" && mode == codec.ModeLossy:
		return m, codec.Errorf(codec.CodeInvalidOption, "a lossy message has no idempotency key")
	case opts.TTL > 0:
		m.TTL = codec.Some(uint64((opts.TTL-1)/time.Millisecond) + 1)
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
