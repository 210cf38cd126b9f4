package client

import (
	"slices"
	"strconv"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// From is where a subscription or a page of history begins (PROTOCOL §4.8). The
// zero value is now. What is not kept any more is told by a gap.
type From struct {
	kind      codec.FromKind
	position  Position
	positions map[string]Position
	n         int
	since     time.Time
	// values is up to which offset only last values are wanted of what is behind the
	// position, valuesOf the same by topic: of a subscription that goes on.
	values   uint64
	valuesOf map[string]uint64
}

// FromPosition begins behind a position of the topic: with the first message that
// was not seen there.
func FromPosition(p Position) From { return From{kind: codec.FromPosition, position: p} }

// FromPositions begins a pattern: each topic of the map behind its position, and every
// other one with its messages since a time. Both are what Subscription.Positions returns.
// The map has at most 1,024 topics, and 48 KiB, of which a topic takes the bytes of its
// name and 29 more.
func FromPositions(positions map[string]Position, since time.Time) From {
	return From{kind: codec.FromPositions, positions: positions, since: since}
}

// FromLast begins with the last n messages of each topic, 1 to 10,000.
func FromLast(n int) From { return From{kind: codec.FromLast, n: n} }

// FromTime begins with the messages since a time of the broker's clock.
func FromTime(t time.Time) From { return From{kind: codec.FromTime, since: t} }

// FromBeginning begins with the oldest message that is kept.
func FromBeginning() From { return From{kind: codec.FromBeginning} }

// check reports a From that cannot be, with CodeInvalidOption.
func (f From) check() error {
	switch {
	case f.kind == codec.FromLast && (f.n < 1 || f.n > codec.MaxLast):
		return codec.Errorf(codec.CodeInvalidOption, "from the last %d messages; 1 to %d are possible", f.n, codec.MaxLast)
	case !f.position.possible():
		return codec.Errorf(codec.CodeInvalidOption, "no topic can have the position %+v", f.position)
	case len(f.positions) > codec.MaxPositions:
		return codec.Errorf(codec.CodeInvalidOption, "from %d positions; the limit is %d", len(f.positions), codec.MaxPositions)
	}
	size := 0
	for topic, p := range f.positions {
		if err := codec.CheckTopic(topic); err != nil {
			return err
		}
		size += positionSize(topic)
		if !p.possible() {
			return codec.Errorf(codec.CodeInvalidOption, "%s cannot have the position %+v", topic, p)
		}
	}
	if size > maxPositionBytes {
		return codec.Errorf(codec.CodeInvalidOption, "from %d positions of %d bytes; the limit is %d bytes: leave out some topics", len(f.positions), size, maxPositionBytes)
	}
	return nil
}

// possible reports whether a topic can have the position (PROTOCOL §2.2, §4.2).
func (p Position) possible() bool { return p.Epoch < 1<<48 && p.Offset < 1<<53 }

// timed reports whether the form needs the broker's clock.
func (f From) timed() bool { return f.kind == codec.FromTime || f.kind == codec.FromPositions }

// wire returns what SUBSCRIBE and FETCH carry.
func (f From) wire(base time.Time) codec.From {
	w := codec.From{Kind: f.kind, Epoch: f.position.Epoch, Offset: f.position.Offset, Values: f.values, N: uint64(f.n)}
	if f.timed() && f.since.After(base) {
		w.Time = uint64(f.since.Sub(base) / time.Millisecond)
	}
	for topic, p := range f.positions {
		w.Positions = append(w.Positions, codec.TopicPosition{Topic: topic, Epoch: p.Epoch, Offset: p.Offset, Values: f.valuesOf[topic]})
	}
	slices.SortFunc(w.Positions, func(a, b codec.TopicPosition) int {
		if a.Topic < b.Topic {
			return -1
		}
		return 1
	})
	return w
}

// Filter is a list of at most 16 conditions on the headers of messages, all of
// which must hold, each with at most 16 values of at most 512 bytes, and 4 KiB in all.
// The broker evaluates it (PROTOCOL §6.10).
//
//	client.Filter{client.Where("kind").In("goal", "card"), client.Where("minute").AtLeast(80)}
type Filter = codec.Filter

// Condition is one condition of a Filter; Where makes it.
type Condition = codec.Condition

// Header names a header that a condition is about.
type Header string

// Where begins a condition on the header with a name.
func Where(name string) Header { return Header(name) }

// In holds if the header is one of the values, 1 to 16.
func (h Header) In(values ...string) Condition { return h.condition(codec.OpIs, values) }

// NotIn holds if the header is none of the values, 1 to 16, or is missing.
func (h Header) NotIn(values ...string) Condition { return h.condition(codec.OpIsNot, values) }

// Exists holds if the header is there.
func (h Header) Exists() Condition { return h.condition(codec.OpExists, nil) }

// Absent holds if the header is missing.
func (h Header) Absent() Condition { return h.condition(codec.OpAbsent, nil) }

// HasPrefix holds if the header begins with one of the values, 1 to 16.
func (h Header) HasPrefix(values ...string) Condition { return h.condition(codec.OpPrefix, values) }

// AtLeast holds if the header is a decimal number that is not below v.
func (h Header) AtLeast(v float64) Condition { return h.condition(codec.OpAtLeast, decimal(v)) }

// AtMost holds if the header is a decimal number that is not above v.
func (h Header) AtMost(v float64) Condition { return h.condition(codec.OpAtMost, decimal(v)) }

func (h Header) condition(op codec.Operator, values []string) Condition {
	return Condition{Name: string(h), Operator: op, Values: values}
}

// decimal writes a number without an exponent, which filters do not know.
func decimal(v float64) []string { return []string{strconv.FormatFloat(v, 'f', -1, 64)} }
