package wt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
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

// dialTo dials a server of the package over a simulated network.
func dialTo(t *testing.T, config wt.ServerConfig, dialer wt.Dialer, path string) (*wt.Session, error) {
	t.Helper()
	n := newNetwork(t, 0)
	_, identity := serve(t, n.server, config)
	dialer.PacketConn = n.client
	dialer.CertificateHashes = [][32]byte{identity.Hash()}
	session, err := dialer.Dial(t.Context(), strings.TrimSuffix(serverURL, "/")+path)
	if err == nil {
		t.Cleanup(func() { _ = session.Close() })
	}
	return session, err
}

func TestServerConfig(t *testing.T) {
	identity := must(wt.NewDevIdentity())(t)
	handler := wt.HandlerFunc(func(context.Context, *wt.Request) {})
	for name, config := range map[string]wt.ServerConfig{
		"without TLS":           {Handler: handler},
		"without handler":       {TLSConfig: identity.TLSConfig()},
		"negative limit":        {Handler: handler, TLSConfig: identity.TLSConfig(), MaxHeaderBytes: -1},
		"few unidirectional":    {Handler: handler, TLSConfig: identity.TLSConfig(), MaxIncomingUniStreams: 2},
		"bad subprotocol":       {Handler: handler, TLSConfig: identity.TLSConfig(), Subprotocols: []string{"ü"}},
		"negative sessions":     {Handler: handler, TLSConfig: identity.TLSConfig(), MaxSessionsPerConnection: -1},
		"negative data":         {Handler: handler, TLSConfig: identity.TLSConfig(), MaxSessionData: -1},
		"negative timeout":      {Handler: handler, TLSConfig: identity.TLSConfig(), StreamHeaderTimeout: -1},
		"negative close":        {Handler: handler, TLSConfig: identity.TLSConfig(), CloseTimeout: -1},
		"empty subprotocol":     {Handler: handler, TLSConfig: identity.TLSConfig(), Subprotocols: []string{""}},
		"negative datagram":     {Handler: handler, TLSConfig: identity.TLSConfig(), MaxQueuedDatagrams: -5},
		"negative stream":       {Handler: handler, TLSConfig: identity.TLSConfig(), MaxIncomingStreams: -5},
		"negative idle timeout": {Handler: handler, TLSConfig: identity.TLSConfig(), IdleTimeout: -1},
		"negative keep-alive":   {Handler: handler, TLSConfig: identity.TLSConfig(), KeepAlive: -1},
		"negative threshold":    {Handler: handler, TLSConfig: identity.TLSConfig(), RetryThreshold: -1},
		"negative connections":  {Handler: handler, TLSConfig: identity.TLSConfig(), MaxConnections: -1},
		"negative for address":  {Handler: handler, TLSConfig: identity.TLSConfig(), MaxConnectionsPerAddr: -1},
		"two tracers":           {Handler: handler, TLSConfig: identity.TLSConfig(), QlogDir: "x", QUICConfig: &quic.Config{Tracer: qlog.DefaultConnectionTracer}},
		"negative uni streams":  {Handler: handler, TLSConfig: identity.TLSConfig(), MaxIncomingUniStreams: -5},
	} {
		if _, err := wt.NewServer(config); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRequestFields(t *testing.T) {
	seen := make(chan *wt.Request, 1)
	handler := wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
		if _, err := r.Accept(&wt.AcceptOptions{Status: 204, Header: http.Header{"X-Answer": {"yes"}}}); err != nil {
			t.Error(err)
		}
		seen <- r
		<-ctx.Done()
	})
	_, err := dialTo(t, wt.ServerConfig{Handler: handler}, wt.Dialer{
		Header: http.Header{"User-Agent": {"tide"}, "X-Twice": {"a", "b"}},
		Origin: "https://127.0.0.2:4433",
	}, "/a%20room/x?token=1&token=2")
	check(t, err)
	r := <-seen
	if r.Path != "/a room/x" || r.RawPath != "/a%20room/x?token=1&token=2" || len(r.Query["token"]) != 2 {
		t.Errorf("path %q, raw %q, query %v", r.Path, r.RawPath, r.Query)
	}
	if r.Origin != "https://127.0.0.2:4433" || r.Header.Get("User-Agent") != "tide" || len(r.Header.Values("X-Twice")) != 2 {
		t.Errorf("origin %q, header %v", r.Origin, r.Header)
	}
	if r.RemoteAddr.String() != "127.0.0.1:4432" || r.Draft != wt.Draft16 {
		t.Errorf("remote %v, draft %v", r.RemoteAddr, r.Draft)
	}
}

