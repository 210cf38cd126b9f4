package client_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// take takes one message.
func (w *world) take(sub *client.Subscription) client.Message {
	w.t.Helper()
	synctest.Wait()
	for m, err := range sub.Messages(w.t.Context()) {
		if err != nil || m.Gap != nil {
			w.t.Fatalf("%v, %v", m, err)
		}
		return m
	}
	w.t.Fatal("the iteration has ended")
	return client.Message{}
}

// A position does not count what waits, not even when Close drops it.
func TestPositionIsOfWhatWasTaken(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		sub := w.subscribe(c, "x", nil)
		w.publish(c, "x", nil, "1", "2", "3")
		m := w.take(sub)
		if p, ok := sub.Position(); !ok || p != m.Position {
			t.Errorf("%v, %v; want %v", p, ok, m.Position)
		}
		if err := sub.Close(); err != nil {
			t.Fatal(err)
		}
		p, ok := sub.Position()
		if !ok || p != m.Position {
			t.Fatalf("after Close %v, %v; want %v", p, ok, m.Position)
		}
		w.want(w.subscribe(c, "x", &client.SubscribeOptions{From: client.FromPosition(p)}), "2", "3")

		// One that has taken nothing ends where it began.
		for topic, from := range map[string]client.From{"x": client.FromPosition(p), "y": {}} {
			sub := w.subscribe(c, topic, &client.SubscribeOptions{From: from})
			began, ok := sub.Position()
			if topic == "x" {
				began, ok = p, true
			}
			synctest.Wait()
			if err := sub.Close(); err != nil || !ok {
				t.Fatal(ok, err)
			}
			if p, ok := sub.Position(); !ok || p != began {
				t.Errorf("of nothing of %s %v, %v; want %v", topic, p, ok, began)
			}
		}
		positions := map[string]client.Position{"x": p, "y": {Epoch: 1, Offset: 2}}
		sub = w.subscribe(c, ">", &client.SubscribeOptions{From: client.FromPositions(positions, time.Now())})
		if got, _ := sub.Positions(); fmt.Sprint(got) != fmt.Sprint(positions) {
			t.Errorf("positions of a pattern of which nothing was taken: %v", got)
		}
	})
}

// What was left out on purpose is behind a position, once nothing waits.
func TestPositionCountsWhatIsLeftOut(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		sub := w.subscribe(c, "x", &client.SubscribeOptions{Filter: client.Filter{client.Where("kind").In("goal")}})
		w.publish(c, "x", &client.PublishOptions{Headers: map[string]string{"kind": "card"}}, "1", "2")
		goal, err := c.Publish(t.Context(), "x", "3", &client.PublishOptions{Headers: map[string]string{"kind": "goal"}})
		if err != nil {
			t.Fatal(err)
		}
		if m := w.take(sub); m.Position != goal {
			t.Errorf("got %v; want %v", m.Position, goal)
		}
		if p, ok := sub.Position(); !ok || p != goal {
			t.Errorf("%v, %v; want %v", p, ok, goal)
		}
	})
}

// In a group positions mean nothing.
func TestNoPositionInAGroup(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		sub := w.subscribe(c, "x", &client.SubscribeOptions{Group: "g"})
		w.publish(c, "x", nil, "1")
		w.take(sub)
		if p, ok := sub.Position(); ok {
			t.Errorf("got %v", p)
		}
	})
}

// Of a pattern 1,024 topics have a position, and the time of the others stays that of
// the beginning: so whoever begins there gets some again, and misses nothing.
func TestPositionsOfManyTopics(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		sub := w.subscribe(c, "x.*", nil)
		_, began := sub.Positions()
		time.Sleep(time.Second)
		const topics = codec.MaxPositions + 10
		for i := range topics {
			w.publish(c, fmt.Sprint("x.", i), nil, "1")
			w.take(sub)
		}
		positions, since := sub.Positions()
		if len(positions) != codec.MaxPositions || !since.Equal(began) || began.IsZero() {
			t.Errorf("%d topics, since %v; want %v", len(positions), since, began)
		}
		if _, there := positions["x.9"]; there {
			t.Error("one that was used the longest ago has a position")
		}
		w.publish(c, "x.0", nil, "2")
		w.publish(c, fmt.Sprint("x.", topics-1), nil, "2")
		again := w.subscribe(c, "x.*", &client.SubscribeOptions{From: client.FromPositions(positions, since)})
		count := make(map[string]int)
		for _, m := range w.messages(again) {
			if m.Gap != nil {
				t.Errorf("a gap: %v", m.Gap)
			}
			count[m.Topic]++
		}
		if count["x.0"] != 2 || count["x.9"] != 1 || count["x.10"] != 0 || count[fmt.Sprint("x.", topics-1)] != 1 {
			t.Errorf("of the first %d, of one more that has no position %d, of one that has %d, of the last %d",
				count["x.0"], count["x.9"], count["x.10"], count[fmt.Sprint("x.", topics-1)])
		}
	})
}

// Of topics with long names fewer have a position, so that a subscription can begin there.
func TestPositionsOfLongNames(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		sub := w.subscribe(c, "x.*", nil)
		name := func(i int) string { return fmt.Sprintf("x.%070d", i) }
		const topics = 1000
		for i := range topics {
			w.publish(c, name(i), nil, "1")
			w.take(sub)
		}
		positions, since := sub.Positions()
		if len(positions) < 400 || len(positions) == topics {
			t.Errorf("%d positions", len(positions))
		}
		w.publish(c, name(topics-1), nil, "2")
		again := w.subscribe(c, "x.*", &client.SubscribeOptions{From: client.FromPositions(positions, since)})
		if got := w.messages(again); len(got) != topics-len(positions)+1 {
			t.Errorf("%d messages behind %d positions of %d", len(got), len(positions), topics)
		}
		for i := range topics {
			positions[name(i)] = client.Position{Epoch: 1, Offset: 1}
		}
		_, err := c.Subscribe(t.Context(), "x.*", &client.SubscribeOptions{From: client.FromPositions(positions, since)})
		if codec.CodeOf(err) != codec.CodeInvalidOption {
			t.Errorf("too many positions: %v", err)
		}
	})
}
