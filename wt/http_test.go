package wt_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// Plain HTTP/3 requests, from the client of quic-go/http3 and from one made by
// hand.

// h3InternalError is the code of a handler that failed.
const h3InternalError = 0x102

// httpClient returns a client of quic-go/http3 for a server of the package with
// the handler for plain requests, and the server.
func httpClient(t *testing.T, config wt.ServerConfig) (*http.Client, *wt.Server) {
	t.Helper()
	n := newNetwork(t, 0)
	if config.Handler == nil {
		config.Handler = accepting(nil)
	}
	server, _ := serve(t, n.server, config)
	transport := &quic.Transport{Conn: n.client}
	h3 := &http3.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"},
		Dial: func(ctx context.Context, _ string, tlsConfig *tls.Config, quicConfig *quic.Config) (*quic.Conn, error) {
			return transport.Dial(ctx, &serverAddr, tlsConfig, quicConfig)
		},
	}
	t.Cleanup(func() {
		check(t, h3.Close())
		check(t, transport.Close())
	})
	return &http.Client{
		Transport:     h3,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, server
}

// exchanged sends a request and returns the answer with its body read.
func exchanged(t *testing.T, client *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// newRequest makes a request to the server.
func newRequest(t *testing.T, method, path string, body io.Reader) *http.Request {
	t.Helper()
	return must(http.NewRequestWithContext(t.Context(), method, serverURL+path, body))(t)
}

func TestHTTPResponses(t *testing.T) {
	large := strings.Repeat("tide", 1<<18)
	cases := map[string]struct {
		method  string
		handler http.HandlerFunc
		status  int
		body    string
		// Fields and trailers that the client sees; "-" is one that must not be there.
		header, trailer map[string]string
	}{
		"nothing": {handler: func(http.ResponseWriter, *http.Request) {}, status: 200,
			header: map[string]string{"Content-Length": "0", "Content-Type": "-"}},
		"small": {handler: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>hello") }, status: 200,
			body: "<html>hello", header: map[string]string{"Content-Length": "11", "Content-Type": "text/html; charset=utf-8"}},
		"large": {handler: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, large) }, status: 200,
			body: large, header: map[string]string{"Content-Length": "-", "Content-Type": "text/plain; charset=utf-8"}},
		"large in pieces": {handler: func(w http.ResponseWriter, _ *http.Request) {
			for chunk := range bytes.Lines([]byte(strings.Repeat("a line of text\n", 10000))) {
				w.Write(chunk)
			}
		}, status: 200, body: strings.Repeat("a line of text\n", 10000)},
		"declared length": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(large)))
			io.WriteString(w, large)
		}, status: 200, body: large, header: map[string]string{"Content-Length": strconv.Itoa(len(large))}},
		"bad length": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "-3")
			io.WriteString(w, "abc")
		}, status: 200, body: "abc", header: map[string]string{"Content-Length": "3"}},
		"status and fields": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Tide", "\thigh ")
			w.WriteHeader(http.StatusTeapot)
			w.Header().Set("X-Tide", "late")
			w.WriteHeader(http.StatusOK) // superfluous
			w.Write(nil)
		}, status: 418, header: map[string]string{"X-Tide": "high", "Content-Length": "0"}},
		"fields of other versions": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			w.Header().Set("Keep-Alive", "5")
			w.Header().Set("Transfer-Encoding", "chunked")
			w.Header().Set("Upgrade", "websocket")
			w.Header()["Bad Name"] = []string{"x"}
			w.Header().Set("Bad-Value", "a\nb")
			io.WriteString(w, "fine")
		}, status: 200, body: "fine", header: map[string]string{"Connection": "-", "Keep-Alive": "-",
			"Transfer-Encoding": "-", "Upgrade": "-", "Bad Name": "-", "Bad-Value": "-"}},
		"type not sniffed": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"], w.Header()["Date"] = nil, nil
			io.WriteString(w, "<html>")
		}, status: 200, body: "<html>", header: map[string]string{"Content-Type": "-", "Date": "-"}},
		"encoded": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			io.WriteString(w, "<html>")
		}, status: 200, body: "<html>", header: map[string]string{"Content-Type": "-"}},
		"HEAD": {method: http.MethodHead, handler: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>hello") }, status: 200,
			header: map[string]string{"Content-Length": "11", "Content-Type": "text/html; charset=utf-8"}},
		"HEAD, large": {method: http.MethodHead, handler: func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, large)
			w.(http.Flusher).Flush()
			io.WriteString(w, large)
		}, status: 200, header: map[string]string{"Content-Type": "text/plain; charset=utf-8"}},
		"HEAD, nothing": {method: http.MethodHead, handler: func(http.ResponseWriter, *http.Request) {}, status: 200,
			header: map[string]string{"Content-Length": "-"}},
		"204": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(http.StatusNoContent)
			if _, err := io.WriteString(w, "hello"); !errors.Is(err, http.ErrBodyNotAllowed) {
				panic(err)
			}
		}, status: 204, header: map[string]string{"Content-Length": "-", "Content-Type": "-"}},
		"304": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(http.StatusNotModified)
		}, status: 304, header: map[string]string{"Content-Length": "5", "Content-Type": "-"}},
		"beyond the length": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "3")
			io.WriteString(w, "abc")
			if n, err := io.WriteString(w, "d"); n != 0 || !errors.Is(err, http.ErrContentLength) {
				panic(err)
			}
		}, status: 200, body: "abc"},
		"announced trailer": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum, x-absent, Content-Length")
			w.Header().Set("X-Sum", "before") // a trailer all the same
			io.WriteString(w, "body")
			w.Header().Set("X-Sum", "42")
		}, status: 200, body: "body", header: map[string]string{"X-Sum": "-"}, trailer: map[string]string{"X-Sum": "42", "X-Absent": "-"}},
		"trailer by prefix": {handler: func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "body")
			w.Header().Set(http.TrailerPrefix+"X-Sum", "43")
			w.Header().Set(http.TrailerPrefix+"Content-Length", "1")
		}, status: 200, body: "body", header: map[string]string{"X-Sum": "-"}, trailer: map[string]string{"X-Sum": "43", "Content-Length": "-"}},
		"trailer without body": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(http.TrailerPrefix+"X-Sum", "44")
		}, status: 200, trailer: map[string]string{"X-Sum": "44"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			client, _ := httpClient(t, wt.ServerConfig{HTTPHandler: c.handler})
			response, body := exchanged(t, client, newRequest(t, c.method, "", nil))
			if response.StatusCode != c.status || body != c.body {
				t.Errorf("status %d with %d bytes %.40q, want %d with %d", response.StatusCode, len(body), body, c.status, len(c.body))
			}
			for at, want := range map[string]map[string]string{"header": c.header, "trailer": c.trailer} {
				fields := response.Header
				if at == "trailer" {
					fields = response.Trailer
				}
				for name, value := range want {
					if value == "-" {
						value = ""
					}
					if got := strings.Join(fields[name], ","); got != value {
						t.Errorf("%s field %s: %q, want %q", at, name, got, value)
					}
				}
			}
			if _, suppressed := c.header["Date"]; !suppressed {
				if _, err := http.ParseTime(response.Header.Get("Date")); err != nil {
					t.Errorf("date: %v", err)
				}
			}
		})
	}
}

