package broker_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/internal/memnet"
	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline bounds what a test waits for; it is never what a test measures.
const deadline = 20 * time.Second

// noHistory keeps no messages, so that whoever misses some gets a gap.
var noHistory = []broker.TopicConfig{{Pattern: ">", History: broker.Retention{Count: -1}}}

// network is a way from clients to a broker. Every test of the suite runs over
// each.
type network interface {
	// start serves b until the test ends, or until stop is called.
	start(t *testing.T, b *broker.Broker) (stop func())
	// config is what a client needs to get there.
	config() client.Config
	datagrams() bool
}

// eachNetwork runs a test over WebTransport and over a connection in memory that
// has no datagrams.
func eachNetwork(t *testing.T, test func(t *testing.T, n network)) {
	t.Run("webtransport", func(t *testing.T) { test(t, newWTNetwork(t)) })
	t.Run("memory", func(t *testing.T) { test(t, &memNetwork{}) })
}

// inVirtualTime is eachNetwork in virtual time, for what a test measures or bounds in
// time: WebTransport is over a simulated network.
func inVirtualTime(t *testing.T, test func(t *testing.T, n network)) {
	t.Run("webtransport", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			test(t, &simulated{network: wttest.NewNetwork(t, wttest.Link{Latency: time.Millisecond}, 1)})
		})
	})
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, &memNetwork{}) })
	})
}

// wtNetwork is WebTransport over loopback.
type wtNetwork struct {
	identity *wt.Identity
	addr     net.Addr // kept over restarts; nil before the first start
}

func newWTNetwork(t *testing.T) *wtNetwork {
	t.Helper()
	identity, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return &wtNetwork{identity: identity}
}

func (n *wtNetwork) start(t *testing.T, b *broker.Broker) func() {
	t.Helper()
	addr := "127.0.0.1:0"
	if n.addr != nil {
		addr = n.addr.String()
	}
	packets, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	n.addr = packets.LocalAddr()
	srv, err := wt.NewServer(wt.ServerConfig{TLSConfig: n.identity.TLSConfig(), Handler: b})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(packets) })
	stop := sync.OnceFunc(func() {
		_ = b.Close()
		_ = srv.Close()
		serving.Wait()
		_ = packets.Close()
	})
	t.Cleanup(stop)
	return stop
}

func (n *wtNetwork) config() client.Config {
	return client.Config{CertificateHashes: [][32]byte{n.identity.Hash()}}
}

func (n *wtNetwork) datagrams() bool { return true }

func (n *wtNetwork) url() string {
	return "https://" + n.addr.String() + "/tidewire"
}

// memNetwork is connections within the process.
type memNetwork struct{ memnet.Network }

func (n *memNetwork) start(t *testing.T, b *broker.Broker) func() {
	stop := n.Serve(b)
	t.Cleanup(stop)
	return stop
}

func (n *memNetwork) config() client.Config { return client.Config{Dial: n.Dial} }
func (n *memNetwork) datagrams() bool       { return false }

// newBroker starts a broker on a network.
func newBroker(t *testing.T, n network, config broker.Config) *broker.Broker {
	t.Helper()
	config.Logger = slog.New(slog.DiscardHandler)
	if _, remote := n.(*simulated); remote && config.Authenticator == nil {
		config.Authenticator = broker.Open{AllowRemote: true}
	}
	b, err := broker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	n.start(t, b)
	return b
}

// dial connects a client that ends with the test.
func dial(t *testing.T, n network, change ...func(*client.Config)) *client.Client {
	t.Helper()
	c, err := tryDial(t, n, change...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryDial(t *testing.T, n network, change ...func(*client.Config)) (*client.Client, error) {
	t.Helper()
	config := n.config()
	config.Backoff = client.Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond}
	for _, f := range change {
		f(&config)
	}
	url := "memory"
	if w, ok := n.(*wtNetwork); ok {
		url = w.url()
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	c, err := client.Dial(ctx, url, config)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func subscribe(t *testing.T, c *client.Client, pattern string, opts *client.SubscribeOptions) *client.Subscription {
	t.Helper()
	sub, err := c.Subscribe(within(t), pattern, opts)
	if err != nil {
		t.Fatalf("subscribe to %q: %v", pattern, err)
	}
	return sub
}

func publish(t *testing.T, c *client.Client, topic string, value any) client.Position {
	t.Helper()
	pos, err := c.Publish(within(t), topic, value, nil)
	if err != nil {
		t.Fatalf("publish to %q: %v", topic, err)
	}
	return pos
}

// within is a context that bounds what a test waits for.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// take returns the next n items of a subscription.
func take(t *testing.T, sub *client.Subscription, n int) []client.Message {
	t.Helper()
	var items []client.Message
	for m, err := range sub.Messages(within(t)) {
		if err != nil {
			t.Fatalf("after %d of %d items: %v", len(items), n, err)
		}
		if items = append(items, m); len(items) == n {
			break
		}
	}
	return items
}

// text is the payload of a message as a test writes it.
func text(m client.Message) string {
	if m.Gap != nil {
		return m.Gap.String()
	}
	return string(m.Payload.Data)
}

// eventually waits for a condition that the broker reaches by itself.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	ctx := within(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it never came about")
		}
	}
}

func wantCode(t *testing.T, err error, want codec.Code) {
	t.Helper()
	if got := codec.CodeOf(err); err == nil || got != want {
		t.Fatalf("error %v, want code %s", err, want)
	}
}
