package wt_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

func TestSessionProperties(t *testing.T) {
	client, server := wttest.Pair(t)
	if client.Draft() != wt.Draft16 || server.Draft() != wt.Draft16 || client.Draft().String() != "draft-16" {
		t.Errorf("drafts %v and %v, want draft-16", client.Draft(), server.Draft())
	}
	if client.Request() != nil {
		t.Error("a client's session has a request")
	}
	r := server.Request()
	if r == nil || r.Authority != client.RemoteAddr().String() || r.Path != "/" || r.Protocol != "webtransport-h3" || r.Origin != "" {
		t.Errorf("server's request: %+v", r)
	}
	if server.RemoteAddr().String() != client.LocalAddr().String() || client.RemoteAddr().String() != server.LocalAddr().String() {
		t.Error("addresses do not match")
	}
	if client.Conn() == nil || client.Conn().ConnectionState().TLS.NegotiatedProtocol != "h3" {
		t.Error("connection is not that of HTTP/3")
	}
	if client.Subprotocol() != "" {
		t.Errorf("subprotocol %q without an offer", client.Subprotocol())
	}
}

func TestCloseArrives(t *testing.T) {
	sides := map[string]func(client, server *wt.Session) (closing, closed *wt.Session){
		"client": func(c, s *wt.Session) (*wt.Session, *wt.Session) { return c, s },
		"server": func(c, s *wt.Session) (*wt.Session, *wt.Session) { return s, c },
	}
	closes := map[string]struct {
		code         uint32
		reason, want string
	}{
		"without info":  {0, "", ""},
		"with reason":   {4000, "grüße", "grüße"},
		"largest":       {1<<32 - 1, strings.Repeat("x", 1024), strings.Repeat("x", 1024)},
		"too long":      {1, strings.Repeat("é", 600), strings.Repeat("é", 512)},
		"cut character": {1, "x" + strings.Repeat("é", 600), "x" + strings.Repeat("é", 511)},
		"not UTF-8":     {1, "a\xffb", "a\uFFFDb"},
	}
	for side, pick := range sides {
		for name, c := range closes {
			t.Run(side+" "+name, func(t *testing.T) {
				closing, closed := pick(wttest.Pair(t))
				check(t, closing.CloseWithError(c.code, c.reason))
				<-closed.Context().Done()
				wantSessionError(t, context.Cause(closed.Context()), wt.Peer, c.code, c.want)
				wantSessionError(t, context.Cause(closing.Context()), wt.Us, c.code, c.want)
				check(t, closing.CloseWithError(9, "a second close changes nothing"))
				wantSessionError(t, context.Cause(closing.Context()), wt.Us, c.code, c.want)
			})
		}
	}
}

// After its end, every call on a session and its streams tells how it ended,
// and calls that were waiting return.
func TestEverythingEndsWithTheSession(t *testing.T) {
	client, server := wttest.Pair(t)
	ctx := t.Context()
	stream := must(client.OpenStream(ctx))(t)
	uni := must(client.OpenUniStream(ctx))(t)
	check(t, write(stream, "x"))
	check(t, write(uni, "x"))
	accepted := must(server.AcceptStream(ctx))(t)
	acceptedUni := must(server.AcceptUniStream(ctx))(t)
	buf := make([]byte, 8)
	must(accepted.Read(buf))(t)
	must(acceptedUni.Read(buf))(t)

	calls := map[string]func(s *wt.Session, bidi *wt.Stream) error{
		"AcceptStream":    func(s *wt.Session, _ *wt.Stream) error { _, err := s.AcceptStream(ctx); return err },
		"AcceptUniStream": func(s *wt.Session, _ *wt.Stream) error { _, err := s.AcceptUniStream(ctx); return err },
		"ReceiveDatagram": func(s *wt.Session, _ *wt.Stream) error { _, err := s.ReceiveDatagram(ctx); return err },
		"Read":            func(_ *wt.Session, b *wt.Stream) error { _, err := b.Read(make([]byte, 1)); return err },
	}
	var waiting sync.WaitGroup
	failed := make(chan error, 2*len(calls))
	for _, call := range calls {
		waiting.Go(func() { failed <- call(client, stream) })
		waiting.Go(func() { failed <- call(server, accepted) })
	}
	check(t, server.CloseWithError(3, "over"))
	waiting.Wait()
	close(failed)
	for err := range failed {
		if !errors.Is(err, wt.ErrSessionClosed) {
			t.Errorf("a call that waited returned %v", err)
		}
	}
	<-client.Context().Done()
	calls["OpenStream"] = func(s *wt.Session, _ *wt.Stream) error { _, err := s.OpenStream(ctx); return err }
	calls["OpenUniStream"] = func(s *wt.Session, _ *wt.Stream) error { _, err := s.OpenUniStream(ctx); return err }
	calls["SendDatagram"] = func(s *wt.Session, _ *wt.Stream) error { return s.SendDatagram(ctx, []byte("x")) }
	calls["Drain"] = func(s *wt.Session, _ *wt.Stream) error { return s.Drain() }
	calls["Write"] = func(_ *wt.Session, b *wt.Stream) error { _, err := b.Write([]byte("x")); return err }
	calls["TryWriteAll"] = func(_ *wt.Session, b *wt.Stream) error { return b.TryWriteAll([]byte("x")) }
	calls["Close"] = func(_ *wt.Session, b *wt.Stream) error { return b.Close() }
	calls["Read after deadline reset"] = func(_ *wt.Session, b *wt.Stream) error {
		_ = b.SetDeadline(time.Time{})
		_, err := b.Read(make([]byte, 1))
		return err
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			wantSessionError(t, call(client, stream), wt.Peer, 3, "over")
			wantSessionError(t, call(server, accepted), wt.Us, 3, "over")
		})
	}
	if client.MaxDatagramSize() != 0 {
		t.Errorf("a datagram of %d bytes fits a closed connection", client.MaxDatagramSize())
	}
}