// What a handler sees of a request.
func TestHTTPRequest(t *testing.T) {
	var got *http.Request
	var body []byte
	client, _ := httpClient(t, wt.ServerConfig{HTTPHandler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	})})
	r := newRequest(t, "PUT", "a%2Fb/c?d=e", strings.NewReader("hello"))
	r.Header.Set("X-Tide", "high")
	r.Header.Set("Trailer", "") // of no meaning
	r.Trailer = http.Header{"X-Sum": nil}
	exchanged(t, client, r)
	switch {
	case got.Method != http.MethodPut, got.URL.Path != "/a/b/c", got.URL.EscapedPath() != "/a%2Fb/c", got.URL.RawQuery != "d=e",
		got.RequestURI != "/a%2Fb/c?d=e", got.Host != "127.0.0.2:4433", got.Header.Get("X-Tide") != "high",
		got.Proto != "HTTP/3.0", got.ProtoMajor != 3, got.ProtoMinor != 0, got.RemoteAddr != "127.0.0.1:4432",
		got.TLS == nil || !got.TLS.HandshakeComplete || got.TLS.NegotiatedProtocol != "h3":
		t.Errorf("request %+v", got)
	}
	if string(body) != "hello" {
		t.Errorf("body %q", body)
	}
	if local, _ := got.Context().Value(http.LocalAddrContextKey).(net.Addr); local == nil || local.String() != serverAddr.String() {
		t.Errorf("local address %v", local)
	}
	if got.Context().Err() == nil {
		t.Error("the request's context outlives its handler")
	}
	for _, key := range []string{"Host", "Trailer"} {
		if got.Header[key] != nil {
			t.Errorf("field %s is in the header", key)
		}
	}

	p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Method, " ", r.Host, " ", r.URL, " ", r.RequestURI, " ", r.ContentLength, " ", r.Body == http.NoBody, " ", r.Header)
	})})
	cases := map[string]struct {
		sent []byte
		want string
	}{
		"FIN with the fields": {headers(":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "//x?"),
			"GET localhost //x? //x? 0 true map[]"},
		"Host in place of :authority": {headers(":method", "OPTIONS", ":scheme", "https", ":path", "*", "host", "tide", "cookie", "a=b", "cookie", "c=d"),
			"OPTIONS tide * * 0 true map[Cookie:[a=b; c=d]]"},
		"length": {append(headers(":method", "POST", ":scheme", "https", ":authority", "localhost", ":path", "/", "content-length", "2", "content-length", "2"), data([]byte("ab"))...),
			"POST localhost / / 2 false map[Content-Length:[2]]"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := &peer{t: t, conn: p.conn}
			stream := must(p.conn.OpenStream())(t)
			// In one packet, as far as the test can tell. If it is not, the server may have
			// answered before, and stopped the body that its handler did not read.
			p.write(stream, c.sent)
			_ = stream.Close()
			p.wantStatus(stream, "200")
			if _, body := p.readFrame(stream); string(body) != c.want {
				t.Errorf("got %q, want %q", body, c.want)
			}
		})
	}
}

