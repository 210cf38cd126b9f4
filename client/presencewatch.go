package client

import (
	"context"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/tidewire/tidewire/codec"
)

// PresenceWatch tells who comes and goes.
type PresenceWatch struct {
	// Static after construction.
	client *Client
	sub    *Subscription

	mu    sync.Mutex
	known map[topicKey]Member // and under no key the topics with a count; guarded by mu
	doubt map[string]struct{} // topics of which events may be missing; "": of all; guarded by mu
}

// WatchPresence tells who comes and goes in the topics of a pattern: first Joined
// of each who is there, then each change. It remembers who is there, with at most 1 KiB of
// state each. It needs the permission to subscribe to the pattern.
func (c *Client) WatchPresence(ctx context.Context, pattern string) (*PresenceWatch, error) {
	if err := checkPattern(pattern); err != nil {
		return nil, err
	}
	sub, err := c.Subscribe(ctx, pattern, &SubscribeOptions{presence: true})
	if err != nil {
		return nil, err
	}
	return &PresenceWatch{client: c, sub: sub, known: make(map[topicKey]Member), doubt: make(map[string]struct{})}, nil
}

// Events iterates over what happens. It ends as Subscription.Messages does. Where
// events may be missing it has a PresenceGap, reads who is there, and goes on with
// Left of everyone who is not there any more, or a count of nobody.
func (w *PresenceWatch) Events(ctx context.Context) iter.Seq2[PresenceEvent, error] {
	return func(yield func(PresenceEvent, error) bool) {
		if !w.compare(ctx, yield) {
			return
		}
		for m, err := range w.sub.Messages(ctx) {
			if err != nil {
				yield(PresenceEvent{}, err)
				return
			}
			if e, ok := w.event(m); ok && !yield(e, nil) || !w.compare(ctx, yield) {
				return
			}
		}
	}
}

// event makes an event of an item; ok is false if it changes nothing.
func (w *PresenceWatch) event(m Message) (e PresenceEvent, ok bool) {
	if e, ok = presenceEvent(m); !ok {
		return e, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key := topicKey{e.Topic, m.Key}
	member, known := w.known[key]
	switch e.Kind {
	case PresenceGap:
		if !harmless(e.Gap) {
			w.doubt[e.Topic] = struct{}{}
		}
	case Left:
		delete(w.known, key)
		e.Member = member
		return e, known
	case Counted:
		delete(w.known, key)
		if e.Count > 0 {
			w.known[key] = Member{}
		}
	case Joined:
		w.known[key] = e.Member
		if known {
			e.Kind = Updated
		}
	}
	return e, true
}

// compare reads who is there in the topics that are in doubt, and yields who has
// left. Who has joined needs none of this: it is a last value, which comes anew. It
// reports false if the loop was left; what is in doubt then is compared by the next.
func (w *PresenceWatch) compare(ctx context.Context, yield func(PresenceEvent, error) bool) bool {
	for {
		topic, ok := w.doubtful()
		if !ok {
			return true
		}
		there, err := w.read(ctx, topic)
		switch {
		case ctx.Err() != nil:
			return true // Messages tells
		case codec.CodeOf(err) == codec.CodeConnectionLost && w.client.Err() == nil:
			continue
		}
		for _, e := range w.settle(topic, there, err) {
			if !yield(e, nil) {
				return false
			}
		}
	}
}

// read asks who is in a topic, by key; of one that is counted only, whether anybody is,
// under no key.
func (w *PresenceWatch) read(ctx context.Context, topic string) (there map[string]struct{}, err error) {
	there = make(map[string]struct{})
	w.mu.Lock()
	_, counted := w.known[topicKey{topic, ""}]
	w.mu.Unlock()
	if counted {
		counts, err := w.client.PresenceCount(ctx, topic)
		if counts[topic] > 0 {
			there[""] = struct{}{}
		}
		return there, err
	}
	members, err := w.client.Presence(ctx, topic)
	for _, m := range members {
		there[m.Client.String()] = struct{}{}
	}
	return there, err
}

// doubtful returns a topic that is in doubt and has members that are known.
func (w *PresenceWatch) doubtful() (topic string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, all := w.doubt[""]; all {
		for key := range w.known {
			w.doubt[key.topic] = struct{}{}
		}
		delete(w.doubt, "")
	}
	for key := range w.known {
		if _, ok := w.doubt[key.topic]; ok {
			return key.topic, true
		}
	}
	clear(w.doubt) // of topics in which nobody was
	return "", false
}

// settle takes a topic out of doubt, and returns who of the known is not there; nobody
// if the broker has not told who is.
func (w *PresenceWatch) settle(topic string, there map[string]struct{}, err error) (left []PresenceEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.doubt, topic)
	if err != nil {
		return nil
	}
	for key, member := range w.known {
		if _, ok := there[key.key]; ok || key.topic != topic {
			continue
		}
		delete(w.known, key)
		if key.key == "" {
			left = append(left, PresenceEvent{Kind: Counted, Topic: topic})
			continue
		}
		left = append(left, PresenceEvent{Kind: Left, Topic: topic, Member: member})
	}
	slices.SortFunc(left, func(a, b PresenceEvent) int {
		return strings.Compare(a.Member.Client.String(), b.Member.Client.String())
	})
	return left
}

// Close ends the watch, as Subscription.Close does.
func (w *PresenceWatch) Close() error { return w.sub.Close() }
