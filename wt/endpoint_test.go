package wt_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// echoing is a handler that sends everything back.
var echoing = wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
	if session, err := r.Accept(nil); err == nil {
		echo(session)
	}
})

// wantEcho exchanges a stream over a session.
func wantEcho(t *testing.T, session *wt.Session) {
	t.Helper()
	stream := must(session.OpenStream(t.Context()))(t)
	must(stream.Write([]byte("echo")))(t)
	check(t, stream.Close())
	if got := must(io.ReadAll(stream))(t); string(got) != "echo" {
		t.Errorf("echo of %q", got)
	}
}

// start runs a server that the test gave its sockets, and returns it. serve is
// run on a goroutine that the test waits for, and is to return ErrServerClosed.
func start(t *testing.T, config wt.ServerConfig, serve ...func(*wt.Server) error) (*wt.Server, *wt.Identity) {
	t.Helper()
	identity := must(wt.NewDevIdentity())(t)
	config.TLSConfig = identity.TLSConfig()
	server := must(wt.NewServer(config))(t)
	var serving sync.WaitGroup
	for _, serve := range serve {
		serving.Go(func() {
			if err := serve(server); !errors.Is(err, wt.ErrServerClosed) {
				t.Errorf("server ended with %v", err)
			}
		})
	}
	t.Cleanup(func() {
		check(t, server.Close())
		serving.Wait()
	})
	return server, identity
}

// One socket of all interfaces serves IPv4 and IPv6, and counts a client by its
// IPv4 address even though the socket sees it within IPv6.
func TestDualStack(t *testing.T) {
	if loopback, err := net.ListenPacket("udp6", "[::1]:0"); err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	} else {
		check(t, loopback.Close())
	}
	seen := make(chan net.Addr, 1)
	server, identity := start(t, wt.ServerConfig{Addr: ":0", MaxConnectionsPerAddr: 1, Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
		if _, err := r.Accept(nil); err == nil {
			seen <- r.RemoteAddr
			<-ctx.Done()
		}
	})}, (*wt.Server).ListenAndServe)
	port := portOf(server.Addr(t.Context()))
	dialer := wt.Dialer{CertificateHashes: [][32]byte{identity.Hash()}}
	for _, host := range []string{"127.0.0.1", "::1"} {
		url := "https://" + net.JoinHostPort(host, port) + "/"
		session := must(dialer.Dial(t.Context(), url))(t)
		defer session.Close()
		if got, want := must(netip.ParseAddrPort((<-seen).String()))(t).Addr().Unmap().String(), host; got != want {
			t.Errorf("client at %s, want %s", got, want)
		}
		_, err := dialer.Dial(t.Context(), url)
		wantRefused(t, err)
	}
}

// Several sockets of one server.
func TestServeSockets(t *testing.T) {
	const sockets = 3
	var urls []string
	var serve []func(*wt.Server) error
	for range sockets {
		packets := must(net.ListenPacket("udp", "127.0.0.1:0"))(t)
		urls = append(urls, "https://"+packets.LocalAddr().String()+"/")
		serve = append(serve, func(s *wt.Server) error { return s.Serve(packets) })
	}
	_, identity := start(t, wt.ServerConfig{Handler: echoing}, serve...)
	dialer := wt.Dialer{CertificateHashes: [][32]byte{identity.Hash()}}
	for _, url := range urls {
		session := must(dialer.Dial(t.Context(), url))(t)
		wantEcho(t, session)
		check(t, session.Close())
	}
}