// Bodies go both ways at the same time, as they come.
func TestHTTPBodies(t *testing.T) {
	sent := make([]byte, 3<<20)
	rand.Read(sent)
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Got")
		n, err := io.Copy(w, r.Body)
		w.Header().Set("X-Got", fmt.Sprint(n, " ", err, " ", r.Trailer))
	})
	for _, length := range []int64{-1, int64(len(sent))} {
		t.Run(fmt.Sprint("length ", length), func(t *testing.T) {
			client, _ := httpClient(t, wt.ServerConfig{HTTPHandler: echo})
			r := newRequest(t, "POST", "", io.NopCloser(bytes.NewReader(sent)))
			r.ContentLength = length
			r.Trailer = http.Header{"X-Sum": {"7"}}
			response, body := exchanged(t, client, r)
			if body != string(sent) {
				t.Errorf("got %d bytes back", len(body))
			}
			if got, want := response.Trailer.Get("X-Got"), fmt.Sprint(len(sent), " <nil> map[X-Sum:[7]]"); got != want {
				t.Errorf("handler saw %q, want %q", got, want)
			}
		})
	}
	t.Run("flushed", func(t *testing.T) {
		client, _ := httpClient(t, wt.ServerConfig{HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			controller := http.NewResponseController(w)
			check(t, controller.EnableFullDuplex())
			check(t, controller.Flush())
			b := make([]byte, 1)
			for {
				if _, err := io.ReadFull(r.Body, b); err != nil {
					return
				}
				w.Write(append(b, b...))
				check(t, controller.Flush())
			}
		})})
		out, in := io.Pipe()
		response := must(client.Do(newRequest(t, "POST", "", out)))(t)
		for _, letter := range []string{"a", "b", "c"} {
			must(io.WriteString(in, letter))(t)
			b := make([]byte, 2)
			must(io.ReadFull(response.Body, b))(t)
			if string(b) != letter+letter {
				t.Errorf("got %q", b)
			}
		}
		check(t, in.Close())
		if rest := must(io.ReadAll(response.Body))(t); len(rest) != 0 {
			t.Errorf("rest %q", rest)
		}
		check(t, response.Body.Close())
	})
	t.Run("trailer that was not announced, and what it cannot have", func(t *testing.T) {
		seen := make(chan http.Header, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			seen <- r.Trailer
		})})
		stream := p.bidi(getHead("POST"))
		p.write(stream, append(data([]byte("x")), headers("x-sum", "8", "content-length", "9")...))
		p.write(stream, frame(0x21, []byte("grease")))
		check(t, stream.Close())
		p.wantStatus(stream, "200")
		if got := fmt.Sprint(<-seen); got != "map[X-Sum:[8]]" {
			t.Errorf("trailer %v", got)
		}
	})
}

