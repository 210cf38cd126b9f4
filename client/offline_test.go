package client_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// What is published without a connection waits, in order, and goes out when there
// is one.
func TestPublishWhileOffline(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		p, c := w.dial(), w.dial()
		sub := w.subscribe(c, "x", &client.SubscribeOptions{From: client.FromBeginning()})
		w.publish(p, "x", nil, "0")
		w.cut()
		var results []*client.PublishResult
		for i := 1; i <= 5; i++ {
			results = append(results, p.PublishAsync("x", fmt.Sprint(i), nil))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Publish(ctx, "x", "taken back", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		results = append(results, p.PublishAsync("x", "6", nil))
		w.heal()
		for i, r := range results {
			at, err := r.Wait(t.Context())
			if err != nil || at.Offset != uint64(i+2) {
				t.Errorf("message %d: %v, %v", i+1, at, err)
			}
		}
		w.connected(c)
		w.want(sub, "0", "1", "2", "3", "4", "5", "6")
	})
}

// What waits is bounded, and may be refused at once.
func TestOfflineBounds(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		few := w.dial(func(c *client.Config) { c.Offline.MaxBytes = 10_000 })
		refuse := w.dial(func(c *client.Config) { c.Offline.Refuse = true })
		w.cut()
		for code, publish := range map[codec.Code]func() error{
			codec.CodeOffline: func() error {
				_, err := refuse.Publish(t.Context(), "x", "now or never", nil)
				return errors.Join(err, refuse.PublishLossy(t.Context(), "x", "now or never", nil))
			},
			codec.CodeQueueFull: func() error {
				first := few.PublishAsync("x", make([]byte, 6000), nil)
				select {
				case <-first.Done():
					t.Error("the first message has a result")
				default:
				}
				_, err := few.Publish(t.Context(), "x", make([]byte, 6000), nil)
				_, async := few.PublishAsync("x", make([]byte, 6000), nil).Wait(t.Context())
				_, batch := few.PublishBatch(t.Context(), "x", []client.Outgoing{{Value: "a"}, {Value: make([]byte, 6000)}})
				return errors.Join(err, async, batch)
			},
		} {
			err := publish()
			joined, ok := err.(interface{ Unwrap() []error })
			if !ok {
				t.Fatalf("got %v", err)
			}
			for _, err := range joined.Unwrap() {
				if codec.CodeOf(err) != code {
					t.Errorf("got %v, want %s", err, code)
				}
			}
		}
		// What waits when the client ends has a result too.
		waiting := few.PublishAsync("y", "z", nil)
		if err := few.Close(); err != nil {
			t.Error(err)
		}
		if _, err := waiting.Wait(t.Context()); !errors.Is(err, client.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if _, err := few.PublishAsync("y", "z", nil).Wait(t.Context()); !errors.Is(err, client.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

// stalling is a connection whose writes wait while it is stalled.
type stalling struct {
	client.Conn
	gate chan struct{} // holds one token while it is not
}

func (c stalling) OpenStream(ctx context.Context) (client.Stream, error) {
	s, err := c.Conn.OpenStream(ctx)
	return stallingStream{s, c}, err
}

type stallingStream struct {
	client.Stream
	conn stalling
}

func (s stallingStream) Write(p []byte) (int, error) {
	select {
	case <-s.conn.gate:
		s.conn.gate <- struct{}{}
	case <-s.conn.Context().Done():
	}
	return s.Stream.Write(p)
}

// With a connection PublishAsync takes 16 MiB without an answer, and more if that much
// may wait without one.
func TestAsyncBoundsWithConnection(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		gate := make(chan struct{}, 1)
		gate <- struct{}{}
		stall := func(c *client.Config) {
			c.Dial = func(ctx context.Context, url string) (client.Conn, error) {
				conn, err := w.connect(ctx, url)
				return stalling{conn, gate}, err
			}
		}
		c := w.dial(stall)
		more := w.dial(stall, func(c *client.Config) { c.Offline.MaxBytes = 20 << 20 })
		<-gate
		large := make([]byte, 256<<10) // the most that the broker takes
		publish := func(c *client.Client, count int) (results []*client.PublishResult) {
			for range count {
				results = append(results, c.PublishAsync("x", large, nil))
			}
			return results
		}
		taken := append(publish(c, 63), publish(more, 79)...)
		synctest.Wait()
		for _, r := range taken {
			select {
			case <-r.Done():
				_, err := r.Wait(t.Context())
				t.Fatalf("a result without an answer: %v", err)
			default:
			}
		}
		for _, r := range append(publish(c, 1), publish(more, 1)...) {
			if _, err := r.Wait(t.Context()); codec.CodeOf(err) != codec.CodeQueueFull {
				t.Errorf("of one too many: %v", err)
			}
		}
		gate <- struct{}{}
		for _, r := range taken {
			if _, err := r.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if _, err := publish(c, 1)[0].Wait(t.Context()); err != nil {
			t.Errorf("when there is room again: %v", err)
		}
	})
}

// Whenever the connection is lost, what was published comes once, in order.
func TestPublishThroughInterruptions(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		p, c := w.dial(), w.dial()
		sub := w.subscribe(c, "x", &client.SubscribeOptions{From: client.FromBeginning(), Credit: 1 << 20})
		const count = 200
		done := make(chan error, 1)
		go func() {
			for i := range count {
				if i%20 < 10 {
					p.PublishAsync("x", fmt.Sprint(i), nil)
					continue
				}
				if _, err := p.Publish(t.Context(), "x", fmt.Sprint(i), nil); err != nil {
					done <- err
					return
				}
				time.Sleep(time.Millisecond)
			}
			done <- nil
		}()
		for range 10 {
			time.Sleep(7 * time.Millisecond)
			w.cutHard()
			w.heal()
			w.connected(p)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		w.connected(c)
		got := w.all(sub)
		for i := range count {
			if i >= len(got) || got[i] != fmt.Sprint(i) {
				t.Fatalf("got %q", got)
			}
		}
		if len(got) != count {
			t.Errorf("%d messages", len(got))
		}
	})
}

// A client that hears nothing asks, and gives the connection up; an idle one stays.
func TestDeadBrokerIsNoticed(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		states := make(chan client.State, 100)
		c := w.dial(func(c *client.Config) {
			c.OnState = func(s client.State, _ error) {
				select {
				case states <- s:
				default:
				}
			}
		})
		for len(states) > 0 {
			<-states
		}
		time.Sleep(time.Hour)
		if len(states) > 0 {
			t.Fatalf("the idle client is %s", <-states)
		}
		w.network.Gate = make(chan struct{})
		w.network.Shut.Store(true)
		defer close(w.network.Gate)
		shut := time.Now()
		if s := <-states; s != client.StateDisconnected {
			t.Errorf("the client is %s", s)
		}
		if took := time.Since(shut); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		w.network.Shut.Store(false)
		w.connected(c)
	})
}

