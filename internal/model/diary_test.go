package model

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// diary is what one subscription has handed out, and what was asked of it.
type diary struct {
	name     string
	world    *world
	pattern  string
	opts     client.SubscribeOptions
	replays  bool                       // it asked for what came before
	from     string                     // in words
	after    map[string]client.Position // behind these, as far as it asked for that
	since    time.Time                  // or since then
	last     int                        // or for so many
	person   *person                    // who subscribes
	asked    time.Time
	granted  time.Time // when Subscribe had returned
	closedAt time.Time // by its owner; zero: it was not
	sub      *client.Subscription
	stood    []time.Time // when it was certainly known to the broker

	wg sync.WaitGroup

	mu      sync.Mutex
	paused  chan struct{}    // closed: the reader goes on; guarded by mu
	items   []client.Message // guarded by mu
	times   []taken          // of the items; guarded by mu
	err     error            // with which the iteration ended; guarded by mu
	ended   bool             // guarded by mu
	endedAt time.Time        // guarded by mu
}

// taken is when an item was taken, and when it was finished; zero: it was not.
type taken struct{ at, done time.Time }

// read takes what comes until the subscription ends.
func (d *diary) read() {
	for m, err := range d.sub.Messages(context.Background()) {
		d.mu.Lock()
		if err != nil {
			d.err = err
			d.mu.Unlock()
			break
		}
		d.items = append(d.items, m)
		d.times = append(d.times, taken{at: time.Now()})
		paused := d.paused
		d.mu.Unlock()
		if paused != nil {
			<-paused
		}
		if m.Request {
			d.world.answer(d, m)
		}
		d.mu.Lock()
		d.times[len(d.times)-1].done = time.Now()
		d.mu.Unlock()
	}
	d.mu.Lock()
	d.ended, d.endedAt = true, time.Now()
	d.mu.Unlock()
}

// pause makes the reader stop, and resume makes it go on.
func (d *diary) pause() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.paused == nil {
		d.paused = make(chan struct{})
	}
}

func (d *diary) resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.paused != nil {
		close(d.paused)
		d.paused = nil
	}
}

func (d *diary) isEnded() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ended
}

// withheld reports whether the subscription does not want a message.
func (d *diary) withheld(f *fact) bool {
	by, _ := f.headers.Get("by")
	return d.opts.NoEcho && by == d.person.name || !d.opts.Filter.Match(f.headers)
}

// asksFor reports whether a subscription is owed a reliable message that was sequenced
// before it began, even if it has got nothing before that.
func (d *diary) asksFor(h *history, topic string, f *fact) bool {
	if p, ok := d.after[topic]; ok {
		e := slices.Index(h.epochs, p.Epoch)
		return e >= 0 && compare(f.epoch, f.offset, e, p.Offset) > 0
	}
	// Another broker does not know what there was before it.
	return !d.since.IsZero() && f.at.After(d.since.Add(time.Millisecond)) && !within(d.world.deaths, f.at, d.granted)
}

// had reports whether a subscription said that it has a message, or did not want what is
// as old.
func (d *diary) had(h *history, topic string, f *fact) bool {
	if p, ok := d.after[topic]; ok {
		e := slices.Index(h.epochs, p.Epoch)
		// A position that is no message's is not known to the broker.
		return e >= 0 && h.find(p.Epoch, p.Offset) >= 0 && compare(f.epoch, f.offset, e, p.Offset) <= 0
	}
	return !d.since.IsZero() && !f.retain && f.at.Before(d.since.Add(-time.Millisecond))
}

// values are the places of the last values with which the subscription began.
func (d *diary) values(h *history) (list []int) {
	if d.from != "now" || d.opts.NoRetained || d.opts.Group != "" || d.opts.Class == client.Unreliable {
		return nil
	}
	byKey := make(map[string]int)
	for i := range h.facts {
		f := &h.facts[i]
		if !f.retain || f.at.After(d.granted) {
			continue
		}
		delete(byKey, f.key)
		// What came while it began it may have got otherwise, and what expires not at all.
		if f.at.Before(d.asked) && f.data != "" && !f.expires && !d.withheld(f) && !within(d.world.deaths, f.at, d.granted) {
			byKey[f.key] = i
		}
	}
	return slices.Collect(maps.Values(byKey))
}

// tail describes the last items of a topic.
func (d *diary) tail(topic string, n int) string {
	var lines []string
	for i := len(d.items) - 1; i >= 0 && len(lines) < n; i-- {
		switch m := &d.items[i]; {
		case m.Gap != nil && (m.Gap.Topic == "" || m.Gap.Topic == topic):
			lines = append(lines, fmt.Sprintf("\t%s; from %v to %v", m.Gap, m.Gap.From, m.Gap.To))
		case m.Gap == nil && m.Topic == topic:
			lines = append(lines, fmt.Sprintf("\t%v %q key %q lossy %v replayed %v", m.Position, m.Payload.Data, m.Key, m.Lossy, m.Replayed))
		}
	}
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}

