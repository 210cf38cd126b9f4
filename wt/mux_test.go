package wt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/wt"
)

// connectTo encodes the HEADERS of a request for a session with an authority and
// a path.
func connectTo(authority, path string) []byte {
	return headers(":method", "CONNECT", ":scheme", "https", ":authority", authority, ":path", path, ":protocol", "webtransport-h3")
}

// replying is a handler that refuses with 400 and says in fields what it has seen.
func replying(name string) wt.HandlerFunc {
	return func(_ context.Context, r *wt.Request) {
		_ = r.Reject(http.StatusBadRequest, http.Header{"X-Handler": {name}, "X-Pattern": {r.Pattern()},
			"X-Values": {r.PathValue("room") + "|" + r.PathValue("rest") + "|" + r.PathValue("none")}})
	}
}

func TestMux(t *testing.T) {
	mux := wt.NewMux()
	mux.HandleFunc("/chat/{room}", replying("chat"))
	mux.Handle("/chat/lobby", replying("lobby"))
	mux.Handle("CONNECT /files/{rest...}", replying("files"))
	mux.Handle("/tree/", replying("tree"))
	mux.Handle("/{$}", replying("root"))
	mux.Handle("tide.example/chat/{room}", replying("host"))
	p := dialPeer(t, wt.ServerConfig{Handler: mux, CheckOrigin: func(*wt.Request) bool { return true }})
	p.control(usualSettings())
	cases := []struct {
		authority, path          string
		handler, pattern, values string
		status, location         string
	}{
		{"a", "/chat/x", "chat", "/chat/{room}", "x||", "400", ""},
		{"a", "/chat/x%2Fy?z=1", "chat", "/chat/{room}", "x/y||", "400", ""},
		{"a", "/chat/lobby", "lobby", "/chat/lobby", "||", "400", ""},
		{"a", "/files/b/c%20d", "files", "CONNECT /files/{rest...}", "|b/c d|", "400", ""},
		{"a", "/tree/x/y", "tree", "/tree/", "||", "400", ""},
		{"a", "/", "root", "/{$}", "||", "400", ""},
		{"tide.example", "/chat/x", "host", "tide.example/chat/{room}", "x||", "400", ""},
		{"tide.example:4433", "/chat/x", "host", "tide.example/chat/{room}", "x||", "400", ""},
		{"[::1]:4433", "/chat/x", "chat", "/chat/{room}", "x||", "400", ""},
		{"a", "/chat", "", "", "", "404", ""},
		{"a", "/none", "", "", "", "404", ""},
		{"a", "/chat/x/", "", "", "", "404", ""},
		{"a", "/tree?x=1", "", "", "", "307", "/tree/?x=1"},
		{"a", "/tree/../chat/x?y", "", "", "", "307", "/chat/x?y"},
		{"a", "//chat//x%2F", "", "", "", "307", "/chat/x%2F"},
		{"a", "/chat/./", "", "", "", "307", "/chat/"},
	}
	for _, c := range cases {
		t.Run(c.authority+c.path, func(t *testing.T) {
			p := &peer{t: t, conn: p.conn}
			got := p.readHeaders(p.bidi(connectTo(c.authority, c.path)))
			want := map[string]string{":status": c.status, "location": c.location,
				"x-handler": c.handler, "x-pattern": c.pattern, "x-values": c.values}
			for name, value := range want {
				if got[name] != value {
					t.Errorf("%s is %q, want %q", name, got[name], value)
				}
			}
		})
	}
}

// A Mux within a Mux, and one behind a function, are found by their own patterns.
func TestMuxNested(t *testing.T) {
	inner := wt.NewMux()
	inner.Handle("/a/{room}/{rest}", replying("inner"))
	var outer wt.Mux
	outer.HandleFunc("/a/{room}/", func(ctx context.Context, r *wt.Request) {
		if r.PathValue("room") != "x" || r.Pattern() != "/a/{room}/" {
			t.Errorf("room %q by %q", r.PathValue("room"), r.Pattern())
		}
		inner.ServeWebTransport(ctx, r)
	})
	p := dialPeer(t, wt.ServerConfig{Handler: &outer})
	p.control(usualSettings())
	if got := p.readHeaders(p.bidi(connectTo("a", "/a/x/y"))); got["x-values"] != "x|y|" || got["x-pattern"] != "/a/{room}/{rest}" {
		t.Errorf("got %v", got)
	}
	p.wantStatus(p.bidi(connectTo("a", "/a/x/y/z")), "404")
}

