package client_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/internal/memconn"
)

// Without a connection a lossy message is dropped and counted: it would soon be out of
// date.
func TestLossyWithoutConnection(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		w.cut()
		began := time.Now()
		if err := c.PublishLossy(t.Context(), "x", "gone", nil); err != nil {
			t.Error(err)
		}
		if n := c.Stats().Unsent; n != 1 || time.Since(began) > 0 {
			t.Errorf("%d were counted, after %v", n, time.Since(began))
		}
		if err := c.PublishLossy(t.Context(), "x", "?", &client.PublishOptions{ID: "id"}); codec.CodeOf(err) != codec.CodeInvalidOption {
			t.Errorf("with an idempotency key: %v", err)
		}
	})
}

// A client that lets nothing wait refuses every call that asks the broker.
func TestRefuseHoldsForEveryCall(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial(func(c *client.Config) { c.Offline.Refuse = true })
		w.cut()
		ctx := t.Context()
		for name, call := range map[string]func() error{
			"Publish":       func() error { _, err := c.Publish(ctx, "x", 1, nil); return err },
			"PublishLossy":  func() error { return c.PublishLossy(ctx, "x", 1, nil) },
			"History":       func() error { _, err := c.History(ctx, "x", nil); return err },
			"Request":       func() error { _, err := c.Request(ctx, "x", 1, nil); return err },
			"Enter":         func() error { return c.Enter(ctx, "x", 1) },
			"PresenceCount": func() error { _, err := c.PresenceCount(ctx, "x"); return err },
			"Health":        func() error { _, err := c.Health(ctx); return err },
		} {
			if err := call(); codec.CodeOf(err) != codec.CodeOffline {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := c.Publish(ctx, "x", 1, nil); !errors.Is(err, client.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// What does not ask the broker does not wait for it either: a token, and who leaves.
func TestWhatDoesNotWait(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c, other := w.dial(), w.dial()
		watch, err := other.WatchPresence(t.Context(), "room")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Enter(t.Context(), "room", "here"); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(w.events(watch), ", "); got != "joined room here" {
			t.Errorf("got %q", got)
		}
		w.cut()
		began := time.Now()
		if err := errors.Join(c.Leave(t.Context(), "room"), c.Authenticate(t.Context(), "token")); err != nil {
			t.Error(err)
		}
		if time.Since(began) > 0 {
			t.Errorf("they took %v", time.Since(began))
		}
		w.heal()
		w.connected(c)
		w.connected(other)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := strings.Join(w.events(watch), ", "); got != "left room here" {
			t.Errorf("after the grace: %q", got)
		}
		if err := c.Authenticate(t.Context(), strings.Repeat("x", codec.MaxToken+1)); codec.CodeOf(err) != codec.CodeUnauthorized {
			t.Errorf("a token that is too long: %v", err)
		}
	})
}

// The time that a request waits for a connection counts.
func TestRequestWithoutConnection(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		w.cut()
		began := time.Now()
		_, err := c.Request(t.Context(), "x", "?", &client.RequestOptions{Timeout: 3 * time.Second})
		if codec.CodeOf(err) != codec.CodeRequestTimeout || time.Since(began) != 3*time.Second {
			t.Errorf("%v, after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Request(ctx, "x", "?", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a context that ends sooner: %v", err)
		}
	})
}

// A reply waits for a connection: the one who asked may be waiting still. It does not
// wait longer than they do.
func TestReplyWithoutConnection(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		responder := w.dial()
		sub := w.subscribe(responder, "x", nil)
		ask := func() (m client.Message, reply chan error) {
			reply = make(chan error, 1)
			go func() {
				// Within the broker: it does not lose its connection.
				_, err := w.running.Request(t.Context(), "x", "?", &broker.RequestOptions{Timeout: 10 * time.Second})
				reply <- err
			}()
			got := w.messages(sub)
			if len(got) != 1 || !got[0].Request {
				t.Fatalf("got %+v", got)
			}
			return got[0], reply
		}

		m, reply := ask()
		w.cut()
		replied := make(chan error, 1)
		go func() { replied <- m.Reply(t.Context(), "!", nil) }()
		time.Sleep(5 * time.Second)
		w.heal()
		w.connected(responder)
		if err := errors.Join(<-replied, <-reply); err != nil {
			t.Error(err)
		}

		m, reply = ask()
		w.cut()
		began := time.Now()
		err := m.Reply(t.Context(), "!", nil)
		if waited := time.Since(began); codec.CodeOf(err) != codec.CodeRequestTimeout || waited < 9*time.Second || waited > 10*time.Second {
			t.Errorf("%v, after %v", err, waited)
		}
		if err := <-reply; codec.CodeOf(err) != codec.CodeRequestTimeout {
			t.Errorf("the one who asked: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.Reply(ctx, "!", nil); codec.CodeOf(err) != codec.CodeRequestTimeout {
			t.Errorf("after the time: %v", err)
		}
	})
}

