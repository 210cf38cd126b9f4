package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/tidewire/tidewire/client"
)

// want is an item that must come: a message, of which everything that is named must
// be as it says, or a gap.
type want struct {
	Value     any                `json:"value"`
	Topic     string             `json:"topic"`
	Key       *string            `json:"key"`
	Headers   *map[string]string `json:"headers"`
	Encoding  string             `json:"encoding"`
	Publisher string             `json:"publisher"` // a client
	At        string             `json:"at"`        // a position that was kept
	Lossy     *bool              `json:"lossy"`
	Retained  *bool              `json:"retained"`
	Replayed  *bool              `json:"replayed"`
	Expires   *bool              `json:"expires"`
	Request   *bool              `json:"request"`
	As        string             `json:"as"` // keeps its position

	Gap   string          `json:"gap"`   // the reason, or several, divided by |
	OrGap string          `json:"orGap"` // this message, or a gap of this reason
	From  json.RawMessage `json:"from"`  // a position that was kept; null: unknown
	To    json.RawMessage `json:"to"`    // likewise
	Count *uint64         `json:"count"` // how many; 0: unknown

	hasValue bool
}

func (w *want) UnmarshalJSON(b []byte) error {
	type plainWant want
	if err := Decode(b, (*plainWant)(w)); err != nil {
		return err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return err
	}
	_, w.hasValue = members["value"]
	return nil
}

// check reports how m is not what is wanted.
func (r *run) check(w want, n int, m client.Message) error {
	switch {
	case w.Gap != "" && m.Gap == nil:
		return mismatchf("a message, %s; want a gap: %s", describe(m), w.Gap)
	case w.Gap != "":
		return r.checkGap(w, *m.Gap)
	case m.Gap != nil && w.OrGap != "":
		return r.checkGap(want{Gap: w.OrGap}, *m.Gap)
	case m.Gap != nil:
		return mismatchf("a gap: %s; want a message", describe(m))
	}
	if w.hasValue {
		got, err := decoded(m.Payload)
		if err != nil {
			return mismatchf("%v", err)
		}
		if wanted := expand(w.Value, n); !equal(got, wanted) {
			return mismatchf("the value is %s; want %s", show(got), show(wanted))
		}
	}
	if w.Topic != "" && w.Topic != m.Topic {
		return mismatchf("the topic is %s; want %s", m.Topic, w.Topic)
	}
	if got := m.Payload.Encoding.String(); w.Encoding != "" && w.Encoding != got {
		return mismatchf("the encoding is %s; want %s", got, w.Encoding)
	}
	if w.Publisher != "" && r.idOf(w.Publisher) != m.Publisher {
		return mismatchf("the publisher is %s; want %s", m.Publisher, w.Publisher)
	}
	if w.At != "" {
		at, err := r.position(w.At)
		if err != nil {
			return err
		}
		if at != m.Position {
			return mismatchf("the position is %v; want %v", m.Position, at)
		}
	}
	for _, flag := range []struct {
		name string
		want *bool
		got  bool
	}{
		{"lossy", w.Lossy, m.Lossy}, {"retained", w.Retained, m.Retained}, {"replayed", w.Replayed, m.Replayed},
		{"expires", w.Expires, !m.Expires.IsZero()}, {"request", w.Request, m.Request},
	} {
		if flag.want != nil && *flag.want != flag.got {
			return mismatchf("%s is %v", flag.name, flag.got)
		}
	}
	if w.Key != nil && *w.Key != m.Key {
		return mismatchf("the key is %q; want %q", m.Key, *w.Key)
	}
	if w.Headers != nil && !maps.Equal(*w.Headers, m.Headers) {
		return mismatchf("the headers are %v; want %v", m.Headers, *w.Headers)
	}
	r.keep(w.As, m.Position)
	return nil
}

