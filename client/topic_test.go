package client_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

type reading struct {
	Sensor  string
	Celsius float64
}

// A batch of a typed topic carries the values with their options, and a page of its
// history has them as they were published.
func TestTypedBatchAndHistory(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		ctx, c := t.Context(), w.dial()
		readings := client.NewTopic[reading](c, "readings.roof")
		positions, err := readings.PublishBatch(ctx, []client.TypedOutgoing[reading]{
			{Value: reading{"a", 1.5}},
			{Value: reading{"b", 2.5}, PublishOptions: client.PublishOptions{Key: "b", Headers: map[string]string{"unit": "C"}}},
		})
		if err != nil || len(positions) != 2 || positions[1].Offset != positions[0].Offset+1 {
			t.Fatal(positions, err)
		}
		// One that begins like a reading.
		if _, err := c.Publish(ctx, readings.Name(), map[string]any{"Sensor": "c", "Celsius": "warm"}, nil); err != nil {
			t.Fatal(err)
		}

		page, err := readings.History(ctx, &client.HistoryOptions{Backward: true, Limit: 2})
		if err != nil || len(page.Messages) != 2 || !page.More {
			t.Fatalf("%+v, %v", page, err)
		}
		if bad := page.Messages[0]; bad.Err == nil || bad.Value != (reading{}) || len(bad.Payload.Data) == 0 {
			t.Errorf("a payload of another type: %+v", bad)
		}
		b := page.Messages[1]
		if b.Err != nil || b.Value != (reading{"b", 2.5}) || b.Key != "b" || b.Headers["unit"] != "C" || b.Position != positions[1] {
			t.Errorf("got %+v", b)
		}
		if page.First != positions[0] || page.Last != page.Messages[0].Position || page.Next != b.Position {
			t.Errorf("first %v, last %v, next %v", page.First, page.Last, page.Next)
		}
		page, err = readings.History(ctx, &client.HistoryOptions{Backward: true, From: client.FromPosition(page.Next)})
		if err != nil || len(page.Messages) != 1 || page.More || page.Messages[0].Value != (reading{"a", 1.5}) {
			t.Errorf("the next page: %+v, %v", page, err)
		}
	})
}

// What is missing from a page of a typed topic is an item as well, without a value.
func TestTypedHistoryHasGaps(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		w.publish(c, "x", &client.PublishOptions{TTL: time.Second}, "1")
		w.publish(c, "x", nil, "2")
		time.Sleep(2 * time.Second)
		page, err := client.NewTopic[string](c, "x").History(t.Context(), nil)
		if err != nil || len(page.Messages) != 2 {
			t.Fatalf("%+v, %v", page, err)
		}
		gap, m := page.Messages[0], page.Messages[1]
		if gap.Gap == nil || gap.Gap.Reason != codec.GapExpired || gap.Err != nil || gap.Value != "" || m.Value != "2" {
			t.Errorf("%+v", page.Messages)
		}
	})
}

// A request of a typed topic is one of its values; the reply may be of another type.
func TestTypedRequest(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		ctx, c := t.Context(), w.dial()
		readings := client.NewTopic[reading](c, "readings.check")
		if _, err := readings.Request(ctx, reading{}, nil); codec.CodeOf(err) != codec.CodeNoResponders {
			t.Errorf("with nobody there: %v", err)
		}
		sub, err := readings.Subscribe(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		answered := make(chan error, 1)
		go func() {
			for m, err := range sub.Messages(ctx) {
				if err == nil {
					err = m.Reply(ctx, m.Value.Celsius > 30, nil)
				}
				answered <- err
				return
			}
		}()
		reply, err := readings.Request(ctx, reading{"roof", 31}, &client.RequestOptions{Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if hot, err := client.Decode[bool](reply); err != nil || !hot {
			t.Errorf("%v, %v", hot, err)
		}
		if err := <-answered; err != nil {
			t.Error(err)
		}
	})
}

// Only a subscription takes a pattern.
func TestTypedPattern(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		ctx, c := t.Context(), w.dial()
		all := client.NewTopic[int](c, "n.*")
		for name, call := range map[string]func() error{
			"PublishBatch": func() error {
				_, err := all.PublishBatch(ctx, []client.TypedOutgoing[int]{{Value: 1}})
				return err
			},
			"Request": func() error { _, err := all.Request(ctx, 1, nil); return err },
			"History": func() error {
				page, err := all.History(ctx, nil)
				if fmt.Sprint(page) != fmt.Sprint(client.TypedHistoryPage[int]{}) {
					t.Errorf("a page: %+v", page)
				}
				return err
			},
		} {
			if err := call(); codec.CodeOf(err) != codec.CodeInvalidTopic {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := all.Subscribe(ctx, nil); err != nil {
			t.Error(err)
		}
	})
}
