package natsbus

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// hear waits until all that the server has sent is in the inbox.
func (b *bus) hear(t *testing.T) {
	t.Helper()
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// settle waits until everything that came, and that ended, was handled.
func settle(t *testing.T, b *bus) {
	t.Helper()
	b.hear(t)
	await(t, b, func() bool { return !b.settling })
	handled := make(chan struct{})
	b.inbox.put(func() { close(handled) })
	select {
	case <-handled:
	case <-t.Context().Done():
	}
}

// Of two patterns that overlap one ends while copies of both wait: each message comes once.
func TestCopiesOfAnEndedPattern(t *testing.T) {
	for _, ending := range []string{"a.b", "a.*"} {
		s := runNATS(t)
		sink := newRecorder()
		b, other := joinBus(t, s, Config{Linger: -1}, sink), joinBus(t, s, Config{}, deafSink{})
		b.want(t, "a.*")
		b.want(t, "a.b")
		texts := numbers(0, 20)
		other.say(t, "a.b", texts...)
		b.hear(t)
		b.Unsubscribe(ending, "")
		close(sink.gate)
		settle(t, b)
		if got, want := sink.all(), "lapsed a.*, "+strings.Join(texts, ", "); got != want {
			t.Errorf("%s has ended: %s; want %s", ending, got, want)
		}
		b.mu.Lock()
		if n := b.copies.of("a.b"); n != 1 {
			t.Errorf("%s has ended: %d patterns still count", ending, n)
		}
		b.mu.Unlock()
	}
}

// The interest of a group that ends while NATS is away is not there when NATS is back: the
// server would choose this broker for messages that nobody here takes.
func TestGroupEndsWhileNATSIsAway(t *testing.T) {
	s := runNATS(t)
	b := joinBus(t, s, Config{}, deafSink{})
	if _, err := b.Subscribe(t.Context(), "jobs", "g"); err != nil {
		t.Fatal(err)
	}
	if !s.GlobalAccount().SubscriptionInterest("jobs") {
		t.Fatal("the server knows of no interest")
	}
	port := s.Addr().(*net.TCPAddr).Port
	s.Shutdown()
	s.WaitForShutdown()
	connected := func() bool { return b.queues.IsConnected() || b.nc.IsConnected() }
	await(t, b, func() bool { return !connected() })
	b.Unsubscribe("jobs", "g")
	again, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	again.Start()
	t.Cleanup(func() { again.Shutdown(); again.WaitForShutdown() })
	await(t, b, func() bool { return b.queues.IsConnected() && b.nc.IsConnected() })
	for _, nc := range []*nats.Conn{b.queues, b.nc} {
		if err := nc.FlushTimeout(20 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if again.GlobalAccount().SubscriptionInterest("jobs") {
		t.Error("the server knows of an interest")
	}
}
