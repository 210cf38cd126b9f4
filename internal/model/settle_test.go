package model

import (
	"context"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt/wttest"
)

// settle heals everything, and waits until nothing moves any more.
func (w *world) settle() {
	w.say("everything heals")
	for _, k := range kinds {
		w.deny(w.denied.subscribe, w.deniedAfter, k.topic, false)
		w.deny(w.denied.publish, w.deniedPublish, k.topic, false)
	}
	for _, r := range rooms {
		w.deny(w.denied.subscribe, w.deniedAfter, r.topic, false)
	}
	w.network.SetLink(wttest.Link{Latency: 5 * time.Millisecond})
	for _, p := range w.people {
		if p.gone {
			w.cut(p)
		}
	}
	for _, d := range w.diaries {
		d.resume()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	for _, p := range w.people {
		for _, r := range p.results {
			pos, err := r.pending.Wait(ctx)
			w.answered(r, pos, err)
		}
		if !p.batches.wait(ctx) {
			w.t.Errorf("a batch of %s waits for ever", p.name)
		}
	}
	// Who has moved and not spoken since is not found by a datagram.
	for _, p := range w.people {
		for {
			_, err := p.client.Health(ctx)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				w.t.Fatalf("%s does not come back: %v", p.name, err)
			}
		}
	}
	w.assemble(ctx)
	time.Sleep(13 * time.Second) // now who is connected is steady
	w.observe()
	w.say("the last words")
	// A last word on each topic, so that what was lost before it is noticed.
	for _, k := range kinds {
		for i := range 4 {
			p := w.people[i%2] // nobody leaves out both
			p.count[k.topic]++
			data := body(p.name, p.count[k.topic])
			pos, err := p.client.Publish(ctx, k.topic, data, &client.PublishOptions{Headers: map[string]string{"by": p.name}})
			w.answered(result{topic: k.topic, data: data}, pos, err)
			time.Sleep(100 * time.Millisecond)
		}
	}
	time.Sleep(30 * time.Second)
	synctest.Wait()
	w.checkRosters(ctx)
}

// judge ends the world and reads everything beside the truth.
func (w *world) judge() {
	end := time.Now()
	w.observe()
	b := w.broker.Load()
	if s := b.Stats(); s.Requests > 0 {
		w.t.Errorf("%d requests are open", s.Requests)
	}
	alive := make(map[*diary]bool)
	for _, d := range w.diaries {
		alive[d] = !d.isEnded()
	}
	w.say("the broker dropped %v", b.Stats().Dropped)
	for _, l := range w.maps {
		l.check(w)
	}
	for _, p := range w.people {
		w.say("%s: state %v, %+v", p.name, p.client.State(), p.client.Stats())
		_ = p.client.Close()
	}
	for _, d := range w.diaries {
		d.wg.Wait()
	}
	w.asking.Wait()
	time.Sleep(time.Second)
	if s := b.Stats(); s.QueuedBytes != 0 || s.Presences != 0 || s.Groups != 0 || s.Requests != 0 {
		w.t.Errorf("everybody has left, and there are still: %d bytes that wait, %d presences, %d groups, %d requests", s.QueuedBytes, s.Presences, s.Groups, s.Requests)
	}
	_ = b.Close()
	for _, f := range w.truth.check() {
		w.t.Error(f)
	}
	w.checkAnswers()
	w.checkGroups(end)
	w.checkAsks()
	for i := range w.pages {
		w.pages[i].check(w)
	}
	want := w.roster()
	for _, x := range w.watches {
		x.wg.Wait()
		code := codec.CodeOf(x.err)
		x.check(w, end, want, code == codec.CodeClosed)
		if code != codec.CodeClosed && code != codec.CodePermissionRevoked && code != codec.CodeSubscribeDenied {
			w.t.Errorf("%s ended with %v", x.name, x.err)
		}
	}
	for _, d := range w.diaries {
		w.judgeDiary(d, alive[d])
	}
}

func (w *world) judgeDiary(d *diary, whole bool) {
	bad := ""
	for _, k := range kinds {
		if !codec.Match(d.pattern, k.topic) {
			continue
		}
		for _, f := range d.check(w.truth.of(k.topic), k.topic, max(d.opts.Class, k.class), whole) {
			w.t.Error(f)
			bad = k.topic
		}
	}
	if bad != "" {
		w.say("%s had, of %s, at the end:\n%s", d.name, bad, d.tail(bad, 200))
	}
	switch code := codec.CodeOf(d.err); code {
	case codec.CodeOK, codec.CodeClosed, codec.CodePermissionRevoked, codec.CodeSubscribeDenied:
	default:
		w.t.Errorf("%s ended with %v", d.name, d.err)
	}
}
