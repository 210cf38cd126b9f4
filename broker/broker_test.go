package broker_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

func TestPublishAndSubscribe(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		alice, bob := dial(t, n), dial(t, n)
		sub := subscribe(t, bob, "chat.lobby", nil)
		for i := range 100 {
			pos := publish(t, alice, "chat.lobby", fmt.Sprint(i))
			if pos.Offset != uint64(i+1) {
				t.Fatalf("message %d has offset %d", i, pos.Offset)
			}
		}
		for i, m := range take(t, sub, 100) {
			if text(m) != fmt.Sprint(i) || m.Topic != "chat.lobby" || m.Position.Offset != uint64(i+1) || m.Lossy || m.Publisher != alice.ID() || m.Payload.Encoding != codec.EncodingText {
				t.Fatalf("message %d is %+v", i, m)
			}
		}
	})
}

func TestWildcards(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		c := dial(t, n)
		star := subscribe(t, c, "a.*", nil)
		rest := subscribe(t, c, "a.>", nil)
		all := subscribe(t, c, ">", nil)
		for _, topic := range []string{"a.b", "a.b.c", "b", "$SYS.x", "a.d"} {
			if _, err := b.Publish(t.Context(), topic, topic, nil); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []struct {
			sub    *client.Subscription
			topics []string
		}{
			{star, []string{"a.b", "a.d"}},
			{rest, []string{"a.b", "a.b.c", "a.d"}},
			{all, []string{"a.b", "a.b.c", "b", "a.d"}},
		} {
			for i, m := range take(t, want.sub, len(want.topics)) {
				if m.Topic != want.topics[i] || text(m) != want.topics[i] || m.Publisher != uuid.Nil {
					t.Errorf("%s: item %d is %+v, want %s", want.sub.Pattern(), i, m, want.topics[i])
				}
			}
		}
	})
}
