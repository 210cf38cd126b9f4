package model

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// result is a publish whose answer is awaited.
type result struct {
	topic, data string
	id          string // the idempotency key
	pending     *client.PublishResult
}

// options are those of a message that a person publishes as his n'th.
func (w *world) options(p *person, k kind, n int) client.PublishOptions {
	opts := client.PublishOptions{Headers: map[string]string{"odd": fmt.Sprint(n % 2), "by": p.name}}
	if k.keys > 0 {
		opts.Key = fmt.Sprint(w.rng.IntN(k.keys))
		opts.Retain = k.live || w.rng.IntN(4) == 0
	}
	if k.ttl > 0 && w.rng.IntN(4) == 0 {
		opts.TTL = k.ttl
	}
	return opts
}

// publish publishes a few messages. None of them waits for its answer.
func (w *world) publish(p *person, k kind, n int) {
	w.say("%s publishes %d to %s", p.name, n, k.topic)
	for range n {
		p.count[k.topic]++
		data := body(p.name, p.count[k.topic])
		opts := w.options(p, k, p.count[k.topic])
		if !k.live && w.rng.IntN(3) == 0 {
			if p.gone {
				continue // it would wait for a connection
			}
			opts.Retain = false
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = p.client.PublishLossy(ctx, k.topic, data, &opts)
			cancel()
			continue
		}
		if k.live && w.rng.IntN(5) == 0 {
			data = "" // it clears the entry
		}
		p.results = append(p.results, result{k.topic, data, "", p.client.PublishAsync(k.topic, data, &opts)})
	}
}

// publishOnce publishes a message with an idempotency key that perhaps was used
// before, by somebody else too.
func (w *world) publishOnce(p *person, k kind) {
	id := fmt.Sprint("id", w.ids)
	if w.ids > 0 && w.rng.IntN(2) == 0 {
		id = fmt.Sprint("id", w.rng.IntN(w.ids))
	} else {
		w.ids++
	}
	p.count[k.topic]++
	data := body(p.name, p.count[k.topic])
	opts := w.options(p, k, p.count[k.topic])
	opts.ID, opts.TTL = id, 0
	w.say("%s publishes %s to %s with %s", p.name, data, k.topic, id)
	p.results = append(p.results, result{k.topic, data, id, p.client.PublishAsync(k.topic, data, &opts)})
}

// publishBatch publishes a batch behind those before it.
func (w *world) publishBatch(p *person, k kind, n int) {
	w.say("%s publishes a batch of %d to %s", p.name, n, k.topic)
	batch := make([]client.Outgoing, 0, n)
	who := p.name + "/batch"
	for range n {
		p.count[k.topic+"/batch"]++
		m := p.count[k.topic+"/batch"]
		batch = append(batch, client.Outgoing{Value: body(who, m), PublishOptions: w.options(p, k, m)})
	}
	p.batches.add(func() {
		positions, err := p.client.PublishBatch(context.Background(), k.topic, batch)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(positions) != len(batch) && err == nil {
			w.t.Errorf("a batch of %d has %d positions", len(batch), len(positions))
		}
		whole := true
		for i, pos := range positions {
			if pos == (client.Position{}) {
				whole = false
				continue
			}
			w.acknowledged = append(w.acknowledged, acknowledged{result{topic: k.topic, data: batch[i].Value.(string)}, pos})
		}
		if err == nil && !whole {
			w.t.Errorf("a batch to %s: positions are missing, and there is no error", k.topic)
		}
		if err != nil {
			w.refused(fmt.Sprintf("a batch to %s", k.topic), k.topic, err)
		}
	})
}

// storm has several publishers within the broker's process publish to one topic at the same
// moments, those of its ticks if it has any: what takes no time in this world is
// interleaved only where goroutines wake together.
func (w *world) storm(k kind) {
	const publishers, rounds = 3, 3
	if denied := w.deniedPublish[k.topic]; len(denied) > 0 && denied[len(denied)-1].to.IsZero() {
		return // it binds the clients alone
	}
	b, burst := w.broker.Load(), 1+w.rng.IntN(24)
	w.say("%d publishers publish %d times %d to %s at once", publishers, rounds, burst, k.topic)
	w.storms++
	var publishing sync.WaitGroup
	for i := range publishers {
		who := fmt.Sprintf("storm%d.%d", w.storms, i)
		messages := make([]broker.PublishOptions, rounds*burst)
		for n := range messages {
			if k.keys > 0 {
				messages[n].Key = fmt.Sprint(w.rng.IntN(k.keys))
				messages[n].Retain = k.live
			}
		}
		publishing.Go(func() {
			for n := range messages {
				if n > 0 && n%burst == 0 {
					time.Sleep(max(time.Millisecond, k.config.Tick))
				}
				if _, err := b.Publish(context.Background(), k.topic, body(who, n+1), &messages[n]); err != nil {
					w.t.Errorf("%s: %v", who, err)
				}
			}
		})
	}
	publishing.Wait()
}

// acknowledged is an answer that is read beside the truth when there is no more of it.
type acknowledged struct {
	result
	position client.Position
}

// answered takes note of an answer.
func (w *world) answered(r result, pos client.Position, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil:
		w.refused(fmt.Sprintf("publishing %s to %s", r.data, r.topic), r.topic, err)
	case pos != (client.Position{}): // else it was published before, and its position is forgotten
		w.acknowledged = append(w.acknowledged, acknowledged{r, pos})
	}
}

// refused checks why a message was not published.
func (w *world) refused(what, topic string, err error) {
	code := codec.CodeOf(err)
	switch {
	case code.Temporary(), code == codec.CodeQueueFull, code == codec.CodeExpired:
	case code == codec.CodePublishDenied || code == codec.CodePermissionRevoked:
		if len(w.deniedPublish[topic]) == 0 {
			w.t.Errorf("%s: %v, and nobody has denied it", what, err)
		}
	default:
		w.t.Errorf("%s: %v", what, err)
	}
}

// checkAnswers reads the acknowledgements beside the truth.
func (w *world) checkAnswers() {
	for _, a := range w.acknowledged {
		h := w.truth.of(a.topic)
		i := h.find(a.position.Epoch, a.position.Offset)
		switch {
		case i < 0:
			w.t.Errorf("%s on %s was acknowledged at %v, where nothing was sequenced", a.data, a.topic, a.position)
		case h.facts[i].data != a.data && (a.id == "" || h.facts[i].id != a.id):
			w.t.Errorf("%s on %s was acknowledged at %v, where %q was sequenced", a.data, a.topic, a.position, h.facts[i].data)
		}
	}
	for topic, denied := range w.deniedPublish {
		for _, f := range w.truth.of(topic).facts {
			if slices.ContainsFunc(denied, func(s span) bool { return f.at.After(s.from) && (s.to.IsZero() || f.at.Before(s.to)) }) {
				w.t.Errorf("%q on %s was sequenced while nobody could publish", f.data, topic)
			}
		}
	}
}