func TestMuxRefusesPatterns(t *testing.T) {
	cases := map[string]func(m *wt.Mux){
		"no handler":   func(m *wt.Mux) { m.Handle("/", nil) },
		"no function":  func(m *wt.Mux) { m.HandleFunc("/", nil) },
		"empty":        func(m *wt.Mux) { m.Handle("", replying("")) },
		"other method": func(m *wt.Mux) { m.Handle("GET /", replying("")) },
		"malformed":    func(m *wt.Mux) { m.Handle("/{", replying("")) },
		"twice": func(m *wt.Mux) {
			m.Handle("/", replying(""))
			m.Handle("CONNECT /{rest...}", replying(""))
			m.Handle("/", replying(""))
		},
	}
	for name, register := range cases {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			register(wt.NewMux())
		})
	}
}

// draft §3.2: 405 for a resource that is there and is none of WebTransport, with
// the methods it has; RFC 9110 §15.5.6.
func TestResourceWithoutWebTransport(t *testing.T) {
	pages := http.NewServeMux()
	pages.HandleFunc("GET /page", func(http.ResponseWriter, *http.Request) {})
	pages.HandleFunc("POST /form", func(http.ResponseWriter, *http.Request) {})
	pages.HandleFunc("/any", func(http.ResponseWriter, *http.Request) {})
	pages.HandleFunc("GET tide.example/host", func(http.ResponseWriter, *http.Request) {})
	sessions := wt.NewMux()
	sessions.Handle("/session", replying("session"))
	cases := map[string]struct {
		pages        http.Handler
		path         string
		status       string
		allow, token string
	}{
		"no pages":             {nil, "/page", "404", "", ""},
		"page":                 {pages, "/page?x", "405", "GET, HEAD", ""},
		"page, older draft":    {pages, "/page?x", "405", "GET, HEAD", "webtransport"},
		"form":                 {pages, "/form", "405", "POST", ""},
		"any method":           {pages, "/any", "405", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", ""},
		"by host":              {pages, "/host", "405", "GET, HEAD", ""},
		"session":              {pages, "/session", "400", "", ""},
		"neither":              {pages, "/none", "404", "", ""},
		"whatever the path":    {http.NotFoundHandler(), "/none", "405", "GET, HEAD", ""},
		"other :protocol":      {pages, "/page", "501", "", "websocket"},
		"no :protocol":         {pages, "", "405", "", "-"},
		"session of no router": {http.NotFoundHandler(), "/session", "400", "", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := dialPeer(t, wt.ServerConfig{Handler: sessions, HTTPHandler: c.pages})
			p.control(usualSettings())
			request := []string{":method", "CONNECT", ":authority", "tide.example:443"}
			if c.token != "-" {
				request = append(request, ":scheme", "https", ":path", c.path, ":protocol", c.token)
				if c.token == "" {
					request[len(request)-1] = "webtransport-h3"
				}
			}
			got := p.readHeaders(p.bidi(headers(request...)))
			if got[":status"] != c.status || got["allow"] != c.allow {
				t.Errorf("got %v, want status %s, allow %q", got, c.status, c.allow)
			}
			if _, there := got["allow"]; there != (c.status == "405") {
				t.Errorf("status %s with %v", c.status, got)
			}
		})
	}
}

// Sessions and plain requests share a connection.
func TestHTTPBesideSessions(t *testing.T) {
	sessions := make(chan *wt.Session, 1)
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions), HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})})
	connect := p.session()
	session := <-sessions
	for range 3 {
		plain := p.bidi(append(getHead("POST"), data([]byte("plain"))...))
		open := p.bidi(append(varints(0x41, uint64(connect.StreamID())), "stream"...))
		check(t, plain.Close())
		check(t, open.Close())
		p.wantStatus(plain, "200")
		if _, body := p.readFrame(plain); string(body) != "plain" {
			t.Errorf("plain request got %q", body)
		}
		accepted := must(session.AcceptStream(t.Context()))(t)
		if b := must(io.ReadAll(accepted))(t); string(b) != "stream" {
			t.Errorf("stream has %q", b)
		}
	}
}

