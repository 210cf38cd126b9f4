package codec

// The fixed limits of PROTOCOL §10, in bytes unless a name says otherwise.
const (
	MaxFirstFrame = 64 << 10 // the first frame of a stream
	MaxTopic      = 255      // a topic or pattern
	MaxTokens     = 32       // tokens of a topic or pattern
	MaxToken      = 16 << 10 // the token of HELLO and AUTH
	MaxAgent      = 128      // agent of HELLO, server of WELCOME
	MaxReason     = 512      // reason of END, NACK, NOTICE and STREAM_END
	MaxSecret     = 64       // resume secret

	MaxKey         = 255     // a message's key
	MaxID          = 64      // an idempotency key
	MaxGroup       = 64      // the name of a group
	MaxHeaders     = 16      // pairs of a message
	MaxHeaderName  = 64      // one header's name
	MaxHeaderValue = 512     // one header's value
	MaxHeaderBytes = 4 << 10 // all names and values of a message
	MaxConditions  = 16      // conditions of a filter
	MaxValues      = 16      // values of a condition
	MaxFilter      = 4 << 10 // bytes of all names and values of a filter
	MaxReply       = 255     // a reply address
	MaxLast        = 10_000  // n of FromLast
	MaxPositions   = 1024    // topics of FromPositions
	// MaxAnnouncements is how many announcements of topics on a stream count.
	MaxAnnouncements = 32 << 10
	MaxPage          = 1000    // messages of a page of history
	MaxPageBytes     = 1 << 20 // frames of a page of history
	MaxState         = 1 << 10 // the state of a presence
	MaxPresences     = 64      // topics in which a session is present
	MaxRequests      = 256     // requests of a session without DONE
	MaxPages         = 8       // page streams of a session at a time
	MaxReplies       = 65_535  // replies to one request
	MaxTimeout       = 600_000 // ms that a request waits
	MaxHealth        = 1024    // subscriptions of one PONG
	MaxCounts        = 1024    // topics of one COUNTS

	// FrameOverhead is what a frame may be longer than the payload limit.
	FrameOverhead = 8 << 10

	// MaxInteger is the largest integer of the envelope (PROTOCOL §2.2): what
	// every language holds exactly.
	MaxInteger = 1<<53 - 1

	// MaxPriority is the last priority; 0 is the first (PROTOCOL §6.1).
	MaxPriority = 7

	// EarlyPublicationCredit is the credit of a publication before WELCOME
	// (PROTOCOL §7.3).
	EarlyPublicationCredit = 16 << 10

	// MaxEarlyStreams is how many streams a client may open before WELCOME.
	MaxEarlyStreams = 32

	// MaxEpoch is the first number that is no epoch (PROTOCOL §4.2).
	MaxEpoch = 1 << 48
)

// The defaults of the limits that a broker announces (PROTOCOL §10), in bytes
// unless a name says otherwise.
const (
	DefaultMaxPayload         = 256 << 10
	DefaultMaxSubscriptions   = 1024 // a session
	DefaultMaxPublications    = 256  // a session
	DefaultPublicationCredit  = 256 << 10
	DefaultSubscriptionCredit = 1 << 20
	DefaultMaxFrame           = DefaultMaxPayload + FrameOverhead
)

// Limits are what a broker announces in WELCOME (PROTOCOL §5.2).
type Limits struct {
	Payload            uint64 // bytes of a message's payload
	Subscriptions      uint64 // of a session at a time
	Publications       uint64 // of a session at a time
	PublicationCredit  uint64 // bytes (PROTOCOL §7.3)
	SubscriptionCredit uint64 // bytes; the most that a subscription is given (PROTOCOL §6.4)
}

// DefaultLimits returns the limits of a broker that was not told otherwise.
func DefaultLimits() Limits {
	return Limits{
		Payload:            DefaultMaxPayload,
		Subscriptions:      DefaultMaxSubscriptions,
		Publications:       DefaultMaxPublications,
		PublicationCredit:  DefaultPublicationCredit,
		SubscriptionCredit: DefaultSubscriptionCredit,
	}
}
