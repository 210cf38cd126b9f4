package wt_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlogwriter"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// idle is a handler that keeps each session until it ends.
var idle = wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
	if _, err := r.Accept(nil); err == nil {
		<-ctx.Done()
	}
})

// settle lets everything happen that takes no more than a second. It is for
// bubbles.
func settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

// dialFrom opens a session from a new endpoint with an address.
func dialFrom(t *testing.T, n *wttest.Network, server *wttest.Server, from string) (*wt.Session, error) {
	t.Helper()
	endpoint := n.NewEndpoint()
	if from != "" {
		endpoint.Move(netip.MustParseAddrPort(from))
	}
	dialer := server.Dialer(wt.Dialer{PacketConn: endpoint})
	session, err := dialer.Dial(t.Context(), server.URL)
	if err == nil {
		t.Cleanup(func() { _ = session.Close() })
	}
	return session, err
}

// silent begins a handshake from an address that hears nothing, as a forged one
// does. It gives up when the test ends.
func silent(t *testing.T, n *wttest.Network, server *wttest.Server, from string) {
	t.Helper()
	endpoint := n.NewEndpoint()
	if from != "" {
		endpoint.Move(netip.MustParseAddrPort(from))
	}
	transport := &quic.Transport{Conn: deaf{endpoint}}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := transport.Dial(ctx, server.Endpoint.LocalAddr(), peerTLS(), peerQUIC())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("handshake of a deaf client: %v", err)
	}
	check(t, transport.Close())
}

// initialPacket is the first packet of a client (RFC 9000 §17.2.2), as far as a
// server reads it before it makes a connection: nothing in it is encrypted.
func initialPacket(id uint64) []byte {
	b := binary.BigEndian.AppendUint64([]byte{0xc3, 0, 0, 0, 1, 8}, id)
	b = append(b, 0, 0) // no source connection id, no token
	return append(b, append(varints(1200), make([]byte, 1200)...)...)
}

// deaf is a packet connection that receives nothing.
type deaf struct{ *wttest.Endpoint }

func (d deaf) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		if _, addr, err := d.Endpoint.ReadFrom(p); err != nil {
			return 0, addr, err
		}
	}
}

func peerTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}, ServerName: "localhost"}
}

func wantRefused(t *testing.T, err error) {
	t.Helper()
	var refused *quic.TransportError
	if !errors.As(err, &refused) || refused.ErrorCode != quic.ConnectionRefused || !refused.Remote {
		t.Errorf("dial returned %v, want CONNECTION_REFUSED", err)
	}
}

// wantStats compares counts. Those of packets, of which a client sends one or two
// in the beginning, only with zero: they are taken as grown if want has them so.
func wantStats(t *testing.T, server *wttest.Server, want wt.ServerStats) {
	t.Helper()
	got := server.Stats()
	for _, packets := range []struct{ got, want *uint64 }{
		{&got.Retries, &want.Retries}, {&got.RefusedFull, &want.RefusedFull}, {&got.RefusedAddr, &want.RefusedAddr},
	} {
		*packets.got, *packets.want = min(*packets.got, 1), min(*packets.want, 1)
	}
	if got != want {
		t.Errorf("server has\n%+v, want\n%+v", got, want)
	}
}

func TestMaxConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{Latency: 10 * time.Millisecond}, 1)
		server := wttest.Serve(t, n, wt.ServerConfig{Handler: idle, MaxConnections: 2, RetryThreshold: 100})
		first := must(dialFrom(t, n, server, ""))(t)
		must(dialFrom(t, n, server, ""))(t)
		_, err := dialFrom(t, n, server, "")
		wantRefused(t, err)
		wantStats(t, server, wt.ServerStats{Connections: 2, Accepted: 2, RefusedFull: 1})

		// The place of one that has ended is free, and that of a handshake which
		// nobody goes on with.
		check(t, first.Close())
		settle()
		wantStats(t, server, wt.ServerStats{Connections: 1, Accepted: 2, RefusedFull: 1})
		silent(t, n, server, "")
		wantStats(t, server, wt.ServerStats{Connections: 2, Handshakes: 1, Accepted: 3, RefusedFull: 1})
		_, err = dialFrom(t, n, server, "")
		wantRefused(t, err)
		time.Sleep(10 * time.Second)
		must(dialFrom(t, n, server, ""))(t)
		wantStats(t, server, wt.ServerStats{Connections: 2, Accepted: 4, RefusedFull: 2})
	})
}

