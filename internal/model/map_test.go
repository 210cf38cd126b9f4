package model

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// liveMap is a live map that somebody has opened, and its changes.
type liveMap struct {
	name string
	m    *client.Map[string]
	wg   sync.WaitGroup
	seen map[string]string // what Changes has told; read when wg is done
	err  error             // with which it ended; read when wg is done
}

// openMap opens a live map of the topic that is one.
func (w *world) openMap(p *person) {
	if p.gone || w.broker.Load() == nil || len(w.maps) > 5 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	m, err := client.OpenMap[string](ctx, p.client, liveTopic, nil)
	w.say("%s opens a live map: %v", p.name, err)
	if err != nil {
		return
	}
	l := &liveMap{name: fmt.Sprintf("%s's map %d", p.name, len(w.maps)), m: m, seen: make(map[string]string)}
	w.maps = append(w.maps, l)
	l.wg.Go(func() {
		for c, err := range m.Changes(context.Background()) {
			switch {
			case err != nil:
				l.err = err
				return
			case c.Cleared:
				delete(l.seen, c.Key)
			default:
				l.seen[c.Key] = c.Entry.Value
			}
		}
	})
}

// check compares a map with the truth: the last value of each key.
func (l *liveMap) check(w *world) {
	want := make(map[string]string)
	if h := w.truth.of(liveTopic); len(h.facts) > 0 {
		for _, f := range h.facts {
			switch {
			case f.epoch != len(h.epochs)-1 || !f.retain || f.key == "":
			case f.data == "" || f.expires:
				delete(want, f.key)
			default:
				want[f.key] = f.data
			}
		}
	}
	got := make(map[string]string)
	for key, e := range l.m.All() {
		got[key] = e.Value
	}
	n := l.m.Len()
	_ = l.m.Close()
	l.wg.Wait()
	if l.err != nil {
		if code := codec.CodeOf(l.err); code != codec.CodePermissionRevoked && code != codec.CodeSubscribeDenied {
			w.t.Errorf("%s ended with %v", l.name, l.err)
		}
		return
	}
	if !maps.Equal(got, want) || n != len(want) {
		w.t.Errorf("%s has %v, and the last values are %v", l.name, got, want)
		for _, f := range w.truth.of(liveTopic).facts {
			w.say("%s: epoch %d offset %d key %q: %q, expires %v, at %.3fs", liveTopic, f.epoch, f.offset, f.key, f.data, f.expires, f.at.Sub(w.started).Seconds())
		}
	}
	for key, data := range want {
		if l.seen[key] != data {
			w.t.Errorf("%s told of %q as the last change of %q, which is %q", l.name, l.seen[key], key, data)
		}
	}
}