// getHead encodes the HEADERS of a plain request.
func getHead(method string, more ...string) []byte {
	return headers(append([]string{":method", method, ":scheme", "https", ":authority", "localhost", ":path", "/"}, more...)...)
}

// RFC 9110 §10.1.1: a client that waits is told to go on when the handler reads.
func TestHTTPContinue(t *testing.T) {
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.RawQuery {
		case "read":
			body, _ := io.ReadAll(r.Body)
			w.Write(body)
		case "ready":
			w.WriteHeader(http.StatusProcessing)
			w.WriteHeader(http.StatusContinue)
			io.Copy(w, r.Body)
		case "refuse":
			w.WriteHeader(http.StatusExpectationFailed)
			io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 0))
		}
	})})
	ask := func(query string) *quic.Stream {
		return p.bidi(headers(":method", "POST", ":scheme", "https", ":authority", "localhost", ":path", "/?"+query, "expect", "100-Continue"))
	}
	stream := ask("read")
	p.wantStatus(stream, "100")
	p.write(stream, data([]byte("body")))
	check(t, stream.Close())
	p.wantStatus(stream, "200")
	if _, body := p.readFrame(stream); string(body) != "body" {
		t.Errorf("got %q", body)
	}

	stream = ask("ready")
	p.wantStatus(stream, "102")
	p.wantStatus(stream, "100")
	_ = stream.Close()          // which the server may have stopped, as it does not read
	p.wantStatus(stream, "200") // and no second 100

	stream = ask("refuse")
	_ = stream.Close() // as before
	p.wantStatus(stream, "417")
}

// Interim responses, by a client that understands them.
func TestHTTPEarlyHints(t *testing.T) {
	client, _ := httpClient(t, wt.ServerConfig{HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.Header().Set("Content-Length", "2")
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "ok")
	})})
	var hints []string
	r := newRequest(t, "GET", "", nil)
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, header))
			return nil
		},
	}))
	response, body := exchanged(t, client, r)
	if response.StatusCode != http.StatusOK || body != "ok" || response.Header.Get("Link") == "" {
		t.Errorf("status %d, body %q, %v", response.StatusCode, body, response.Header)
	}
	if got, want := fmt.Sprint(hints), "[103 map[Link:[</style.css>; rel=preload]]]"; got != want {
		t.Errorf("hints %s, want %s", got, want)
	}
}

// RFC 9114 §4.1: a response that is complete before its request has been read
// stops the rest, without an error.
func TestHTTPEarlyResponse(t *testing.T) {
	client, _ := httpClient(t, wt.ServerConfig{HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "no")
	})})
	response, body := exchanged(t, client, newRequest(t, "POST", "", io.LimitReader(rand.Reader, 64<<20)))
	if response.StatusCode != http.StatusForbidden || body != "no" {
		t.Errorf("status %d, body %q", response.StatusCode, body)
	}

	p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.NotFoundHandler()})
	stream := p.bidi(append(getHead("POST"), varints(0, 1<<20)...))
	p.wantStatus(stream, "404")
	p.readFrame(stream)
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("response ended with %v", err)
	}
	p.wantStopped(stream.Context(), h3NoError)
}

// What a handler that has returned left behind cannot read on.
func TestHTTPBodyAfterHandler(t *testing.T) {
	bodies := make(chan io.ReadCloser, 1)
	reading := make(chan error, 1)
	var reader sync.WaitGroup
	defer reader.Wait()
	client, _ := httpClient(t, wt.ServerConfig{HTTPHandler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		must(io.ReadFull(r.Body, make([]byte, 1)))(t)
		bodies <- r.Body
		reader.Go(func() {
			_, err := io.Copy(io.Discard, r.Body)
			reading <- err
		})
	})})
	out, in := io.Pipe()
	var writer sync.WaitGroup
	defer writer.Wait()
	defer in.Close()
	writer.Go(func() { io.WriteString(in, "x") })
	exchanged(t, client, newRequest(t, "POST", "", out))
	if err := <-reading; err == nil {
		t.Error("a body whose handler has returned ended")
	}
	body := <-bodies
	if _, err := body.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("read after the handler: %v", err)
	}
	check(t, body.Close())
}

