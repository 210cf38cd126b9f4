package wttest

import (
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// Server is a server on a simulated network.
type Server struct {
	*wt.Server
	// Endpoint is its socket.
	Endpoint *Endpoint
	// URL is that of its root, with the slash at the end: a path goes behind it
	// without another one, as in URL+"chat".
	URL string
	// Identity holds its certificate.
	Identity *wt.Identity

	network *Network
}

// Serve starts a server on the network, with a certificate of its own unless
// config gives one, and closes it when the test ends. A config without
// QUICConfig gets one with a keep-alive, so that sessions outlive long spans of
// virtual time.
func Serve(t testing.TB, n *Network, config wt.ServerConfig) *Server {
	t.Helper()
	identity, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatalf("wttest: %v", err)
	}
	if config.TLSConfig == nil {
		config.TLSConfig = identity.TLSConfig()
	}
	config.QUICConfig = keepAlive(config.QUICConfig)
	server, err := wt.NewServer(config)
	if err != nil {
		t.Fatalf("wttest: %v", err)
	}
	endpoint := n.NewEndpoint()
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(endpoint) }) // it closes the endpoint
	t.Cleanup(func() {
		n.calm()
		_ = server.Close()
		serving.Wait()
	})
	return &Server{
		Server:   server,
		Endpoint: endpoint,
		URL:      "https://" + endpoint.Addr().String() + "/",
		Identity: identity,
		network:  n,
	}
}

// Dialer returns base with what it needs to reach the server: the hash of its
// certificate, a keep-alive unless base has a QUICConfig, and a new endpoint
// unless base has a PacketConn. It serves one session at a time.
func (s *Server) Dialer(base wt.Dialer) *wt.Dialer {
	base.CertificateHashes = [][32]byte{s.Identity.Hash()}
	base.QUICConfig = keepAlive(base.QUICConfig)
	if base.PacketConn == nil {
		base.PacketConn = s.network.NewEndpoint()
	}
	return &base
}

// keepAlive lets a session outlive long spans of virtual time, unless the test
// has decided about timeouts.
func keepAlive(base *quic.Config) *quic.Config {
	if base != nil {
		return base
	}
	return &quic.Config{KeepAlivePeriod: 10 * time.Second}
}