// What the broker holds back for a subscription, and the states of that.
func TestHealthOfSubscriptions(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		slow := w.subscribe(c, "x", &client.SubscribeOptions{Class: client.Latest, Credit: 1})
		for i := range 10 {
			w.publish(c, "x", nil, fmt.Sprint(i))
		}
		synctest.Wait()
		health, err := slow.Health(t.Context())
		if err != nil || health.QueuedMessages != 1 || health.Conflated == 0 || health.QueuedBytes == 0 {
			t.Errorf("got %+v, %v", health, err)
		}
		if slow.State() != client.StateSubscribed {
			t.Errorf("the subscription is %s", slow.State())
		}
		w.cut()
		if slow.State() != client.StateSubscribing {
			t.Errorf("the subscription is %s", slow.State())
		}
		_ = slow.Close()
		if slow.State() != client.StateUnsubscribed {
			t.Errorf("the subscription is %s", slow.State())
		}
	})
}

// A time to live may be as long as a duration can be.
func TestTimeToLiveForAges(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		m, err := client.OpenMap[string](t.Context(), c, "x", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = m.Close() }()
		for _, ttl := range []time.Duration{1, time.Hour, 100 * 365 * 24 * time.Hour, math.MaxInt64} {
			opts := &client.PublishOptions{Key: ttl.String(), TTL: ttl, Retain: true}
			if _, err := c.Publish(t.Context(), "x", "here", opts); err != nil {
				t.Errorf("%v: %v", ttl, err)
			}
		}
		time.Sleep(time.Minute)
		if n := m.Len(); n != 3 {
			t.Errorf("%d values are there", n)
		}
	})
}

// What waits for a connection longer than it counts is not sent, and its publisher is
// told; what is still good keeps its place.
func TestExpiredWhileOffline(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		p, c := w.dial(), w.dial()
		w.publish(p, "x", nil, "0")
		w.cut()
		late := p.PublishAsync("x", "late", &client.PublishOptions{TTL: 10 * time.Second})
		good := p.PublishAsync("x", "good", &client.PublishOptions{TTL: time.Hour})
		time.Sleep(10 * time.Second)
		w.heal()
		if at, err := late.Wait(t.Context()); codec.CodeOf(err) != codec.CodeExpired {
			t.Errorf("%v, %v", at, err)
		}
		if at, err := good.Wait(t.Context()); err != nil || at.Offset != 2 {
			t.Errorf("%v, %v", at, err)
		}
		sub := w.subscribe(c, "x", &client.SubscribeOptions{From: client.FromBeginning()})
		for _, want := range []string{"0", "good"} {
			for m, err := range sub.Messages(t.Context()) {
				if err != nil || string(m.Payload.Data) != want {
					t.Fatalf("%v, %v; want %s", m, err, want)
				}
				break
			}
		}
	})
}

// Calls that subscribe return when their context ends, also where the broker does not
// answer, and leave nothing behind.
func TestSubscribingEndsWithItsContext(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial(func(c *client.Config) { c.PingAfter = -1 })
		w.network.Gate = make(chan struct{})
		w.network.Shut.Store(true)
		for name, call := range map[string]func(context.Context) error{
			"Subscribe": func(ctx context.Context) error { _, err := c.Subscribe(ctx, "x", nil); return err },
			"OpenMap":   func(ctx context.Context) error { _, err := client.OpenMap[string](ctx, c, "x", nil); return err },
			"Presence":  func(ctx context.Context) error { _, err := c.Presence(ctx, "x"); return err },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			began := time.Now()
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 100*time.Millisecond {
				t.Errorf("%s: %v, after %v", name, err, time.Since(began))
			}
			cancel()
		}
		w.network.Shut.Store(false)
		close(w.network.Gate)
		time.Sleep(time.Second)
		if n := w.running.Stats().Subscriptions; n != 0 {
			t.Errorf("the broker has %d subscriptions", n)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
