// Package wttest helps to test what is built on package wt.
package wttest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/tidewire/tidewire/wt"
)

// URL is where the server of a [Pair] is, on the simulated network.
const URL = "https://127.0.0.2:4433/"

// Options change what a [Pair] is made of. The zero value is the default.
type Options struct {
	// Latency delays each packet on its way to either side. The default is none.
	Latency time.Duration
	// Server is the server's configuration. Its TLSConfig and Handler are
	// replaced.
	Server wt.ServerConfig
	// Dialer is the client's. Its CertificateHashes and PacketConn are replaced.
	Dialer wt.Dialer
	// Accept are the options that the server accepts with.
	Accept *wt.AcceptOptions
}

// Pair returns the two ends of a new session. They are joined by a simulated
// network without delay and loss, so that no socket is used, and end with the
// test, as does everything beneath them. Inside a bubble of testing/synctest it
// works the same, in virtual time; call it within the bubble, with the T of the
// bubble.
func Pair(t testing.TB) (client, server *wt.Session) {
	t.Helper()
	return PairWith(t, Options{})
}

// PairWith is [Pair] with options.
func PairWith(t testing.TB, o Options) (client, server *wt.Session) {
	t.Helper()
	identity, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatalf("wttest: %v", err)
	}
	network := &simnet.Simnet{Router: &simnet.PerfectRouter{}}
	link := simnet.NodeBiDiLinkSettings{Latency: o.Latency}
	clientConn := network.NewEndpoint(&net.UDPAddr{IP: net.IP{127, 0, 0, 1}, Port: 4432}, link)
	serverConn := network.NewEndpoint(&net.UDPAddr{IP: net.IP{127, 0, 0, 2}, Port: 4433}, link)
	if err := network.Start(); err != nil {
		t.Fatalf("wttest: %v", err)
	}

	accepted := make(chan *wt.Session, 1)
	config := o.Server
	config.TLSConfig = identity.TLSConfig()
	config.QUICConfig = keepAlive(config.QUICConfig)
	config.Handler = wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
		session, err := r.Accept(o.Accept)
		if err != nil {
			t.Errorf("wttest: accept: %v", err)
			return
		}
		accepted <- session
		<-ctx.Done()
	})
	s, err := wt.NewServer(config)
	if err != nil {
		t.Fatalf("wttest: %v", err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(serverConn) })
	t.Cleanup(func() {
		if client != nil {
			_ = client.Close()
		}
		_ = s.Close()
		serving.Wait()
		_ = clientConn.Close()
		_ = network.Close()
	})

	dialer := o.Dialer
	dialer.CertificateHashes = [][32]byte{identity.Hash()}
	dialer.PacketConn = clientConn
	dialer.QUICConfig = keepAlive(dialer.QUICConfig)
	if client, err = dialer.Dial(t.Context(), URL); err != nil {
		t.Fatalf("wttest: %v", err)
	}
	select {
	case server = <-accepted:
	case <-t.Context().Done():
		t.Fatalf("wttest: %v", context.Cause(t.Context()))
	}
	return client, server
}

// keepAlive lets a pair outlive long spans of virtual time, unless the test has
// decided about timeouts.
func keepAlive(base *quic.Config) *quic.Config {
	if base != nil {
		return base
	}
	return &quic.Config{KeepAlivePeriod: 10 * time.Second}
}