// A server and clients on both of two sockets: each accepts and dials. The
// transports outlive their servers.
func TestServeTransport(t *testing.T) {
	var transports [2]*quic.Transport
	for i := range transports {
		packets := must(net.ListenPacket("udp", "127.0.0.1:0"))(t)
		transports[i] = &quic.Transport{Conn: packets}
		defer packets.Close()
		defer transports[i].Close()
	}
	for range 2 { // the second time with other servers
		t.Run("", func(t *testing.T) {
			var hashes [][32]byte
			for _, transport := range transports {
				_, identity := start(t, wt.ServerConfig{Handler: echoing}, func(s *wt.Server) error { return s.ServeTransport(transport) })
				hashes = append(hashes, identity.Hash())
			}
			for i, transport := range transports {
				peer := transports[1-i]
				dialer := wt.Dialer{CertificateHashes: hashes, Transport: transport}
				url := "https://" + peer.Conn.LocalAddr().String() + "/"
				session := must(dialer.Dial(t.Context(), url))(t)
				if got, want := session.LocalAddr().String(), transport.Conn.LocalAddr().String(); got != want {
					t.Errorf("dialed from %s, want %s", got, want)
				}
				wantEcho(t, session)
				check(t, session.Close())
			}
		})
	}
	t.Run("second server of a transport", func(t *testing.T) {
		first, identity := start(t, wt.ServerConfig{Handler: echoing}, func(s *wt.Server) error { return s.ServeTransport(transports[0]) })
		first.Addr(t.Context())
		second := must(wt.NewServer(wt.ServerConfig{TLSConfig: identity.TLSConfig(), Handler: echoing}))(t)
		if err := second.ServeTransport(transports[0]); err == nil || errors.Is(err, wt.ErrServerClosed) {
			t.Errorf("ServeTransport returned %v", err)
		}
		check(t, second.Close())
		if err := second.ServeTransport(transports[0]); !errors.Is(err, wt.ErrServerClosed) {
			t.Errorf("ServeTransport of a closed server returned %v", err)
		}
	})
	t.Run("closed transport", func(t *testing.T) {
		transport := &quic.Transport{Conn: must(net.ListenPacket("udp", "127.0.0.1:0"))(t)}
		defer transport.Conn.Close()
		identity := must(wt.NewDevIdentity())(t)
		server := must(wt.NewServer(wt.ServerConfig{TLSConfig: identity.TLSConfig(), Handler: echoing}))(t)
		served := make(chan error, 1)
		go func() { served <- server.ServeTransport(transport) }()
		server.Addr(t.Context())
		check(t, transport.Close())
		if err := <-served; !errors.Is(err, quic.ErrTransportClosed) {
			t.Errorf("ServeTransport returned %v", err)
		}
		check(t, server.Close())
	})
}

// The threshold holds on a transport whose owner asks the server.
func TestTransportVerifiesAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{}, 1)
		endpoint := n.NewEndpoint()
		transport := &quic.Transport{Conn: endpoint}
		identity := must(wt.NewDevIdentity())(t)
		server := must(wt.NewServer(wt.ServerConfig{TLSConfig: identity.TLSConfig(), Handler: idle, RetryThreshold: 1}))(t)
		transport.VerifySourceAddress = server.VerifySourceAddress
		served := make(chan error, 1)
		go func() { served <- server.ServeTransport(transport) }()
		dialer := wt.Dialer{CertificateHashes: [][32]byte{identity.Hash()}, PacketConn: n.NewEndpoint()}
		session := must(dialer.Dial(t.Context(), "https://"+endpoint.Addr().String()+"/"))(t)
		if got := server.Stats(); got.Retries == 0 || got.Connections != 1 {
			t.Errorf("server has %+v", got)
		}
		check(t, session.Close())
		check(t, server.Close())
		<-served
		check(t, transport.Close())
	})
}

