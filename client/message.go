package client

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/codec"
)

// Position is where a message stands in its topic (PROTOCOL §4.2).
type Position struct {
	Epoch  uint64
	Offset uint64
}

// Message is one item of a subscription: a message, or, with Gap set, the place
// where messages are missing.
type Message struct {
	// Gap is set on the place of missing messages; then only Topic is set too, and
	// only if the gap is of one topic.
	Gap *Gap

	Topic     string
	Position  Position
	Time      time.Time // when the broker sequenced it, to the millisecond
	Publisher uuid.UUID // the client that published it; uuid.Nil if none of Tidewire did
	Lossy     bool      // its mode (PROTOCOL §4.4)
	Payload   codec.Payload
	Key       string            // "" if it has none
	Headers   map[string]string // nil if it has none
	Expires   time.Time         // of the broker's clock; the zero time if it does not
	Retained  bool              // it is, or was, the last value of its key
	// Replayed: it was published before the subscription began, or before it was
	// resumed on this connection.
	Replayed bool
	// Request: its publisher awaits a Reply.
	Request bool

	until  time.Time // Expires, by this clock
	reply  []byte
	client *Client
	mark   bool // no message: see sequencer.caughtUp
}

// Decode decodes the payload into the value that v points to, as
// codec.Payload.Decode says.
func (m Message) Decode(v any) error { return m.Payload.Decode(v) }

// Decode decodes the payload of a message as a T.
func Decode[T any](m Message) (T, error) {
	var v T
	err := m.Payload.Decode(&v)
	return v, err
}

// GapReason tells why messages are missing.
type GapReason = codec.GapReason

// Gap tells that messages of a topic are missing: those behind From, up to and
// including To.
type Gap struct {
	Topic  string    // "": any topic that the pattern matches
	From   *Position // nil: not known
	To     *Position // nil: not known
	Reason GapReason
	Count  uint64 // 0: not known
}

// String describes the gap for people.
func (g Gap) String() string {
	what := "messages"
	if g.Count > 0 {
		what = fmt.Sprintf("%d messages", g.Count)
	}
	where := ""
	if g.Topic != "" {
		where = " of " + g.Topic
	}
	return fmt.Sprintf("%s%s are missing: %s", what, where, g.Reason)
}

// unpackHeaders makes a map of headers; nil if there are none.
func unpackHeaders(h codec.Headers) map[string]string {
	if len(h) == 0 {
		return nil
	}
	m := make(map[string]string, len(h))
	for _, e := range h {
		m[e.Name] = e.Value
	}
	return m
}
