package broker_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// slowStore is a store whose last values are read when a test allows it.
type slowStore struct {
	broker.Store
	gate chan struct{} // closed: reads go on
}

type slowLog struct {
	broker.Log
	gate chan struct{}
}

func (s *slowStore) Open(topic string, epoch uint64, limits broker.LogLimits) broker.Log {
	return slowLog{s.Store.Open(topic, epoch, limits), s.gate}
}

func (l slowLog) Retained(ctx context.Context, after, to uint64, limit, bytes int) ([]broker.Record, error) {
	<-l.gate
	return l.Log.Retained(ctx, after, to, limit, bytes)
}

// What is parked while the topics of a pattern are looked through counts, and is not
// taken for what could give way to another subscription of the session.
func TestParkedMessagesGiveNoRoom(t *testing.T) {
	store := &slowStore{Store: broker.NewMemoryStore(0)}
	config := broker.Config{MaxQueueBytes: 2000, MaxSessionBytes: 2000, Store: store}
	onStage(t, config, func(t *testing.T, s *stage) {
		gate := make(chan struct{}) // of the bubble
		store.gate = gate
		publish := func(topic string, times int) {
			for range times {
				if _, err := s.b.Publish(t.Context(), topic, make([]byte, 500), nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		publish("old", 1)
		all := s.peer.follow(codec.Subscribe{Number: 1, Pattern: "*", Priority: 7})
		synctest.Wait()
		publish("new", 3)
		// It is parked for another priority from here on.
		s.peer.control.send(codec.AppendPriority(nil, codec.Priority{Subscription: 1, Priority: 6}))
		other := s.peer.follow(codec.Subscribe{Number: 2, Pattern: "x.y", Priority: 0, Credit: 1})
		synctest.Wait()
		publish("x.y", 4)
		if got := other.transcript(t); got != "subscribed 0, 1" {
			t.Errorf("of x.y came %s", got)
		}
		close(gate)
		s.peer.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 2, Limit: 1 << 20}))
		if got := all.transcript(t); got != "subscribed, new 0, 1, 2, 3" {
			t.Errorf("of * came %s", got)
		}
		if got := other.transcript(t); got != "2, 3, 4" {
			t.Errorf("of x.y came %s", got)
		}
		// What is counted by priority still adds up: there is room for all of it again.
		publish("x.y", 3)
		if got := other.transcript(t); got != "5, 6, 7" {
			t.Errorf("of x.y came %s", got)
		}
	})
}
