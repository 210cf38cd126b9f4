package stress

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

var (
	stressFor = flag.Duration("stress.for", time.Second, "how long the load of each test lasts")
	seedFlag  = flag.Uint64("stress.seed", 0, "the seed of the dice; 0 is a random one")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long is waited for what has to happen. Nothing is asserted about how
// soon it does.
const patience = 20 * time.Second

// bounds are what a broker may hold.
type bounds struct {
	name  string
	apply func(*broker.Config)
}

// everyBounds are two sets: with one hardly anything is dropped, with the other much is.
var everyBounds = []bounds{
	{"generous", func(*broker.Config) {}},
	{"tight", func(c *broker.Config) {
		c.MaxQueueBytes, c.MaxSessionBytes, c.MaxBytes, c.MaxHistoryBytes = 8<<10, 12<<10, 48<<10, 64<<10
	}},
}

// withBounds runs a test with each set of bounds.
func withBounds(t *testing.T, test func(t *testing.T, config broker.Config)) {
	for _, b := range everyBounds {
		t.Run(b.name, func(t *testing.T) {
			config := topicsOfEveryKind()
			b.apply(&config)
			test(t, config)
		})
	}
}

// topicsOfEveryKind configures the topics of all tests: s.<kind>.<number> have messages,
// p.<kind> presences.
func topicsOfEveryKind() broker.Config {
	const grace = 30 * time.Millisecond
	return broker.Config{
		MaxTopics: 64,
		Topics: []broker.TopicConfig{
			{Pattern: "s.tick.>", Tick: 2 * time.Millisecond},
			{Pattern: "s.none.>", History: broker.Retention{Count: -1}},
			{Pattern: "s.short.>", History: broker.Retention{Count: 20}},
			{Pattern: "s.keys.>", MaxKeys: 16},
			{Pattern: "s.sequenced.>", Class: codec.ClassSequenced},
			{Pattern: "p.counts", Presence: broker.PresenceCounts, PresenceGrace: grace},
			{Pattern: "p.members", PresenceGrace: grace},
		},
	}
}

// dice makes the choices of one goroutine.
type dice struct{ *rand.Rand }

// oneIn is true once in n times.
func (d dice) oneIn(n int) bool { return d.IntN(n) == 0 }

// upTo returns a time below limit.
func (d dice) upTo(limit time.Duration) time.Duration { return time.Duration(d.Int64N(int64(limit))) }

func pick[T any](d dice, list []T) T { return list[d.IntN(len(list))] }