// check reads the diary beside the truth. class is that in force on the topic;
// whole: the subscription lives, so what the topic ends with must be accounted for.
func (d *diary) check(h *history, topic string, class codec.Class, whole bool) (faults []string) {
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%s on %s: ", d.name, topic)+fmt.Sprintf(format, args...))
	}
	var (
		last     = -1 // place of the last message handed out; -1: none yet
		gaps     []told
		seen     = make(map[int]bool)
		newest   = make(map[string]int)
		replayed = 0 // messages that are no last values
		denied   []span
		ordered  = class != codec.ClassUnreliable && d.opts.Group == ""
		streamed = class == codec.ClassReliable || class == codec.ClassLatest
	)
	if d.pattern == topic {
		denied = d.world.deniedAfter[topic]
	}
	// account checks what lies between the last message and the place to.
	account := func(to int) {
		if !ordered {
			return
		}
		for i := last + 1; i < to; i++ {
			f := &h.facts[i]
			switch {
			case seen[i] || d.withheld(f):
			case !f.at.After(d.granted) && (f.lossy || !d.replays || last < 0 && !d.asksFor(h, topic, f)):
				// What was sequenced before it began, or while it did, is not owed,
				// unless it asked for it; no history holds what is lossy.
			case !f.lossy && streamed && slices.ContainsFunc(gaps, func(g told) bool { return g.Reason == codec.GapLost && h.covers(g, f) }):
				fault("offset %d of epoch %d (%q) is told as lost, and no stream loses anything", f.offset, f.epoch, f.data)
			case slices.ContainsFunc(gaps, func(g told) bool { return h.covers(g, f) }):
			default:
				fault("offset %d of epoch %d (%q, lossy %v, sequenced %v after it began) is missing, and no gap tells of it", f.offset, f.epoch, f.data, f.lossy, f.at.Sub(d.granted))
			}
		}
	}
	for n, m := range d.items {
		if m.Gap != nil {
			if m.Gap.Topic == "" || m.Gap.Topic == topic {
				gaps = append(gaps, told{m.Gap, d.times[n].at})
			}
			continue
		}
		if m.Topic != topic {
			continue
		}
		i := h.find(m.Position.Epoch, m.Position.Offset)
		if i < 0 {
			fault("got %q at %v, where nothing was sequenced", m.Payload.Data, m.Position)
			continue
		}
		f := &h.facts[i]
		if f.data != string(m.Payload.Data) || f.key != m.Key || f.lossy != m.Lossy {
			fault("got %q (key %q) at %v, where %q (key %q) was sequenced", m.Payload.Data, m.Key, m.Position, f.data, f.key)
		}
		if d.withheld(f) {
			fault("got %q, which it did not want", f.data)
		}
		if seen[i] && d.opts.Group == "" {
			fault("got %q twice", f.data)
		}
		if f.at.Before(d.asked) && !f.retain && d.opts.Group == "" {
			replayed++
			if !d.replays {
				fault("got %q, which was sequenced %v before it asked", f.data, d.asked.Sub(f.at))
			}
		}
		if d.had(h, topic, f) {
			fault("got %q, and began %s", f.data, d.from)
		}
		if slices.ContainsFunc(denied, func(s span) bool {
			return d.granted.Before(s.from) && f.at.After(s.from) && (s.to.IsZero() || d.times[n].at.Before(s.to))
		}) {
			fault("got %q, which was sequenced when the permission was revoked", f.data)
		}
		if ordered {
			if at, ok := newest[f.key]; ok && at > i {
				fault("got %q after the newer %q", f.data, h.facts[at].data)
			}
			if class != codec.ClassSequenced && i < last {
				fault("got offset %d of epoch %d after %d of %d", f.offset, f.epoch, h.facts[last].offset, h.facts[last].epoch)
			}
		}
		account(i)
		seen[i] = true
		newest[f.key] = i
		if i > last {
			last = i
		}
	}
	for _, i := range d.values(h) {
		f := &h.facts[i]
		if at, ok := newest[f.key]; whole && (!ok || at < i) && !slices.ContainsFunc(gaps, func(g told) bool { return h.covers(g, f) }) {
			fault("the last value of %q, %q at offset %d, did not come, and no gap tells of it", f.key, f.data, f.offset)
		}
	}
	if d.last > 0 && replayed > d.last {
		fault("it asked for the last %d messages, and got %d", d.last, replayed)
	}
	if whole {
		account(len(h.facts))
	}
	return faults
}

// told is a gap and when it was taken.
type told struct {
	*client.Gap
	at time.Time
}

// covers reports whether a gap tells of a message. One that does not say where it ends
// tells of what there was when it was told.
func (h *history) covers(g told, f *fact) bool {
	if g.To == nil && f.at.After(g.at) {
		return false
	}
	after := func(p *client.Position, unknown bool) bool { // f is behind p
		if p == nil {
			return unknown
		}
		e := slices.Index(h.epochs, p.Epoch)
		if e < 0 { // an epoch in which nothing was sequenced
			return unknown
		}
		return compare(f.epoch, f.offset, e, p.Offset) > 0
	}
	return after(g.From, true) && !after(g.To, false)
}