func (r *run) checkGap(w want, g client.Gap) error {
	if !slices.Contains(splitBar(w.Gap), g.Reason.String()) {
		return mismatchf("the gap's reason is %s; want %s", g.Reason, w.Gap)
	}
	if w.Topic != "" && w.Topic != g.Topic {
		return mismatchf("the gap's topic is %q; want %q", g.Topic, w.Topic)
	}
	if w.Count != nil && *w.Count != g.Count {
		return mismatchf("the gap counts %d; want %d", g.Count, *w.Count)
	}
	for _, end := range []struct {
		name string
		want json.RawMessage
		got  *client.Position
	}{{"from", w.From, g.From}, {"to", w.To, g.To}} {
		if err := r.checkEnd(end.want, end.got); err != nil {
			return mismatchf("the gap's %s: %v", end.name, err)
		}
	}
	return nil
}

// checkEnd compares an end of a gap with a position that was kept, or with none.
func (r *run) checkEnd(wanted json.RawMessage, got *client.Position) error {
	var name *string
	if wanted == nil {
		return nil
	}
	if err := json.Unmarshal(wanted, &name); err != nil {
		return err
	}
	if name == nil {
		if got != nil {
			return fmt.Errorf("it is %v; want that it is not known", *got)
		}
		return nil
	}
	at, err := r.position(*name)
	if err != nil {
		return err
	}
	if got == nil || *got != at {
		return fmt.Errorf("it is %v; want %v", got, at)
	}
	return nil
}

// describe is an item for people.
func describe(m client.Message) string {
	if m.Gap != nil {
		return fmt.Sprintf("%s (from %v to %v)", m.Gap, m.Gap.From, m.Gap.To)
	}
	v, err := decoded(m.Payload)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s of %s at %v", show(v), m.Topic, m.Position)
}

type expectFields struct {
	Sub   string `json:"sub"`
	Items []want `json:"items"`
	// Count and Value stand for so many messages; in each # is its number.
	Count int `json:"count"`
	Value any `json:"value"`
	// AnyOrder: the items may come in any order.
	AnyOrder bool `json:"anyOrder"`
	// SkipGaps: gaps between the items are left aside.
	SkipGaps bool `json:"skipGaps"`
}

// numbered is an item that must come, and its number.
type numbered struct {
	want
	n int
}

// numberedWants are items, or so many messages with a value in which # is the number.
func numberedWants(items []want, count int, value any) []numbered {
	var list []numbered
	for i, w := range items {
		list = append(list, numbered{w, i + 1})
	}
	for n := 1; n <= count; n++ {
		list = append(list, numbered{want{Value: value, hasValue: true}, n})
	}
	return list
}

// expect takes items from a subscription; the next ones must be these.
func (r *run) expect(ctx context.Context, f expectFields) error {
	s, err := r.reader(f.Sub)
	if err != nil {
		return err
	}
	wanted := numberedWants(f.Items, f.Count, f.Value)
	for got := 0; len(wanted) > 0; {
		m, err := s.mustNext(ctx, got)
		if err != nil {
			return err
		}
		if f.SkipGaps && m.Gap != nil {
			continue
		}
		got++
		at, err := 0, r.check(wanted[0].want, wanted[0].n, m)
		for f.AnyOrder && err != nil && at+1 < len(wanted) {
			at++
			err = r.check(wanted[at].want, wanted[at].n, m)
		}
		if err != nil {
			return mismatchf("item %d, %s: %v", got, describe(m), err)
		}
		wanted = slices.Delete(wanted, at, at+1)
	}
	return nil
}

// mustNext is the next item, of which so many were before; that the subscription ends
// is an error.
func (s *reader) mustNext(ctx context.Context, before int) (client.Message, error) {
	m, ok, err := s.next(ctx)
	switch {
	case ctx.Err() != nil:
		return m, mismatchf("nothing more came after %d items", before)
	case err != nil:
		return m, mismatchf("after %d items: %v", before, err)
	case !ok:
		return m, mismatchf("the subscription has ended after %d items", before)
	}
	return m, nil
}

type untilFields struct {
	Sub   string `json:"sub"`
	Gap   string `json:"gap"`   // a gap with this reason is the last item, in place of a message
	Value any    `json:"value"` // of the message that is the last one, or its number
	// Increasing: the values, which are numbers, only increase; of each key, if they
	// have keys.
	Increasing bool `json:"increasing"`
	// Covered: each offset of the topic that has no message lies in a gap.
	Covered  bool   `json:"covered"`
	AtMost   int    `json:"atMost"` // messages
	AtLeast  int    `json:"atLeast"`
	Total    int    `json:"total"`    // messages, and what the gaps count
	MaxBytes int    `json:"maxBytes"` // of payloads, but for the last one
	Topic    string `json:"topic"`    // of every item
	// Newest are the last numbers of each key.
	Newest map[string]float64 `json:"newest"`
	// Gaps are the reasons that came, each at least once and no other.
	Gaps  *[]string `json:"gaps"`
	After string    `json:"after"` // for Covered: the position before the first item
}

