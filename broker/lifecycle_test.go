package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

func netAddr(ip string) net.Addr { return &net.UDPAddr{IP: net.ParseIP(ip), Port: 1} }

// A graceful stop tells the sessions, writes what is queued, and ends streams with
// a code before the session.
func TestShutdownDrains(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		sub, pub := p.open(), p.open()
		sub.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: "a", Credit: 1}))
		sub.want(codec.TypeSubscribed)
		pub.send(codec.AppendPublication(nil, codec.Publication{Topic: "b", First: 1}))
		pub.send(codec.AppendPublish(nil, codec.Publish{Sequence: 1, Payload: codec.Text("x")}))
		pub.want(codec.TypeAck)
		for i := range 3 {
			if _, err := b.Publish(t.Context(), "a", fmt.Sprint(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		var stopping sync.WaitGroup
		stopping.Go(func() {
			if err := b.Shutdown(within(t)); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		})
		notice, err := codec.ParseNotice(p.control.want(codec.TypeNotice))
		if err != nil || notice.Code != codec.CodeShuttingDown || !notice.Deadline.Set {
			t.Fatalf("%+v, %v", notice, err)
		}
		pub.wantEnd(codec.CodeShuttingDown)
		// The subscription had credit for one message; the others come with FLOW.
		sub.want(codec.TypeMessage)
		p.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 1 << 20}))
		sub.want(codec.TypeMessage)
		sub.want(codec.TypeMessage)
		if end := sub.wantEnd(codec.CodeShuttingDown); !end.Retry.Set || end.Offset != codec.Some(3) {
			t.Errorf("%+v", end)
		}
		p.control.wantEnd(codec.CodeShuttingDown)
		p.wantClosed(codec.CodeShuttingDown)
		stopping.Wait()
		if _, err := b.Publish(t.Context(), "a", "x", nil); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("Publish after Shutdown: %v", err)
		}
	})
}

// Shutdown ends what does not drain when its context ends.
func TestShutdownDeadline(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		sub := p.open()
		sub.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: "a", Credit: 1}))
		sub.want(codec.TypeSubscribed)
		for range 3 {
			if _, err := b.Publish(t.Context(), "a", "never taken", nil); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		var stopping sync.WaitGroup
		stopping.Go(func() {
			if err := b.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) && err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		})
		p.control.wantEnd(codec.CodeShuttingDown)
		_ = p.conn.CloseWithError(0, "")
		stopping.Wait()
		if s := b.Stats(); s.Sessions != 0 || s.Subscriptions != 0 || s.QueuedBytes != 0 {
			t.Errorf("left over: %+v", s)
		}
	})
}

// The client connects again when the broker is restarted, subscribes again, and
// each subscription meets a gap before what comes next.
func TestReconnect(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		first, err := broker.New(broker.Config{})
		if err != nil {
			t.Fatal(err)
		}
		stop := n.start(t, first)
		var mu sync.Mutex
		var states []client.State
		c := dial(t, n, func(c *client.Config) {
			c.OnState = func(s client.State, _ error) {
				mu.Lock()
				defer mu.Unlock()
				states = append(states, s)
			}
		})
		exact, pattern := subscribe(t, c, "a", nil), subscribe(t, c, "*", nil)
		publish(t, c, "a", "before")
		take(t, exact, 1)
		take(t, pattern, 1)
		stop()
		second := newBroker(t, n, broker.Config{})
		eventually(t, func() bool { return second.Stats().Subscriptions == 2 })
		publish(t, c, "a", "after")
		for _, sub := range []*client.Subscription{exact, pattern} {
			items := take(t, sub, 2)
			if g := items[0].Gap; g == nil || g.Reason != codec.GapReconnect {
				t.Errorf("%s: first came %q", sub.Pattern(), text(items[0]))
			}
			if text(items[1]) != "after" {
				t.Errorf("%s: then came %q", sub.Pattern(), text(items[1]))
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if len(states) < 5 || states[0] != client.StateConnecting || states[1] != client.StateConnected || states[2] != client.StateDisconnected ||
			states[len(states)-2] != client.StateConnecting || states[len(states)-1] != client.StateConnected {
			t.Errorf("states %v", states)
		}
	})
}

// Close ends everything: iterations, the session at the broker.
func TestClientClose(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		c := dial(t, n)
		sub := subscribe(t, c, "a", nil)
		closed := subscribe(t, c, "b", nil)
		if err := closed.Close(); err != nil {
			t.Fatal(err)
		}
		for range closed.Messages(within(t)) {
			t.Error("an item after Close")
		}
		eventually(t, func() bool { return b.Stats().Subscriptions == 1 })
		errs := make(chan error, 1)
		go func() { // ends with the iteration, which the test waits for
			var last error
			for _, err := range sub.Messages(within(t)) {
				last = err
			}
			errs <- last
		}()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-errs; !errors.Is(err, client.ErrClosed) {
			t.Errorf("the iteration ended with %v", err)
		}
		if _, err := c.Publish(within(t), "a", "x", nil); !errors.Is(err, client.ErrClosed) {
			t.Errorf("Publish after Close: %v", err)
		}
		if c.State() != client.StateClosed {
			t.Errorf("state %s", c.State())
		}
		eventually(t, func() bool { return b.Stats().Sessions == 0 })
	})
}

// Breaking out of the loop does not unsubscribe, and a context ends the iteration
// alone.
func TestIterationIsNotTheSubscription(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		c := dial(t, n)
		sub := subscribe(t, c, "a", nil)
		for i := range 4 {
			publish(t, c, "a", fmt.Sprint(i))
		}
		for m, err := range sub.Messages(within(t)) {
			if err != nil || text(m) != "0" {
				t.Fatal(m, err)
			}
			break
		}
		ctx, cancel := context.WithCancel(t.Context())
		seen := 0
		for m, err := range sub.Messages(ctx) {
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				break
			}
			if seen++; text(m) == "3" {
				cancel()
			}
		}
		cancel()
		if seen != 3 {
			t.Errorf("%d messages after the first loop", seen)
		}
		publish(t, c, "a", "4")
		if m := take(t, sub, 1)[0]; text(m) != "4" {
			t.Errorf("then came %q", text(m))
		}
	})
}

// A broker that is not there is an error of the first attempt, with a code.
func TestNobodyThere(t *testing.T) {
	_, err := client.Dial(t.Context(), "https://127.0.0.1:1/tidewire", client.Config{ConnectTimeout: 200 * time.Millisecond})
	if code := codec.CodeOf(err); code != codec.CodeConnectTimeout && code != codec.CodeConnectFailed {
		t.Errorf("got %v", err)
	}
	n := newWTNetwork(t)
	newBroker(t, n, broker.Config{})
	_, err = tryDial(t, n, func(c *client.Config) { c.CertificateHashes = [][32]byte{{1}} })
	wantCode(t, err, codec.CodeConnectFailed)
	_, err = tryDial(t, n, func(c *client.Config) { c.CertificateHashes = nil })
	wantCode(t, err, codec.CodeConnectFailed)
	_, err = client.Dial(t.Context(), "nonsense", client.Config{})
	wantCode(t, err, codec.CodeConnectFailed)
}
