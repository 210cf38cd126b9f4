package stress

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// follower checks what one subscription hands out, or several of which each goes on
// where the one before it stood:
//
//   - order: offsets of a topic only increase; in class sequenced those of a key;
//   - once: so no position comes twice;
//   - whole: what is missing lies in a gap, or was withheld as the subscription wished; in
//     class sequenced, whose gaps may come behind newer messages, that is not looked at;
//   - right: a message is the one that the ledger knows at its position;
//   - no gap of reason lost tells of what travels by stream.
type follower struct {
	// Static while it follows.
	world    *world
	name     string
	pattern  string
	opts     client.SubscribeOptions
	who      *person
	snapshot bool // it began with last values: what lies between these is not looked at
	first    uint64
	times    int    // how many subscriptions it had
	granted  uint64 // first and granted are when its first and its last subscription stood, by the ledger's clock

	mu       sync.Mutex
	places   map[string]*place // guarded by mu
	anywhere bool              // a gap told of every topic: also of those without a place; guarded by mu
	holes    []hole            // guarded by mu
	lost     []hole            // what gaps of reason lost have told of; guarded by mu
	receipts []receipt         // if the world has denials; guarded by mu
}

// place is how far a follower has come in a topic.
type place struct {
	epoch, last uint64
	started     bool              // it has an item of the topic, or asked for what is behind one
	wild        bool              // a gap of unknown extent came last
	keys        map[string]uint64 // the last offset of each key, in class sequenced
}

// hole are the offsets above after and below before, or all above after, that a follower
// did not get.
type hole struct {
	topic                string
	epoch, after, before uint64
	started              bool // it had an item before it
}

// receipt is a message that came.
type receipt struct {
	topic string
	pos   client.Position
}

// pace is how fast a follower is.
type pace struct {
	slow  int // it rests a little once in so many messages; 0: never
	stall int // it stops for long, likewise
}

func (w *world) follower(name string, who *person, pattern string, opts client.SubscribeOptions) *follower {
	f := &follower{world: w, name: name + " to " + pattern, pattern: pattern, opts: opts, who: who, places: make(map[string]*place)}
	f.snapshot = !opts.NoRetained
	w.mu.Lock()
	defer w.mu.Unlock()
	w.followers = append(w.followers, f)
	return f
}

// subscribe begins, or goes on with, what the follower follows.
func (f *follower) subscribe(from client.From) (*client.Subscription, error) {
	opts := f.opts
	opts.From = from
	sub, err := f.who.Subscribe(f.world.watch, f.pattern, &opts)
	f.times++
	f.granted = f.world.ledger.clock.Load()
	if f.first == 0 {
		f.first = f.granted
	}
	return sub, err
}

// follow takes what comes until ctx ends, and returns why the subscription has ended
// otherwise.
func (f *follower) follow(ctx context.Context, d dice, sub *client.Subscription, p pace) error {
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		f.mu.Lock()
		if m.Gap != nil {
			f.takeGapLocked(m.Gap)
		} else {
			f.takeLocked(&m)
		}
		f.mu.Unlock()
		switch {
		case p.slow > 0 && d.oneIn(p.slow):
			rest(ctx, d.upTo(8*time.Millisecond))
		case p.stall > 0 && d.oneIn(p.stall):
			rest(ctx, d.upTo(200*time.Millisecond))
		}
	}
	return nil
}

func (f *follower) fault(format string, args ...any) {
	f.world.fault(f.name+": "+format, args...)
}

func (f *follower) placeLocked(topic string) *place {
	p := f.places[topic]
	if p == nil {
		p = &place{wild: f.anywhere, keys: make(map[string]uint64)}
		f.places[topic] = p
	}
	return p
}

func (f *follower) takeGapLocked(g *client.Gap) {
	switch {
	case f.opts.Class == client.Unreliable:
		f.fault("a gap in class unreliable: %v", g)
	case g.Topic == "":
		f.anywhere = true
		for _, p := range f.places {
			p.wild = true
		}
	case g.To == nil:
		f.placeLocked(g.Topic).wild = true
	default:
		p := f.placeLocked(g.Topic)
		if p.started && g.To.Epoch == p.epoch && g.To.Offset <= p.last {
			// In class sequenced the older message of another key may have come, and given
			// way to a newer one, behind newer messages.
			if f.classOf(g.Topic) != client.Sequenced {
				f.fault("a gap up to %v after %d of %s (%v)", *g.To, p.last, g.Topic, g.Reason)
			}
			return
		}
		from := client.Position{Epoch: g.To.Epoch}
		if g.From != nil {
			from = *g.From
			f.missingLocked(g.Topic, p, from.Epoch, from.Offset+1)
		}
		if g.Reason == codec.GapLost {
			f.lost = append(f.lost, hole{topic: g.Topic, epoch: g.To.Epoch, after: from.Offset, before: g.To.Offset + 1})
		}
		p.epoch, p.last, p.started, p.wild = g.To.Epoch, g.To.Offset, true, false
	}
}

