package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/tidewire/tidewire/client"
)

// from is where a subscription or a page begins.
type from struct {
	Position  string `json:"position"`  // one that was kept
	Plus      uint64 `json:"plus"`      // added to its offset
	Positions string `json:"positions"` // those that were kept of a pattern
	Last      *int   `json:"last"`
	Since     string `json:"since"` // a time that was kept
	Beginning bool   `json:"beginning"`
	Next      string `json:"next"` // behind a page that was kept
}

// from makes what the client takes.
func (r *run) from(f *from) (client.From, error) {
	switch {
	case f == nil:
		return client.From{}, nil
	case f.Position != "":
		p, err := r.position(f.Position)
		p.Offset += f.Plus
		return client.FromPosition(p), err
	case f.Last != nil:
		return client.FromLast(*f.Last), nil
	case f.Beginning:
		return client.FromBeginning(), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case f.Positions != "":
		kept, ok := r.maps[f.Positions]
		if !ok {
			return client.From{}, mismatchf("there are no positions %q", f.Positions)
		}
		return client.FromPositions(kept.positions, kept.since), nil
	case f.Since != "":
		at, ok := r.times[f.Since]
		if !ok {
			return client.From{}, mismatchf("there is no time %q", f.Since)
		}
		return client.FromTime(at), nil
	case f.Next != "":
		return r.pages[f.Next], nil
	}
	return client.From{}, mismatchf("from says nothing")
}

type subscribeFields struct {
	Client     string                     `json:"client"`
	As         string                     `json:"as"`
	Pattern    string                     `json:"pattern"`
	Class      string                     `json:"class"`
	Priority   uint8                      `json:"priority"`
	Credit     int                        `json:"credit"`
	From       *from                      `json:"from"`
	NoEcho     bool                       `json:"noEcho"`
	NoRetained bool                       `json:"noRetained"`
	Filter     map[string]json.RawMessage `json:"filter"`
	Group      string                     `json:"group"`
	Typed      bool                       `json:"typed"` // by a topic that has a type
}

func (r *run) subscribe(ctx context.Context, f subscribeFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	opts := &client.SubscribeOptions{Priority: f.Priority, Credit: f.Credit, NoEcho: f.NoEcho, NoRetained: f.NoRetained, Group: f.Group}
	if err := choose(&opts.Class, f.Class, classes); err != nil {
		opts.Class = 99
	}
	if opts.From, err = r.from(f.From); err != nil {
		return err
	}
	if opts.Filter, err = filter(f.Filter); err != nil {
		return err
	}
	if f.Typed {
		t, err := client.NewTopic[any](u.Client, f.Pattern).Subscribe(ctx, opts)
		if err != nil {
			return err
		}
		r.keepReader(f.As, r.read(t.Subscription, typed(t)))
		return nil
	}
	s, err := u.Subscribe(ctx, f.Pattern, opts)
	if err != nil {
		return err
	}
	r.keepReader(f.As, r.read(s, s.Messages))
	return nil
}

func (r *run) keepReader(name string, s *reader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs[orS(name)] = s
}

// typed iterates as Messages of a subscription without a type does; that the value is
// that of the payload is looked at on the way.
func typed(t *client.TypedSubscription[any]) func(context.Context) iter.Seq2[client.Message, error] {
	return func(ctx context.Context) iter.Seq2[client.Message, error] {
		return func(yield func(client.Message, error) bool) {
			for item, err := range t.Messages(ctx) {
				if v, e := decoded(item.Payload); err == nil && item.Gap == nil && (e != nil || !equal(plain(item.Value), v)) {
					err = mismatchf("the typed value is %s; want %s (%v)", show(item.Value), show(v), e)
				}
				if !yield(item.Message, err) {
					return
				}
			}
		}
	}
}