// draft-ietf-webtrans-http3-16 §3.2: a request is never taken from 0-RTT. The
// ticket is one with which the client may try, as that of a server which shares
// its ticket keys.
//
// The link's delay keeps the peer's answer away from whoever still opens streams with
// what the ticket remembers: QUIC has a data race there.
func TestNo0RTT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{Latency: 10 * time.Millisecond}, 1)
		identity := must(wt.NewDevIdentity())(t)
		shared := identity.TLSConfig()
		shared.SetSessionTicketKeys([][32]byte{{1, 2, 3}})
		shared.NextProtos = []string{"h3"}
		client := peerTLS()
		tickets := &ticketCache{ClientSessionCache: tls.NewLRUClientSessionCache(10), got: make(chan struct{}, 10)}
		client.ClientSessionCache = tickets
		transport := &quic.Transport{Conn: n.NewEndpoint()}
		defer transport.Conn.Close()
		defer transport.Close()

		// A foreign server gives the ticket, and takes 0-RTT itself. It has the stream
		// limits of the server, because a ticket is of no use with others.
		server := &quic.Transport{Conn: n.NewEndpoint()}
		defer server.Conn.Close()
		defer server.Close()
		addr := server.Conn.LocalAddr()
		taken := func() bool {
			foreign := &quic.Config{
				EnableDatagrams: true, EnableStreamResetPartialDelivery: true, Allow0RTT: true,
				MaxIncomingStreams: 1024, MaxIncomingUniStreams: 1024,
			}
			listener := must(server.ListenEarly(shared, foreign))(t)
			defer listener.Close()
			q := must(transport.DialEarly(t.Context(), addr, client, peerQUIC()))(t)
			must(listener.Accept(t.Context()))(t)
			<-q.HandshakeComplete()
			<-tickets.got
			accepted := q.ConnectionState().Used0RTT
			check(t, q.CloseWithError(0, ""))
			return accepted
		}
		if taken() {
			t.Fatal("0-RTT without a ticket")
		}
		if !taken() {
			t.Fatal("the foreign server took no 0-RTT, so the test tests nothing")
		}

		refusing := must(wt.NewServer(wt.ServerConfig{TLSConfig: shared, Handler: idle, QUICConfig: &quic.Config{
			Allow0RTT:          true,
			GetConfigForClient: func(*quic.ClientInfo) (*quic.Config, error) { return &quic.Config{Allow0RTT: true}, nil },
		}}))(t)
		served := make(chan error, 1)
		go func() { served <- refusing.ServeTransport(server) }()
		refusing.Addr(t.Context())
		q := must(transport.DialEarly(t.Context(), addr, client, peerQUIC()))(t)
		// Whichever of these calls learns of it first.
		answer := func() error {
			control, err := q.OpenUniStream()
			if err != nil {
				return err
			}
			if _, err := control.Write(append(varints(0), usualSettings()...)); err != nil {
				return err
			}
			stream, err := q.OpenStream()
			if err != nil {
				return err
			}
			if _, err := stream.Write(connectHead()); err != nil {
				return err
			}
			_, err = stream.Read(make([]byte, 1))
			return err
		}
		if err := answer(); !errors.Is(err, quic.Err0RTTRejected) {
			t.Errorf("the answer in 0-RTT: %v", err)
		}
		// In 1-RTT it is served, on the same connection.
		q = must(q.NextConnection(t.Context()))(t)
		late := &peer{t: t, conn: q}
		late.session()
		if state := q.ConnectionState(); state.Used0RTT || !state.TLS.DidResume {
			t.Errorf("used 0-RTT %v, resumed %v", state.Used0RTT, state.TLS.DidResume)
		}
		if got := refusing.Stats(); got.Accepted != 1 {
			t.Errorf("server has %+v", got)
		}
		check(t, q.CloseWithError(0, ""))
		check(t, refusing.Close())
		<-served
	})
}