// What a request says of itself.
func TestRequestAsItCame(t *testing.T) {
	requests := make(chan *wt.Request, 1)
	p := dialPeer(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) { requests <- r })})
	p.control(usualSettings())
	seen := func(pairs ...string) *wt.Request {
		p.readHeaders(p.bidi(headers(append([]string{":method", "CONNECT", ":scheme", "https", ":protocol", "webtransport-h3"}, pairs...)...)))
		return <-requests
	}
	r := seen(":authority", "Tide.example:4433", ":path", "/a%2Fb/c?x=1&x=2&y=%7a&bad=%zz", "user-agent", "sailor/1",
		"origin", "https://tide.example:4433", "x-list", "b", "x-list", "a", "cookie", "k=1", "cookie", "l=2")
	switch {
	case r.Method != http.MethodConnect, r.Scheme != "https", r.Protocol != "webtransport-h3", r.Draft != wt.Draft16,
		r.Authority != "Tide.example:4433", r.Path != "/a/b/c", r.RawPath != "/a%2Fb/c?x=1&x=2&y=%7a&bad=%zz",
		fmt.Sprint(r.Query) != "map[x:[1 2] y:[z]]", r.Origin != "https://tide.example:4433",
		r.UserAgent() != "sailor/1", fmt.Sprint(r.Header["X-List"]) != "[b a]", r.Header.Get("Cookie") != "k=1; l=2",
		r.RemoteAddr.String() != "127.0.0.1:4432", r.Pattern() != "", r.PathValue("x") != "", r.AddrValidated:
		t.Errorf("request %+v", r)
	}
	if r = seen(":path", "/", "host", "tide.example"); r.Authority != "tide.example" || r.UserAgent() != "" || len(r.Query) != 0 {
		t.Errorf("request %+v", r)
	}
}

// AddrValidated tells clients that were sent a Retry from others.
func TestAddrValidated(t *testing.T) {
	for _, threshold := range []int{0, 1} {
		requests := make(chan *wt.Request, 1)
		p := dialPeer(t, wt.ServerConfig{RetryThreshold: threshold, Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) { requests <- r })})
		p.control(usualSettings())
		p.wantStatus(p.bidi(connectHead()), "404")
		if r := <-requests; r.AddrValidated != (threshold == 1) {
			t.Errorf("AddrValidated is %v with a threshold of %d", r.AddrValidated, threshold)
		}
	}
}

// A request that no handler answered is logged: its client cannot tell a forgotten
// Accept from an unknown path.
func TestUnansweredLogged(t *testing.T) {
	var log bytes.Buffer
	mux := wt.NewMux()
	mux.HandleFunc("/rooms/{room}", func(context.Context, *wt.Request) {})
	p, server := dialPeerOf(t, wt.ServerConfig{Handler: mux,
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	p.control(usualSettings())
	p.wantStatus(p.bidi(connectTo("a", "/rooms/1")), "404")
	check(t, server.Close()) // nothing is logged from here on
	if got := log.String(); !strings.Contains(got, "unanswered") || !strings.Contains(got, "path=/rooms/1 pattern=/rooms/{room} status=404") {
		t.Errorf("log %q", got)
	}
}

// A panicking handler costs its request or its session, and nothing else.
func TestHandlerPanic(t *testing.T) {
	sessions := make(chan *wt.Session, 10)
	cases := map[string]struct {
		handler func(ctx context.Context, r *wt.Request)
		logged  string
	}{
		"/unanswered": {func(context.Context, *wt.Request) { panic("capsized") }, "capsized"},
		"/accepted": {func(_ context.Context, r *wt.Request) {
			session, _ := r.Accept(nil)
			sessions <- session
			panic(errors.New("sunk"))
		}, "sunk"},
		"/abort": {func(_ context.Context, r *wt.Request) {
			session, _ := r.Accept(nil)
			sessions <- session
			panic(http.ErrAbortHandler)
		}, ""},
		"/goexit": {func(context.Context, *wt.Request) { runtime.Goexit() }, ""},
	}
	for path, c := range cases {
		t.Run(path[1:], func(t *testing.T) {
			var log bytes.Buffer
			mux := wt.NewMux()
			mux.HandleFunc(path, c.handler)
			mux.Handle("/fine", accepting(sessions))
			p := dialPeer(t, wt.ServerConfig{Handler: mux,
				Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))})
			p.control(usualSettings())
			stream := p.bidi(connectTo("a", path))
			p.wantReset(stream, h3InternalError)
			p.wantStopped(stream.Context(), h3InternalError)
			select {
			case session := <-sessions:
				<-session.Context().Done()
				wantSessionError(t, context.Cause(session.Context()), wt.Us, 0, "")
			default:
			}
			if got := log.String(); (got != "") != (c.logged != "") || !strings.Contains(got, c.logged) {
				t.Errorf("log %q, want %q in it", got, c.logged)
			}
			p.wantStatus(p.bidi(connectTo("a", "/fine")), "200")
			<-sessions
		})
	}
	t.Run("of CheckOrigin", func(t *testing.T) {
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), CheckOrigin: func(*wt.Request) bool { panic(http.ErrAbortHandler) }})
		p.control(usualSettings())
		p.wantReset(p.bidi(connectHead()), h3InternalError)
	})
	t.Run("after a rejection", func(t *testing.T) {
		p := dialPeer(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
			check(t, r.Reject(http.StatusUnauthorized, nil))
			panic(http.ErrAbortHandler)
		})})
		p.control(usualSettings())
		stream := p.bidi(connectHead())
		p.wantStatus(stream, "401")
		if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("answer ended with %v", err)
		}
	})
}
