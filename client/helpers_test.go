package client_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/internal/memnet"
)

// world is a broker and its network, which a test can cut.
type world struct {
	t       *testing.T
	network *memnet.Network
	stop    func() // the broker
	config  broker.Config
	running *broker.Broker

	mu    sync.Mutex
	conns []client.Conn // of all clients; guarded by mu
	down  bool          // nobody gets through; guarded by mu
}

// inWorld runs a test in virtual time, with a broker.
func inWorld(t *testing.T, config broker.Config, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, network: new(memnet.Network), config: config}
		w.start()
		defer func() { w.stop() }()
		test(t, w)
	})
}

func (w *world) start() {
	w.t.Helper()
	b, err := broker.New(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.running, w.stop = b, w.network.Serve(b)
}

// restart makes another broker of the broker.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

// dial connects a client that is closed before the broker stops.
func (w *world) dial(change ...func(*client.Config)) *client.Client {
	w.t.Helper()
	// It is back within a grace, whatever the dice say.
	config := client.Config{Dial: w.connect, Backoff: client.Backoff{Min: 100 * time.Millisecond, Max: time.Second}}
	for _, f := range change {
		f(&config)
	}
	c, err := client.Dial(w.t.Context(), "memory", config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) connect(ctx context.Context, url string) (client.Conn, error) {
	w.mu.Lock()
	down := w.down
	w.mu.Unlock()
	if down {
		return nil, fmt.Errorf("the network is down")
	}
	conn, err := w.network.Dial(ctx, url)
	if err == nil {
		w.mu.Lock()
		w.conns = append(w.conns, conn)
		w.mu.Unlock()
	}
	return conn, err
}

// cut ends all connections; nobody gets through until heal. It returns when nothing
// moves any more.
func (w *world) cut() {
	w.cutHard()
	synctest.Wait()
}

// cutHard is cut in the midst of whatever goes on.
func (w *world) cutHard() {
	w.mu.Lock()
	conns := w.conns
	w.conns, w.down = nil, true
	w.mu.Unlock()
	for _, conn := range conns {
		_ = conn.CloseWithError(uint32(codec.CodeConnectionLost), "cut")
	}
}

// deafConn is a connection on whose streams nothing comes any more once it is deaf, and on
// the first of them, the control stream, only if all of it is.
type deafConn struct {
	client.Conn
	deaf, all atomic.Bool
	opened    atomic.Int32
}

type deafStream struct {
	client.Stream
	conn    *deafConn
	control bool
}

func (c *deafConn) OpenStream(ctx context.Context) (client.Stream, error) {
	stream, err := c.Conn.OpenStream(ctx)
	return deafStream{stream, c, c.opened.Add(1) == 1}, err
}

func (s deafStream) Read(p []byte) (int, error) {
	for {
		n, err := s.Stream.Read(p)
		if err != nil || !s.conn.deaf.Load() || s.control && !s.conn.all.Load() {
			return n, err
		}
	}
}

func (w *world) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = false
}

// connected waits for a client.
func (w *world) connected(c *client.Client) {
	w.t.Helper()
	synctest.Wait() // it may have to notice first that it is not
	for range 600 {
		if c.State() == client.StateConnected {
			synctest.Wait()
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Fatal("the client does not come back")
}

func (w *world) subscribe(c *client.Client, pattern string, opts *client.SubscribeOptions) *client.Subscription {
	w.t.Helper()
	sub, err := c.Subscribe(w.t.Context(), pattern, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return sub
}

func (w *world) publish(c *client.Client, topic string, opts *client.PublishOptions, values ...string) {
	w.t.Helper()
	for _, v := range values {
		if _, err := c.Publish(w.t.Context(), topic, v, opts); err != nil {
			w.t.Fatal(err)
		}
	}
}

// messages returns what waits once nothing moves any more.
func (w *world) messages(sub *client.Subscription) (items []client.Message) {
	w.t.Helper()
	synctest.Wait()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Millisecond)
	defer cancel()
	for m, err := range sub.Messages(ctx) {
		switch {
		case ctx.Err() != nil:
			return items
		case err != nil:
			w.t.Fatal(err)
		}
		items = append(items, m)
	}
	return items
}

// all is messages as texts.
func (w *world) all(sub *client.Subscription) (items []string) {
	w.t.Helper()
	for _, m := range w.messages(sub) {
		if m.Gap != nil {
			items = append(items, m.Gap.String())
			continue
		}
		items = append(items, string(m.Payload.Data))
	}
	return items
}

func (w *world) want(sub *client.Subscription, items ...string) {
	w.t.Helper()
	if got := w.all(sub); fmt.Sprint(got) != fmt.Sprint(items) {
		w.t.Errorf("got %q, want %q", got, items)
	}
}

// seeing makes each frame that a client sends on a stream known to see, just before.
func seeing(see func(codec.Frame)) func(*client.Config) {
	return func(config *client.Config) {
		dial := config.Dial
		config.Dial = func(ctx context.Context, url string) (client.Conn, error) {
			conn, err := dial(ctx, url)
			if err != nil {
				return nil, err
			}
			return seenConn{conn, see}, nil
		}
	}
}

type seenConn struct {
	client.Conn
	see func(codec.Frame)
}

func (c seenConn) OpenStream(ctx context.Context) (client.Stream, error) {
	stream, err := c.Conn.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	return seenStream{stream, c.see}, nil
}

type seenStream struct {
	client.Stream
	see func(codec.Frame)
}

// Write sees whole frames: the client writes no parts of them.
func (s seenStream) Write(p []byte) (int, error) {
	for r := codec.NewReader(bytes.NewReader(p), codec.DefaultMaxFrame); ; {
		f, err := r.Next()
		if err != nil {
			break
		}
		s.see(f)
	}
	return s.Stream.Write(p)
}