// A client that moves to another network takes its session with it.
func TestMigration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{Latency: 5 * time.Millisecond}, 1)
		sessions := make(chan *wt.Session, 1)
		server := wttest.Serve(t, n, wt.ServerConfig{Handler: accepting(sessions)})
		home := n.NewEndpoint()
		dialer := server.Dialer(wt.Dialer{PacketConn: home})
		client := must(dialer.Dial(t.Context(), server.URL))(t)
		serverSide := <-sessions
		settle()
		want := func(text string, addr netip.AddrPort) {
			t.Helper()
			check(t, client.SendDatagram(t.Context(), []byte(text)))
			if got := must(serverSide.ReceiveDatagram(t.Context()))(t); string(got) != text {
				t.Errorf("server received %q, want %q", got, text)
			}
			settle()
			if got := serverSide.RemoteAddr().String(); got != addr.String() {
				t.Errorf("%s: client at %s, want %s", text, got, addr)
			}
			check(t, serverSide.SendDatagram(t.Context(), []byte(text)))
			if got := must(client.ReceiveDatagram(t.Context()))(t); string(got) != text {
				t.Errorf("client received %q, want %q", got, text)
			}
		}
		want("at home", home.Addr())

		// It chooses another network itself, while a stream is open.
		away := n.NewEndpoint()
		transport := &quic.Transport{Conn: away}
		defer transport.Close()
		stream := must(client.OpenStream(t.Context()))(t)
		must(stream.Write([]byte("begun ")))(t)
		path := must(client.Conn().AddPath(transport))(t)
		check(t, path.Probe(t.Context()))
		check(t, path.Switch())
		want("away", away.Addr())
		if got := client.LocalAddr().String(); got != away.Addr().String() {
			t.Errorf("client's own address is %s, want %s", got, away.Addr())
		}
		home.Partition()
		must(stream.Write([]byte("and ended")))(t)
		check(t, stream.Close())
		accepted := must(serverSide.AcceptStream(t.Context()))(t)
		if got := must(io.ReadAll(accepted))(t); string(got) != "begun and ended" {
			t.Errorf("server read %q", got)
		}
		want("away alone", away.Addr())

		// A translator on the way changes its address, unknown to the client.
		for _, rebound := range []string{"198.51.100.7:7", "203.0.113.8:8"} {
			addr := netip.MustParseAddrPort(rebound)
			away.Move(addr)
			want("rebound", addr)
		}
		if serverSide.Context().Err() != nil || client.Context().Err() != nil {
			t.Error("the session has ended")
		}
		home.Heal()
		check(t, client.Close())
	})
}

// A translator that forgets its binding, with sockets of the system.
func TestRebinding(t *testing.T) {
	sessions := make(chan *wt.Session, 1)
	server, identity := start(t, wt.ServerConfig{Addr: "127.0.0.1:0", Handler: accepting(sessions)}, (*wt.Server).ListenAndServe)
	translator := newTranslator(t, server.Addr(t.Context()))
	dialer := wt.Dialer{CertificateHashes: [][32]byte{identity.Hash()}}
	client := must(dialer.Dial(t.Context(), "https://"+translator.inside.LocalAddr().String()+"/"))(t)
	defer client.Close()
	serverSide := <-sessions
	before := serverSide.RemoteAddr().String()
	for range 3 {
		now := translator.rebind()
		// A datagram may be lost on the old path; a stream is not.
		stream := must(client.OpenUniStream(t.Context()))(t)
		must(stream.Write([]byte("moved")))(t)
		check(t, stream.Close())
		if got := must(io.ReadAll(must(serverSide.AcceptUniStream(t.Context()))(t)))(t); string(got) != "moved" {
			t.Errorf("server read %q", got)
		}
		answer := must(serverSide.OpenUniStream(t.Context()))(t)
		must(answer.Write([]byte("seen")))(t)
		check(t, answer.Close())
		if got := must(io.ReadAll(must(client.AcceptUniStream(t.Context()))(t)))(t); string(got) != "seen" {
			t.Errorf("client read %q", got)
		}
		if got := serverSide.RemoteAddr().String(); got != now || got == before {
			t.Errorf("client at %s, want %s", got, now)
		}
		before = now
	}
}

// translator is a UDP relay with one client, as an address translator.
type translator struct {
	t      *testing.T
	inside net.PacketConn
	server net.Addr
	relays sync.WaitGroup

	mu      sync.Mutex
	client  net.Addr
	outside net.PacketConn
}

