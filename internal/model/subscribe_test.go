package model

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// subscribe begins a subscription with random options.
func (w *world) subscribe(p *person) {
	if len(w.diaries) > 24 || p.gone || w.broker.Load() == nil {
		return
	}
	pattern := kinds[w.rng.IntN(len(kinds))].topic
	switch w.rng.IntN(5) {
	case 0:
		pattern = "*.a"
	case 1:
		pattern = "plain.>"
	}
	d := &diary{world: w, pattern: pattern, person: p, asked: time.Now(), after: make(map[string]client.Position)}
	d.opts.Class = []client.Class{client.Reliable, client.Reliable, client.Reliable, client.Latest, client.Sequenced, client.Unreliable}[w.rng.IntN(6)]
	d.opts.NoEcho = w.rng.IntN(4) == 0
	if w.rng.IntN(4) == 0 {
		d.opts.Filter = client.Filter{client.Where("odd").In("1")}
	}
	d.opts.Credit = []int{0, 0, 200, 2000}[w.rng.IntN(4)]
	if d.opts.Class != client.Unreliable && w.rng.IntN(3) == 0 { // a class without gaps
		d.opts.Group, d.opts.NoEcho = fmt.Sprint("g", w.rng.IntN(2)), false
	} else {
		w.chooseFrom(d)
	}
	d.name = fmt.Sprintf("%s/%d %s %s", p.name, len(w.diaries), pattern, d.opts.Class)
	if d.opts.Group != "" {
		d.name += " in " + d.opts.Group
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	sub, err := p.client.Subscribe(ctx, pattern, &d.opts)
	if err != nil {
		w.say("%s: %v", d.name, err)
		if code := codec.CodeOf(err); code != codec.CodeSubscribeDenied && !errors.Is(err, context.DeadlineExceeded) {
			w.t.Errorf("%s cannot subscribe: %v", d.name, err)
		}
		return
	}
	d.sub, d.granted = sub, time.Now()
	w.say("%s begins: echo %v, filter %v, credit %d, replays %v, from %s", d.name, !d.opts.NoEcho, d.opts.Filter != nil, d.opts.Credit, d.replays, d.from)
	w.diaries = append(w.diaries, d)
	d.wg.Go(d.read)
}

// chooseFrom chooses where a subscription begins.
func (w *world) chooseFrom(d *diary) {
	exact := codec.IsExact(d.pattern)
	d.from = "now"
	switch w.rng.IntN(8) {
	case 0:
		d.last = 1 + w.rng.IntN(20)
		d.opts.From, d.from = client.FromLast(d.last), fmt.Sprint("the last ", d.last)
	case 1:
		d.opts.From, d.from = client.FromBeginning(), "the beginning"
	case 2:
		d.since = time.Now().Add(-time.Duration(w.rng.IntN(5000)) * time.Millisecond)
		d.opts.From, d.from = client.FromTime(d.since), fmt.Sprint("since ", d.since)
	case 3:
		d.opts.NoRetained = true
	case 4, 5:
		if exact {
			if pos, ok := w.somePosition(d.pattern); ok {
				d.after[d.pattern] = pos
				d.opts.From, d.from = client.FromPosition(pos), fmt.Sprint("behind ", pos)
			}
			break
		}
		d.since = time.Now().Add(-time.Duration(w.rng.IntN(5000)) * time.Millisecond)
		for _, k := range kinds {
			if codec.Match(d.pattern, k.topic) && w.rng.IntN(2) == 0 {
				if pos, ok := w.somePosition(k.topic); ok {
					d.after[k.topic] = pos
				}
			}
		}
		if other := w.anyDiary(); other != nil && other.pattern == d.pattern && other.opts.Group == "" {
			d.after, d.since = other.sub.Positions() // as an application that begins anew
		}
		d.opts.From, d.from = client.FromPositions(d.after, d.since), fmt.Sprintf("behind %v, else since %v", d.after, d.since)
	}
	d.replays = d.from != "now"
}

func (w *world) unsubscribe() {
	d := w.anyDiary()
	if d == nil || !d.closedAt.IsZero() {
		return
	}
	w.say("%s ends", d.name)
	d.resume()
	d.closedAt = time.Now()
	_ = d.sub.Close()
}
