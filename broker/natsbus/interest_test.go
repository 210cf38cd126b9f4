package natsbus

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

type deafSink struct{}

func (deafSink) Sequence(broker.Message) (broker.Position, error) { return broker.Position{}, nil }
func (deafSink) Distribute(string, broker.Message)                {}
func (deafSink) Replied([]byte, broker.Message)                   {}
func (deafSink) NobodyThere([]byte)                               {}
func (deafSink) Lost(string, string)                              {}
func (deafSink) Lapsed(string, func(string) bool)                 {}
func (deafSink) Now() uint64                                      { return 0 }

func openBus(t *testing.T) (*bus, *server.Server) {
	t.Helper()
	s := runNATS(t)
	return joinBus(t, s, Config{}, deafSink{}), s
}

func runNATS(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the NATS server does not come up")
	}
	return s
}

// joinBus opens a bus at a server.
func joinBus(t *testing.T, s *server.Server, config Config, sink broker.Sink) *bus {
	t.Helper()
	config.URL = s.ClientURL()
	config.Options = []nats.Option{nats.Timeout(20 * time.Second)}
	b, err := open(config, sink)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}

func (b *bus) want(t *testing.T, pattern string) {
	t.Helper()
	if _, err := b.Subscribe(t.Context(), pattern, ""); err != nil {
		t.Fatal(err)
	}
}

// say publishes, and returns when the server has it.
func (b *bus) say(t *testing.T, topic string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := b.Publish(t.Context(), broker.Message{Topic: topic, Payload: codec.Text(text)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// await waits until a condition that mu guards holds.
func await(t *testing.T, b *bus, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		b.mu.Lock()
		ok := condition()
		b.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it never came about")
		}
	}
}

// The server knows where replies go before anything is asked: a request that is handed
// over goes out on another connection than the subscription to its replies.
func TestRepliesAreAwaitedFromTheBeginning(t *testing.T) {
	b, s := openBus(t)
	z, err := s.Subsz(&server.SubszOptions{Subscriptions: true, Test: b.subjectOf([]byte{0, 1})})
	if err != nil || len(z.Subs) != 1 {
		t.Errorf("%+v, %v", z, err)
	}
}

// Who waited for an interest that failed does not take back its successor's.
func TestFailedInterestLeavesItsSuccessor(t *testing.T) {
	b, _ := openBus(t)
	failing := newInterest(wanted{pattern: "x"})
	failing.refs = 1
	b.mu.Lock()
	b.addLocked(failing)
	b.mu.Unlock()
	waiter := make(chan error)
	go func() { _, err := b.Subscribe(t.Context(), "x", ""); waiter <- err }()
	await(t, b, func() bool { return failing.refs == 2 })
	b.mu.Lock()
	failing.err = errors.New("NATS does not answer")
	b.removeLocked(failing)
	b.mu.Unlock()
	if _, err := b.Subscribe(t.Context(), "x", ""); err != nil {
		t.Fatal(err)
	}
	close(failing.ready)
	if err := <-waiter; err == nil {
		t.Error("the interest that failed is taken for one that stands")
	}
	b.mu.Lock()
	in := b.interests[wanted{pattern: "x"}]
	b.mu.Unlock()
	if in == nil || in.refs != 1 || in.state != stands {
		t.Fatalf("the successor is gone: %+v", in)
	}
}

// An interest that nobody wants any more when NATS has taken it ends there too.
func TestInterestUnwantedBeforeItStands(t *testing.T) {
	b, s := openBus(t)
	before := s.NumSubscriptions()
	in := newInterest(wanted{pattern: "x"})
	in.refs = 1
	b.mu.Lock()
	b.addLocked(in)
	b.mu.Unlock()
	b.Unsubscribe("x", "")
	b.begin(t.Context(), in)
	settle(t, b)
	if n := s.NumSubscriptions() - before; n != 0 {
		t.Errorf("%d subscriptions at NATS that nobody wants", n)
	}
}

// An interest lingers for the whole time each time that nobody wants it any more, whatever
// becomes of the timer of the time before.
func TestLingersAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const linger = time.Minute
		b := &bus{config: Config{Linger: linger}, interests: make(map[wanted]*interest), wild: make(map[string]*interest), ending: make(map[*interest]struct{}), settling: true}
		in := &interest{wanted: wanted{pattern: "x"}, ready: make(chan struct{}), state: stands, refs: 1}
		close(in.ready)
		b.addLocked(in)
		b.Unsubscribe("x", "")
		// The timer fires while the lock is held by one who wants the interest again, and
		// then does not want it either.
		b.mu.Lock()
		time.Sleep(linger)
		b.wantLocked(in)
		in.refs--
		b.lingerLocked(in)
		b.mu.Unlock()
		gone := func() bool {
			synctest.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.interests[in.wanted] == nil
		}
		time.Sleep(linger - 1)
		if gone() {
			t.Error("it ended early")
		}
		time.Sleep(time.Nanosecond)
		if !gone() || b.lingering != 0 {
			t.Errorf("it did not end, or is still counted: %d", b.lingering)
		}
	})
}