func (f *follower) takeLocked(m *client.Message) {
	if fault := f.world.ledger.says(m.Topic, m.Position, nameOf(m.Payload)); fault != "" {
		f.fault("%s", fault)
	}
	if f.withholds(m.Publisher == f.who.ID(), m.Headers["kind"]) {
		f.fault("got %q of %s, which it did not want", nameOf(m.Payload), m.Topic)
	}
	if f.world.denials != nil {
		f.receipts = append(f.receipts, receipt{m.Topic, m.Position})
	}
	if f.opts.Class == client.Unreliable {
		return
	}
	p := f.placeLocked(m.Topic)
	if p.started && m.Position.Epoch == p.epoch && m.Position.Offset <= p.last {
		if f.classOf(m.Topic) != client.Sequenced || m.Key == "" || m.Position.Offset <= p.keys[m.Key] {
			f.fault("%d (%q) of %s after %d", m.Position.Offset, nameOf(m.Payload), m.Topic, p.last)
		}
		p.keys[m.Key] = m.Position.Offset
		return
	}
	f.missingLocked(m.Topic, p, m.Position.Epoch, m.Position.Offset)
	if f.classOf(m.Topic) == client.Sequenced {
		p.keys[m.Key] = m.Position.Offset
	}
	p.epoch, p.last, p.started, p.wild = m.Position.Epoch, m.Position.Offset, true, false
}

// missingLocked takes down what lies between the follower's place in a topic and an
// offset that it goes on with.
func (f *follower) missingLocked(topic string, p *place, epoch, before uint64) {
	if p.wild {
		return
	}
	after := p.last
	if p.started && p.epoch != epoch {
		if !f.world.ledger.evicting {
			f.fault("%s has another epoch", topic)
		}
		f.holes = append(f.holes, hole{topic: topic, epoch: p.epoch, after: p.last, started: true})
		after = 0
	}
	if after+1 < before {
		f.holes = append(f.holes, hole{topic, epoch, after, before, p.started})
	}
}

// classOf returns the class in force for a topic.
func (f *follower) classOf(topic string) client.Class {
	if strings.HasPrefix(topic, "s.sequenced.") {
		return max(f.opts.Class, client.Sequenced)
	}
	return f.opts.Class
}

// withholds reports whether the subscription does not want a message of a kind, its own or
// another's.
func (f *follower) withholds(own bool, kind string) bool {
	return f.opts.NoEcho && own || f.opts.Filter != nil && kind != wantedKind
}

// stands returns why the follower has not come to a position yet; "" if it has.
func (f *follower) stands(topic string, at client.Position) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.placeLocked(topic)
	if p.wild || p.epoch == at.Epoch && p.last >= at.Offset {
		return ""
	}
	return f.name + " has not come to the end of " + topic
}

// judge looks at what was missing when all has ended.
func (f *follower) judge() {
	for _, h := range f.holes {
		if f.classOf(h.topic) > client.Latest {
			continue
		}
		f.world.ledger.between(h.topic, h.epoch, h.after, h.before, func(offset uint64, x *fact) {
			if x.lossy && f.world.datagrams {
				return // what is lost by datagram is not looked at here
			}
			late := x.begun > f.granted || !x.lossy && (x.begun > f.first || h.started && !f.snapshot)
			if late && !f.withholds(x.publisher == codec.ID(f.who.ID()), x.kind) {
				f.fault("%d of %s (%q, lossy %v) is missing between %d and %d, and no gap tells of it; subscribed %d times", offset, h.topic, x.name, x.lossy, h.after, h.before, f.times)
			}
		})
	}
	// To a pattern comes what was published before it began, and waits for its tick.
	if f.world.denials != nil && codec.IsExact(f.pattern) {
		f.world.denials.judge(f)
	}
	for _, h := range f.lost {
		if f.classOf(h.topic) > client.Latest {
			continue
		}
		f.world.ledger.between(h.topic, h.epoch, h.after, h.before, func(offset uint64, x *fact) {
			if (!x.lossy || !f.world.datagrams) && !f.withholds(x.publisher == codec.ID(f.who.ID()), x.kind) {
				f.fault("%d of %s (%q) is told as lost, and no stream loses anything", offset, h.topic, x.name)
			}
		})
	}
}