func TestReject(t *testing.T) {
	handler := wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
		if err := r.Reject(200, nil); err == nil {
			t.Error("rejected with status 200")
		}
		if err := r.Reject(http.StatusTeapot, http.Header{"Retry-After": {"5"}}); err != nil {
			t.Error(err)
		}
		if err := r.Reject(http.StatusTeapot, nil); !errors.Is(err, wt.ErrAnswered) {
			t.Errorf("a second answer: %v", err)
		}
		if _, err := r.Accept(nil); !errors.Is(err, wt.ErrAnswered) {
			t.Errorf("accepted after reject: %v", err)
		}
	})
	_, err := dialTo(t, wt.ServerConfig{Handler: handler}, wt.Dialer{}, "/")
	var rejected *wt.RejectedError
	if !errors.As(err, &rejected) || rejected.Status != http.StatusTeapot || rejected.Header.Get("Retry-After") != "5" {
		t.Fatalf("dial returned %v", err)
	}
}

func TestBadAccept(t *testing.T) {
	handler := wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
		for _, options := range []*wt.AcceptOptions{
			{Status: 404}, {Status: 199}, {Subprotocol: "not offered"},
			{Header: http.Header{"Connection": {"close"}}}, {Header: http.Header{"X": {"a\nb"}}},
		} {
			if _, err := r.Accept(options); err == nil {
				t.Errorf("accepted with %+v", options)
			}
		}
	})
	// A handler that returns without an answer refuses the request.
	_, err := dialTo(t, wt.ServerConfig{Handler: handler}, wt.Dialer{}, "/")
	var rejected *wt.RejectedError
	if !errors.As(err, &rejected) || rejected.Status != http.StatusNotFound {
		t.Fatalf("dial returned %v", err)
	}
}

func TestHandlerReturnEndsSession(t *testing.T) {
	handler := wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
		if _, err := r.Accept(nil); err != nil {
			t.Error(err)
		}
	})
	session, err := dialTo(t, wt.ServerConfig{Handler: handler}, wt.Dialer{}, "/")
	check(t, err)
	<-session.Context().Done()
	wantSessionError(t, context.Cause(session.Context()), wt.Peer, 0, "")
}

func TestOrigin(t *testing.T) {
	cases := []struct {
		origin  string
		check   func(*wt.Request) bool
		welcome bool
	}{
		{"", nil, true},
		{"https://127.0.0.2:4433", nil, true},
		{"http://127.0.0.2:4433", nil, false},
		{"https://127.0.0.2", nil, false},
		{"https://127.0.0.2:4434", nil, false},
		{"https://evil.example", nil, false},
		{"https://127.0.0.2:4433.evil.example", nil, false},
		{"null", nil, false},
		{"https://app.example", func(r *wt.Request) bool { return r.Origin == "https://app.example" }, true},
		{"https://127.0.0.2:4433", func(*wt.Request) bool { return false }, false},
	}
	for _, c := range cases {
		t.Run(c.origin, func(t *testing.T) {
			sessions := make(chan *wt.Session, 1)
			_, err := dialTo(t, wt.ServerConfig{Handler: accepting(sessions), CheckOrigin: c.check}, wt.Dialer{Origin: c.origin}, "/")
			var rejected *wt.RejectedError
			if c.welcome && err != nil || !c.welcome && (!errors.As(err, &rejected) || rejected.Status != http.StatusForbidden) {
				t.Errorf("welcome %v: dial returned %v", c.welcome, err)
			}
		})
	}
}

func TestShutdown(t *testing.T) {
	t.Run("gentle", func(t *testing.T) {
		n := newNetwork(t, 0)
		sessions := make(chan *wt.Session, 1)
		server, identity := serve(t, n.server, wt.ServerConfig{Handler: accepting(sessions)})
		dialer := wt.Dialer{CertificateHashes: [][32]byte{identity.Hash()}, PacketConn: n.client}
		client := must(dialer.Dial(t.Context(), serverURL))(t)
		<-sessions
		var closing sync.WaitGroup
		closing.Go(func() {
			<-client.Draining()
			_ = client.CloseWithError(1, "drained")
		})
		check(t, server.Shutdown(t.Context()))
		closing.Wait()
		wantSessionError(t, context.Cause(client.Context()), wt.Us, 1, "drained")
	})
	t.Run("late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t, 0)
			sessions := make(chan *wt.Session, 1)
			server, identity := serve(t, n.server, wt.ServerConfig{Handler: accepting(sessions)})
			dialer := wt.Dialer{CertificateHashes: [][32]byte{identity.Hash()}, PacketConn: n.client}
			client := must(dialer.Dial(t.Context(), serverURL))(t)
			session := <-sessions
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			began := time.Now()
			if err := server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
				t.Errorf("Shutdown returned %v after %v", err, time.Since(began))
			}
			wantSessionError(t, context.Cause(session.Context()), wt.Us, 0, "")
			check(t, client.Close())
		})
	})
}