// filter makes a filter: by header, a list of values of which it must be one, or an
// object with one operator.
func filter(f map[string]json.RawMessage) (client.Filter, error) {
	var list client.Filter
	for _, name := range slices.Sorted(maps.Keys(f)) {
		where := client.Where(name)
		var values []string
		if err := json.Unmarshal(f[name], &values); err == nil {
			list = append(list, where.In(values...))
			continue
		}
		var c struct {
			NotIn   []string `json:"not"`
			Prefix  []string `json:"prefix"`
			Exists  *bool    `json:"exists"`
			AtLeast *float64 `json:"atLeast"`
			AtMost  *float64 `json:"atMost"`
		}
		if err := Decode(f[name], &c); err != nil {
			return nil, mismatchf("filter: %v", err)
		}
		if c.NotIn != nil {
			list = append(list, where.NotIn(c.NotIn...))
		}
		if c.Prefix != nil {
			list = append(list, where.HasPrefix(c.Prefix...))
		}
		if c.Exists != nil && *c.Exists {
			list = append(list, where.Exists())
		}
		if c.Exists != nil && !*c.Exists {
			list = append(list, where.Absent())
		}
		if c.AtLeast != nil {
			list = append(list, where.AtLeast(*c.AtLeast))
		}
		if c.AtMost != nil {
			list = append(list, where.AtMost(*c.AtMost))
		}
	}
	return list, nil
}

// reader is a subscription that is read when a step asks for it: its iteration asks
// for the next item only then, so that the one before is not consumed earlier.
type reader struct {
	*client.Subscription
	asks  chan struct{}
	items chan result // closed at a clean end
	asked bool        // an item was asked for in vain; owned by the step that reads
}

type result struct {
	message client.Message
	err     error
}

// read begins the iteration of a subscription, which ends with the scenario.
func (r *run) read(s *client.Subscription, messages func(context.Context) iter.Seq2[client.Message, error]) *reader {
	rd := &reader{Subscription: s, asks: make(chan struct{}), items: make(chan result)}
	ctx := r.ctx
	r.wg.Go(func() {
		defer close(rd.items)
		wait := func() bool {
			select {
			case <-rd.asks:
				return true
			case <-ctx.Done():
				return false
			}
		}
		if !wait() {
			return
		}
		for m, err := range messages(ctx) {
			select {
			case rd.items <- result{m, err}:
			case <-ctx.Done():
				return
			}
			if !wait() {
				return
			}
		}
	})
	return rd
}

// next is the next item of a subscription; ok is false after a clean end.
func (s *reader) next(ctx context.Context) (m client.Message, ok bool, err error) {
	if !s.asked {
		select {
		case s.asks <- struct{}{}:
			s.asked = true
		case <-ctx.Done():
			return m, false, ctx.Err()
		case _, ok := <-s.items:
			if !ok {
				return m, false, nil
			}
		}
	}
	select {
	case it, ok := <-s.items:
		s.asked = false
		return it.message, ok, it.err
	case <-ctx.Done():
		return m, false, ctx.Err()
	}
}

type subFields struct {
	Sub string `json:"sub"`
}

func (r *run) unsubscribe(_ context.Context, f subFields) error {
	s, err := r.reader(f.Sub)
	if err != nil {
		return err
	}
	return s.Close()
}

type asFields struct {
	Sub string `json:"sub"`
	As  string `json:"as"`
}

// keepPosition keeps how far the application has read a topic.
func (r *run) keepPosition(_ context.Context, f asFields) error {
	s, err := r.reader(f.Sub)
	if err != nil {
		return err
	}
	p, ok := s.Position()
	if !ok {
		return mismatchf("the position is not known")
	}
	r.keep(f.As, p)
	return nil
}

// patternPositions is how far the application has read the topics of a pattern.
type patternPositions struct {
	positions map[string]client.Position
	since     time.Time
}

// keepPositions keeps how far the application has read each topic of a pattern.
func (r *run) keepPositions(_ context.Context, f asFields) error {
	s, err := r.reader(f.Sub)
	if err != nil {
		return err
	}
	positions, since := s.Positions()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.maps[f.As] = patternPositions{positions, since}
	return nil
}

type priorityFields struct {
	Sub      string `json:"sub"`
	Priority uint8  `json:"priority"`
}

func (r *run) setPriority(_ context.Context, f priorityFields) error {
	s, err := r.reader(f.Sub)
	if err != nil {
		return err
	}
	return s.SetPriority(f.Priority)
}

type subStateFields struct {
	Sub string `json:"sub"`
	Is  string `json:"is"`
}

// subState waits for a state of a subscription.
func (r *run) subState(ctx context.Context, f subStateFields) error {
	s, err := r.reader(f.Sub)
	if err != nil {
		return err
	}
	return eventually(ctx, func() error {
		if got := fmt.Sprint(s.State()); got != f.Is {
			return mismatchf("the subscription is %s; want %s", got, f.Is)
		}
		return nil
	})
}