// The request's context ends with the client's interest and with the connection.
func TestHTTPContext(t *testing.T) {
	cases := map[string]func(p *peer, stream *quic.Stream){
		"stopped":    func(_ *peer, stream *quic.Stream) { stream.CancelRead(0x10c) },
		"connection": func(p *peer, _ *quic.Stream) { p.conn.CloseWithError(h3NoError, "") },
	}
	for name, leave := range cases {
		t.Run(name, func(t *testing.T) {
			serving, ended := make(chan struct{}), make(chan error, 1)
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				close(serving)
				<-r.Context().Done()
				ended <- context.Cause(r.Context())
			})})
			stream := p.bidi(getHead("GET"))
			<-serving
			leave(p, stream)
			if err := <-ended; err == nil || errors.Is(err, context.Canceled) {
				t.Errorf("cause %v", err)
			}
		})
	}
}

// A handler's panic costs its response, and nothing else.
func TestHTTPPanic(t *testing.T) {
	cases := map[string]struct {
		handler http.HandlerFunc
		logged  string
	}{
		"at once":       {func(http.ResponseWriter, *http.Request) { panic("capsized") }, "capsized"},
		"in the middle": {func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush(); panic("capsized") }, "capsized"},
		"bad status":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(42) }, "status 42"},
		"101":           {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusSwitchingProtocols) }, "status 101"},
		"abort":         {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ""},
		"body too short": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "3")
			io.WriteString(w, "ab")
		}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			p := dialPeer(t, wt.ServerConfig{
				Handler: accepting(nil),
				Logger:  slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})),
				HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.RawQuery != "fine" {
						c.handler(w, r)
					}
				}),
			})
			p.wantReset(p.bidi(getHead("POST")), h3InternalError)
			if got := log.String(); (got != "") != (c.logged != "") || !strings.Contains(got, c.logged) {
				t.Errorf("log %q, want %q in it", got, c.logged)
			}
			p.wantStatus(p.bidi(headers(":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/?fine")), "200")
		})
	}
}

// Deadlines of http.ResponseController.
func TestHTTPDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type result struct {
			err  error
			took time.Duration
		}
		results := make(chan result, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began := time.Now()
			controller := http.NewResponseController(w)
			var err error
			if r.Method == http.MethodPost {
				check(t, controller.SetReadDeadline(began.Add(3*time.Second)))
				_, err = io.Copy(io.Discard, r.Body)
				if _, again := r.Body.Read(make([]byte, 1)); !errors.Is(again, os.ErrDeadlineExceeded) {
					t.Errorf("a further read: %v", again)
				}
			} else {
				check(t, controller.SetWriteDeadline(began.Add(4*time.Second)))
				for err == nil {
					_, err = w.Write(make([]byte, 1<<16))
				}
				if err := controller.Flush(); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("flush: %v", err)
				}
			}
			results <- result{err, time.Since(began)}
		})})
		stalled := p.bidi(append(getHead("POST"), varints(0, 100)...))
		if got := <-results; !errors.Is(got.err, os.ErrDeadlineExceeded) || got.took != 3*time.Second {
			t.Errorf("read ended with %v after %v", got.err, got.took)
		}
		p.wantStatus(stalled, "200")
		unread := p.bidi(getHead("GET"))
		if got := <-results; !errors.Is(got.err, os.ErrDeadlineExceeded) || got.took != 4*time.Second {
			t.Errorf("write ended with %v after %v", got.err, got.took)
		}
		p.wantReset(unread, h3InternalError)
	})
}

