package contract

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tidewire/tidewire/client"
)

type requestFields struct {
	Client  string            `json:"client"`
	Topic   string            `json:"topic"`
	Value   any               `json:"value"`
	Headers map[string]string `json:"headers"`
	Timeout int               `json:"timeout"` // ms
	Reply   want              `json:"reply"`
	// Max and Replies are of requestMany: its bound, and what must come, in any order.
	Max     int    `json:"max"`
	Replies []want `json:"replies"`
}

func (f requestFields) options() *client.RequestOptions {
	return &client.RequestOptions{Timeout: time.Duration(f.Timeout) * time.Millisecond, Headers: f.Headers, Max: f.Max}
}

func (r *run) request(ctx context.Context, f requestFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	m, err := u.Request(ctx, f.Topic, expand(f.Value, 1), f.options())
	if err != nil {
		return err
	}
	return r.check(f.Reply, 1, m)
}

func (r *run) requestMany(ctx context.Context, f requestFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	left := f.Replies
	for m, err := range u.RequestMany(ctx, f.Topic, expand(f.Value, 1), f.options()) {
		if err != nil {
			return err
		}
		i := slices.IndexFunc(left, func(w want) bool { return r.check(w, 1, m) == nil })
		if i < 0 {
			return mismatchf("the reply %s; want one of %s", describe(m), show(left))
		}
		left = slices.Delete(slices.Clone(left), i, i+1)
	}
	if len(left) > 0 {
		return mismatchf("%d of %d replies did not come", len(left), len(f.Replies))
	}
	return nil
}

type respondFields struct {
	Sub     string            `json:"sub"`
	Subs    []string          `json:"subs"` // of respondAny
	Item    want              `json:"item"` // the request that must be next
	Value   any               `json:"value"`
	Values  []any             `json:"values"` // several replies
	Headers map[string]string `json:"headers"`
}

// respond takes the next item of a subscription, which must be a request, and
// replies.
func (r *run) respond(ctx context.Context, f respondFields) error {
	s, err := r.reader(f.Sub)
	if err != nil {
		return err
	}
	m, err := s.mustNext(ctx, 0)
	if err != nil {
		return err
	}
	return r.reply(ctx, f, m)
}

func (r *run) reply(ctx context.Context, f respondFields, m client.Message) error {
	if err := r.check(f.Item, 1, m); err != nil {
		return mismatchf("%s: %v", describe(m), err)
	}
	values := f.Values
	if values == nil {
		values = []any{f.Value}
	}
	for _, v := range values {
		if err := m.Reply(ctx, expand(v, 1), &client.ReplyOptions{Headers: f.Headers}); err != nil {
			return err
		}
	}
	return nil
}

// respondAny replies to a request that any of several subscriptions gets.
func (r *run) respondAny(ctx context.Context, f respondFields) error {
	var got []arrival
	err := r.readAll(ctx, f.Subs, func(a arrival) bool {
		got = append(got, a)
		return true
	})
	if err != nil {
		return err
	}
	return r.reply(ctx, f, got[0].message)
}

// arrival is an item of one of several subscriptions.
type arrival struct {
	sub     string
	message client.Message
}

// readAll reads several subscriptions at once until enough returns true, which is
// called by one goroutine at a time.
func (r *run) readAll(ctx context.Context, subs []string, enough func(arrival) bool) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	arrivals := make(chan arrival)
	errs := make(chan error, len(subs))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, name := range subs {
		s, err := r.reader(name)
		if err != nil {
			return err
		}
		wg.Go(func() {
			for {
				m, ok, err := s.next(inner)
				switch {
				case inner.Err() != nil:
					return
				case err != nil:
					errs <- err
					return
				case !ok:
					errs <- mismatchf("subscription %q has ended", name)
					return
				}
				select {
				case arrivals <- arrival{name, m}:
				case <-inner.Done():
					return
				}
			}
		})
	}
	for n := 0; ; n++ {
		select {
		case a := <-arrivals:
			if enough(a) {
				return nil
			}
		case err := <-errs:
			return err
		case <-ctx.Done():
			return mismatchf("nothing more came after %d items", n)
		}
	}
}

type sharedFields struct {
	Subs    []string `json:"subs"`
	Count   int      `json:"count"`   // messages that are shared out
	Value   any      `json:"value"`   // in each # is its number
	AtLeast int      `json:"atLeast"` // so many of them come; 0: all
	Others  bool     `json:"others"`  // others may come among them, or one of them twice
}

// expectShared takes messages from several subscriptions, each of which must come
// once, to any of them and in any order.
func (r *run) expectShared(ctx context.Context, f sharedFields) error {
	left := make(map[int]bool)
	for n := 1; n <= f.Count; n++ {
		left[n] = true
	}
	enough := f.AtLeast
	if enough == 0 {
		enough = f.Count
	}
	var wrong error
	err := r.readAll(ctx, f.Subs, func(a arrival) bool {
		for n := range left {
			if r.check(want{Value: f.Value, hasValue: true}, n, a.message) == nil {
				delete(left, n)
				return f.Count-len(left) >= enough
			}
		}
		if f.Others {
			return false
		}
		wrong = mismatchf("%s got %s, which is none of those that were left", a.sub, describe(a.message))
		return true
	})
	if wrong != nil {
		return wrong
	}
	return err
}

type untilEitherFields struct {
	Subs  []string `json:"subs"`
	Gap   string   `json:"gap"`
	Value float64  `json:"value"`
}

// untilEither reads subscriptions one after the other, each up to a gap or to the
// message with a number; one of them at least must have had the gap.
func (r *run) untilEither(ctx context.Context, f untilEitherFields) error {
	found := false
	for _, name := range f.Subs {
		s, err := r.reader(name)
		if err != nil {
			return err
		}
		for n := 0; ; n++ {
			m, err := s.mustNext(ctx, n)
			if err != nil {
				return err
			}
			if m.Gap != nil {
				if err := r.checkGap(want{Gap: f.Gap}, *m.Gap); err != nil {
					return err
				}
				found = true
				break
			}
			v, err := decoded(m.Payload)
			if n, ok := number(v); err == nil && ok && n == f.Value {
				break
			}
		}
	}
	if !found {
		return mismatchf("there was no gap")
	}
	return nil
}
