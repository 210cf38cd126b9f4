// Testbroker is what the browser tests of web/js talk to: an open broker that can
// be stopped and started again at the same address, with another certificate, and
// cut off from the network, one that wants tokens, a path that closes sessions with
// a code, an address where nobody answers, and the files of the tests over HTTP.
//
// It prints one line of JSON that tells where everything is, and ends when its
// standard input does.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/jwtauth"
	js "github.com/tidewire/tidewire/web/js"
	"github.com/tidewire/tidewire/wt"
)

// stopTimeout bounds a graceful stop.
const stopTimeout = 2 * time.Second

// secret signs the tokens of the tests.
var secret = []byte("not a secret: only the tests of this repository use it")

// places is what the tests need to know.
type places struct {
	HTTP   string `json:"http"`   // where the pages are
	Open   string `json:"open"`   // URL of the broker without tokens
	JWT    string `json:"jwt"`    // URL of the broker that wants them
	Shut   string `json:"shut"`   // URL whose sessions end with ?code= and ?reason=
	Silent string `json:"silent"` // URL that never answers
	Hash   string `json:"hash"`   // SHA-256 of the certificate, base64
	Token  string `json:"token"`  // may publish to and subscribe to a.>
}

func main() {
	dir := flag.String("dir", "", "the files that are served over HTTP")
	flag.Parse()
	if err := run(*dir, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testbroker:", err)
		os.Exit(1)
	}
}

func run(dir string, in io.Reader, out io.Writer) (err error) {
	identity, err := wt.NewDevIdentity()
	if err != nil {
		return err
	}
	openHouse := &house{identity: identity, addr: "127.0.0.1:0"}
	if err := openHouse.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, openHouse.stop(true)) }()

	auth, err := jwtauth.New(jwtauth.Config{Keys: []jwtauth.Key{{HMAC: secret}}, Leeway: time.Nanosecond})
	if err != nil {
		return err
	}
	jwtHouse := &house{identity: identity, addr: "127.0.0.1:0", authenticator: auth}
	if err := jwtHouse.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, jwtHouse.stop(true)) }()

	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, silent.Close()) }()

	token, err := sign(time.Now().Add(time.Hour), "a.>")
	if err != nil {
		return err
	}
	pages, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /tidewire.js", js.Handler())
	mux.Handle("GET /", http.FileServer(http.Dir(dir)))
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		seconds, err := strconv.Atoi(r.FormValue("seconds"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		subscribe := cmp.Or(r.FormValue("subscribe"), "a.>")
		token, err := sign(time.Now().Add(time.Duration(seconds)*time.Second), subscribe)
		answer(w, token, err)
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, r *http.Request) {
		answer(w, "stopped", openHouse.stop(r.FormValue("at") == "once"))
	})
	mux.HandleFunc("POST /start", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, "started", openHouse.start())
	})
	mux.HandleFunc("POST /renew", func(w http.ResponseWriter, r *http.Request) {
		next, err := identity, error(nil)
		if r.FormValue("to") != "first" {
			next, err = wt.NewDevIdentity()
		}
		if err != nil {
			answer(w, "", err)
			return
		}
		openHouse.renew(next)
		answer(w, next.HashBase64(), nil)
	})
	mux.HandleFunc("POST /network", func(w http.ResponseWriter, r *http.Request) {
		openHouse.silent.Store(r.FormValue("is") == "cut")
		answer(w, r.FormValue("is"), nil)
	})
	mux.HandleFunc("POST /publish", func(w http.ResponseWriter, r *http.Request) {
		answer(w, "published", openHouse.publish(r.Context(), r.FormValue("topic"), r.FormValue("value")))
	})
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := web.Serve(pages); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "testbroker:", err)
		}
	})
	defer serving.Wait()
	defer func() { err = errors.Join(err, web.Close()) }()

	if err := json.NewEncoder(out).Encode(places{
		HTTP:   "http://" + pages.Addr().String(),
		Open:   "https://" + openHouse.addr + "/tidewire",
		JWT:    "https://" + jwtHouse.addr + "/tidewire",
		Shut:   "https://" + openHouse.addr + "/shut",
		Silent: "https://" + silent.LocalAddr().String() + "/tidewire",
		Hash:   identity.HashBase64(),
		Token:  token,
	}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// sign makes a token that may publish to a.> and expires at some time.
func sign(expires time.Time, subscribe string) (string, error) {
	return jwtauth.Sign(jwtauth.SigningKey{HMAC: secret}, jwtauth.Grant{
		Principal: "test",
		Publish:   []string{"a.>"},
		Subscribe: []string{subscribe},
		Expires:   expires,
	})
}

func answer(w http.ResponseWriter, text string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, text)
}