// Handlers and helpers of net/http work as they do elsewhere.
func TestHTTPWithNetHTTP(t *testing.T) {
	files := fstest.MapFS{"tide.txt": {Data: []byte("0123456789")}}
	mux := http.NewServeMux()
	mux.Handle("GET /files/", http.StripPrefix("/files/", http.FileServerFS(files)))
	mux.Handle("POST /limited", http.MaxBytesHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var large *http.MaxBytesError
		if _, err := io.ReadAll(r.Body); errors.As(err, &large) {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		}
	}), 10))
	mux.HandleFunc("POST /form", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.FormValue("tide")) })
	mux.HandleFunc("/back/{name}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprint(w, r.Method, " ", r.PathValue("name"), " ", string(body), " ", err)
	})
	target := must(url.Parse(serverURL))(t)
	backend, _ := httpClient(t, wt.ServerConfig{HTTPHandler: mux})
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = backend.Transport
	client, _ := httpClient(t, wt.ServerConfig{HTTPHandler: proxy}) // everything through a proxy

	get := newRequest(t, "GET", "files/tide.txt", nil)
	get.Header.Set("Range", "bytes=2-4")
	if response, body := exchanged(t, client, get); response.StatusCode != http.StatusPartialContent || body != "234" || response.Header.Get("Content-Range") != "bytes 2-4/10" {
		t.Errorf("range: status %d, %q, %v", response.StatusCode, body, response.Header)
	}
	if response, _ := exchanged(t, client, newRequest(t, "POST", "limited", strings.NewReader(strings.Repeat("x", 11)))); response.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("limited: status %d", response.StatusCode)
	}
	form := newRequest(t, "POST", "form", strings.NewReader("tide=high"))
	form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if _, body := exchanged(t, client, form); body != "high" {
		t.Errorf("form: %q", body)
	}
	if _, body := exchanged(t, client, newRequest(t, "DELETE", "back/x", nil)); body != "DELETE x  <nil>" {
		t.Errorf("proxied: %q", body)
	}
	if response, _ := exchanged(t, client, newRequest(t, "POST", "files/", nil)); response.StatusCode != http.StatusMethodNotAllowed || response.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST of a file: status %d, %v", response.StatusCode, response.Header)
	}
}

// RFC 9114 §4.1, §4.1.2, §4.2, §7.1: what makes a request with a body malformed.
func TestHTTPMalformed(t *testing.T) {
	read := func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			w.WriteHeader(http.StatusNoContent) // unnoticed
		}
	}
	streams := map[string]struct {
		sent []byte
		code quic.StreamErrorCode
	}{
		"shorter than its length":      {append(getHead("POST", "content-length", "3"), data([]byte("ab"))...), h3MessageError},
		"no body for its length":       {getHead("POST", "content-length", "3"), h3MessageError},
		"longer than its length":       {append(getHead("POST", "content-length", "1"), data([]byte("ab"))...), h3MessageError},
		"longer by a further frame":    {append(getHead("POST", "content-length", "2"), append(data([]byte("ab")), data([]byte("c"))...)...), h3MessageError},
		"body for a length of 0":       {append(getHead("GET", "content-length", "0"), data([]byte("c"))...), h3MessageError},
		"two lengths":                  {getHead("POST", "content-length", "1", "content-length", "2"), h3MessageError},
		"length that is no number":     {getHead("POST", "content-length", "+1"), h3MessageError},
		"list of lengths":              {getHead("POST", "content-length", "1, 1"), h3MessageError},
		"pseudo-header in the trailer": {append(getHead("POST"), headers(":path", "/")...), h3MessageError},
		"connection field in it":       {append(getHead("POST"), headers("connection", "close")...), h3MessageError},
		"trailer too large":            {append(getHead("POST"), headers("x", strings.Repeat("x", 17000))...), h3ExcessiveLoad},
		"trailer of many fields":       {append(getHead("POST"), headers(fields(500)...)...), h3ExcessiveLoad},
		":path with a fragment":        {headers(":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/#x"), h3MessageError},
		":path with a space":           {headers(":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/ x"), h3MessageError},
	}
	for name, c := range streams {
		t.Run(name, func(t *testing.T) {
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.HandlerFunc(read)})
			stream := p.bidi(c.sent)
			_ = stream.Close() // fails if the stream has been stopped already
			p.wantReset(stream, c.code)
			other := p.bidi(getHead("GET"))
			_ = other.Close() // as before
			p.wantStatus(other, "204")
		})
	}
}

