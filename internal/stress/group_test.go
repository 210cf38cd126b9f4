package stress

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// share is what was given to a group, and what its members say of it.
type share struct {
	mu      sync.Mutex
	owed    map[string]bool // what was published, and no member has got; guarded by mu
	early   map[string]bool // what a member got before its publisher took it down; guarded by mu
	told    uint64          // how many messages gaps have told of; guarded by mu
	unknown bool            // a gap did not know how many; guarded by mu
}

func newShare() *share { return &share{owed: make(map[string]bool), early: make(map[string]bool)} }

func (s *share) published(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.early[name] {
		s.owed[name] = true
	}
}

func (s *share) got(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.early[name] = true
	delete(s.owed, name)
}

func (s *share) missed(g *client.Gap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told += g.Count
	s.unknown = s.unknown || g.Count == 0
}

// open returns what is not accounted for; "" if all is.
func (s *share) open() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unknown || uint64(len(s.owed)) <= s.told {
		return ""
	}
	return fmt.Sprintf("%d messages came to no member, and gaps have told of %d", len(s.owed), s.told)
}

// take is a member that takes what comes until ctx ends.
func (s *share) take(ctx context.Context, w *world, d dice, sub *client.Subscription) {
	for m, err := range sub.Messages(ctx) {
		switch {
		case err != nil && ctx.Err() != nil:
			return
		case err != nil:
			w.fault("a member of %s: %v", sub.Pattern(), err)
			return
		case m.Gap != nil:
			s.missed(m.Gap)
			continue
		}
		name := nameOf(m.Payload)
		s.got(name)
		if fault := w.ledger.says(m.Topic, m.Position, name); fault != "" {
			w.fault("a member of %s: %s", sub.Pattern(), fault)
		}
		if d.oneIn(10) {
			rest(ctx, d.upTo(4*time.Millisecond))
		}
	}
}

// Members of a group come, go, and are cut. One stays, so that nothing is lost but what
// gaps tell of.
func TestGroups(t *testing.T) {
	withBounds(t, func(t *testing.T, config broker.Config) {
		config.MaxTopics = 12 // some give way meanwhile
		w := newWorld(t, new(inMemory), config)
		w.ledger.evicting = true
		s := newShare()
		member := func(p *person, pattern string, credit int) *client.Subscription {
			sub, err := p.Subscribe(w.watch, pattern, &client.SubscribeOptions{Group: "g", Credit: credit})
			switch {
			case err == nil:
				return sub
			case codec.CodeOf(err) != codec.CodeOverloaded:
				w.fault("a member of %s: %v", pattern, err)
			}
			return nil
		}
		stays := w.join(client.Config{})
		sub := member(stays, "s.>", 8<<10)
		w.read(func(d dice) { s.take(w.watch, w, d, sub) })
		patterns := []string{"s.>", "s.*.0", "s.plain.*", "s.plain.1", "s.tick.0", "s.tick.*"}
		for range 5 {
			p := w.join(client.Config{})
			for range 3 {
				w.work(func(d dice) {
					for w.loading() {
						sub := member(p, pick(d, patterns), 4<<10)
						if sub == nil {
							continue
						}
						ctx, cancel := context.WithTimeout(w.watch, d.upTo(40*time.Millisecond))
						s.take(ctx, w, d, sub)
						cancel()
						_ = sub.Close()
					}
				})
			}
		}
		topics := names(4, "plain", "tick")
		for i := range 3 {
			p := w.join(client.Config{})
			for j := range 3 {
				w.work(func(d dice) {
					w.publishForGroup(&publisher{world: w, who: p, name: fmt.Sprint("p", i, ".", j), dice: d, padding: 400}, s, topics)
				})
			}
		}
		w.cutting(w.persons[1:], 25*time.Millisecond)
		w.run()
		w.eventually("the group", s.open)
		w.end()
	})
}

// publishForGroup publishes until the load ends; topics that nobody wants take the
// places of others.
func (w *world) publishForGroup(p *publisher, s *share, topics []string) {
	for w.loading() {
		topic := pick(p.dice, topics)
		m := p.message(topic)
		var err error
		if p.dice.oneIn(3) { // no publication holds the topic
			_, err = w.broker.Publish(w.watch, topic, m.Value, nil)
		} else {
			_, err = p.who.Publish(w.watch, topic, m.Value, nil)
		}
		if p.check(err, &m) {
			name, _, _ := strings.Cut(m.Value.(string), " ")
			s.published(name)
		}
		if p.dice.oneIn(20) {
			_, err := w.broker.Publish(w.watch, fmt.Sprint("other.", p.dice.IntN(20)), "x"+fmt.Sprint(p.name, p.count), nil)
			p.check(err, &m)
		}
	}
}
