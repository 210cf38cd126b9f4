package wt_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/tidewire/tidewire/wt"
)

// names is a resolver with an answer for each family, which comes after a time.
type names struct {
	addrs4, addrs6 []string
	after4, after6 time.Duration
	err            error
}

func (n names) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if host != "tide.example" {
		return nil, fmt.Errorf("looked up %q", host)
	}
	addrs, after := n.addrs4, n.after4
	switch network {
	case "ip6":
		addrs, after = n.addrs6, n.after6
	case "ip4":
	default:
		return nil, fmt.Errorf("looked up network %q", network)
	}
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	found := make([]netip.Addr, 0, len(addrs))
	for _, addr := range addrs {
		found = append(found, netip.MustParseAddr(addr))
	}
	return found, n.err
}

// crossroads is a router that swallows what is for nobody, and takes note of when
// each destination was first sent to.
type crossroads struct {
	simnet.PerfectRouter
	began time.Time

	mu    sync.Mutex
	first []string // "address at time since began"
	seen  map[string]bool
}

func (c *crossroads) SendPacket(p simnet.Packet) error {
	c.mu.Lock()
	to := p.To.(*net.UDPAddr).AddrPort().Addr().Unmap().String()
	if !c.seen[to] && to != "192.0.2.100" {
		c.seen[to] = true
		c.first = append(c.first, fmt.Sprintf("%s at %v", to, time.Since(c.began)))
	}
	c.mu.Unlock()
	_ = c.PerfectRouter.SendPacket(p) // an error says that there is nobody
	return nil
}

func (c *crossroads) attempts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.first)
}

// host is a server at an address of the crossroads.
type host struct {
	addr    string
	latency time.Duration // of what it receives
	config  *tls.Config   // nil for that of the test's identity
}

// dialNames dials https://tide.example:4433/ by resolver, with servers at hosts,
// and returns what the dial returned, after which time, and which addresses were
// tried when. It is called in a bubble.
func dialNames(t *testing.T, dialer wt.Dialer, hosts ...host) (session *wt.Session, took time.Duration, attempts []string, err error) {
	t.Helper()
	router := &crossroads{seen: make(map[string]bool)}
	network := &simnet.Simnet{Router: router}
	// The client waits for nothing on its side of the network.
	client := network.NewEndpoint(&net.UDPAddr{IP: net.IP{192, 0, 2, 100}, Port: 1000}, simnet.NodeBiDiLinkSettings{})
	identity := must(wt.NewDevIdentity("tide.example"))(t)
	ends := make([]*simnet.SimConn, len(hosts))
	for i, h := range hosts {
		addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(h.addr), 4433))
		ends[i] = network.NewEndpoint(addr, simnet.NodeBiDiLinkSettings{Latency: h.latency})
	}
	check(t, network.Start())
	t.Cleanup(func() {
		for _, end := range append(ends, client) {
			_ = end.Close()
		}
		_ = network.Close()
	})
	for i, h := range hosts {
		if h.config == nil {
			h.config = identity.TLSConfig()
		}
		serve(t, ends[i], wt.ServerConfig{TLSConfig: h.config, Handler: accepting(make(chan *wt.Session, 1))})
	}
	dialer.PacketConn = client
	dialer.CertificateHashes = [][32]byte{identity.Hash()}
	router.began = time.Now()
	session, err = dialer.Dial(t.Context(), "https://tide.example:4433/")
	took = time.Since(router.began)
	if session != nil {
		t.Cleanup(func() { _ = session.Close() })
	}
	return session, took, router.attempts(), err
}

