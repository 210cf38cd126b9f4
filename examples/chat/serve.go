package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt"
)

const (
	// stopTimeout bounds how long sessions may go on after an interrupt.
	stopTimeout = 3 * time.Second
	// publishRate bounds the messages a second of one session. Somebody who types
	// and moves the pointer at once publishes about 35.
	publishRate = 100
	// maxSessions bounds the sessions at a time.
	maxSessions = 1000
)

// serve serves the chat until ctx ends. It writes to out what to do next, once
// both sockets are bound.
func serve(ctx context.Context, addr, httpAddr string, out io.Writer) (err error) {
	packets, pages, err := listen(addr, httpAddr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ignoreClosed(packets.Close()), ignoreClosed(pages.Close())) }()
	identity, err := wt.NewDevIdentity()
	if err != nil {
		return err
	}
	b, err := broker.New(broker.Config{
		Name:        "tidewire chat",
		Limits:      codec.Limits{Payload: maxPayload},
		MaxSessions: maxSessions,
		PublishRate: publishRate,
	})
	if err != nil {
		return err
	}
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig:   identity.TLSConfig(),
		Handler:     b,
		CheckOrigin: pageOrigin(pages.Addr()),
	})
	if err != nil {
		return errors.Join(err, b.Close())
	}
	where := "https://" + packets.LocalAddr().String()
	page, err := webHandler(where, identity.HashBase64())
	if err != nil {
		return errors.Join(err, b.Close())
	}
	web := &http.Server{Handler: page, ReadHeaderTimeout: 5 * time.Second}

	fmt.Fprintf(out, "open http://%s/ in a browser, twice for a talk with yourself\n", pages.Addr())
	fmt.Fprintf(out, "or join from a terminal: go run ./examples/chat join%s lobby\n", serverFlag(pages.Addr()))
	fmt.Fprintf(out, "broker at %s\n", where)
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
	// The sessions first: each is told that the broker stops, and its messages are
	// delivered, while the connections still stand.
	for _, stop := range []func(context.Context) error{b.Shutdown, server.Shutdown} {
		if stopErr := stop(stopping); !errors.Is(stopErr, context.DeadlineExceeded) {
			err = errors.Join(err, stopErr)
		}
	}
	err = errors.Join(err, web.Close())
	serving.Wait()
	return err
}

// listen binds both sockets. Without an authenticator whoever reaches them can
// read and write everything, so only this machine may.
func listen(addr, httpAddr string) (net.PacketConn, net.Listener, error) {
	udp, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, nil, fmt.Errorf("--addr: %w", err)
	}
	tcp, err := net.ResolveTCPAddr("tcp", httpAddr)
	if err != nil {
		return nil, nil, fmt.Errorf("--http: %w", err)
	}
	if !udp.IP.IsLoopback() {
		return nil, nil, notLoopback("--addr", addr)
	}
	if !tcp.IP.IsLoopback() {
		return nil, nil, notLoopback("--http", httpAddr)
	}
	packets, err := net.ListenUDP("udp", udp)
	if err != nil {
		return nil, nil, fmt.Errorf("--addr: %w; does a broker run there already? --addr takes another address", err)
	}
	pages, err := net.ListenTCP("tcp", tcp)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("--http: %w", err), packets.Close())
	}
	return packets, pages, nil
}

func notLoopback(flag, addr string) error {
	return fmt.Errorf("%s %s is not on the loopback interface: this chat asks nobody who they are, so it serves its own machine only; take an address such as 127.0.0.1", flag, addr)
}

// ignoreClosed forgives a socket that its server has closed already.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// serverFlag is what `join` needs to be told where the usual address is not used.
func serverFlag(pages net.Addr) string {
	if pages.String() == "127.0.0.1:8080" {
		return ""
	}
	return " --server http://" + pages.String()
}

// pageOrigin welcomes the page that this program serves, under the names of this
// machine, and clients that are no browsers.
func pageOrigin(pages net.Addr) func(*wt.Request) bool {
	_, port, _ := net.SplitHostPort(pages.String())
	return func(r *wt.Request) bool {
		if r.Origin == "" {
			return true
		}
		origin, err := url.Parse(r.Origin)
		if err != nil || origin.Port() != port {
			return false
		}
		host := origin.Hostname()
		return host == "localhost" || net.ParseIP(host).IsLoopback()
	}
}