// RFC 9114 §4.1, §7.1, §7.2: what ends the connection of a request with a body.
func TestHTTPConnectionErrors(t *testing.T) {
	cases := map[string]struct {
		sent []byte
		code uint64
	}{
		"DATA after the trailer":        {append(headers("x", "y"), data([]byte("a"))...), h3FrameUnexpected},
		"HEADERS after the trailer":     {append(headers("x", "y"), headers("x", "y")...), h3FrameUnexpected},
		"SETTINGS in the body":          {usualSettings(), h3FrameUnexpected},
		"PUSH_PROMISE in the body":      {frame(5, []byte{0, 0, 0}), h3FrameUnexpected},
		"frame of HTTP/2 in the body":   {frame(6, nil), h3FrameUnexpected},
		"WT_STREAM in the body":         {varints(0x41, 0), h3FrameError},
		"end within DATA":               {varints(0, 3), h3FrameError},
		"end within a frame's header":   {[]byte{0x40}, h3FrameError},
		"end within the trailer":        {varints(1, 3), h3FrameError},
		"trailer that is no QPACK":      {frame(1, []byte{0, 0, 0xff, 0xff}), qpackDecompression},
		"trailer of the dynamic table":  {frame(1, []byte{0, 0, 0x80}), qpackDecompression},
		"end within an unknown frame":   {varints(0x21, 3), h3FrameError},
		"CANCEL_PUSH after the trailer": {append(headers("x", "y"), frame(3, []byte{0})...), h3FrameUnexpected},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err == nil {
					t.Error("the body was read without an error")
				}
			})})
			stream := p.bidi(append(getHead("POST"), c.sent...))
			check(t, stream.Close())
			p.wantClosed(quicCode(c.code))
		})
	}
}

// Many requests at a time, more than the client may have streams, on one
// connection.
func TestHTTPManyRequests(t *testing.T) {
	client, _ := httpClient(t, wt.ServerConfig{MaxIncomingStreams: 20, HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(w, r.Body)
		if err != nil || n != r.ContentLength {
			t.Errorf("%s: %d bytes, %v", r.URL, n, err)
		}
	})})
	var requests sync.WaitGroup
	for i := range 200 {
		requests.Go(func() {
			sent := noise(i*100, uint64(i))
			response, err := client.Do(newRequest(t, "POST", strconv.Itoa(i), bytes.NewReader(sent)))
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			if got, err := io.ReadAll(response.Body); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("request %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	requests.Wait()
}

// Requests under loss.
func TestHTTPUnderLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{Latency: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.1}, 7)
		host := wttest.Serve(t, n, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		})})
		p := peerOf(t, n.NewEndpoint(), host)
		for i := range 20 {
			sent := noise(10_000, uint64(i))
			stream := p.bidi(getHead("POST"))
			p.write(stream, data(sent))
			check(t, stream.Close())
			p.wantStatus(stream, "200")
			var got []byte
			for len(got) < len(sent) {
				typ, part := p.readFrame(stream)
				if typ != 0 {
					t.Fatalf("frame %#x in a body", typ)
				}
				got = append(got, part...)
			}
			if !bytes.Equal(got, sent) {
				t.Errorf("request %d came back otherwise", i)
			}
		}
	})
}

// A client's reset is an error of the body's, and no end.
func TestHTTPBodyReset(t *testing.T) {
	for name, sent := range map[string][]byte{"after a part": data([]byte("ab")), "after the fields": nil} {
		t.Run(name, func(t *testing.T) {
			read := make(chan error, 1)
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				check(t, http.NewResponseController(w).Flush())
				_, err := io.Copy(io.Discard, r.Body)
				read <- err
			})})
			stream := p.bidi(append(getHead("POST"), sent...))
			p.wantStatus(stream, "200")
			stream.CancelWrite(0x10c)
			var reset *wt.StreamError
			if err := <-read; !errors.As(err, &reset) || !reset.Remote || reset.HTTPCode != 0x10c {
				t.Errorf("body ended with %v", err)
			}
		})
	}
}

