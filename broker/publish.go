package broker

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/tidewire/tidewire/codec"
)

// PublishOptions are what a message may have beside its value (PROTOCOL §4). A bad
// one is an error with CodeInvalidOption.
type PublishOptions struct {
	// Key is the message's key: at most 255 bytes of UTF-8. "" is none.
	Key string
	// TTL is how long the message is good, in whole milliseconds; what has expired
	// is dropped wherever it waits. 0 is what the topic is configured to.
	TTL time.Duration
	// Headers are at most 16 names and values, 4 KiB in all (PROTOCOL §4.7).
	Headers map[string]string
	// Retain makes the message the last value of its key, or of the topic if it has
	// none; with an empty payload it clears that. Not for a lossy message.
	Retain bool
	// ID is an idempotency key of at most 64 bytes: a message whose ID was published
	// to the topic shortly before is not published again (PROTOCOL §7.6). "" is none.
	ID string
}

// Publish publishes a message from within the process, with the authority of the
// broker itself: system topics too. The value becomes a payload as codec.Encode
// says; bytes are copied. opts may be nil. The position is the one that the bus
// gave; delivery is not waited for. ctx bounds the wait for the bus; a broker that
// stands alone has none.
//
// The error is a *codec.Error for a bad topic (CodeInvalidTopic), bad options
// (CodeInvalidOption), a payload above the limit (CodePayloadTooLarge) or a bus
// that does not take it, and ErrClosed after Shutdown.
func (b *Broker) Publish(ctx context.Context, topic string, value any, opts *PublishOptions) (Position, error) {
	return b.publishValue(ctx, topic, value, codec.ModeReliable, opts)
}

// PublishLossy is Publish for a message of which only the newest counts: it
// travels by datagram where it can (PROTOCOL §9).
func (b *Broker) PublishLossy(ctx context.Context, topic string, value any, opts *PublishOptions) (Position, error) {
	return b.publishValue(ctx, topic, value, codec.ModeLossy, opts)
}

func (b *Broker) publishValue(ctx context.Context, topic string, value any, mode codec.Mode, opts *PublishOptions) (Position, error) {
	m, err := b.newMessage(topic, value, mode, opts)
	if err != nil {
		return Position{}, err
	}
	return b.toBus(ctx, m)
}

// newMessage makes a message that is published from within the process.
func (b *Broker) newMessage(topic string, value any, mode codec.Mode, opts *PublishOptions) (Message, error) {
	m := Message{Topic: topic, Mode: mode}
	if err := codec.CheckTopic(topic); err != nil {
		return Message{}, err
	}
	if err := b.applyOptions(&m, opts); err != nil {
		return Message{}, err
	}
	var err error
	if m.Payload, err = codec.Encode(value); err != nil {
		return Message{}, err
	}
	if err := b.topics.config(topic).admit(m.Payload, m.Retain); err != nil {
		return Message{}, err
	}
	m.Payload.Data = bytes.Clone(m.Payload.Data) // the caller's, if value was bytes
	if b.isClosed() {
		return Message{}, ErrClosed
	}
	return m, nil
}

// applyOptions checks opts and puts them into m.
func (b *Broker) applyOptions(m *Message, opts *PublishOptions) error {
	if opts == nil {
		return nil
	}
	switch {
	case len(opts.Key) > codec.MaxKey || !utf8.ValidString(opts.Key):
		return codec.Errorf(codec.CodeInvalidOption, "a key is UTF-8 of at most %d bytes", codec.MaxKey)
	case len(opts.ID) > codec.MaxID || !utf8.ValidString(opts.ID):
		return codec.Errorf(codec.CodeInvalidOption, "an idempotency key is UTF-8 of at most %d bytes", codec.MaxID)
	case opts.TTL < 0 || opts.TTL > 0 && opts.TTL < time.Millisecond:
		return codec.Errorf(codec.CodeInvalidOption, "a time to live is at least 1 ms")
	case opts.Retain && m.Mode == codec.ModeLossy:
		return codec.Errorf(codec.CodeInvalidOption, "a lossy message is not retained")
	}
	m.Key, m.Retain, m.ID = opts.Key, opts.Retain, opts.ID
	m.Expires = b.expiryOf(uint64(opts.TTL / time.Millisecond))
	for _, name := range slices.Sorted(maps.Keys(opts.Headers)) {
		m.Headers = append(m.Headers, codec.Header{Name: name, Value: opts.Headers[name]})
	}
	for _, h := range m.Headers {
		if !utf8.ValidString(h.Value) {
			return codec.Errorf(codec.CodeInvalidOption, "header %q is not UTF-8", h.Name)
		}
	}
	return codec.CheckHeaders(m.Headers)
}

// expiryOf returns when a message with a time to live in ms expires; 0 for none.
func (b *Broker) expiryOf(ttl uint64) uint64 {
	if ttl == 0 {
		return 0
	}
	now := b.now()
	return now + min(ttl, codec.MaxInteger-now)
}

func (b *Broker) checkPayload(p codec.Payload) error {
	if n := uint64(len(p.Data)); n > b.config.Limits.Payload {
		return codec.Errorf(codec.CodePayloadTooLarge, "a payload of %d bytes; the limit is %d", n, b.config.Limits.Payload)
	}
	return nil
}

// publish brings a client's message to the bus. config is the topic's; more is as in
// Message.
func (s *session) publish(topic string, config *TopicConfig, m codec.Publish, more bool) (Position, error) {
	return s.publishMessage(topic, config, m, Message{More: more})
}

// publishRequest brings a client's request to the bus; reply is where replies go.
func (s *session) publishRequest(topic string, config *TopicConfig, m codec.Publish, reply []byte) (Position, error) {
	return s.publishMessage(topic, config, m, Message{Reply: reply})
}

// publishMessage brings to the bus what m says, with what only out says.
func (s *session) publishMessage(topic string, config *TopicConfig, m codec.Publish, out Message) (Position, error) {
	if err := config.admit(m.Payload, m.Retain); err != nil {
		return Position{}, err
	}
	if err := s.allow(); err != nil {
		return Position{}, err
	}
	pos, err := s.broker.toBus(s.ctx, Message{
		Topic:     topic,
		Mode:      m.Mode,
		Payload:   codec.Payload{Encoding: m.Payload.Encoding, Data: append([]byte(nil), m.Payload.Data...)}, // it refers to the reader's buffer
		Publisher: s.id,
		Key:       m.Key,
		Expires:   s.broker.expiryOf(m.TTL.Value),
		Headers:   m.Headers,
		Retain:    m.Retain,
		ID:        m.ID,
		Reply:     out.Reply,
		More:      out.More,
	})
	if err != nil {
		return Position{}, asCoded(err, codec.CodeBusUnavailable)
	}
	return pos, nil
}

// allow refuses what is above the session's rate.
func (s *session) allow() error {
	if s.limiter != nil && !s.limiter.Allow() {
		return &codec.Error{Code: codec.CodeRateLimited, Reason: "the session publishes faster than it may: wait", Retry: time.Second}
	}
	return nil
}
