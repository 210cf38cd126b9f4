package natsbus_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/natsbus"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/internal/memnet"
)

// lingering runs a broker that listens on for so long.
func lingering(t *testing.T, url string, linger time.Duration) *client.Client {
	t.Helper()
	b, err := broker.New(broker.Config{Bus: natsbus.Open(natsbus.Config{URL: url, Linger: linger, Options: []nats.Option{patient}})})
	if err != nil {
		t.Fatal(err)
	}
	var n memnet.Network
	t.Cleanup(n.Serve(b))
	c, err := client.Dial(t.Context(), "memory", client.Config{Dial: n.Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func subscribeFrom(t *testing.T, c *client.Client, pattern string, from client.From) *client.Subscription {
	t.Helper()
	sub, err := c.Subscribe(within(t), pattern, &client.SubscribeOptions{From: from})
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// A client that comes back while the broker still listens gets what others published
// meanwhile.
func TestComesBackInTime(t *testing.T) {
	s := natsServer(t, 0)
	here, there := lingering(t, s.ClientURL(), 0), lingering(t, s.ClientURL(), 0)
	sub := subscribe(t, here, "a")
	publish(t, there, "a", "before")
	last := until(t, sub, "before")[0].Position
	_ = sub.Close()
	publish(t, there, "a", "meanwhile")
	publish(t, there, "a", "end")
	items := until(t, subscribeFrom(t, here, "a", client.FromPosition(last)), "end")
	if len(items) != 2 || string(items[0].Payload.Data) != "meanwhile" {
		t.Errorf("%v", items)
	}
}

// One that comes back later is told that messages may be missing, once, although
// nothing else of the topic has changed.
func TestComesBackLate(t *testing.T) {
	s := natsServer(t, 0)
	here, there := lingering(t, s.ClientURL(), -1), lingering(t, s.ClientURL(), -1)
	sub := subscribe(t, here, "a")
	publish(t, there, "a", "before")
	last := until(t, sub, "before")[0].Position
	_ = sub.Close()
	eventually(t, func() bool {
		z, err := s.Subsz(&server.SubszOptions{Subscriptions: true, Test: "a"})
		return err == nil && len(z.Subs) == 0
	})
	witness, err := plainClient(t, s.ClientURL()).SubscribeSync("a")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		z, err := s.Subsz(&server.SubszOptions{Subscriptions: true, Test: "a"})
		return err == nil && len(z.Subs) == 1
	})
	publish(t, there, "a", "meanwhile")
	if _, err := witness.NextMsg(deadline); err != nil { // it has passed NATS
		t.Fatal(err)
	}

	sub = subscribeFrom(t, here, "a", client.FromPosition(last))
	publish(t, there, "a", "end")
	items := until(t, sub, "end")
	if len(items) != 2 || items[0].Gap == nil || items[0].Gap.Reason != codec.GapBus || items[0].Gap.Count != 0 {
		t.Fatalf("%v", items)
	}
	// From behind it there is no gap, as long as the broker listens.
	again := subscribeFrom(t, here, "a", client.FromPosition(items[1].Position))
	publish(t, there, "a", "end")
	if items := until(t, again, "end"); len(items) != 1 {
		t.Errorf("%v", items)
	}
	// Who reads the history across it meets it at its place.
	all := until(t, subscribeFrom(t, here, "a", client.FromBeginning()), "end")
	if len(all) < 3 || string(all[0].Payload.Data) != "before" || all[1].Gap == nil || all[1].Gap.Reason != codec.GapBus {
		t.Errorf("%v", all)
	}
}

// Pages of history tell it too, in both directions and once.
func TestHistoryAcrossALapse(t *testing.T) {
	s := natsServer(t, 0)
	here, there := lingering(t, s.ClientURL(), -1), lingering(t, s.ClientURL(), -1)
	publish(t, here, "a", "nobody listened")
	sub := subscribe(t, here, "a")
	publish(t, there, "a", "end")
	until(t, sub, "end")
	for _, backward := range []bool{false, true} {
		page, err := here.History(within(t), "a", &client.HistoryOptions{Backward: backward})
		if err != nil || len(page.Messages) != 3 {
			t.Fatalf("%+v, %v", page, err)
		}
		if g := page.Messages[1].Gap; g == nil || g.Reason != codec.GapBus {
			t.Errorf("backward %v: %v", backward, page.Messages)
		}
	}
	page, err := here.History(within(t), "a", &client.HistoryOptions{Limit: 1})
	if err != nil || len(page.Messages) != 1 || !page.More {
		t.Fatalf("%+v, %v", page, err)
	}
	page, err = here.History(within(t), "a", &client.HistoryOptions{From: client.FromPosition(page.Next)})
	if err != nil || len(page.Messages) != 2 || page.Messages[0].Gap == nil {
		t.Errorf("%+v, %v", page, err)
	}
}

// A topic that an overlapping pattern has listened to all along has no gap.
func TestListenedAllAlong(t *testing.T) {
	s := natsServer(t, 0)
	here, there := lingering(t, s.ClientURL(), -1), lingering(t, s.ClientURL(), -1)
	keep := subscribe(t, here, "a.*")
	sub := subscribe(t, here, "a.b")
	publish(t, there, "a.b", "before")
	last := until(t, sub, "before")[0].Position
	_ = sub.Close()
	publish(t, there, "a.b", "meanwhile")
	until(t, keep, "meanwhile")
	// An exact pattern is contained; a wider one is not, but the topic is listened to.
	for _, pattern := range []string{"a.b", ">"} {
		from := client.FromPosition(last)
		if pattern == ">" {
			from = client.FromPositions(map[string]client.Position{"a.b": last}, time.Now())
		}
		sub := subscribeFrom(t, here, pattern, from)
		publish(t, there, "a.b", "end")
		for i, m := range until(t, sub, "end") {
			if m.Gap != nil && pattern == "a.b" || m.Gap != nil && m.Gap.Topic != "" {
				t.Errorf("%s: item %d is %v", pattern, i, m)
			}
		}
	}
}
