package natsbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// Config configures the bus. URL is required.
type Config struct {
	// URL is the address of the NATS servers, several joined by commas.
	URL string
	// Prefix is put before each topic, joined by a dot, to make the subject. It must
	// be a topic itself, such as "tidewire"; "" is none.
	Prefix string
	// Encoding is that of messages which say none.
	Encoding codec.Encoding
	// Options are given to the NATS client: credentials, TLS, names. What this
	// package needs is set after them.
	Options []nats.Option
	// Queue is how many messages from NATS may wait for the broker; more are lost,
	// and subscriptions get a gap. 0 is 65,536.
	Queue int
	// Logger gets connects, disconnects and losses. nil discards.
	Logger *slog.Logger
}

// subscribeTimeout bounds the wait for the NATS server to know a subscription.
const subscribeTimeout = 5 * time.Second

// The headers of a message on NATS.
const (
	headerEncoding  = "Tidewire-Encoding"
	headerPublisher = "Tidewire-Publisher"
	headerMode      = "Tidewire-Mode"
	headerID        = "Tidewire-Id"
)

// bus is a broker.Bus over core NATS.
type bus struct {
	// Static after open.
	config Config
	sink   broker.Sink
	log    *slog.Logger
	nc     *nats.Conn
	name   string // of this broker, in message ids
	inbox  chan *nats.Msg
	stop   chan struct{} // closed by Close
	wg     sync.WaitGroup

	sequence atomic.Uint64 // of message ids

	mu         sync.Mutex
	interests  map[string]*interest // by pattern; guarded by mu
	wild       map[string]*interest // those of them with wildcards; guarded by mu
	generation uint64               // grows when interests change; guarded by mu

	// Owned by receive.
	dedupe *dedupe
}

// interest is one pattern at NATS, however many subscriptions want it.
type interest struct {
	pattern string
	refs    int                // guarded by the bus's mu
	ready   chan struct{}      // closed when the server knows it, or err is set
	err     error              // static after ready was closed
	sub     *nats.Subscription // nil before ready, and when nobody wants it; guarded by the bus's mu
}

// Open returns what makes a bus over NATS. It connects when the broker is made; a
// server that is not there then is an error, one that goes away later is waited
// for.
func Open(config Config) broker.OpenBus {
	return func(sink broker.Sink) (broker.Bus, error) { return open(config, sink) }
}

func open(config Config, sink broker.Sink) (*bus, error) {
	if config.Queue == 0 {
		config.Queue = 1 << 16
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Prefix != "" {
		if err := codec.CheckTopic(config.Prefix); err != nil {
			return nil, fmt.Errorf("natsbus: Config.Prefix: %w", err)
		}
		config.Prefix += "."
	}
	b := &bus{
		config:    config,
		sink:      sink,
		log:       config.Logger,
		name:      uuid.NewString(),
		inbox:     make(chan *nats.Msg, config.Queue),
		stop:      make(chan struct{}),
		interests: make(map[string]*interest),
		wild:      make(map[string]*interest),
		dedupe:    newDedupe(),
	}
	options := append([]nats.Option{nats.Name("tidewire broker")}, config.Options...)
	options = append(options,
		nats.NoEcho(),
		nats.MaxReconnects(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			b.log.Warn("NATS is away", slog.Any("error", err))
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			b.log.Info("NATS is back: subscriptions get a gap")
			b.lostAll()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) { b.failed(sub, err) }),
	)
	nc, err := nats.Connect(config.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("natsbus: no NATS server could be reached at %s; is it running?: %w", config.URL, err)
	}
	b.nc = nc
	b.wg.Go(b.receive)
	return b, nil
}

// Publish implements broker.Bus. The broker has checked topic and payload, so once
// NATS has the message, Sequence refuses it only if the broker can hold no more
// topics.
func (b *bus) Publish(ctx context.Context, m broker.Message) (broker.Position, error) {
	if err := ctx.Err(); err != nil {
		return broker.Position{}, err
	}
	if !codec.IsSystem(m.Topic) {
		err := b.nc.PublishMsg(b.encode(m))
		if errors.Is(err, nats.ErrMaxPayload) {
			// To try again is of no use.
			return broker.Position{}, codec.Errorf(codec.CodePayloadTooLarge,
				"a payload of %d bytes; the NATS server takes %d, with about 150 of headers", len(m.Payload.Data), b.nc.MaxPayload())
		}
		if err != nil {
			return broker.Position{}, codec.Errorf(codec.CodeBusUnavailable, "NATS does not take the message: %v", err)
		}
	}
	return b.sink.Sequence(m)
}