// RFC 8305: which addresses are tried, in which order, and when.
func TestHappyEyeballs(t *testing.T) {
	const ms = time.Millisecond
	wrong := must(wt.NewDevIdentity())(t).TLSConfig()
	cases := map[string]struct {
		names    names
		hosts    []host
		attempts []string
		winner   string // "" if none
	}{
		"IPv6 first": {
			names:    names{addrs6: []string{"2001:db8::1"}, addrs4: []string{"192.0.2.1"}},
			hosts:    []host{{addr: "2001:db8::1"}, {addr: "192.0.2.1"}},
			attempts: []string{"2001:db8::1 at 0s"},
			winner:   "2001:db8::1",
		},
		"IPv4 after 250 ms of silence": {
			names:    names{addrs6: []string{"2001:db8::1"}, addrs4: []string{"192.0.2.1"}},
			hosts:    []host{{addr: "192.0.2.1"}},
			attempts: []string{"2001:db8::1 at 0s", "192.0.2.1 at 250ms"},
			winner:   "192.0.2.1",
		},
		"families take turns": {
			names: names{
				addrs6: []string{"2001:db8::1", "2001:db8::2", "2001:db8::3"},
				addrs4: []string{"192.0.2.1", "192.0.2.2"},
			},
			hosts: []host{{addr: "2001:db8::3"}},
			attempts: []string{
				"2001:db8::1 at 0s", "192.0.2.1 at 250ms", "2001:db8::2 at 500ms",
				"192.0.2.2 at 750ms", "2001:db8::3 at 1s",
			},
			winner: "2001:db8::3",
		},
		"a failure begins the next at once": {
			names:    names{addrs6: []string{"2001:db8::1"}, addrs4: []string{"192.0.2.1"}},
			hosts:    []host{{addr: "2001:db8::1", latency: 40 * ms, config: wrong}, {addr: "192.0.2.1"}},
			attempts: []string{"2001:db8::1 at 0s", "192.0.2.1 at 40ms"},
			winner:   "192.0.2.1",
		},
		"the first handshake wins, not the first attempt": {
			names:    names{addrs6: []string{"2001:db8::1"}, addrs4: []string{"192.0.2.1"}},
			hosts:    []host{{addr: "2001:db8::1", latency: 400 * ms}, {addr: "192.0.2.1", latency: 10 * ms}},
			attempts: []string{"2001:db8::1 at 0s", "192.0.2.1 at 250ms"},
			winner:   "192.0.2.1",
		},
		"IPv4 waits 50 ms for the names of IPv6": {
			names:    names{addrs6: []string{"2001:db8::1"}, after6: 49 * ms, addrs4: []string{"192.0.2.1"}},
			hosts:    []host{{addr: "2001:db8::1"}, {addr: "192.0.2.1"}},
			attempts: []string{"2001:db8::1 at 49ms"},
			winner:   "2001:db8::1",
		},
		"and no longer": {
			names:    names{addrs6: []string{"2001:db8::1"}, after6: 100 * ms, addrs4: []string{"192.0.2.1"}},
			hosts:    []host{{addr: "2001:db8::1"}},
			attempts: []string{"192.0.2.1 at 50ms", "2001:db8::1 at 300ms"},
			winner:   "2001:db8::1",
		},
		"a name without IPv6": {
			names:    names{addrs4: []string{"192.0.2.1"}, after6: 5 * ms},
			hosts:    []host{{addr: "192.0.2.1"}},
			attempts: []string{"192.0.2.1 at 5ms"},
			winner:   "192.0.2.1",
		},
		"a name without IPv4, late": {
			names:    names{addrs6: []string{"2001:db8::1"}, after4: time.Second},
			hosts:    []host{{addr: "2001:db8::1", latency: 10 * ms}},
			attempts: []string{"2001:db8::1 at 0s"},
			winner:   "2001:db8::1",
		},
		"names that come while an attempt waits": {
			names:    names{addrs6: []string{"2001:db8::1"}, addrs4: []string{"192.0.2.1"}, after4: 400 * ms},
			hosts:    []host{{addr: "192.0.2.1"}},
			attempts: []string{"2001:db8::1 at 0s", "192.0.2.1 at 400ms"},
			winner:   "192.0.2.1",
		},
		"this machine is 127.0.0.1 rather than ::1": {
			names:    names{addrs6: []string{"::1"}, addrs4: []string{"127.0.0.1"}, after4: 10 * ms},
			hosts:    []host{{addr: "127.0.0.1"}, {addr: "::1"}},
			attempts: []string{"127.0.0.1 at 10ms"},
			winner:   "127.0.0.1",
		},
		"and ::1 where nothing else is": {
			names:    names{addrs6: []string{"::1"}, addrs4: []string{"127.0.0.1"}, after6: 10 * ms},
			hosts:    []host{{addr: "::1"}},
			attempts: []string{"127.0.0.1 at 0s", "::1 at 250ms"},
			winner:   "::1",
		},
		"addresses of IPv4 in the form of IPv6": {
			names:    names{addrs4: []string{"::ffff:192.0.2.1"}, addrs6: []string{"::ffff:192.0.2.1"}},
			hosts:    []host{{addr: "192.0.2.1"}},
			attempts: []string{"192.0.2.1 at 0s"},
			winner:   "192.0.2.1",
		},
		"not more than 8 addresses of a family": {
			names: names{addrs4: []string{
				"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.7", "192.0.2.8", "192.0.2.9",
			}},
			attempts: []string{
				"192.0.2.1 at 0s", "192.0.2.2 at 250ms", "192.0.2.3 at 500ms", "192.0.2.4 at 750ms",
				"192.0.2.5 at 1s", "192.0.2.6 at 1.25s", "192.0.2.7 at 1.5s", "192.0.2.8 at 1.75s",
			},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				session, took, attempts, err := dialNames(t, wt.Dialer{Resolver: c.names}, c.hosts...)
				if !slices.Equal(attempts, c.attempts) {
					t.Errorf("tried %q, want %q", attempts, c.attempts)
				}
				if c.winner == "" {
					var failed *wt.DialError
					if !errors.As(err, &failed) || failed.Step != wt.StepConnect || !errors.Is(err, context.DeadlineExceeded) || took != 10*time.Second {
						t.Errorf("dial returned %v after %v", err, took)
					}
					return
				}
				check(t, err)
				if got := session.RemoteAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().String(); got != c.winner {
					t.Errorf("connected to %s, want %s", got, c.winner)
				}
			})
		})
	}
}