func TestMaxConnectionsPerAddr(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{}, 1)
		server := wttest.Serve(t, n, wt.ServerConfig{Handler: idle, MaxConnectionsPerAddr: 2})
		groups := [][]string{ // three addresses that count as one
			{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"},
			{"192.0.2.2:1", "192.0.2.2:2", "192.0.2.2:3"},
			{"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8:0:0:ffff::1]:1"},
			{"[2001:db8:0:1::1]:1", "[2001:db8:0:1::1]:2", "[2001:db8:0:1::3]:1"},
			{"[fe80::1]:1", "[fe80::1]:2", "[fe80::1]:3"},
			{"[fe80::2]:1", "[fe80::2]:2", "[fe80::2]:3"},
		}
		for i, group := range groups {
			before := server.Stats()
			must(dialFrom(t, n, server, group[0]))(t)
			if got := server.Stats(); got.Retries != before.Retries {
				t.Errorf("group %d: the first client was asked for its address", i)
			}
			// From half of the limit on, the address is validated.
			last := must(dialFrom(t, n, server, group[1]))(t)
			if got := server.Stats(); got.Retries == before.Retries {
				t.Errorf("group %d: the second client was not asked for its address", i)
			}
			_, err := dialFrom(t, n, server, group[2])
			wantRefused(t, err)
			if got := server.Stats(); got.Connections != before.Connections+2 || got.RefusedAddr == before.RefusedAddr {
				t.Errorf("group %d: server has %+v", i, got)
			}
			check(t, last.Close())
			settle()
			must(dialFrom(t, n, server, group[1][:len(group[1])-1]+"9"))(t)
		}
	})
}

// Whoever forges an address does not take all places of its owner.
func TestForgedAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{}, 1)
		server := wttest.Serve(t, n, wt.ServerConfig{Handler: idle, MaxConnectionsPerAddr: 4})
		for _, from := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4", "192.0.2.1:5"} {
			silent(t, n, server, from)
		}
		if got := server.Stats(); got.Handshakes != 2 || got.Retries < 3 {
			t.Errorf("server has %+v, want 2 handshakes", got)
		}
		must(dialFrom(t, n, server, "192.0.2.1:6"))(t)
	})
}

func TestRetryThreshold(t *testing.T) {
	t.Run("always", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := wttest.NewNetwork(t, wttest.Link{}, 1)
			server := wttest.Serve(t, n, wt.ServerConfig{Handler: idle, RetryThreshold: 1})
			must(dialFrom(t, n, server, ""))(t)
			wantStats(t, server, wt.ServerStats{Connections: 1, Accepted: 1, Retries: 1})
			silent(t, n, server, "")
			if got := server.Stats(); got.Accepted != 1 || got.Retries < 2 {
				t.Errorf("server has %+v: it took a client that did not answer", got)
			}
		})
	})
	for name, c := range map[string]struct {
		config wt.ServerConfig
		free   int // handshakes without Retry
	}{
		"third":                   {wt.ServerConfig{RetryThreshold: 3}, 2},
		"default":                 {wt.ServerConfig{}, 1023},
		"half of the connections": {wt.ServerConfig{MaxConnections: 10}, 4},
		"of one connection":       {wt.ServerConfig{MaxConnections: 1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := wttest.NewNetwork(t, wttest.Link{}, 1)
				config := c.config
				config.Handler = idle
				// Handshakes last until all are there.
				config.QUICConfig = &quic.Config{HandshakeIdleTimeout: time.Minute}
				server := wttest.Serve(t, n, config)
				flood := n.NewEndpoint()
				for i := range c.free {
					must(flood.WriteTo(initialPacket(uint64(i)), server.Endpoint.LocalAddr()))(t)
					synctest.Wait()
				}
				wantStats(t, server, wt.ServerStats{Connections: c.free, Handshakes: c.free, Accepted: uint64(c.free)})
				must(dialFrom(t, n, server, ""))(t)
				wantStats(t, server, wt.ServerStats{Connections: c.free + 1, Handshakes: c.free, Accepted: uint64(c.free) + 1, Retries: 1})
				if c.free > 0 {
					time.Sleep(2 * time.Minute)
					must(dialFrom(t, n, server, ""))(t)
					wantStats(t, server, wt.ServerStats{Connections: 2, Accepted: uint64(c.free) + 2, Retries: 1})
				}
			})
		})
	}
}