func newTranslator(t *testing.T, server net.Addr) *translator {
	t.Helper()
	tr := &translator{t: t, server: server, inside: must(net.ListenPacket("udp", "127.0.0.1:0"))(t)}
	tr.rebind()
	tr.relays.Go(func() {
		b := make([]byte, 2048)
		for {
			k, from, err := tr.inside.ReadFrom(b)
			if err != nil {
				return
			}
			tr.mu.Lock()
			tr.client = from
			_, _ = tr.outside.WriteTo(b[:k], tr.server)
			tr.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = tr.inside.Close()
		tr.mu.Lock()
		_ = tr.outside.Close()
		tr.mu.Unlock()
		tr.relays.Wait()
	})
	return tr
}

// rebind takes a new port for what the client sends, which it returns, and
// forgets the old one.
func (tr *translator) rebind() string {
	tr.t.Helper()
	outside := must(net.ListenPacket("udp", "127.0.0.1:0"))(tr.t)
	tr.mu.Lock()
	old := tr.outside
	tr.outside = outside
	tr.mu.Unlock()
	if old != nil {
		check(tr.t, old.Close())
	}
	tr.relays.Go(func() {
		b := make([]byte, 2048)
		for {
			k, _, err := outside.ReadFrom(b)
			if err != nil {
				return
			}
			tr.mu.Lock()
			client := tr.client
			tr.mu.Unlock()
			_, _ = tr.inside.WriteTo(b[:k], client)
		}
	})
	return outside.LocalAddr().String()
}

// A connection without packets ends after the idle timeout of either side, and
// keep-alive prevents that.
func TestIdleTimeouts(t *testing.T) {
	none := &quic.Config{MaxIdleTimeout: time.Hour} // and no keep-alive
	for name, c := range map[string]struct {
		server wt.ServerConfig
		client wt.Dialer
		lives  time.Duration // 0: for an hour
	}{
		"default keep-alive":     {wt.ServerConfig{}, wt.Dialer{QUICConfig: none}, 0},
		"of the client":          {wt.ServerConfig{QUICConfig: none}, wt.Dialer{}, 0},
		"timeout":                {wt.ServerConfig{IdleTimeout: 7 * time.Second, QUICConfig: none}, wt.Dialer{QUICConfig: none}, 7 * time.Second},
		"timeout of the client":  {wt.ServerConfig{QUICConfig: none}, wt.Dialer{IdleTimeout: 7 * time.Second, QUICConfig: none}, 7 * time.Second},
		"of QUICConfig":          {wt.ServerConfig{QUICConfig: &quic.Config{MaxIdleTimeout: 9 * time.Second}}, wt.Dialer{QUICConfig: none}, 9 * time.Second},
		"keep-alive":             {wt.ServerConfig{IdleTimeout: 7 * time.Second, KeepAlive: 3 * time.Second, QUICConfig: none}, wt.Dialer{QUICConfig: none}, 0},
		"that is too long":       {wt.ServerConfig{IdleTimeout: 7 * time.Second, KeepAlive: time.Minute}, wt.Dialer{QUICConfig: none}, 0},
		"the client's":           {wt.ServerConfig{IdleTimeout: 7 * time.Second, QUICConfig: none}, wt.Dialer{KeepAlive: time.Second, QUICConfig: none}, 0},
		"timeouts of both sides": {wt.ServerConfig{IdleTimeout: 7 * time.Second, QUICConfig: none}, wt.Dialer{IdleTimeout: 5 * time.Second, QUICConfig: none}, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, 0)
				sessions := make(chan *wt.Session, 1)
				c.server.Handler = accepting(sessions)
				_, identity := serve(t, n.server, c.server)
				c.client.CertificateHashes, c.client.PacketConn = [][32]byte{identity.Hash()}, n.client
				client := must(c.client.Dial(t.Context(), serverURL))(t)
				session := <-sessions
				began := time.Now()
				select {
				case <-session.Context().Done():
				case <-time.After(time.Hour):
				}
				lived := time.Since(began).Round(time.Second)
				if c.lives == 0 && session.Context().Err() != nil || c.lives != 0 && lived != c.lives {
					t.Errorf("session lived for %v, want %v", lived, c.lives)
				}
				var timeout *quic.IdleTimeoutError
				if c.lives != 0 && !errors.As(context.Cause(session.Context()), &timeout) {
					t.Errorf("session ended with %v", context.Cause(session.Context()))
				}
				_ = client.Close()
			})
		})
	}
}