// A session that is accepted after GOAWAY is asked to drain, after the answer.
func TestAcceptDuringShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, answer := make(chan struct{}), make(chan struct{})
		p, server := dialPeerOf(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
			close(asked)
			<-answer
			session, err := r.Accept(nil)
			if err != nil {
				t.Error(err)
				return
			}
			echo(session)
		})})
		p.control(usualSettings())
		connect := p.bidi(connectHead())
		<-asked
		done := make(chan error, 1)
		go func() { done <- server.Shutdown(t.Context()) }()
		settle()
		close(answer)
		p.wantStatus(connect, "200")
		if typ, payload := p.readFrame(connect); typ != 0 || !bytes.Equal(payload, varints(0x78ae, 0)) {
			t.Errorf("got frame %#x with %x, want WT_DRAIN_SESSION", typ, payload)
		}
		stream := p.bidi(append(varints(0x41, 0), "still served"...))
		check(t, stream.Close())
		if got := must(io.ReadAll(stream))(t); string(got) != "still served" {
			t.Errorf("echo of %q", got)
		}
		check(t, connect.Close())
		if rest := must(io.ReadAll(connect))(t); len(rest) > 0 {
			t.Errorf("after our FIN: %x", rest)
		}
		p.wantClosed(h3NoError)
		check(t, <-done)
	})
}

// A request that is on its way when the shutdown begins is rejected, so that it may
// be repeated elsewhere, even on a connection that had none.
func TestRequestMeetsShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const oneWay = 50 * time.Millisecond
		n := wttest.NewNetwork(t, wttest.Link{Latency: oneWay}, 1)
		server := wttest.Serve(t, n, wt.ServerConfig{Handler: accepting(nil)})
		p := peerOf(t, n.NewEndpoint(), server)
		settle()
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- server.Shutdown(t.Context()) }()
		time.Sleep(oneWay / 2) // the client does not have GOAWAY yet
		connect := p.bidi(connectHead())
		p.wantReset(connect, h3RequestRejected)
		check(t, p.conn.CloseWithError(h3NoError, ""))
		check(t, <-done)
		if took := time.Since(began); took > 5*oneWay {
			t.Errorf("the shutdown took %v", took)
		}

		// One that stays silent does not hold the server up.
		server = wttest.Serve(t, n, wt.ServerConfig{Handler: accepting(nil)})
		p = peerOf(t, n.NewEndpoint(), server)
		settle()
		began = time.Now()
		check(t, server.Shutdown(t.Context()))
		if took := time.Since(began); took < 4*oneWay || took > 5*oneWay {
			t.Errorf("the shutdown took %v, want two round trips of %v", took, 2*oneWay)
		}
		p.wantClosed(h3NoError)
	})
}

// Whatever moment the shutdown begins at, a client gets an answer first and only
// then what the session sends, or learns that its request was not taken.
func TestShutdownRacesAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{}, 1)
		server := wttest.Serve(t, n, wt.ServerConfig{Handler: idle})
		var peers []*peer
		for range 50 {
			p := peerOf(t, n.NewEndpoint(), server)
			p.control(usualSettings())
			peers = append(peers, p)
		}
		settle()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var clients sync.WaitGroup
		for i, p := range peers {
			clients.Go(func() {
				connect, err := p.conn.OpenStream()
				if err == nil {
					_, err = connect.Write(connectHead())
				}
				if err != nil {
					return // closed before
				}
				text, err := io.ReadAll(connect)
				var reset *quic.StreamError
				var closed *quic.ApplicationError
				switch {
				case len(text) > 0:
					if text[0] != 1 {
						t.Errorf("client %d got %x first, want HEADERS", i, text)
					}
				case errors.As(err, &reset) && reset.ErrorCode == h3RequestRejected:
				case errors.As(err, &closed) && closed.ErrorCode == h3NoError:
				default:
					t.Errorf("client %d got %v", i, err)
				}
			})
		}
		if err := server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		clients.Wait()
	})
}

func TestServeAfterClose(t *testing.T) {
	identity := must(wt.NewDevIdentity())(t)
	server := must(wt.NewServer(wt.ServerConfig{
		Addr: "127.0.0.1:0", TLSConfig: identity.TLSConfig(), Handler: wt.HandlerFunc(func(context.Context, *wt.Request) {}),
	}))(t)
	check(t, server.Close())
	check(t, server.Close())
	if err := server.ListenAndServe(); !errors.Is(err, wt.ErrServerClosed) {
		t.Errorf("ListenAndServe returned %v", err)
	}
}

// The way to a server on a real socket whose port the system chose.
func TestListenAndServe(t *testing.T) {
	identity := must(wt.NewDevIdentity())(t)
	sessions := make(chan *wt.Session, 1)
	server := must(wt.NewServer(wt.ServerConfig{Addr: "127.0.0.1:0", TLSConfig: identity.TLSConfig(), Handler: accepting(sessions)}))(t)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.ListenAndServe(); !errors.Is(err, wt.ErrServerClosed) {
			t.Errorf("ListenAndServe returned %v", err)
		}
	})
	defer serving.Wait()
	defer func() { check(t, server.Close()) }()
	addr := server.Addr(t.Context())
	dialer := wt.Dialer{CertificateHashes: [][32]byte{identity.Hash()}}
	client := must(dialer.Dial(t.Context(), "https://localhost:"+portOf(addr)+"/"))(t)
	<-sessions
	check(t, client.Close())
}

func portOf(addr net.Addr) string {
	_, port, _ := net.SplitHostPort(addr.String())
	return port
}
