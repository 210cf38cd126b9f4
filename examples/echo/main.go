// Echo is the smallest complete WebTransport server: it echoes the streams and
// datagrams of each session at /echo, and serves a page that tries them.
//
//	go run ./examples/echo --addr 127.0.0.1:4433 --http 127.0.0.1:8080
//
// A session at /close is closed by the server at once, with the code and reason
// that its query names, so that a page can see them arrive.
package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/tidewire/tidewire/wt"
)

//go:embed page
var files embed.FS

// stopTimeout bounds how long sessions may go on after an interrupt.
const stopTimeout = 2 * time.Second

func main() {
	addr := flag.String("addr", "127.0.0.1:4433", "UDP `address` for WebTransport")
	httpAddr := flag.String("http", "127.0.0.1:8080", "TCP `address` for the page")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *addr, *httpAddr, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. It writes to out where it serves, once both sockets
// are bound.
func run(ctx context.Context, addr, httpAddr string, out io.Writer) error {
	packets, err := net.ListenPacket("udp", addr)
	if err != nil {
		return fmt.Errorf("--addr: %w; does a broker run there already? --addr takes another address", err)
	}
	pages, err := net.Listen("tcp", httpAddr)
	if err != nil {
		return errors.Join(fmt.Errorf("--http: %w", err), packets.Close())
	}
	host, _, err := net.SplitHostPort(packets.LocalAddr().String())
	if err != nil {
		return errors.Join(err, packets.Close(), pages.Close())
	}
	identity, err := wt.NewDevIdentity("localhost", "127.0.0.1", "::1", host)
	if err != nil {
		return errors.Join(err, packets.Close(), pages.Close())
	}
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig:   identity.TLSConfig(),
		Handler:     wt.HandlerFunc(serve),
		CheckOrigin: pageOrigin(pages.Addr()),
	})
	if err != nil {
		return errors.Join(err, packets.Close(), pages.Close())
	}
	where := "https://" + packets.LocalAddr().String()
	page, err := pageHandler(where, identity.HashBase64())
	if err != nil {
		return errors.Join(err, packets.Close(), pages.Close())
	}
	web := &http.Server{Handler: page, ReadHeaderTimeout: 5 * time.Second}

	fmt.Fprintf(out, "open http://%s/ in a browser\n", pages.Addr())
	fmt.Fprintf(out, "echo at %s/echo\n", where)
	fmt.Fprintf(out, "certificate sha-256: %s\n", identity.HashBase64())

	var serving sync.WaitGroup
	ended := make(chan error, 2)
	serving.Go(func() { ended <- server.Serve(packets) })
	serving.Go(func() { ended <- web.Serve(pages) })
	select {
	case err = <-ended: // one of them failed
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if stopErr := server.Shutdown(stopping); !errors.Is(stopErr, context.DeadlineExceeded) {
		err = errors.Join(err, stopErr)
	}
	err = errors.Join(err, web.Close())
	serving.Wait()
	return err
}

// pageOrigin welcomes the page that this program serves, under the address it
// is bound to and under the names of this machine, and clients that are no
// browsers.
func pageOrigin(pages net.Addr) func(*wt.Request) bool {
	_, port, _ := net.SplitHostPort(pages.String())
	return func(r *wt.Request) bool {
		origin, err := url.Parse(r.Origin)
		if r.Origin == "" || err != nil {
			return r.Origin == ""
		}
		host := origin.Hostname()
		ip := net.ParseIP(host)
		return origin.Host == pages.String() ||
			origin.Port() == port && (host == "localhost" || ip != nil && ip.IsLoopback())
	}
}

// pageHandler serves the page and, at /server.json, what it has to know to
// reach the server.
func pageHandler(where, hash string) (http.Handler, error) {
	page, err := fs.Sub(files, "page")
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]string{"url": where, "hash": hash})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(page))
	mux.HandleFunc("GET /server.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(config)
	})
	return mux, nil
}