// With the logged keys a recording can be read: they are those of the handshake
// and of the data, and both sides log the same.
func TestKeyLog(t *testing.T) {
	var serverLog, clientLog bytes.Buffer
	identity := must(wt.NewDevIdentity())(t)
	config := identity.TLSConfig()
	config.KeyLogWriter = &serverLog
	n := newNetwork(t, 0)
	server, _ := serve(t, n.server, wt.ServerConfig{TLSConfig: config, Handler: idle})
	dialer := wt.Dialer{
		PacketConn: n.client, CertificateHashes: [][32]byte{identity.Hash()},
		TLSConfig: &tls.Config{KeyLogWriter: &clientLog},
	}
	session := must(dialer.Dial(t.Context(), serverURL))(t)
	check(t, session.Close())
	check(t, server.Close())
	if clientLog.String() != serverLog.String() {
		t.Errorf("client logged\n%sserver\n%s", &clientLog, &serverLog)
	}
	for _, label := range []string{
		"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0",
	} {
		if !strings.Contains(serverLog.String(), label+" ") {
			t.Errorf("no %s in\n%s", label, &serverLog)
		}
	}
}

// events returns how often each event is in the qlog files of a side.
func events(t *testing.T, dir, side string) (names map[string]int, files int) {
	t.Helper()
	names = make(map[string]int)
	for _, path := range must(filepath.Glob(filepath.Join(dir, "*_"+side+".sqlog")))(t) {
		files++
		for record := range bytes.SplitSeq(must(os.ReadFile(path))(t), []byte{0x1e}) {
			if len(record) == 0 {
				continue
			}
			var event struct{ Name string }
			if err := json.Unmarshal(record, &event); err != nil {
				t.Errorf("%s: %v in %s", path, err, record)
			}
			names[event.Name]++
		}
	}
	return names, files
}

func TestQlog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	n := newNetwork(t, 0)
	server, identity := serve(t, n.server, wt.ServerConfig{Handler: echoing, QlogDir: dir})
	dialer := wt.Dialer{PacketConn: n.client, CertificateHashes: [][32]byte{identity.Hash()}, QlogDir: dir}
	session := must(dialer.Dial(t.Context(), serverURL))(t)
	wantEcho(t, session)
	wantEvents := func(side string) {
		t.Helper()
		names, files := events(t, dir, side)
		if files != 1 {
			t.Errorf("%d files of the %s", files, side)
		}
		for _, name := range []string{"transport:connection_started", "transport:packet_sent", "transport:packet_received", "transport:connection_closed"} {
			if names[name] == 0 {
				t.Errorf("no event %s of the %s among %v", name, side, names)
			}
		}
	}
	check(t, session.Close())
	wantEvents("client") // it is written once Close has returned
	check(t, server.Close())
	wantEvents("server")

	dialer.QUICConfig = &quic.Config{Tracer: qlog.DefaultConnectionTracer}
	if _, err := dialer.Dial(t.Context(), serverURL); err == nil {
		t.Error("dialed with two tracers")
	}
}

// A directory that cannot be made costs the trace, not the connection.
func TestQlogFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(file, nil, 0o600))
	_, err := dialTo(t, wt.ServerConfig{Handler: echoing, QlogDir: file}, wt.Dialer{}, "/")
	check(t, err)
}
