package broker_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/internal/memconn"
)

// scriptedBroker is a broker that does exactly what a test tells it to.
type scriptedBroker struct {
	t       *testing.T
	conns   chan *memconn.Conn // the broker's ends
	held    atomic.Bool        // streams that the client opens wait
	conn    *memconn.Conn
	control *line
	id      codec.ID // that WELCOME tells
	base    time.Time
}

func newScriptedBroker(t *testing.T) *scriptedBroker {
	return &scriptedBroker{t: t, conns: make(chan *memconn.Conn, 16), id: codec.ID{1}}
}

// dial connects a client and welcomes it. Limits that are 0 have their default.
func (s *scriptedBroker) dial(limits codec.Limits) *client.Client {
	s.t.Helper()
	type result struct {
		client *client.Client
		err    error
	}
	done := make(chan result, 1)
	go func() {
		c, err := client.Dial(within(s.t), "memory", client.Config{
			Dial:    s.connect,
			Backoff: client.Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond},
		})
		done <- result{c, err}
	}()
	s.welcome(limits)
	r := <-done
	if r.err != nil {
		s.t.Fatal(r.err)
	}
	s.t.Cleanup(func() {
		_ = s.conn.CloseWithError(0, "")
		_ = r.client.Close()
	})
	return r.client
}

func (s *scriptedBroker) connect(context.Context, string) (client.Conn, error) {
	local, remote := memconn.Pair()
	select {
	case s.conns <- remote:
		return scriptEnd{local, &s.held}, nil
	default:
		return nil, errors.New("the script takes no more connections")
	}
}

// welcome takes a connection and says WELCOME on it.
func (s *scriptedBroker) welcome(limits codec.Limits) {
	s.t.Helper()
	s.conn = <-s.conns
	s.control = s.accept()
	s.control.want(codec.TypeHello)
	defaults := codec.DefaultLimits()
	if limits.Publications > 0 {
		defaults.Publications = limits.Publications
	}
	s.control.send(codec.AppendWelcome(nil, codec.Welcome{
		Version: codec.Version, Client: s.id, Secret: []byte("secret"), Limits: defaults,
		Base: uint64(max(0, s.base.UnixMilli())),
	}))
}

// accept takes the next stream.
func (s *scriptedBroker) accept() *line {
	s.t.Helper()
	stream, err := s.conn.AcceptStream(within(s.t))
	if err != nil {
		s.t.Fatal(err)
	}
	_ = stream.SetReadDeadline(time.Now().Add(deadline))
	return &line{s.t, stream, codec.NewReader(stream, codec.DefaultMaxFrame)}
}

// wantNoStream checks that the client opens no stream while something is done.
func (s *scriptedBroker) wantNoStream(do func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	opened := make(chan error)
	go func() {
		_, err := s.conn.AcceptStream(ctx)
		opened <- err
	}()
	do()
	cancel()
	if err := <-opened; err == nil {
		s.t.Fatal("the client has opened a stream")
	}
}

// wantFIN reads the end of what the client sends.
func (l *line) wantFIN() {
	l.t.Helper()
	if f, err := l.reader.Next(); !errors.Is(err, io.EOF) {
		l.t.Fatalf("want FIN, got %s, %v", f.Type, err)
	}
}

type scriptEnd struct {
	*memconn.Conn
	held *atomic.Bool
}

func (c scriptEnd) OpenStream(ctx context.Context) (client.Stream, error) {
	if c.held.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return c.Conn.OpenStream(ctx)
}
func (scriptEnd) SendDatagram(context.Context, []byte) error      { return broker.ErrNoDatagrams }
func (scriptEnd) ReceiveDatagram(context.Context) ([]byte, error) { return nil, broker.ErrNoDatagrams }