func TestBothCloseAtOnce(t *testing.T) {
	client, server := wttest.Pair(t)
	var closing sync.WaitGroup
	closing.Go(func() { _ = client.CloseWithError(1, "client") })
	closing.Go(func() { _ = server.CloseWithError(2, "server") })
	closing.Wait()
	for _, s := range []*wt.Session{client, server} {
		if err := context.Cause(s.Context()); !errors.Is(err, wt.ErrSessionClosed) {
			t.Errorf("session ended with %v", err)
		}
	}
}

func TestTransportLost(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			gone, left := wttest.Pair(t)
			if side == "server" {
				gone, left = left, gone
			}
			stream := must(left.OpenStream(t.Context()))(t)
			check(t, write(stream, "x"))
			check(t, gone.Conn().CloseWithError(0x1234, "cable cut"))
			_, err := stream.Read(make([]byte, 1))
			wantSessionError(t, err, wt.Transport, 0, "")
			var closed *quic.ApplicationError
			if !errors.As(err, &closed) || closed.ErrorCode != 0x1234 {
				t.Errorf("cause %v does not hold QUIC's error", err)
			}
			<-gone.Context().Done()
			<-left.Context().Done()
			wantSessionError(t, context.Cause(gone.Context()), wt.Us, 0, "")
		})
	}
}

// A network that goes silent ends the session when QUIC's idle timeout says so.
func TestIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := &quic.Config{MaxIdleTimeout: 20 * time.Second}
		client, _ := wttest.PairWith(t, wttest.Options{Dialer: wt.Dialer{QUICConfig: config}, Server: wt.ServerConfig{QUICConfig: config}})
		began := time.Now()
		<-client.Context().Done()
		wantSessionError(t, context.Cause(client.Context()), wt.Transport, 0, "")
		var idle *quic.IdleTimeoutError
		if err := context.Cause(client.Context()); !errors.As(err, &idle) {
			t.Errorf("ended with %v, want idle timeout", err)
		}
		if took := time.Since(began); took < 19*time.Second || took > 21*time.Second {
			t.Errorf("ended after %v, want 20s", took)
		}
	})
}

func TestDrain(t *testing.T) {
	client, server := wttest.Pair(t)
	check(t, server.Drain())
	<-client.Draining()
	check(t, client.Drain())
	<-server.Draining()
	// Draining forbids nothing.
	stream := must(client.OpenStream(t.Context()))(t)
	check(t, write(stream, "still"))
	must(server.AcceptStream(t.Context()))(t)
}

func TestAcceptContext(t *testing.T) {
	client, _ := wttest.Pair(t)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := client.AcceptStream(ctx); !errors.Is(err, cause) {
		t.Errorf("AcceptStream returned %v", err)
	}
	if _, err := client.AcceptUniStream(ctx); !errors.Is(err, cause) {
		t.Errorf("AcceptUniStream returned %v", err)
	}
	if _, err := client.ReceiveDatagram(ctx); !errors.Is(err, cause) {
		t.Errorf("ReceiveDatagram returned %v", err)
	}
	if err := client.SendDatagram(ctx, nil); !errors.Is(err, cause) {
		t.Errorf("SendDatagram returned %v", err)
	}
}

func TestSubprotocols(t *testing.T) {
	cases := map[string]struct {
		supported, offered []string
		accept             *wt.AcceptOptions
		want               string
	}{
		"server's preference": {[]string{"b", "a"}, []string{"a", "b"}, nil, "b"},
		"none in common":      {[]string{"c"}, []string{"a", "b"}, nil, ""},
		"none offered":        {[]string{"c"}, nil, nil, ""},
		"handler's choice":    {nil, []string{"tide.v1", `a "quoted" \ one`}, &wt.AcceptOptions{Subprotocol: `a "quoted" \ one`}, `a "quoted" \ one`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			client, server := wttest.PairWith(t, wttest.Options{
				Server: wt.ServerConfig{Subprotocols: c.supported},
				Dialer: wt.Dialer{Subprotocols: c.offered},
				Accept: c.accept,
			})
			if client.Subprotocol() != c.want || server.Subprotocol() != c.want {
				t.Errorf("client has %q, server %q, want %q", client.Subprotocol(), server.Subprotocol(), c.want)
			}
			if !slices.Equal(server.Request().Subprotocols, c.offered) {
				t.Errorf("server saw the offer %q, want %q", server.Request().Subprotocols, c.offered)
			}
		})
	}
}