// house is a broker at an address, which it keeps across stops and starts.
type house struct {
	authenticator broker.Authenticator
	silent        atomic.Bool // packets are lost in both directions

	mu       sync.Mutex
	identity *wt.Identity   // guarded by mu
	addr     string         // guarded by mu
	broker   *broker.Broker // nil while it is stopped; guarded by mu
	server   *wt.Server     // the same; guarded by mu
	serving  sync.WaitGroup
}

func (h *house) start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broker != nil {
		return errors.New("it runs already")
	}
	socket, err := net.ListenPacket("udp", h.addr)
	if err != nil {
		return err
	}
	packets := &network{PacketConn: socket, silent: &h.silent}
	h.addr = packets.LocalAddr().String()
	b, err := broker.New(broker.Config{Authenticator: h.authenticator})
	if err != nil {
		return errors.Join(err, packets.Close())
	}
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig:   h.identity.TLSConfig(),
		Handler:     wt.HandlerFunc(func(ctx context.Context, r *wt.Request) { serve(ctx, b, r) }),
		CheckOrigin: func(*wt.Request) bool { return true }, // the pages have another port
	})
	if err != nil {
		return errors.Join(err, b.Close(), packets.Close())
	}
	h.serving.Go(func() {
		if err := server.Serve(packets); !errors.Is(err, wt.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "testbroker:", err)
		}
	})
	h.broker, h.server = b, server
	return nil
}

// stop ends the broker, at once or gracefully.
func (h *house) stop(atOnce bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broker == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var err error
	if !atOnce {
		err = errors.Join(h.broker.Shutdown(ctx), h.server.Shutdown(ctx))
	}
	err = errors.Join(err, h.server.Close(), h.broker.Close())
	h.serving.Wait()
	h.broker, h.server = nil, nil
	return err
}

// renew gives the house another certificate, from its next start on.
func (h *house) renew(identity *wt.Identity) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.identity = identity
}

// publish publishes a text in the broker's process.
func (h *house) publish(ctx context.Context, topic, value string) error {
	h.mu.Lock()
	b := h.broker
	h.mu.Unlock()
	if b == nil {
		return errors.New("it does not run")
	}
	_, err := b.Publish(ctx, topic, value, nil)
	return err
}

// network is a socket whose packets are lost while silent is set.
type network struct {
	net.PacketConn
	silent *atomic.Bool
}

// ReadFrom implements net.PacketConn.
func (n *network) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		size, addr, err := n.PacketConn.ReadFrom(p)
		if err != nil || !n.silent.Load() {
			return size, addr, err
		}
	}
}

// WriteTo implements net.PacketConn.
func (n *network) WriteTo(p []byte, addr net.Addr) (int, error) {
	if n.silent.Load() {
		return len(p), nil
	}
	return n.PacketConn.WriteTo(p, addr)
}

// SetReadBuffer is asked for by QUIC.
func (n *network) SetReadBuffer(size int) error {
	return n.PacketConn.(interface{ SetReadBuffer(int) error }).SetReadBuffer(size)
}

// SetWriteBuffer is asked for by QUIC.
func (n *network) SetWriteBuffer(size int) error {
	return n.PacketConn.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(size)
}

// serve hands a session to the broker, or ends it with the code that its URL asks
// for and without a word on its streams.
func serve(ctx context.Context, b *broker.Broker, r *wt.Request) {
	if r.Path != "/shut" {
		b.ServeWebTransport(ctx, r)
		return
	}
	session, err := r.Accept(nil)
	if err != nil {
		return
	}
	code, err := strconv.ParseUint(r.Query.Get("code"), 10, 32)
	if err != nil {
		_ = session.Close()
		return
	}
	// A client that was served begins with a stream: its HELLO has come.
	if stream, err := session.AcceptStream(ctx); err == nil {
		_, _ = stream.Read(make([]byte, 1))
	}
	_ = session.CloseWithError(uint32(code), r.Query.Get("reason"))
}