// What no broker takes is refused without asking one.
func TestRefusedWithoutAsking(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		sub := w.subscribe(c, "x", nil)
		w.cut()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		subscribe := func(pattern string, opts client.SubscribeOptions) func() error {
			return func() error { _, err := c.Subscribe(ctx, pattern, &opts); return err }
		}
		for name, of := range map[string]struct {
			call func() error
			code codec.Code
		}{
			"a system pattern":      {subscribe("$SYS.>", client.SubscribeOptions{}), codec.CodeSystemTopic},
			"history of the system": {func() error { _, err := c.History(ctx, "_x", nil); return err }, codec.CodeSystemTopic},
			"counts of the system":  {func() error { _, err := c.PresenceCount(ctx, "$x.*"); return err }, codec.CodeSystemTopic},
			"a watch of the system": {func() error { _, err := c.WatchPresence(ctx, "$x.*"); return err }, codec.CodeSystemTopic},
			"a map of the system":   {func() error { _, err := client.OpenMap[int](ctx, c, "$x", nil); return err }, codec.CodeSystemTopic},
			"an empty batch":        {func() error { _, err := c.PublishBatch(ctx, "a..b", nil); return err }, codec.CodeInvalidTopic},
			"a group without echo":  {subscribe("x", client.SubscribeOptions{Group: "g", NoEcho: true}), codec.CodeInvalidOption},
			"an epoch that is none": {subscribe("x", client.SubscribeOptions{From: client.FromPosition(client.Position{Epoch: 1 << 48})}), codec.CodeInvalidOption},
			"an offset that is none": {subscribe("x.*", client.SubscribeOptions{
				From: client.FromPositions(map[string]client.Position{"x.y": {Offset: 1 << 53}}, time.Now()),
			}), codec.CodeInvalidOption},
			"priority 0": {func() error { return sub.SetPriority(0) }, codec.CodeInvalidOption},
		} {
			if err := of.call(); codec.CodeOf(err) != of.code {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// The broker's notice that the session will end reaches the application.
func TestNotice(t *testing.T) {
	inWorld(t, broker.Config{Authenticator: tokens{}}, func(t *testing.T, w *world) {
		notices := make(chan client.Notice, 1)
		began := time.Now()
		c := w.dial(func(c *client.Config) { c.OnNotice = func(n client.Notice) { notices <- n } })
		n := <-notices
		if n.Code != codec.CodeTokenExpired || time.Since(began) < time.Minute || !n.Deadline.After(time.Now()) {
			t.Errorf("after %v: %+v", time.Since(began), n)
		}
		if c.State() != client.StateConnected {
			t.Errorf("the client is %s", c.State())
		}
	})
}

// A request ends soon after its time although the broker is not heard any more, with what
// has come until then.
func TestRequestUnheard(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		responder := w.dial()
		sub, err := responder.Subscribe(t.Context(), "svc", nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for m := range sub.Messages(context.Background()) {
				_ = m.Reply(context.Background(), "one", nil)
			}
		}()
		c := w.dial()
		w.network.Gate = make(chan struct{})
		defer close(w.network.Gate)
		replies := 0
		began := time.Now()
		for _, err := range c.RequestMany(t.Context(), "svc", 1, &client.RequestOptions{Timeout: 500 * time.Millisecond}) {
			if err != nil {
				t.Fatal(err)
			}
			replies++
			w.network.Shut.Store(true)
		}
		if took := time.Since(began); replies != 1 || took != 1500*time.Millisecond {
			t.Errorf("%d replies in %v", replies, took)
		}
		began = time.Now()
		_, err = c.Request(t.Context(), "svc", 2, &client.RequestOptions{Timeout: 500 * time.Millisecond})
		if took := time.Since(began); codec.CodeOf(err) != codec.CodeRequestTimeout || took != 1500*time.Millisecond {
			t.Errorf("after %v: %v", took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Request(ctx, "svc", 3, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller's own end: %v", err)
		}
		w.network.Shut.Store(false)
	})
}

// A client whose session the broker ends without an error stays away; one whose connection
// is closed without a word comes back.
func TestEndOfTheSession(t *testing.T) {
	for name, end := range map[string]func(*memconn.Conn, *memconn.Stream){
		"END": func(_ *memconn.Conn, control *memconn.Stream) {
			_, _ = control.Write(codec.AppendEnd(nil, codec.End{Code: codec.CodeOK}))
			_ = control.Close()
		},
		"no word": func(conn *memconn.Conn, _ *memconn.Stream) {
			_ = conn.CloseWithError(uint32(codec.CodeOK), "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var dials atomic.Int64
				c, err := client.Dial(t.Context(), "memory", client.Config{Dial: func(context.Context, string) (client.Conn, error) {
					dials.Add(1)
					local, remote := memconn.Pair()
					go func() {
						control, err := remote.AcceptStream(t.Context())
						if err != nil {
							t.Error(err)
							return
						}
						w := codec.Welcome{Version: codec.Version, Client: codec.ID{1}, Secret: []byte("secret"), Limits: codec.DefaultLimits()}
						_, _ = control.Write(codec.AppendWelcome(nil, w))
						time.Sleep(time.Second)
						end(remote, control)
					}()
					return scripted{local}, nil
				}})
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if name == "END" && (dials.Load() > 1 || c.State() != client.StateClosed || codec.CodeOf(c.Err()) != codec.CodeClosed) {
					t.Errorf("%v after %d connections: %v", c.State(), dials.Load(), c.Err())
				}
				if name != "END" && (dials.Load() < 2 || c.Err() != nil) {
					t.Errorf("%d connections: %v", dials.Load(), c.Err())
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Who is told before the broker was restarted, and is not there afterwards, is not present.
func TestPresenceOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// serve is one life of the broker: it answers HELLO and SUBSCRIBE, with a member or
		// without, and ends or waits for the client to.
		serve := func(conn *memconn.Conn, epoch uint64, member bool) {
			for range 2 {
				stream, err := conn.AcceptStream(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				f, err := codec.NewReader(stream, codec.DefaultMaxFrame).Next()
				switch {
				case err != nil:
					t.Error(err)
				case f.Type == codec.TypeHello:
					_, _ = stream.Write(codec.AppendWelcome(nil, codec.Welcome{
						Version: codec.Version, Client: codec.ID{byte(epoch)}, Secret: []byte("secret"), Limits: codec.DefaultLimits(),
					}))
				case !member:
					_, _ = stream.Write(codec.AppendSubscribed(nil, codec.Subscribed{Topic: 1, Epoch: epoch}))
					_, _ = stream.Write(codec.AppendEnd(nil, codec.End{Code: codec.CodeOK}))
					_ = stream.Close()
				default: // one of two members
					b := codec.AppendSubscribed(nil, codec.Subscribed{Topic: 1, Epoch: epoch, Last: codec.Some(2)})
					key := uuid.UUID{7}.String()
					_, _ = stream.Write(codec.AppendMessage(b, codec.Message{Topic: 1, Offset: 1, Previous: 1, Key: key, Payload: codec.Text("here")}))
					time.Sleep(time.Second)
					_ = conn.CloseWithError(uint32(codec.CodeOK), "")
				}
			}
		}
		var lives atomic.Uint64
		c, err := client.Dial(t.Context(), "memory", client.Config{Dial: func(context.Context, string) (client.Conn, error) {
			epoch := lives.Add(1)
			local, remote := memconn.Pair()
			go serve(remote, epoch, epoch == 1)
			return scripted{local}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		members, err := c.Presence(t.Context(), "room")
		if err != nil || len(members) > 0 || lives.Load() != 2 {
			t.Errorf("present: %v, %v, in life %d of the broker", members, err, lives.Load())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// scripted is a connection whose other end is the test.
type scripted struct{ *memconn.Conn }

func (c scripted) OpenStream(ctx context.Context) (client.Stream, error) {
	return c.Conn.OpenStream(ctx)
}

func (scripted) SendDatagram(context.Context, []byte) error { return broker.ErrNoDatagrams }

func (scripted) ReceiveDatagram(context.Context) ([]byte, error) {
	return nil, broker.ErrNoDatagrams
}