// A client that brings the token of an earlier connection is not asked again.
func TestNoRetryWithToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{}, 1)
		server := wttest.Serve(t, n, wt.ServerConfig{Handler: idle, RetryThreshold: 1})
		dialer := server.Dialer(wt.Dialer{
			PacketConn: n.NewEndpoint(),
			QUICConfig: &quic.Config{TokenStore: quic.NewLRUTokenStore(1, 1), KeepAlivePeriod: time.Second},
		})
		for range 2 {
			session := must(dialer.Dial(t.Context(), server.URL))(t)
			settle()
			check(t, session.Close())
		}
		settle()
		wantStats(t, server, wt.ServerStats{Accepted: 2, Retries: 1})
	})
}

// The limits hold for all sockets of a server.
func TestSharedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{}, 1)
		server := wttest.Serve(t, n, wt.ServerConfig{Handler: idle, MaxConnections: 1, RetryThreshold: 10})
		second := n.NewEndpoint()
		served := make(chan error, 1)
		go func() { served <- server.Serve(second) }()
		must(dialFrom(t, n, server, ""))(t)
		dialer := server.Dialer(wt.Dialer{PacketConn: n.NewEndpoint()})
		_, err := dialer.Dial(t.Context(), "https://"+second.Addr().String()+"/")
		wantRefused(t, err)
		check(t, server.Close())
		if err := <-served; !errors.Is(err, wt.ErrServerClosed) {
			t.Errorf("Serve returned %v", err)
		}
		wantStats(t, server, wt.ServerStats{Accepted: 1, RefusedFull: 1})
	})
}

// What the application's GetConfigForClient returns has the same set on top as
// its QUICConfig; and its Tracer is asked.
func TestConfigForClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{}, 1)
		traced := 0
		var chosen *quic.Config
		var refusal error
		server := wttest.Serve(t, n, wt.ServerConfig{Handler: idle, QUICConfig: &quic.Config{
			KeepAlivePeriod: time.Second,
			Tracer: func(context.Context, bool, quic.ConnectionID) qlogwriter.Trace {
				traced++
				return nil
			},
			GetConfigForClient: func(*quic.ClientInfo) (*quic.Config, error) { return chosen, refusal },
		}})
		must(dialFrom(t, n, server, ""))(t)
		if traced != 1 {
			t.Errorf("tracer of the server's own configuration was asked %d times", traced)
		}
		chosen = &quic.Config{Allow0RTT: true, KeepAlivePeriod: time.Second}
		session := must(dialFrom(t, n, server, ""))(t)
		state := session.Conn().ConnectionState()
		if !state.SupportsDatagrams.Remote || !state.SupportsStreamResetPartialDelivery.Remote || traced != 1 {
			t.Errorf("the chosen configuration lacks what WebTransport needs: %+v; traced %d", state, traced)
		}
		refusal = errors.New("not welcome")
		_, err := dialFrom(t, n, server, "")
		wantRefused(t, err)
		if got := server.Stats(); got.Accepted != 2 || got.Connections != 2 {
			t.Errorf("server has %+v", got)
		}
	})
}
