package natsbus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/natsbus"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/internal/memnet"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The server's own, which its Shutdown does not wait for.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).sendAuthErrAccountEvents"),
	)
}

// deadline bounds what a test waits for; it is never what a test measures.
const deadline = 20 * time.Second

// patient is the deadline in place of the 2 s in which a NATS client must connect.
var patient = nats.Timeout(deadline)

// natsServer runs a real server in the process. port 0 is any.
func natsServer(t *testing.T, port int) *server.Server {
	t.Helper()
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return runServer(t, &server.Options{Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true})
}

func runServer(t *testing.T, options *server.Options) *server.Server {
	t.Helper()
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(deadline) {
		t.Fatal("the NATS server does not come up")
	}
	return s
}

// newBroker runs a broker on the bus, and returns a client of it.
func newBroker(t *testing.T, s *server.Server, prefix string) (*broker.Broker, *client.Client) {
	t.Helper()
	b, err := broker.New(broker.Config{Bus: natsbus.Open(natsbus.Config{
		URL:     s.ClientURL(),
		Prefix:  prefix,
		Linger:  -1,
		Options: []nats.Option{patient, nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(time.Millisecond, time.Millisecond)},
	})})
	if err != nil {
		t.Fatal(err)
	}
	var n memnet.Network
	t.Cleanup(n.Serve(b))
	c, err := client.Dial(t.Context(), "memory", client.Config{Dial: n.Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return b, c
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func subscribe(t *testing.T, c *client.Client, pattern string) *client.Subscription {
	t.Helper()
	sub, err := c.Subscribe(within(t), pattern, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func publish(t *testing.T, c *client.Client, topic string, value any) {
	t.Helper()
	if _, err := c.Publish(within(t), topic, value, nil); err != nil {
		t.Fatal(err)
	}
}

// until returns what comes up to a message with a payload.
func until(t *testing.T, sub *client.Subscription, last string) []client.Message {
	t.Helper()
	var items []client.Message
	for m, err := range sub.Messages(within(t)) {
		if err != nil {
			t.Fatalf("after %d items: %v", len(items), err)
		}
		items = append(items, m)
		if m.Gap == nil && string(m.Payload.Data) == last {
			break
		}
	}
	return items
}

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

// What a client of one broker publishes reaches the clients of the other, with all
// that a message carries, in the publisher's order.
func TestTwoBrokers(t *testing.T) {
	for _, prefix := range []string{"", "tidewire.test"} {
		s := natsServer(t, 0)
		_, alice := newBroker(t, s, prefix)
		_, bob := newBroker(t, s, prefix)
		here, there := subscribe(t, alice, "chat.*"), subscribe(t, bob, "chat.*")
		for i := range 50 {
			publish(t, alice, "chat.lobby", fmt.Sprint(i))
		}
		if err := alice.PublishLossy(within(t), "chat.lobby", "lossy", nil); err != nil {
			t.Fatal(err)
		}
		for _, sub := range []*client.Subscription{here, there} {
			items := until(t, sub, "lossy")
			if len(items) != 51 {
				t.Fatalf("%d items", len(items))
			}
			for i, m := range items {
				want := fmt.Sprint(i)
				if i == 50 {
					want = "lossy"
				}
				if string(m.Payload.Data) != want || m.Position.Offset != uint64(i+1) || m.Publisher != alice.ID() ||
					m.Payload.Encoding != codec.EncodingText || m.Lossy != (i == 50) {
					t.Fatalf("item %d: %+v", i, m)
				}
			}
		}
		publish(t, bob, "chat.lobby", "back")
		until(t, here, "back")
	}
}

// A broker subscribes at NATS to what its sessions want, once, and to nothing
// else.
func TestInterest(t *testing.T) {
	s := natsServer(t, 0)
	_, c := newBroker(t, s, "")
	before := s.NumSubscriptions()
	a, again, wild := subscribe(t, c, "a"), subscribe(t, c, "a"), subscribe(t, c, "b.*")
	if n := s.NumSubscriptions() - before; n != 2 {
		t.Errorf("%d subscriptions at NATS for two patterns", n)
	}
	_ = a.Close()
	_ = wild.Close()
	eventually(t, func() bool { return s.NumSubscriptions()-before == 1 })
	publish(t, c, "a", "x")
	until(t, again, "x")
	_ = again.Close()
	eventually(t, func() bool { return s.NumSubscriptions() == before })
}

// Overlapping patterns bring a message from NATS several times; each subscription
// gets it once, whatever patterns begin and end meanwhile.
func TestOverlappingPatterns(t *testing.T) {
	s := natsServer(t, 0)
	_, here := newBroker(t, s, "")
	_, there := newBroker(t, s, "")
	plain, err := nats.Connect(s.ClientURL(), patient)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	keep := []*client.Subscription{subscribe(t, here, "a.b"), subscribe(t, here, "*.b"), subscribe(t, here, ">")}
	const rounds = 200
	for i := range rounds {
		if i%5 == 0 {
			_ = subscribe(t, here, "a.*").Close()
		}
		publish(t, there, "a.b", fmt.Sprint("broker ", i))
		if err := plain.Publish("a.b", fmt.Append(nil, "plain ", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := plain.Flush(); err != nil {
		t.Fatal(err)
	}
	publish(t, there, "a.b", "end")
	for _, sub := range keep {
		seen := make(map[string]int)
		broker, last := 0, uint64(0)
		for _, m := range until(t, sub, "end") {
			seen[string(m.Payload.Data)]++
			if m.Gap != nil || m.Position.Offset != last+1 {
				t.Fatalf("offset %d after %d, gap %v", m.Position.Offset, last, m.Gap)
			}
			last++
			var k int
			if _, err := fmt.Sscanf(string(m.Payload.Data), "broker %d", &k); err == nil {
				if k != broker {
					t.Fatalf("message %d after %d", k, broker-1)
				}
				broker++
			}
		}
		for i := range rounds {
			if n := seen[fmt.Sprint("broker ", i)]; n != 1 {
				t.Errorf("%s: message %d of the broker came %d times", sub.Pattern(), i, n)
			}
			// The plain ones may still be under way when the end has come.
			if n := seen[fmt.Sprint("plain ", i)]; n > 1 {
				t.Errorf("%s: message %d of the plain client came %d times", sub.Pattern(), i, n)
			}
		}
	}
}

// A plain NATS client reads and writes the same subjects; headers carry what a
// payload does not.
func TestPlainClient(t *testing.T) {
	s := natsServer(t, 0)
	_, c := newBroker(t, s, "")
	sub := subscribe(t, c, ">")
	plain, err := nats.Connect(s.ClientURL(), patient)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	down, err := plain.SubscribeSync("from.tidewire")
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.Flush(); err != nil {
		t.Fatal(err)
	}

	publish(t, c, "from.tidewire", "hello")
	m, err := down.NextMsg(deadline)
	if err != nil || string(m.Data) != "hello" || m.Header.Get("Tidewire-Encoding") != "text" || m.Header.Get("Tidewire-Publisher") != c.ID().String() || m.Header.Get("Tidewire-Mode") != "" {
		t.Fatalf("%v, %v", m, err)
	}
	until(t, sub, "hello")
	for _, sent := range []struct {
		value any
		as    string
	}{
		{"text", "text/plain; charset=utf-8"},
		{[]byte("bytes"), "application/octet-stream"},
		{json.RawMessage("{}"), "application/json"},
		{map[string]int{"n": 1}, "application/msgpack"},
	} {
		if _, err := c.Publish(t.Context(), "from.tidewire", sent.value, nil); err != nil {
			t.Fatal(err)
		}
		if m, err := down.NextMsg(deadline); err != nil || m.Header.Get("Content-Type") != sent.as {
			t.Errorf("%v: %v, %v", sent.value, m, err)
		}
	}
	publish(t, c, "from.tidewire", "typed")
	until(t, sub, "typed")

	if err := plain.Publish("from.nats", []byte("bare")); err != nil {
		t.Fatal(err)
	}
	if err := plain.PublishMsg(&nats.Msg{Subject: "from.nats", Data: []byte("dressed"), Header: nats.Header{
		"Tidewire-Encoding": {"json"}, "Tidewire-Publisher": {"nonsense"}, "Tidewire-Mode": {"lossy"},
	}}); err != nil {
		t.Fatal(err)
	}
	// What is of the system, or no topic, or too large, does not come.
	for _, subject := range []string{"_INBOX.x", "$JS.x"} {
		if err := plain.Publish(subject, []byte("system")); err != nil {
			t.Fatal(err)
		}
	}
	if err := plain.Publish("from.nats", make([]byte, codec.DefaultMaxPayload+1)); err != nil {
		t.Fatal(err)
	}
	if err := plain.Publish("from.nats", []byte("end")); err != nil {
		t.Fatal(err)
	}
	items := until(t, sub, "end")
	if len(items) != 3 {
		t.Fatalf("%d items: %v", len(items), items)
	}
	if m := items[0]; string(m.Payload.Data) != "bare" || m.Payload.Encoding != codec.EncodingBytes || m.Lossy {
		t.Errorf("%+v", m)
	}
	if m := items[1]; string(m.Payload.Data) != "dressed" || m.Payload.Encoding != codec.EncodingJSON || !m.Lossy {
		t.Errorf("%+v", m)
	}
}

// When NATS was away, subscriptions meet a gap of unknown extent, and go on.
func TestNATSRestarts(t *testing.T) {
	s := natsServer(t, 0)
	port := s.Addr().(*net.TCPAddr).Port
	_, here := newBroker(t, s, "")
	_, there := newBroker(t, s, "")
	sub := subscribe(t, here, "a")
	publish(t, there, "a", "before")
	until(t, sub, "before")
	s.Shutdown()
	s.WaitForShutdown()
	natsServer(t, port)
	for m, err := range sub.Messages(within(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Gap == nil || m.Gap.Reason != codec.GapBus || m.Gap.From != nil || m.Gap.To != nil {
			t.Fatalf("%+v", m)
		}
		break
	}
	// Both brokers are back when a message passes.
	eventually(t, func() bool {
		publish(t, there, "a", "after")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		for m, err := range sub.Messages(ctx) {
			if err != nil {
				return false
			}
			if m.Gap == nil && string(m.Payload.Data) == "after" {
				return true
			}
		}
		return false
	})
}

// What the NATS server never takes is no matter of trying again, and reaches no
// subscription of this broker either.
func TestPayloadAboveNATSLimit(t *testing.T) {
	s := runServer(t, &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, MaxPayload: 1024})
	_, c := newBroker(t, s, "")
	sub := subscribe(t, c, "a")
	for _, size := range []int{1020, 5000} { // the smaller one with its headers
		if _, err := c.Publish(within(t), "a", make([]byte, size), nil); codec.CodeOf(err) != codec.CodePayloadTooLarge {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	publish(t, c, "a", "small")
	if items := until(t, sub, "small"); len(items) != 1 {
		t.Errorf("%d items", len(items))
	}
}

func TestNobodyThere(t *testing.T) {
	_, err := broker.New(broker.Config{Bus: natsbus.Open(natsbus.Config{URL: "nats://127.0.0.1:1"})})
	if !errors.Is(err, nats.ErrNoServers) {
		t.Errorf("got %v", err)
	}
	if _, err := broker.New(broker.Config{Bus: natsbus.Open(natsbus.Config{Prefix: "a.*"})}); codec.CodeOf(err) != codec.CodeInvalidTopic {
		t.Errorf("a bad prefix: %v", err)
	}
}
