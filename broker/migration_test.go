package broker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// simulated is a broker behind a simulated network, in virtual time.
type simulated struct {
	network *wttest.Network
	server  *wttest.Server
	broker  *broker.Broker
}

func simulate(t *testing.T, link wttest.Link, config broker.Config) *simulated {
	t.Helper()
	if config.Authenticator == nil {
		config.Authenticator = broker.Open{AllowRemote: true}
	}
	config.Logger = slog.New(slog.DiscardHandler)
	b, err := broker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	s := &simulated{network: wttest.NewNetwork(t, link, 1)}
	s.start(t, b)
	return s
}

// start makes a simulated network one of those that a test runs over.
func (s *simulated) start(t *testing.T, b *broker.Broker) (stop func()) {
	t.Helper()
	s.broker, s.server = b, wttest.Serve(t, s.network, wt.ServerConfig{Handler: b})
	stop = sync.OnceFunc(func() { _ = b.Close() })
	t.Cleanup(stop)
	return stop
}

func (s *simulated) config() client.Config {
	return client.Config{Dial: func(ctx context.Context, _ string) (client.Conn, error) {
		session, err := s.server.Dialer(wt.Dialer{}).Dial(ctx, s.server.URL)
		if err != nil {
			return nil, err
		}
		return client.WebTransport(session), nil
	}}
}

func (s *simulated) datagrams() bool { return true }

func (s *simulated) raw(t *testing.T) client.Conn {
	t.Helper()
	conn, err := s.config().Dial(within(t), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	return conn
}

// dial connects a client, each of whose connections comes from the endpoint that next
// returns.
func (s *simulated) dial(t *testing.T, next func() *wttest.Endpoint) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), s.server.URL, client.Config{
		Backoff: client.Backoff{Min: time.Millisecond, Max: time.Millisecond},
		Dial: func(ctx context.Context, url string) (client.Conn, error) {
			session, err := s.server.Dialer(wt.Dialer{PacketConn: next()}).Dial(ctx, url)
			if err != nil {
				return nil, err
			}
			return client.WebTransport(session), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A client whose address changes keeps its connection: its subscriptions miss
// nothing, and what it publishes goes on, in order and once.
func TestMigration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, wttest.Link{Latency: 20 * time.Millisecond}, broker.Config{})
		end := s.network.NewEndpoint()
		var dials atomic.Int64
		c := s.dial(t, func() *wttest.Endpoint {
			dials.Add(1)
			return end
		})
		other := s.dial(t, s.network.NewEndpoint)
		down := subscribe(t, c, "down", nil)
		up := subscribe(t, other, "up", nil)
		if err := c.Enter(t.Context(), "room", "here"); err != nil {
			t.Fatal(err)
		}
		const each = 60
		for i := range each {
			if i%20 == 10 {
				end.Move(netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:5555", i)))
			}
			publish(t, c, "up", fmt.Sprint(i))
			publish(t, other, "down", fmt.Sprint(i))
			time.Sleep(50 * time.Millisecond)
		}
		for _, sub := range []*client.Subscription{down, up} {
			for i, m := range take(t, sub, each) {
				if text(m) != fmt.Sprint(i) {
					t.Fatalf("%s: item %d is %s", sub.Pattern(), i, text(m))
				}
			}
		}
		if dials.Load() != 1 || s.broker.Stats().SessionsTotal != 2 {
			t.Errorf("connected %d times", dials.Load())
		}
		if got := s.broker.Stats().Presences; got != 1 {
			t.Errorf("%d presences", got)
		}
	})
}

// A client whose network is gone is present for as long as the transport takes to
// notice, and the grace.
func TestPresenceOfALostNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, wttest.Link{Latency: 5 * time.Millisecond}, broker.Config{})
		end := s.network.NewEndpoint()
		config := wt.Dialer{PacketConn: end, QUICConfig: &quic.Config{MaxIdleTimeout: 8 * time.Second}}
		session, err := s.server.Dialer(config).Dial(t.Context(), s.server.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = session.Close() }()
		p := &peer{t: t, conn: wtClient{session}}
		p.control = p.open()
		p.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version}))
		p.control.want(codec.TypeWelcome)
		p.enter("room", "here")
		end.Partition()
		lost := time.Now()
		for s.broker.Stats().Sessions > 0 {
			time.Sleep(time.Millisecond)
		}
		noticed := time.Since(lost) // the idle timeout; half of it later if a keep-alive went out in it
		if got := s.broker.Stats().Presences; got != 1 {
			t.Errorf("%d presences in the grace", got)
		}
		for s.broker.Stats().Presences > 0 {
			time.Sleep(time.Millisecond)
		}
		if d := time.Since(lost) - noticed; noticed > 13*time.Second || d < 9*time.Second || d > 11*time.Second {
			t.Errorf("noticed after %v, and left %v later", noticed, d)
		}
	})
}

// A client that comes back under its id while the broker still takes the old
// connection for alive replaces it, and what was published over both comes once.
func TestResumeReplacesASilentConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, wttest.Link{Latency: 20 * time.Millisecond}, broker.Config{})
		var current atomic.Pointer[wttest.Endpoint]
		c := s.dial(t, func() *wttest.Endpoint {
			current.Store(s.network.NewEndpoint())
			return current.Load()
		})
		other := s.dial(t, s.network.NewEndpoint)
		up, presence := subscribe(t, other, "up", nil), s.watchRoom(t, other)
		if err := c.Enter(t.Context(), "room", "here"); err != nil {
			t.Fatal(err)
		}
		id := c.ID()
		const rounds, each = 3, 8
		for round := range rounds {
			for i := range each {
				// Half of them are under way when the network is cut.
				if i == each/2 {
					end := current.Load()
					go func() { // ends with its sleep, within the bubble
						time.Sleep(10 * time.Millisecond)
						end.Partition()
					}()
				}
				publish(t, c, "up", fmt.Sprint(round*each+i))
			}
		}
		for i, m := range take(t, up, rounds*each) {
			if text(m) != fmt.Sprint(i) {
				t.Fatalf("item %d is %s", i, text(m))
			}
		}
		if c.ID() != id {
			t.Error("the client has another id")
		}
		time.Sleep(15 * time.Second)
		if got := presence(); got != 1 {
			t.Errorf("the watcher saw %d changes of the presence, want the one join", got)
		}
		if got := s.broker.Stats(); got.Presences != 1 || got.Sessions != 2 {
			t.Errorf("%d presences, %d sessions", got.Presences, got.Sessions)
		}
	})
}

// watchRoom counts what a watcher of the presence sees.
func (s *simulated) watchRoom(t *testing.T, c *client.Client) func() int {
	t.Helper()
	w, err := c.WatchPresence(t.Context(), "room")
	if err != nil {
		t.Fatal(err)
	}
	var seen atomic.Int64
	done := make(chan struct{})
	go func() { // ends with the client
		defer close(done)
		for _, err := range w.Events(t.Context()) {
			if err != nil {
				if !errors.Is(err, client.ErrClosed) && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				return
			}
			seen.Add(1)
		}
	}()
	t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
	return func() int { return int(seen.Load()) }
}
