package broker

import (
	"context"
	"errors"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// ErrLogClosed is returned by the methods of a Log that was closed.
var ErrLogClosed = errors.New("broker: log closed")

// Record is a message that has its place in its topic.
type Record struct {
	Message
	Offset   uint64         // PROTOCOL §4.2
	Time     uint64         // when it got its place, in ms of the broker's clock
	Reliable codec.Optional // as in MESSAGE (PROTOCOL §6.5): set on a lossy message
}

// Retention is how much of a topic's messages is kept as its history. Whichever
// bound is reached first removes the oldest messages.
type Retention struct {
	// Count is the most messages. 0 is 256; below 0 no history is kept.
	Count int
	// Age is how old a message may be. 0 is a minute; below 0 age is no reason.
	Age time.Duration
	// Bytes is the most bytes of payloads, keys and headers. 0 is 256 KiB; below 0
	// only Config.MaxHistoryBytes bounds them.
	Bytes int
}

// LogLimits are the bounds of one Log. Here the zero of a field means what it says:
// no messages, no last values; and of Age and Bytes, that they are no bound.
type LogLimits struct {
	Retention
	// Keys is the most last values, each of another key.
	Keys int
	// Firm says that the last values are bounded elsewhere, and that somebody relies
	// on them: where a store makes room over all logs, they go after everything that
	// is not firm.
	Firm bool
}

// Store keeps the histories and the last values of topics. NewMemoryStore makes the
// one that Config has by default. Package storetest holds what every store must do.
//
// A store belongs to one broker, which closes it. Its methods may be called
// concurrently.
type Store interface {
	// Open returns the log of a topic, which is empty: a topic has a new epoch
	// (PROTOCOL §4.2) each time. At most one log of a topic is open at a time. It
	// is called with locks held, so it must not block.
	Open(topic string, epoch uint64, limits LogLimits) Log
	// Bytes returns about how much memory or disk the records of all logs take.
	Bytes() int64
	// Evicted returns how many last values were dropped to keep a bound. That a
	// message left the history is not counted here: whoever misses it is told a gap.
	Evicted() uint64
	// Close ends the store, and waits for what it has running.
	Close() error
}

// Log keeps one topic's newest messages, its history, and its last values (PROTOCOL
// §4.5). Its methods may be called concurrently, except Append, whose calls follow
// each other. Records that it has returned are shared, and must not be changed.
//
// What has expired (PROTOCOL §4.6) may stay in the history and is then returned:
// the reader drops it, and tells a gap. A last value that has expired is not
// returned.
type Log interface {
	// Append takes the topic's next record: into the history if it is reliable, and
	// as the last value of its key if it is retained; one with an empty payload
	// clears that. Offsets increase. The payload is shared, not copied. It is called
	// under the lock of the topic, so it must not block; a log that cannot keep the
	// record counts it as gone, so that base tells.
	Append(r Record)
	// Read returns messages of the history with offsets above after and up to to,
	// the oldest first: at most max, and about bytes of payloads, but not less than
	// one if there is one. Those with offsets up to and including base are gone.
	// Whether a page is the last one follows from the next, which is empty.
	Read(ctx context.Context, after, to uint64, max, bytes int) (page []Record, base uint64, err error)
	// ReadBack is Read for messages with offsets below before, the newest first.
	ReadBack(ctx context.Context, before uint64, max, bytes int) (page []Record, base uint64, err error)
	// Seek returns the offset after which Read begins with what from names:
	//
	//   - FromLast: the last N messages, or all that are kept, if these are fewer.
	//   - FromTime: the messages since Time. It returns 0 if some of them are gone,
	//     so that base tells.
	//   - FromBeginning: all that are kept.
	//   - FromNow: none of them.
	//
	// Other kinds are an error.
	Seek(ctx context.Context, from codec.From) (after uint64, err error)
	// Retained returns last values with offsets above after and up to to, by
	// offset; max and bytes are as in Read.
	Retained(ctx context.Context, after, to uint64, max, bytes int) ([]Record, error)
	// Empty reports whether the log keeps nothing. It must not block.
	Empty() bool
	// Close lets go of what the log keeps. Afterwards Append does nothing, and what
	// reads returns ErrLogClosed.
	Close()
}
