package broker_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// A datagram that is dropped while messages of its topic are owed is not told before
// them: the client would take what is owed for lost, and its offsets for a fault.
func TestDatagramDroppedWhileMessagesAreOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 100
		b, err := broker.New(broker.Config{MaxQueueBytes: 500, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		hold := make(chan struct{})
		p := ficklePeer(t, b, func(*fickle, []byte) error {
			<-hold
			return nil
		})
		slow := p.follow(codec.Subscribe{Number: 1, Pattern: "x", Credit: 1})
		synctest.Wait()
		for range messages {
			if _, err := b.Publish(t.Context(), "x", make([]byte, 100), nil); err != nil {
				t.Fatal(err)
			}
		}
		p.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 1000}))
		slow.transcript(t) // what is owed waits in part, as far as there is room
		for _, key := range []string{"a", "b"} {
			// The first one is on its way for ever, the second one expires.
			if _, err := b.PublishLossy(context.Background(), "x", "?", &broker.PublishOptions{Key: key, TTL: 2 * time.Millisecond}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Millisecond)
		close(hold)
		synctest.Wait()
		p.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 1 << 20}))
		got := slow.transcript(t)
		if !strings.HasSuffix(got, fmt.Sprint(messages-1, ", ", messages)) || strings.Contains(got, "gap") {
			t.Errorf("what was owed came as %s", got)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		_ = p.conn.CloseWithError(0, "")
		synctest.Wait()
	})
}