// Subscribe implements broker.Bus.
func (b *bus) Subscribe(ctx context.Context, pattern string) error {
	if codec.IsSystem(pattern) {
		return nil // stays in the broker
	}
	b.mu.Lock()
	in, found := b.interests[pattern]
	if !found {
		in = &interest{pattern: strings.Clone(pattern), ready: make(chan struct{})}
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
	sub, err := b.nc.ChanSubscribe(b.config.Prefix+in.pattern, b.inbox)
	if err == nil {
		if err = b.nc.FlushWithContext(ctx); err != nil {
			_ = sub.Unsubscribe()
			sub = nil
		}
	}
	b.mu.Lock()
	in.sub, in.err = sub, err
	var unwanted *nats.Subscription
	if in.refs == 0 {
		unwanted, in.sub = sub, nil
	}
	if err != nil {
		b.removeLocked(in) // the next one tries anew
	}
	b.mu.Unlock()
	close(in.ready)
	if unwanted != nil {
		_ = unwanted.Unsubscribe()
	}
}

// addLocked puts an interest in its place.
func (b *bus) addLocked(in *interest) {
	b.generation++
	b.interests[in.pattern] = in
	if !codec.IsExact(in.pattern) {
		b.wild[in.pattern] = in
	}
}

// removeLocked removes an interest, unless another one has its place.
func (b *bus) removeLocked(in *interest) {
	if b.interests[in.pattern] != in {
		return
	}
	b.generation++
	delete(b.interests, in.pattern)
	delete(b.wild, in.pattern)
}

// Unsubscribe implements broker.Bus.
func (b *bus) Unsubscribe(pattern string) {
	b.mu.Lock()
	in := b.interests[pattern]
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
	var sub *nats.Subscription
	if in.refs == 0 {
		b.removeLocked(in)
		sub, in.sub = in.sub, nil
	}
	b.mu.Unlock()
	if sub != nil {
		// It writes into the connection's buffer. If the connection is away there is
		// nothing to unsubscribe from.
		_ = sub.Unsubscribe()
	}
}

// Close implements broker.Bus.
func (b *bus) Close(ctx context.Context) error {
	var err error
	if ctx.Err() == nil && b.nc.IsConnected() {
		err = b.nc.FlushWithContext(ctx)
	}
	b.nc.Close()
	close(b.stop)
	b.wg.Wait()
	return err
}

// receive hands what comes from NATS to the broker.
func (b *bus) receive() {
	for {
		select {
		case m := <-b.inbox:
			b.handle(m)
		case <-b.stop:
			return
		}
	}
}

func (b *bus) handle(m *nats.Msg) {
	topic, ok := strings.CutPrefix(m.Subject, b.config.Prefix)
	if !ok || codec.IsSystem(topic) || codec.CheckTopic(topic) != nil {
		return // > without a prefix brings the system's subjects too
	}
	b.mu.Lock()
	copies := b.dedupe.copiesLocked(topic, b.generation, b.interests, b.wild)
	b.mu.Unlock()
	if copies > 1 && !b.dedupe.first(m) {
		return
	}
	if _, err := b.sink.Sequence(b.decode(topic, m)); err != nil {
		b.log.Warn("a message from NATS was not taken", slog.String("topic", topic), slog.Any("error", err))
	}
}

// encode makes the NATS message.
func (b *bus) encode(m broker.Message) *nats.Msg {
	header := nats.Header{
		headerEncoding: {m.Payload.Encoding.String()},
		headerID:       {fmt.Sprintf("%s.%d", b.name, b.sequence.Add(1))},
	}
	if !m.Publisher.IsZero() {
		header[headerPublisher] = []string{m.Publisher.String()}
	}
	if m.Mode == codec.ModeLossy {
		header[headerMode] = []string{"lossy"}
	}
	return &nats.Msg{Subject: b.config.Prefix + m.Topic, Header: header, Data: m.Payload.Data}
}

// decode reads a NATS message; what its headers do not say has a default.
func (b *bus) decode(topic string, m *nats.Msg) broker.Message {
	out := broker.Message{Topic: topic, Payload: codec.Payload{Encoding: b.config.Encoding, Data: m.Data}}
	name := m.Header.Get(headerEncoding)
	for _, e := range []codec.Encoding{codec.EncodingBytes, codec.EncodingMsgpack, codec.EncodingJSON, codec.EncodingText} {
		if name == e.String() {
			out.Payload.Encoding = e
		}
	}
	if id, err := uuid.Parse(m.Header.Get(headerPublisher)); err == nil {
		out.Publisher = codec.ID(id)
	}
	if m.Header.Get(headerMode) == "lossy" {
		out.Mode = codec.ModeLossy
	}
	return out
}

// lostAll tells the broker that every pattern may have missed messages.
func (b *bus) lostAll() {
	b.mu.Lock()
	patterns := make([]string, 0, len(b.interests))
	for p := range b.interests {
		patterns = append(patterns, p)
	}
	b.mu.Unlock()
	for _, p := range patterns {
		b.sink.Lost(p)
	}
}

// failed takes what the NATS client reports of a subscription.
func (b *bus) failed(sub *nats.Subscription, err error) {
	if sub == nil || !errors.Is(err, nats.ErrSlowConsumer) {
		b.log.Warn("NATS reports an error", slog.Any("error", err))
		return
	}
	pattern := strings.TrimPrefix(sub.Subject, b.config.Prefix)
	b.log.Warn("messages from NATS were lost: the broker is too slow", slog.String("pattern", pattern))
	b.sink.Lost(pattern)
}