// until takes items up to a message, and looks at them as a whole.
func (r *run) until(ctx context.Context, f untilFields) error {
	s, err := r.reader(f.Sub)
	if err != nil {
		return err
	}
	var messages, missing, bytes int
	reasons := make(map[string]bool)
	newest := make(map[string]float64)
	last := client.Position{}
	if f.After != "" {
		if last, err = r.position(f.After); err != nil {
			return err
		}
	}
	for {
		m, err := s.mustNext(ctx, messages)
		if err != nil {
			return err
		}
		if m.Gap != nil {
			reasons[m.Gap.Reason.String()] = true
			missing += int(m.Gap.Count)
			if f.Topic != "" && m.Gap.Topic != f.Topic {
				return mismatchf("%s; want one of %s", describe(m), f.Topic)
			}
			if m.Gap.To != nil && m.Gap.From != nil {
				if m.Gap.From.Offset < last.Offset && m.Gap.From.Epoch == last.Epoch && f.Covered {
					return mismatchf("%s begins before %v", describe(m), last)
				}
				last = *m.Gap.To
			}
			if f.Gap == m.Gap.Reason.String() {
				break
			}
			continue
		}
		messages++
		if f.Topic != "" && m.Topic != f.Topic {
			return mismatchf("%s; want one of %s", describe(m), f.Topic)
		}
		if f.Covered && last.Epoch == m.Position.Epoch && m.Position.Offset != last.Offset+1 {
			return mismatchf("%s comes after %v, and no gap between", describe(m), last)
		}
		last = m.Position
		v, err := decoded(m.Payload)
		if err != nil {
			return mismatchf("%v", err)
		}
		if n, ok := number(v); ok {
			if old, ok := newest[m.Key]; ok && n <= old && f.Increasing {
				return mismatchf("%v came after %v", n, old)
			}
			newest[m.Key] = n
		}
		if n, ok := number(v); equal(v, expand(f.Value, 0)) || ok && equal(n, f.Value) {
			break
		}
		bytes += len(m.Payload.Data)
	}
	switch {
	case f.AtMost > 0 && messages > f.AtMost, messages < f.AtLeast:
		return mismatchf("%d messages came", messages)
	case f.Total > 0 && messages+missing != f.Total:
		return mismatchf("%d messages came, and the gaps count %d; want %d together", messages, missing, f.Total)
	case f.MaxBytes > 0 && bytes > f.MaxBytes:
		return mismatchf("%d bytes came before the last message; want at most %d", bytes, f.MaxBytes)
	}
	if f.Newest != nil && !maps.Equal(newest, f.Newest) {
		return mismatchf("the newest of each key are %v; want %v", newest, f.Newest)
	}
	if f.Gaps != nil {
		got, wanted := slices.Sorted(maps.Keys(reasons)), slices.Sorted(slices.Values(*f.Gaps))
		if !slices.Equal(got, wanted) {
			return mismatchf("gaps with the reasons %v came; want %v", got, wanted)
		}
	}
	return nil
}

// number is the number that a value is, or that stands as its member n.
func number(v any) (float64, bool) {
	if object, ok := v.(map[string]any); ok {
		v = object["n"]
	}
	n, ok := v.(float64)
	return n, ok
}

type endFields struct {
	Sub string `json:"sub"`
}

// ended takes the end of an iteration, which must be next. Its error is that of the
// subscription.
func (r *run) ended(ctx context.Context, f endFields) error {
	s, err := r.reader(f.Sub)
	if err != nil {
		return err
	}
	m, ok, err := s.next(ctx)
	switch {
	case ctx.Err() != nil:
		return mismatchf("it does not end")
	case ok && err == nil:
		return mismatchf("%s; want the end", describe(m))
	}
	return err
}
