package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// A live map hides what has expired by the broker's clock, whatever its own says.
func TestMapGoesByTheBrokersClock(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScriptedBroker(t)
				s.base = time.Now().Add(-ahead) // of the broker's clock; this one is ahead
				c := s.dial(codec.Limits{})
				opened := make(chan *client.Map[string])
				go func() {
					m, err := client.OpenMap[string](within(t), c, "a", nil)
					if err != nil {
						t.Error(err)
					}
					opened <- m
				}()
				l := s.accept()
				l.want(codec.TypeSubscribe)
				l.send(codec.AppendSubscribed(nil, codec.Subscribed{Topic: 1, Epoch: 1, Last: codec.Some(1), Time: codec.Some(0)}))
				l.send(codec.AppendMessage(nil, codec.Message{
					Topic: 1, Offset: 1, Previous: 1, Payload: codec.Text("v"), Key: "k", Retain: true, Expires: codec.Some(30_000),
				}))
				m := <-opened
				for _, want := range []int{1, 0} {
					if _, ok := m.Get("k"); ok != (want == 1) || m.Len() != want {
						t.Errorf("%d entries, want %d; there: %v", m.Len(), want, ok)
					}
					time.Sleep(31 * time.Second)
				}
				_ = s.conn.CloseWithError(0, "")
				_ = c.Close()
				_ = m.Close()
			})
		})
	}
}
