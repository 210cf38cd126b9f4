package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/client"
)

type enterFields struct {
	Client string `json:"client"`
	Topic  string `json:"topic"`
	State  any    `json:"state"`
}

func (r *run) enter(ctx context.Context, f enterFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	return u.Enter(ctx, f.Topic, expand(f.State, 1))
}

type topicFieldsOf struct {
	Client string `json:"client"`
	Topic  string `json:"topic"`
}

func (r *run) leave(ctx context.Context, f topicFieldsOf) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	return u.Leave(ctx, f.Topic)
}

type presenceFields struct {
	Client  string         `json:"client"`
	Topic   string         `json:"topic"`
	Members map[string]any `json:"members"` // states by client
}

// presence waits until exactly these clients are present.
func (r *run) presence(ctx context.Context, f presenceFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	return eventually(ctx, func() error {
		members, err := u.Presence(ctx, f.Topic)
		if err != nil {
			return err
		}
		got, wanted := make(map[string]any), make(map[string]any)
		for _, m := range members {
			state, err := decoded(m.State)
			if err != nil {
				return mismatchf("%v", err)
			}
			got[m.Client.String()] = state
		}
		for name, state := range f.Members {
			wanted[r.idOf(name).String()] = state
		}
		if !equal(got, wanted) {
			return mismatchf("present are %s; want %s", show(got), show(wanted))
		}
		return nil
	})
}

type countFields struct {
	Client  string         `json:"client"`
	Pattern string         `json:"pattern"`
	Counts  map[string]int `json:"counts"`
}

// presenceCount waits until so many are present in each topic.
func (r *run) presenceCount(ctx context.Context, f countFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	return eventually(ctx, func() error {
		got, err := u.PresenceCount(ctx, f.Pattern)
		if err != nil {
			return err
		}
		if !maps.Equal(got, f.Counts) {
			return mismatchf("the counts are %v; want %v", got, f.Counts)
		}
		return nil
	})
}

// watcher is a watch whose events are read when a step asks for them.
type watcher struct {
	next func() (client.PresenceEvent, error, bool)
}

type watchFields struct {
	Client  string `json:"client"`
	Pattern string `json:"pattern"`
	As      string `json:"as"`
}

func (r *run) watchPresence(ctx context.Context, f watchFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	w, err := u.WatchPresence(ctx, f.Pattern)
	if err != nil {
		return err
	}
	// The timeout of the step that reads ends nothing but the scenario.
	next, stop := iter.Pull2(w.Events(r.ctx))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.more.watches[f.As] = &watcher{next: next}
	r.more.stops = append(r.more.stops, stop)
	return nil
}

type presenceEvent struct {
	Joined  string          `json:"joined"` // a client
	Updated string          `json:"updated"`
	Left    string          `json:"left"`
	Counted *int            `json:"counted"` // how many are present
	State   json.RawMessage `json:"state"`
	Topic   string          `json:"topic"`
}

type expectPresenceFields struct {
	Watch  string          `json:"watch"`
	Events []presenceEvent `json:"events"`
	// Among: others may come between them. AnyOrder: they may come in any order.
	Among    bool `json:"among"`
	AnyOrder bool `json:"anyOrder"`
}

// expectPresence takes events, which must be these.
func (r *run) expectPresence(ctx context.Context, f expectPresenceFields) error {
	r.mu.Lock()
	w := r.more.watches[f.Watch]
	r.mu.Unlock()
	if w == nil {
		return mismatchf("there is no watch %q", f.Watch)
	}
	left := slices.Clone(f.Events)
	for len(left) > 0 {
		e, err := r.nextEvent(ctx, w)
		if err != nil {
			return mismatchf("%v; want %s", err, show(left[0]))
		}
		at, err := 0, r.checkPresence(left[0], e)
		for f.AnyOrder && err != nil && at+1 < len(left) {
			at++
			err = r.checkPresence(left[at], e)
		}
		if err == nil {
			left = slices.Delete(left, at, at+1)
		} else if !f.Among {
			return err
		}
	}
	return nil
}

// nextEvent is the next event of a watch.
func (r *run) nextEvent(ctx context.Context, w *watcher) (client.PresenceEvent, error) {
	type answer struct {
		event client.PresenceEvent
		err   error
		ok    bool
	}
	answers := make(chan answer, 1)
	r.wg.Go(func() {
		e, err, ok := w.next()
		answers <- answer{e, err, ok}
	})
	select {
	case a := <-answers:
		if a.err != nil || !a.ok {
			return a.event, mismatchf("the watch has ended: %v", a.err)
		}
		return a.event, nil
	case <-ctx.Done():
		return client.PresenceEvent{}, mismatchf("no event came")
	}
}

func (r *run) checkPresence(wanted presenceEvent, e client.PresenceEvent) error {
	told := fmt.Sprintf("%s, client %s, topic %s", e.Kind, e.Member.Client, e.Topic)
	for kind, name := range map[client.PresenceKind]string{client.Joined: wanted.Joined, client.Updated: wanted.Updated, client.Left: wanted.Left} {
		if name == "" {
			continue
		}
		if id := r.idOf(name); e.Kind != kind || id == (uuid.UUID{}) || id != e.Member.Client {
			return mismatchf("the event is %s; want %s of %s, %s", told, kind, name, id)
		}
	}
	if n := wanted.Counted; n != nil && (e.Kind != client.Counted || e.Count != *n) {
		return mismatchf("the event is %s, count %d; want a count of %d", told, e.Count, *n)
	}
	if wanted.Topic != "" && wanted.Topic != e.Topic {
		return mismatchf("the event is %s; want topic %s", told, wanted.Topic)
	}
	if wanted.State == nil {
		return nil
	}
	var state any
	if err := json.Unmarshal(wanted.State, &state); err != nil {
		return err
	}
	got, err := decoded(e.Member.State)
	if err != nil || !equal(got, state) {
		return mismatchf("the state is %s (%v); want %s", show(got), err, show(state))
	}
	return nil
}
