package stress

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// Requests of clients and of the process, answered by subscriptions and by members of
// groups whose lines are cut. Each ends, and a reply belongs to its request.
func TestRequests(t *testing.T) {
	withBounds(t, func(t *testing.T, config broker.Config) {
		w := newWorld(t, new(inMemory), config)
		topics := []string{"s.plain.0", "s.tick.0"}
		for i := range 3 {
			p := w.join(client.Config{})
			groups := []string{"g", "g"}
			if i == 0 {
				groups = append(groups, "")
			}
			for _, group := range groups {
				sub, err := p.Subscribe(w.watch, "s.>", &client.SubscribeOptions{Group: group, NoRetained: true})
				if err != nil {
					t.Fatal(err)
				}
				w.read(func(dice) { w.answer(sub) })
			}
		}
		for i := range 4 {
			p := w.join(client.Config{})
			for j := range 3 {
				w.work(func(d dice) {
					for n := 0; w.loading(); n++ {
						w.ask(d, p, pick(d, topics), fmt.Sprint("q", i, ".", j, ".", n))
					}
				})
			}
		}
		w.cutting(w.persons, 35*time.Millisecond)
		w.run()
		w.end()
	})
}

// answer replies to each request with what it asks.
func (w *world) answer(sub *client.Subscription) {
	for m, err := range sub.Messages(w.watch) {
		if err != nil {
			if w.watch.Err() == nil {
				w.fault("who answers: %v", err)
			}
			return
		}
		if !m.Request {
			continue
		}
		err := m.Reply(w.watch, string(m.Payload.Data), nil)
		if err != nil && w.watch.Err() == nil && !oneOf(err, codec.CodeRequestTimeout, codec.CodeConnectionLost) {
			w.fault("a reply: %v", err)
		}
	}
}

// ask makes a request of some sort, and waits for its end.
func (w *world) ask(d dice, p *person, topic, text string) {
	timeout := time.Millisecond + d.upTo(300*time.Millisecond)
	ctx, cancel := context.WithTimeout(w.watch, time.Millisecond+d.upTo(600*time.Millisecond))
	defer cancel()
	answered := func(data []byte, err error) {
		switch {
		case err == nil && string(data) != text:
			w.fault("%q is answered by %q", text, data)
		case err == nil || errors.Is(err, context.DeadlineExceeded):
		case !oneOf(err, codec.CodeNoResponders, codec.CodeRequestTimeout, codec.CodeConnectionLost):
			w.fault("%q: %v", text, err)
		}
	}
	switch d.IntN(4) {
	case 0:
		m, err := w.broker.Request(ctx, topic, text, &broker.RequestOptions{Timeout: timeout})
		answered(m.Payload.Data, err)
	case 1:
		m, err := p.Request(ctx, topic, text, &client.RequestOptions{Timeout: timeout})
		answered(m.Payload.Data, err)
	case 2:
		for m, err := range w.broker.RequestMany(ctx, topic, text, &broker.RequestOptions{Timeout: timeout, Max: 2}) {
			answered(m.Payload.Data, err)
		}
	default:
		replies := 0
		for m, err := range p.RequestMany(ctx, topic, text, &client.RequestOptions{Timeout: timeout, Max: 2}) {
			answered(m.Payload.Data, err)
			if err == nil {
				replies++
			}
			if replies > 2 {
				w.fault("%q has more replies than it wanted", text)
			}
			if d.oneIn(4) {
				break
			}
		}
	}
}
