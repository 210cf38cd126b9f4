package model

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// page is a page of a topic's history that somebody has read.
type page struct {
	name     string
	topic    string
	backward bool
	limit    int
	after    *client.Position // where it begins; nil: at an end of the history
	since    time.Time        // or with the messages since then
	last     int              // or with the last ones
	asked    time.Time
	got      time.Time
	client.HistoryPage
}

// readHistory reads one to three pages of a topic's history, one behind the other.
func (w *world) readHistory(p *person, topic string) {
	if p.gone || w.broker.Load() == nil {
		return
	}
	g := page{topic: topic, limit: 1 + w.rng.IntN(20), backward: w.rng.IntN(2) == 0}
	opts := client.HistoryOptions{Backward: g.backward, Limit: g.limit}
	switch n := w.rng.IntN(5); {
	case n < 2:
		if pos, ok := w.somePosition(topic); ok {
			opts.From, g.after = client.FromPosition(pos), &pos
		}
	case g.backward:
	case n == 2:
		g.since = time.Now().Add(-time.Duration(w.rng.IntN(5000)) * time.Millisecond)
		opts.From = client.FromTime(g.since)
	case n == 3:
		g.last = 1 + w.rng.IntN(10)
		opts.From = client.FromLast(g.last)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for range 1 + w.rng.IntN(3) {
		var err error
		g.name = fmt.Sprintf("page %d of %s's", len(w.pages), p.name)
		g.asked = time.Now()
		g.HistoryPage, err = p.client.History(ctx, topic, &opts)
		g.got = time.Now()
		w.say("%s: %s, backward %v, limit %d, after %v, last %d, since %v: %d items, %v", g.name, topic, g.backward, g.limit, g.after, g.last, g.since, len(g.Messages), err)
		if err != nil {
			code := codec.CodeOf(err)
			if !code.Temporary() && code != codec.CodeSubscribeDenied && code != codec.CodeNotOffered && !errors.Is(err, context.DeadlineExceeded) {
				w.t.Errorf("%s: %v", g.name, err)
			}
			if (code == codec.CodeNotOffered) != (topic == "bare.a") && code == codec.CodeNotOffered {
				w.t.Errorf("%s of %s: %v", g.name, topic, err)
			}
			return
		}
		w.pages = append(w.pages, g)
		if !g.More {
			return
		}
		next := g.Next
		opts.From = client.FromPosition(next)
		g.after, g.since, g.last = &next, time.Time{}, 0
	}
}

// somePosition returns the position of a message of a topic, or one that does not
// exist.
func (w *world) somePosition(topic string) (client.Position, bool) {
	w.truth.mu.Lock()
	defer w.truth.mu.Unlock()
	h := w.truth.topics[topic]
	if h == nil {
		return client.Position{}, false
	}
	f := &h.facts[w.rng.IntN(len(h.facts))]
	pos := client.Position{Epoch: h.epochs[f.epoch], Offset: f.offset}
	switch w.rng.IntN(12) {
	case 0:
		pos.Offset += 10_000
	case 1:
		pos.Epoch ^= 1
	}
	return pos, true
}

// check reads a page beside the truth.
func (g *page) check(w *world) {
	h := w.truth.of(g.topic)
	fault := func(format string, args ...any) {
		w.t.Errorf("%s of %s, backward %v: %s", g.name, g.topic, g.backward, fmt.Sprintf(format, args...))
	}
	epoch := slices.Index(h.epochs, g.Last.Epoch)
	if epoch < 0 {
		if len(g.Messages) > 0 {
			fault("it is of epoch %d, in which nothing was sequenced", g.Last.Epoch)
		}
		return
	}
	var gaps []told
	messages := 0
	listed := make(map[int]bool)
	last := -1
	for _, m := range g.Messages {
		if m.Gap != nil {
			gaps = append(gaps, told{m.Gap, g.got})
			continue
		}
		messages++
		i := h.find(m.Position.Epoch, m.Position.Offset)
		switch {
		case i < 0 || m.Position.Epoch != g.Last.Epoch:
			fault("%q at %v, where nothing was sequenced", m.Payload.Data, m.Position)
			continue
		case h.facts[i].data != string(m.Payload.Data) || h.facts[i].lossy || m.Lossy || h.facts[i].key != m.Key:
			fault("%q at %v, where %q was sequenced", m.Payload.Data, m.Position, h.facts[i].data)
		case last >= 0 && (i < last) != g.backward:
			fault("%q after %q", h.facts[i].data, h.facts[last].data)
		}
		listed[i], last = true, i
	}
	if messages > g.limit {
		fault("%d messages, and the limit is %d", messages, g.limit)
	}
	if g.last > 0 && messages > g.last {
		fault("%d messages, and it was to begin with the last %d", messages, g.last)
	}
	// What lies between its ends is listed, or a gap tells of it.
	above := func(p client.Position, f *fact) bool { return f.offset > p.Offset }
	for i := range h.facts {
		f := &h.facts[i]
		if f.epoch != epoch || f.lossy || f.offset > g.Last.Offset {
			continue
		}
		var owed bool
		known := g.after != nil && g.after.Epoch == g.Last.Epoch && g.after.Offset <= g.Last.Offset
		switch {
		case g.backward:
			owed = (!known || f.offset < g.after.Offset) && (g.More && f.offset >= g.Next.Offset)
			if known && f.offset >= g.after.Offset && listed[i] {
				fault("%q at offset %d is listed, and it is of what is before %d", f.data, f.offset, g.after.Offset)
			}
		case known:
			owed = above(*g.after, f)
			if !owed && listed[i] {
				fault("%q at offset %d is listed, and it is of what is behind %d", f.data, f.offset, g.after.Offset)
			}
		case g.after != nil && g.after.Epoch == g.Last.Epoch:
			owed = false // beyond the end there is nothing
		case !g.since.IsZero():
			owed = f.at.After(g.since.Add(time.Millisecond))
			if f.at.Before(g.since.Add(-time.Millisecond)) && listed[i] {
				fault("%q is listed, and was sequenced before", f.data)
			}
		case g.last > 0:
			owed = false
		default:
			owed = g.First.Offset > 0 && f.offset >= g.First.Offset
		}
		if !g.backward && g.More && f.offset > g.Next.Offset {
			owed = false
		}
		if owed && !listed[i] && !slices.ContainsFunc(gaps, func(gap told) bool { return h.covers(gap, f) }) {
			fault("offset %d (%q) is missing, and no gap tells of it; from %v, next %v %v", f.offset, f.data, g.after, g.Next, g.More)
		}
	}
}
