package model

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// diary is what one subscription has handed out, and what was asked of it.
type diary struct {
	name    string
	pattern string
	opts    client.SubscribeOptions
	replays bool   // it asked for what came before
	owner   string // who subscribes
	asked   time.Time
	granted time.Time // when Subscribe had returned
	sub     *client.Subscription

	wg sync.WaitGroup

	mu     sync.Mutex
	paused chan struct{} // closed: the reader goes on; guarded by mu
	items  []client.Message
	err    error // with which the iteration ended; guarded by mu
	ended  bool  // guarded by mu
	closed bool  // by its owner; guarded by mu
}

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
		paused := d.paused
		d.mu.Unlock()
		if paused != nil {
			<-paused
		}
	}
	d.mu.Lock()
	d.ended = true
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
	who, _ := author(f.data)
	return d.opts.NoEcho && who == d.owner || !d.opts.Filter.Match(f.headers)
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
		last    = -1 // place of the last message handed out; -1: none yet
		gaps    []*client.Gap
		seen    = make(map[int]bool)
		newest  = make(map[string]int)
		ordered = class != codec.ClassUnreliable && d.opts.Group == ""
	)
	// account checks what lies between the last message and the place to.
	account := func(to int) {
		if !ordered {
			return
		}
		for i := last + 1; i < to; i++ {
			f := &h.facts[i]
			switch {
			case seen[i] || d.withheld(f):
			case !f.at.After(d.granted) && (f.lossy || !d.replays || last < 0):
				// What was sequenced before it began, or while it did, is not owed,
				// unless it asked for it; no history holds what is lossy.
			case slices.ContainsFunc(gaps, func(g *client.Gap) bool { return h.covers(g, f) }):
			default:
				fault("offset %d of epoch %d (%q, lossy %v, sequenced %v after it began) is missing, and no gap tells of it", f.offset, f.epoch, f.data, f.lossy, f.at.Sub(d.granted))
			}
		}
	}
	for _, m := range d.items {
		if m.Gap != nil {
			if m.Gap.Topic == "" || m.Gap.Topic == topic {
				gaps = append(gaps, m.Gap)
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
		if seen[i] {
			fault("got %q twice", f.data)
		}
		if f.at.Before(d.asked) && !d.replays && !f.retain {
			fault("got %q, which was sequenced %v before it asked", f.data, d.asked.Sub(f.at))
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
	if whole {
		account(len(h.facts))
	}
	return faults
}

// covers reports whether a gap tells of a message.
func (h *history) covers(g *client.Gap, f *fact) bool {
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
