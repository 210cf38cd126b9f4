package contract

import (
	"context"
	"encoding/json"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// from is where a subscription or a page begins.
type from struct {
	Position  string `json:"position"`  // one that was kept
	Plus      int    `json:"plus"`      // added to its offset
	Positions string `json:"positions"` // those that were kept of a pattern
	Last      int    `json:"last"`
	Since     string `json:"since"` // a time that was kept
	Beginning bool   `json:"beginning"`
	Next      string `json:"next"` // behind a page that was kept
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
}

func (r *run) subscribe(ctx context.Context, f subscribeFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	opts := &client.SubscribeOptions{Priority: f.Priority, Credit: f.Credit}
	class, ok := map[string]client.Class{
		"": client.Reliable, "reliable": client.Reliable, "latest": codec.ClassLatest,
		"sequenced": client.Sequenced, "unreliable": codec.ClassUnreliable,
	}[f.Class]
	if !ok {
		class = 99
	}
	opts.Class = class
	s, err := u.Subscribe(ctx, f.Pattern, opts)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs[orS(f.As)] = &reader{Subscription: s, client: f.Client}
	return nil
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

// next is the next item of a subscription.
func (s *reader) next(ctx context.Context) (client.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for m, err := range s.Messages(ctx) {
		return m, err
	}
	return client.Message{}, mismatchf("the subscription has ended")
}

// within bounds a wait that must be short.
func within(ctx context.Context, ms int) (context.Context, context.CancelFunc) {
	if ms == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
}
