package broker

import (
	"errors"
	"log/slog"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// Config configures a Broker. The zero value works: it takes clients on the
// loopback interface, without tokens, and stands alone. New copies it.
type Config struct {
	// Authenticator decides who may do what. nil is Open{}.
	Authenticator Authenticator
	// Bus joins this broker with others. nil is OpenLocalBus.
	Bus OpenBus
	// Logger gets one line a session at level debug, and what an operator should
	// know at info and above. nil discards. Payloads and tokens are never logged.
	Logger *slog.Logger
	// Name is told to clients, for their logs; at most 128 bytes. "" is "tidewire".
	Name string

	// Limits are announced to clients (PROTOCOL §10). A zero field has its default.
	Limits codec.Limits
	// MaxSessions bounds the sessions at a time. 0 is 100,000.
	MaxSessions int
	// MaxTopics bounds the topics that are kept at a time, each of about 600 bytes;
	// one that is idle gives way, and begins a new epoch when it comes back. 0 is
	// 100,000.
	MaxTopics int
	// Topics configures topics by pattern: their class, history, last values,
	// presence, limits, and who may use them. Topics that none matches have the
	// defaults that TopicConfig documents.
	Topics []TopicConfig
	// Store keeps histories and last values. nil is NewMemoryStore(MaxHistoryBytes).
	// The broker closes it.
	Store Store
	// MaxHistoryBytes bounds the memory of all histories and last values together;
	// then the oldest messages go, over all topics. 0 is 64 MiB. Half of it may be
	// taken by the states of presences, which do not go: who would need more is
	// refused with too_many_presences. With a Store of one's own it has no other
	// meaning than this.
	MaxHistoryBytes int64
	// MaxQueueBytes bounds what waits for one subscription, in bytes of frames. A
	// reliable subscription beyond it gets a gap. 0 is 1 MiB.
	MaxQueueBytes int
	// MaxSessionBytes bounds what waits for all subscriptions of one session
	// together, in the same way. A message for a subscription for which nothing
	// waits is taken all the same. 0 is 4 MiB.
	MaxSessionBytes int
	// MaxBytes bounds what waits for all subscriptions together, in bytes of
	// frames, each counted once a subscription, although subscriptions share them:
	// the memory is at most that. The last eighth is for subscriptions for which
	// nothing waits. 0 is 256 MiB.
	MaxBytes int64
	// MaxPresences bounds the presences of all sessions together, one a session and
	// topic, each of about 300 bytes. 0 is 1,000,000. Where the members of topics are
	// known, and not only counted, MaxHistoryBytes bounds them too.
	MaxPresences int
	// PublishRate bounds the messages a second of one session, averaged over
	// bursts of one second; what is above it is refused with rate_limited. 0 is no
	// bound: credit still bounds what is in flight.
	PublishRate float64

	// HelloTimeout is how long a connection may take to HELLO. 0 is 10 s.
	HelloTimeout time.Duration
	// StreamTimeout is how long a stream may take to its first frame. 0 is 10 s.
	StreamTimeout time.Duration
	// WriteTimeout is how long a stream may take nothing at all of what its client gave
	// credit for; then the stream is lost. A link that is slow is none that takes
	// nothing. 0 is 5 s.
	WriteTimeout time.Duration
	// TokenGrace is how long a session lives on after its token has expired. 0 is
	// 25 s (PROTOCOL §5.4).
	TokenGrace time.Duration
}

// Check returns what New would find wrong with c, apart from what it cannot reach.
func (c Config) Check() error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	_, err = newTopicConfigs(c.Topics, c.Limits.Payload)
	return err
}

// withDefaults returns a validated copy of c in which every field is set.
func (c Config) withDefaults() (Config, error) {
	if c.Authenticator == nil {
		c.Authenticator = Open{}
	}
	if c.Bus == nil {
		c.Bus = OpenLocalBus
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.Name, "tidewire")
	setDefault(&c.Limits.Payload, codec.DefaultMaxPayload)
	setDefault(&c.Limits.Subscriptions, codec.DefaultMaxSubscriptions)
	setDefault(&c.Limits.Publications, codec.DefaultMaxPublications)
	setDefault(&c.Limits.PublicationCredit, codec.DefaultPublicationCredit)
	setDefault(&c.Limits.SubscriptionCredit, codec.DefaultSubscriptionCredit)
	setDefault(&c.MaxSessions, 100_000)
	setDefault(&c.MaxTopics, 100_000)
	setDefault(&c.MaxHistoryBytes, defaultHistoryBytes)
	setDefault(&c.MaxPresences, 1_000_000)
	setDefault(&c.MaxQueueBytes, 1<<20)
	setDefault(&c.MaxSessionBytes, 4<<20)
	setDefault(&c.MaxBytes, 256<<20)
	setDefault(&c.HelloTimeout, 10*time.Second)
	setDefault(&c.StreamTimeout, 10*time.Second)
	setDefault(&c.WriteTimeout, 5*time.Second)
	setDefault(&c.TokenGrace, 25*time.Second)
	var errs []error
	check := func(ok bool, msg string) {
		if !ok {
			errs = append(errs, errors.New("broker: "+msg))
		}
	}
	check(len(c.Name) <= codec.MaxAgent, "Config.Name is longer than 128 bytes")
	check(c.Limits.Payload <= 16<<20, "Config.Limits.Payload is above 16 MiB")
	check(c.MaxSessions > 0 && c.MaxTopics > 0 && c.MaxPresences > 0 && c.MaxQueueBytes > 0 && c.MaxSessionBytes > 0 && c.MaxBytes > 0 && c.MaxHistoryBytes > 0 && c.PublishRate >= 0,
		"Config has a negative limit")
	check(c.HelloTimeout > 0 && c.StreamTimeout > 0 && c.WriteTimeout > 0 && c.TokenGrace > 0,
		"Config has a negative time")
	return c, errors.Join(errs...)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
