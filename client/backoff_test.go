package client_test

import (
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
)

// Waits between attempts grow also where each attempt connects, and begin anew only
// after a connection that stood for five seconds.
func TestBackoffBeginsAnew(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		states := make(chan client.State, 1000)
		w.dial(func(c *client.Config) {
			// The first waits are none at all, and the last ones long whatever the dice say.
			c.Backoff = client.Backoff{Min: 1, Max: 10 * time.Hour}
			c.OnState = func(s client.State, _ error) { states <- s }
		})
		until := func(want client.State) {
			for s := range states {
				if s == want {
					return
				}
			}
		}
		until(client.StateConnected)
		// lose ends the connection, and returns how long there was none.
		lose := func() time.Duration {
			w.cutHard()
			w.heal()
			until(client.StateDisconnected)
			began := time.Now()
			until(client.StateConnected)
			return time.Since(began)
		}
		for range 40 {
			lose()
		}
		waited := time.Duration(0)
		for range 3 {
			time.Sleep(5*time.Second - time.Millisecond)
			waited += lose()
		}
		if waited < time.Minute {
			t.Errorf("after connections of less than five seconds it waited %v", waited)
		}
		time.Sleep(5 * time.Second)
		if waited := lose(); waited > time.Second {
			t.Errorf("after one of five seconds it waited %v", waited)
		}
	})
}
