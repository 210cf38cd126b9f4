package model

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// lonely is a topic that nobody subscribes to.
const lonely = "lonely.ask"

// ask is a request of a person.
type ask struct {
	person  *person
	topic   string
	body    string
	headers codec.Headers
	opts    client.RequestOptions
	one     bool

	began, ended time.Time // zero: it waits; guarded by the world's mu, as what follows
	replies      []client.Message
	err          error
}

// reply is one that somebody has sent.
type reply struct {
	ask, body string
	by        *diary
	id        uuid.UUID
	at        time.Time // when Reply was called
	err       error
}

// request asks whoever is subscribed to a topic.
func (w *world) request(p *person, topic string) {
	p.count["requests"]++
	n := p.count["requests"]
	a := &ask{person: p, topic: topic, body: body(p.name+"/request", n), one: w.rng.IntN(2) == 0, began: time.Now()}
	odd := fmt.Sprint(n % 2)
	a.headers = codec.Headers{{Name: "odd", Value: odd}, {Name: "by", Value: p.name}}
	a.opts = client.RequestOptions{
		Timeout: time.Duration(50+w.rng.IntN(8000)) * time.Millisecond,
		Headers: map[string]string{"odd": odd, "by": p.name},
		Max:     1 + w.rng.IntN(4),
	}
	w.say("%s asks %s: %s, %d replies within %v", p.name, topic, a.body, a.opts.Max, a.opts.Timeout)
	w.asks = append(w.asks, a)
	w.asking.Go(func() {
		var replies []client.Message
		var err error
		if a.one {
			var m client.Message
			if m, err = p.client.Request(context.Background(), topic, a.body, &a.opts); err == nil {
				replies = append(replies, m)
			}
		} else {
			for m, e := range p.client.RequestMany(context.Background(), topic, a.body, &a.opts) {
				if err = e; e == nil {
					replies = append(replies, m)
				}
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		a.replies, a.err, a.ended = replies, err, time.Now()
	})
}

// answer replies to a request, none to three times, as the dice say.
func (w *world) answer(d *diary, m client.Message) {
	dice := fnv.New32a()
	_, _ = fmt.Fprintf(dice, "%s %s", d.name, m.Payload.Data)
	for i := range dice.Sum32() % 4 {
		r := reply{ask: string(m.Payload.Data), by: d, id: d.person.client.ID(), at: time.Now()}
		r.body = fmt.Sprintf("%s < %s %d", r.ask, d.name, i)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		r.err = m.Reply(ctx, r.body, nil)
		cancel()
		w.mu.Lock()
		w.sent = append(w.sent, r)
		w.mu.Unlock()
	}
}

// troubled reports whether the network of a person was bad within a time, or perhaps had
// not recovered when it began, or the broker died.
func (w *world) troubled(p *person, from, to time.Time) bool {
	if within(w.deaths, from, to) || within(w.moved[p], from, to) || p.lost(from, to) {
		return true
	}
	var last time.Time // when something was wrong before
	p.mu.Lock()
	defer p.mu.Unlock()
	times := slices.Concat(w.deaths, w.moved[p], p.downs)
	for _, cut := range p.cuts {
		times = append(times, cut.to)
	}
	for _, t := range times {
		if t.Before(from) && t.After(last) {
			last = t
		}
	}
	return from.Sub(last) < 12*time.Second && !within(p.ups, last.Add(1), from)
}

// checkAsks reads what came of each request.
func (w *world) checkAsks() {
	sent := make(map[string][]reply)
	for _, r := range w.sent {
		sent[r.ask] = append(sent[r.ask], r)
	}
	for _, a := range w.asks {
		fault := func(format string, args ...any) {
			w.t.Errorf("%s to %s: %s", a.body, a.topic, fmt.Sprintf(format, args...))
		}
		if a.ended.IsZero() {
			fault("it waits for ever")
			continue
		}
		most := a.opts.Max
		if a.one {
			most = 1
		}
		if len(a.replies) > most {
			fault("it has %d replies, and wanted %d", len(a.replies), most)
		}
		seen := make(map[string]bool)
		for _, m := range a.replies {
			text := string(m.Payload.Data)
			i := slices.IndexFunc(sent[a.body], func(r reply) bool { return r.body == text })
			switch {
			case !strings.HasPrefix(text, a.body+" < "):
				fault("got the reply of another request, %q", text)
			case i < 0:
				fault("got %q, which nobody has sent", text)
			case len(w.deaths) == 0 && sent[a.body][i].id != m.Publisher:
				fault("got %q as from %s, but %s has sent it", text, m.Publisher, sent[a.body][i].id)
			}
			// A member of a group that gets the request twice answers twice.
			if seen[text] && len(slices.DeleteFunc(slices.Clone(sent[a.body]), func(r reply) bool { return r.body != text })) < 2 {
				fault("got %q twice", text)
			}
			seen[text] = true
		}
		code := codec.CodeOf(a.err)
		switch {
		case a.err == nil && len(a.replies) == 0:
			fault("it ended without a reply and without an error")
		case a.err == nil:
		case code == codec.CodeNoResponders:
			if len(a.replies) > 0 {
				fault("%d have replied, and nobody is there", len(a.replies))
			}
			f := fact{headers: a.headers, data: a.body}
			if i := slices.IndexFunc(w.diaries, func(d *diary) bool {
				return codec.Match(d.pattern, a.topic) && !d.withheld(&f) && w.held(d, a.began, a.ended)
			}); i >= 0 {
				fault("nobody is said to be there, and %s is", w.diaries[i].name)
			}
		case code == codec.CodeRequestTimeout:
			// Without Remote there was no connection in all that time.
			if e, ok := errors.AsType[*client.Error](a.err); a.topic == lonely && ok && e.Remote {
				fault("nobody is there, and nobody has said so")
			}
			if d := a.ended.Sub(a.began); d < a.opts.Timeout {
				fault("it timed out after %v; it was to wait %v", d, a.opts.Timeout)
			}
		case code.Temporary():
		case (code == codec.CodePublishDenied || code == codec.CodePermissionRevoked) && len(w.deniedPublish[a.topic]) > 0:
		default:
			fault("%v", a.err)
		}
		if w.troubled(a.person, a.began, a.ended) {
			continue
		}
		late := a.began.Add(a.opts.Timeout)
		if a.topic == lonely {
			late = a.began
		}
		if a.ended.After(late.Add(flowTime)) {
			fault("it ended after %v; it was to wait %v", a.ended.Sub(a.began), a.opts.Timeout)
		}
		if code == codec.CodeNoResponders {
			continue // who came later may have found it in the history
		}
		// Replies that were sent in time have come.
		timely := 0
		for _, r := range sent[a.body] {
			if r.err == nil && r.by.granted.Before(a.began) && r.at.Add(flowTime).Before(late) && !w.troubled(r.by.person, r.at, r.at.Add(flowTime)) {
				timely++
			}
		}
		if got := len(a.replies); got < min(timely, most) {
			fault("%d replies were sent in time, and %d have come: %v", timely, got, a.err)
		}
	}
}
