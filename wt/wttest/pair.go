package wttest

import (
	"context"
	"testing"
	"time"

	"github.com/tidewire/tidewire/wt"
)

// Options change what a [Pair] is made of. The zero value is the default.
type Options struct {
	// Latency delays each packet on its way to either side, beside that of Link.
	// The default is none.
	Latency time.Duration
	// Link are the conditions both ways. The default is a perfect link.
	Link Link
	// Seed determines what is random in Link.
	Seed uint64
	// Network, where it is not nil, joins the two in place of a new network of
	// Latency, Link and Seed. It serves any number of pairs.
	Network *Network
	// Server is the server's configuration. Its TLSConfig and Handler are
	// replaced.
	Server wt.ServerConfig
	// Dialer is the client's. Its CertificateHashes are replaced, and its
	// PacketConn unless it is an [Endpoint] of Network.
	Dialer wt.Dialer
	// Accept are the options that the server accepts with.
	Accept *wt.AcceptOptions
}

// Pair returns the two ends of a new session. They are joined by a simulated
// network without delay and loss, so that no socket is used, and end with the
// test, as does everything beneath them.
func Pair(t testing.TB) (client, server *wt.Session) {
	t.Helper()
	return PairWith(t, Options{})
}

// PairWith is [Pair] with options. Under loss it may take seconds, of virtual
// time in a bubble of testing/synctest.
func PairWith(t testing.TB, o Options) (client, server *wt.Session) {
	t.Helper()
	network := o.Network
	if network == nil {
		o.Link.Latency += o.Latency
		network = NewNetwork(t, o.Link, o.Seed)
	}
	accepted := make(chan *wt.Session, 1)
	config := o.Server
	config.TLSConfig = nil
	config.Handler = wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
		session, err := r.Accept(o.Accept)
		if err != nil {
			t.Errorf("wttest: accept: %v", err)
			return
		}
		accepted <- session
		<-ctx.Done()
	})
	host := Serve(t, network, config)
	t.Cleanup(func() {
		network.calm()
		if client != nil {
			_ = client.Close()
		}
	})
	if _, ok := o.Dialer.PacketConn.(*Endpoint); !ok {
		o.Dialer.PacketConn = nil
	}
	var err error
	if client, err = host.Dialer(o.Dialer).Dial(t.Context(), host.URL); err != nil {
		t.Fatalf("wttest: %v", err)
	}
	select {
	case server = <-accepted:
	case <-t.Context().Done():
		t.Fatalf("wttest: %v", context.Cause(t.Context()))
	}
	return client, server
}