// A shutdown waits for handlers, and their answers arrive; what comes after GOAWAY
// is refused (RFC 9114 §5.2).
func TestHTTPShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serving, release := make(chan struct{}), make(chan struct{})
		p, server := dialPeerOf(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(serving)
			<-release
			w.Write(make([]byte, 1<<20))
		})})
		control := must(p.conn.AcceptUniStream(t.Context()))(t)
		must(readVarint(control))(t)
		p.readFrame(control) // SETTINGS
		stream := p.bidi(getHead("GET"))
		<-serving
		var shutdown sync.WaitGroup
		defer shutdown.Wait()
		shutdown.Go(func() { check(t, server.Shutdown(t.Context())) })
		if typ, id := p.readFrame(control); typ != 7 || id[0] != 4 {
			t.Errorf("frame %#x with %x, want GOAWAY with 4", typ, id)
		}
		p.wantReset(p.bidi(getHead("GET")), h3RequestRejected)
		close(release)
		p.wantStatus(stream, "200")
		if body := must(io.ReadAll(stream))(t); len(body) < 1<<20 {
			t.Errorf("%d bytes", len(body))
		}
		// The server waits for the client to leave, for as long as for a session's.
		began := time.Now()
		p.wantClosed(h3NoError)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("closed after %v", took)
		}
	})
}

// A connection that has answered requests and gets no more is closed after GOAWAY,
// so that one which is on its way is safe to send again.
func TestHTTPIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.NotFoundHandler(), HandshakeTimeout: 4 * time.Second})
		control := must(p.conn.AcceptUniStream(t.Context()))(t)
		must(readVarint(control))(t)
		p.readFrame(control) // SETTINGS
		p.wantStatus(p.bidi(getHead("GET")), "404")
		began := time.Now()
		if typ, id := p.readFrame(control); typ != 7 || id[0] != 4 {
			t.Errorf("frame %#x with %x, want GOAWAY with 4", typ, id)
		}
		if took := time.Since(began); took != 4*time.Second {
			t.Errorf("GOAWAY after %v", took)
		}
		p.wantReset(p.bidi(getHead("GET")), h3RequestRejected)
		p.wantClosed(h3NoError)
		if took := time.Since(began); took != 6*time.Second {
			t.Errorf("closed after %v", took)
		}
	})
}

// An answer that is lost when the shutdown begins is sent again.
func TestHTTPShutdownAfterAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wttest.NewNetwork(t, wttest.Link{Latency: 10 * time.Millisecond}, 0)
		host := wttest.Serve(t, n, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		})})
		p := peerOf(t, n.NewEndpoint(), host)
		stream := p.bidi(append(getHead("POST"), data([]byte("body"))...))
		check(t, stream.Close())
		time.Sleep(10 * time.Millisecond)
		n.Partition()
		synctest.Wait()
		n.Heal()
		var shutdown sync.WaitGroup
		defer shutdown.Wait()
		shutdown.Go(func() { check(t, host.Shutdown(t.Context())) })
		p.wantStatus(stream, "200")
		if _, body := p.readFrame(stream); string(body) != "body" {
			t.Errorf("got %q", body)
		}
		check(t, p.conn.CloseWithError(h3NoError, ""))
	})
}

// A client of net/http leaves once it has the answer.
func TestHTTPShutdownWithClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server *wt.Server
		var shutdown sync.WaitGroup
		var took time.Duration
		client, server := httpClient(t, wt.ServerConfig{HTTPHandler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			shutdown.Go(func() {
				began := time.Now()
				check(t, server.Shutdown(context.Background()))
				took = time.Since(began)
			})
			synctest.Wait()
			w.Write(make([]byte, 1<<20))
		})})
		if _, body := exchanged(t, client, newRequest(t, "GET", "", nil)); len(body) != 1<<20 {
			t.Errorf("%d bytes", len(body))
		}
		shutdown.Wait()
		if took > time.Second {
			t.Errorf("shutdown took %v", took)
		}
	})
}

// A plain request whose target is not ours.
func TestHTTPMisdirected(t *testing.T) {
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HTTPHandler: http.NotFoundHandler()})
	p.wantStatus(p.bidi(headers(":method", "GET", ":scheme", "http", ":authority", "localhost", ":path", "/")), "421")
}

// fields makes pairs of name and value.
func fields(n int) []string {
	var pairs []string
	for i := range n {
		pairs = append(pairs, "x-"+strconv.Itoa(i), "y")
	}
	return pairs
}