// Where two handshakes complete, one connection is left.
func TestHappyEyeballsLoser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &simnet.Simnet{Router: &simnet.PerfectRouter{}}
		client := network.NewEndpoint(&net.UDPAddr{IP: net.IP{192, 0, 2, 100}, Port: 1000}, simnet.NodeBiDiLinkSettings{})
		identity := must(wt.NewDevIdentity())(t)
		config := identity.TLSConfig()
		config.NextProtos = []string{"h3"}
		accepted := make(chan *quic.Conn, 2)
		var accepting sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		var transports []*quic.Transport
		for _, h := range []host{{addr: "2001:db8::1", latency: 300 * time.Millisecond}, {addr: "192.0.2.1", latency: 50 * time.Millisecond}} {
			addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(h.addr), 4433))
			transport := &quic.Transport{Conn: network.NewEndpoint(addr, simnet.NodeBiDiLinkSettings{Latency: h.latency})}
			transports = append(transports, transport)
			listener := must(transport.ListenEarly(config, peerQUIC()))(t)
			accepting.Go(func() {
				conn, err := listener.Accept(ctx)
				if err == nil {
					accepted <- conn
				}
				<-ctx.Done()
				_ = listener.Close()
			})
		}
		check(t, network.Start())
		dialer := wt.Dialer{
			Resolver:          names{addrs6: []string{"2001:db8::1"}, addrs4: []string{"192.0.2.1"}},
			CertificateHashes: [][32]byte{identity.Hash()},
			PacketConn:        client,
			HandshakeTimeout:  2 * time.Second,
		}
		// Neither says more than its handshake, so the dial ends with its time.
		_, err := dialer.Dial(t.Context(), "https://tide.example:4433/")
		var failed *wt.DialError
		if !errors.As(err, &failed) || failed.Step != wt.StepSettings || failed.Server != "tide.example:4433" {
			t.Errorf("dial returned %v", err)
		}
		// Both ends of the two connections are gone when Dial has returned, as far as
		// this side is concerned; the servers learn of it.
		for range 2 {
			<-(<-accepted).Context().Done()
		}
		cancel()
		accepting.Wait()
		for _, transport := range transports {
			check(t, transport.Close())
		}
		_ = network.Close()
	})
}

func TestResolutionFails(t *testing.T) {
	none := &net.DNSError{Err: "no such host", Name: "tide.example", IsNotFound: true}
	for name, c := range map[string]struct {
		names names
		after time.Duration
		want  func(error) bool
	}{
		"no such host": {names{err: none}, 0, func(err error) bool {
			var dns *net.DNSError
			return errors.As(err, &dns) && dns.IsNotFound && strings.Count(err.Error(), "no such host") == 1
		}},
		"no addresses": {names{}, 0, func(err error) bool {
			var dns *net.DNSError
			return errors.As(err, &dns) && dns.IsNotFound
		}},
		"no answer": {names{after4: time.Hour, after6: time.Hour}, 10 * time.Second, func(err error) bool {
			return errors.Is(err, context.DeadlineExceeded)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, took, _, err := dialNames(t, wt.Dialer{Resolver: c.names})
				var failed *wt.DialError
				if !errors.As(err, &failed) || failed.Step != wt.StepResolve || !c.want(err) || took != c.after {
					t.Errorf("dial returned %v after %v", err, took)
				}
			})
		})
	}
}

// An address in the URL is not looked up.
func TestAddressNeedsNoResolver(t *testing.T) {
	n := newNetwork(t, 0)
	_, identity := serve(t, n.server, wt.ServerConfig{Handler: accepting(make(chan *wt.Session, 1))})
	dialer := wt.Dialer{PacketConn: n.client, CertificateHashes: [][32]byte{identity.Hash()}, Resolver: names{}}
	session := must(dialer.Dial(t.Context(), serverURL))(t)
	check(t, session.Close())
}

// Any number of sessions share a transport, which outlives them.
func TestSharedTransport(t *testing.T) {
	n := newNetwork(t, 0)
	sessions := make(chan *wt.Session, 8)
	_, identity := serve(t, n.server, wt.ServerConfig{Handler: accepting(sessions)})
	transport := &quic.Transport{Conn: n.client}
	defer transport.Close()
	dialer := wt.Dialer{Transport: transport, CertificateHashes: [][32]byte{identity.Hash()}}
	var dialing sync.WaitGroup
	for range 4 {
		dialing.Go(func() {
			session, err := dialer.Dial(t.Context(), serverURL)
			if err != nil {
				t.Errorf("dial: %v", err)
				return
			}
			if got := session.LocalAddr().String(); got != n.client.LocalAddr().String() {
				t.Errorf("session on %s", got)
			}
			if err := session.CloseWithError(3, "done"); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	dialing.Wait()
	for range 4 {
		server := <-sessions
		<-server.Context().Done()
		wantSessionError(t, context.Cause(server.Context()), wt.Peer, 3, "done")
	}
	session := must(dialer.Dial(t.Context(), serverURL))(t)
	check(t, session.Close())
}
