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
	// Linger is how long a pattern is still listened to after its last subscription
	// has ended, so that a client that comes back meanwhile has missed nothing; later
	// it is told a gap. It should be about as long as the histories of topics. 0 is a
	// minute; below 0 it ends at once.
	Linger time.Duration
	// Logger gets connects, disconnects and losses. nil discards.
	Logger *slog.Logger
}

// subscribeTimeout bounds the wait for the NATS server to know a subscription.
const subscribeTimeout = 5 * time.Second

// bus is a broker.Bus over core NATS.
type bus struct {
	// Static after open.
	config Config
	sink   broker.Sink
	log    *slog.Logger
	nc     *nats.Conn // publishes, and has what is no queue subscription
	queues *nats.Conn // has the queue subscriptions: see group.go
	name   string     // of this broker, in message ids
	// replies begins the reply subjects of this broker; a token follows.
	replies string
	inbox   *inbox
	stop    chan struct{} // closed by Close
	wg      sync.WaitGroup

	sequence atomic.Uint64 // of message ids

	mu        sync.Mutex
	interests map[wanted]*interest   // guarded by mu
	wild      map[string]*interest   // those of no group and with wildcards, by pattern; guarded by mu
	lingering int                    // interests that nobody wants any more; guarded by mu
	ending    map[*interest]struct{} // those of no group that have ended and are not gone; guarded by mu
	ended     []*interest            // those of them that settle has not seen; guarded by mu
	settling  bool                   // settle runs; guarded by mu
	copies    copies                 // guarded by mu
	losses    map[wanted]bool        // those with a mark that messages were lost; true: and more behind it; guarded by mu
	closed    bool                   // guarded by mu

	// Owned by receive.
	dedupe *dedupe
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
	if config.Linger == 0 {
		config.Linger = time.Minute
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
		inbox:     newInbox(config.Queue),
		stop:      make(chan struct{}),
		interests: make(map[wanted]*interest),
		wild:      make(map[string]*interest),
		ending:    make(map[*interest]struct{}),
		copies:    newCopies(),
		losses:    make(map[wanted]bool),
		dedupe:    newDedupe(),
	}
	var err error
	if b.nc, err = b.connect("tidewire broker", func() { b.lostAll(false) }, nats.NoEcho()); err != nil {
		return nil, err
	}
	if b.queues, err = b.connect("tidewire broker, groups", func() { b.lostAll(true) }); err != nil {
		b.nc.Close()
		return nil, err
	}
	if err := b.listen(); err != nil {
		b.queues.Close()
		b.nc.Close()
		return nil, fmt.Errorf("natsbus: the NATS server does not take the subscription to replies: %w", err)
	}
	b.wg.Go(b.receive)
	return b, nil
}

// connect makes a connection; back is called when it was away.
func (b *bus) connect(name string, back func(), more ...nats.Option) (*nats.Conn, error) {
	options := append([]nats.Option{nats.Name(name)}, b.config.Options...)
	options = append(options, more...)
	options = append(options,
		nats.MaxReconnects(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			b.log.Warn("NATS is away", slog.Any("error", err))
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			b.log.Info("NATS is back: subscriptions get a gap")
			back()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) { b.failed(sub, err) }),
	)
	nc, err := nats.Connect(b.config.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("natsbus: no NATS server could be reached at %s; is it running?: %w", b.config.URL, err)
	}
	return nc, nil
}

// Publish implements broker.Bus. The broker has checked topic and payload, so once
// NATS has the message, Sequence refuses it only if the broker can hold no more
// topics.
func (b *bus) Publish(ctx context.Context, m broker.Message) (broker.Position, error) {
	if err := ctx.Err(); err != nil {
		return broker.Position{}, err
	}
	if codec.IsSystem(m.Topic) {
		pos, err := b.sink.Sequence(m)
		if err == nil && m.Reply != nil {
			b.sink.NobodyThere(m.Reply)
		}
		return pos, err
	}
	msg, err := b.encode(b.config.Prefix+m.Topic, m)
	if err != nil {
		return broker.Position{}, err
	}
	if m.Reply != nil {
		msg.Reply = b.subjectOf(m.Reply)
	}
	err = b.nc.PublishMsg(msg)
	if errors.Is(err, nats.ErrMaxPayload) {
		// To try again is of no use.
		return broker.Position{}, codec.Errorf(codec.CodePayloadTooLarge,
			"a payload of %d bytes; the NATS server takes %d, headers included", len(m.Payload.Data), b.nc.MaxPayload())
	}
	if errors.Is(err, nats.ErrBadHeaderMsg) {
		return broker.Position{}, codec.Errorf(codec.CodeInvalidOption, "between brokers a header's name has letters, digits and !#$%%&'*+-.^_`|~ only")
	}
	if err != nil {
		return broker.Position{}, codec.Errorf(codec.CodeBusUnavailable, "NATS does not take the message: %v", err)
	}
	return b.sink.Sequence(m)
}

// Close implements broker.Bus.
func (b *bus) Close(ctx context.Context) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		b.wg.Wait()
		return nil
	}
	b.closed = true
	for _, in := range b.interests {
		if in.timer != nil {
			in.timer.Stop()
		}
	}
	b.mu.Unlock()
	var errs []error
	for _, nc := range []*nats.Conn{b.queues, b.nc} {
		if ctx.Err() == nil && nc.IsConnected() {
			errs = append(errs, nc.FlushWithContext(ctx))
		}
		nc.Close()
	}
	close(b.stop)
	b.wg.Wait()
	return errors.Join(errs...)
}

// receive hands what comes from NATS to the broker, and does what the marks in between say.
func (b *bus) receive() {
	for {
		m, do := b.inbox.next(b.stop)
		switch {
		case m != nil:
			b.handle(m)
		case do != nil:
			do()
		default:
			return
		}
	}
}

func (b *bus) handle(m *nats.Msg) {
	switch {
	case m.Sub.Queue != "":
		b.distribute(m)
		return
	case strings.HasPrefix(m.Sub.Subject, b.replies):
		b.replied(m)
		return
	}
	topic, ok := strings.CutPrefix(m.Subject, b.config.Prefix)
	if !ok || codec.IsSystem(topic) || codec.CheckTopic(topic) != nil {
		return // > without a prefix brings the system's subjects too
	}
	b.mu.Lock()
	copies := b.copies.of(topic)
	b.mu.Unlock()
	if copies > 1 && !b.dedupe.first(m, topic, copies) {
		return
	}
	if _, err := b.sink.Sequence(b.decode(topic, m)); err != nil {
		b.log.Warn("a message from NATS was not taken", slog.String("topic", topic), slog.Any("error", err))
	}
}

// failed takes what the NATS client reports of a subscription.
func (b *bus) failed(sub *nats.Subscription, err error) {
	if sub == nil || !errors.Is(err, nats.ErrSlowConsumer) {
		b.log.Warn("NATS reports an error", slog.Any("error", err))
		return
	}
	group, subject := "", sub.Subject
	if sub.Queue != "" {
		group, _ = groupOf(sub.Queue)
		subject = strings.TrimPrefix(subject, handOverSubject(group, ""))
	}
	pattern := strings.TrimPrefix(subject, b.config.Prefix)
	b.log.Warn("messages from NATS were lost: the broker is too slow", slog.String("pattern", pattern), slog.String("group", group))
	b.lost(wanted{pattern, group})
}
