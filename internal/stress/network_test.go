package stress

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/internal/memnet"
	"github.com/tidewire/tidewire/wt"
)

// network is how clients reach the broker.
type network interface {
	// serve makes b reachable. stop closes it, and waits.
	serve(t *testing.T, b *broker.Broker) (stop func())
	dial(ctx context.Context, url string) (client.Conn, error)
}

// inMemory is a network within the process, without datagrams.
type inMemory struct{ memnet.Network }

func (n *inMemory) serve(_ *testing.T, b *broker.Broker) func() { return n.Serve(b) }

func (n *inMemory) dial(ctx context.Context, url string) (client.Conn, error) {
	return n.Dial(ctx, url)
}

// loopback is WebTransport over UDP on this machine.
type loopback struct {
	identity *wt.Identity
	addr     string
}

func (n *loopback) serve(t *testing.T, b *broker.Broker) func() {
	t.Helper()
	identity, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := wt.NewServer(wt.ServerConfig{TLSConfig: identity.TLSConfig(), Handler: b})
	if err != nil {
		t.Fatal(err)
	}
	n.identity, n.addr = identity, packets.LocalAddr().String()
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(packets) })
	return sync.OnceFunc(func() {
		_ = b.Close()
		_ = srv.Close()
		serving.Wait()
		_ = packets.Close()
	})
}

func (n *loopback) dial(ctx context.Context, _ string) (client.Conn, error) {
	d := wt.Dialer{CertificateHashes: [][32]byte{n.identity.Hash()}}
	session, err := d.Dial(ctx, "https://"+n.addr+"/tidewire")
	if err != nil {
		return nil, err
	}
	return client.WebTransport(session), nil
}

// line is a client's way to the broker. It can be cut; the client then dials again.
type line struct {
	network network

	mu   sync.Mutex
	conn client.Conn // the newest; guarded by mu
}

func (l *line) dial(ctx context.Context, url string) (client.Conn, error) {
	conn, err := l.network.dial(ctx, url)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = conn
	return conn, nil
}

// cut ends the connection with a code that means nothing to either side.
func (l *line) cut() {
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	if conn != nil {
		_ = conn.CloseWithError(7, "cut")
	}
}
