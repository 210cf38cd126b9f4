// Package memnet joins clients to a broker within the process, over memconn. It
// is for tests.
package memnet

import (
	"context"
	"os"
	"sync"
	"sync/atomic"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/internal/memconn"
)

// Network is a network on which at most one broker is served at a time. The zero
// value is ready.
type Network struct {
	// While Shut is set, writes of the broker wait until Gate is closed.
	Shut atomic.Bool
	Gate chan struct{}

	mu     sync.Mutex
	broker *broker.Broker
	wg     sync.WaitGroup
}

// Serve makes b the broker of the network. stop closes it, and waits.
func (n *Network) Serve(b *broker.Broker) (stop func()) {
	n.mu.Lock()
	n.broker = b
	n.mu.Unlock()
	return sync.OnceFunc(func() {
		n.mu.Lock()
		n.broker = nil
		n.mu.Unlock()
		_ = b.Close()
		n.wg.Wait()
	})
}

// Dial is the Dial of a client's Config.
func (n *Network) Dial(context.Context, string) (client.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.broker == nil {
		return nil, os.ErrNotExist
	}
	local, remote := memconn.Pair()
	b := n.broker
	n.wg.Go(func() { _ = b.ServeConn(context.Background(), brokerEnd{remote, n}) })
	return clientEnd{local}, nil
}

// clientEnd and brokerEnd are the two ends as the packages want them.
type clientEnd struct{ *memconn.Conn }

func (c clientEnd) OpenStream(ctx context.Context) (client.Stream, error) {
	return c.Conn.OpenStream(ctx)
}

func (clientEnd) SendDatagram(context.Context, []byte) error { return broker.ErrNoDatagrams }

func (clientEnd) ReceiveDatagram(context.Context) ([]byte, error) {
	return nil, broker.ErrNoDatagrams
}

type brokerEnd struct {
	*memconn.Conn
	network *Network
}

func (c brokerEnd) AcceptStream(ctx context.Context) (broker.Stream, error) {
	stream, err := c.Conn.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return gatedStream{stream, c.network}, nil
}

func (brokerEnd) SendDatagram(context.Context, []byte) error { return broker.ErrNoDatagrams }

func (brokerEnd) ReceiveDatagram(context.Context) ([]byte, error) {
	return nil, broker.ErrNoDatagrams
}

// Stats are unknown: there are no packets.
func (brokerEnd) Stats() broker.ConnStats { return broker.ConnStats{} }

// gatedStream is a stream whose writes the network can hold.
type gatedStream struct {
	*memconn.Stream
	network *Network
}

func (s gatedStream) Write(p []byte) (int, error) {
	if s.network.Shut.Load() {
		<-s.network.Gate
	}
	return s.Stream.Write(p)
}
