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
	"github.com/tidewire/tidewire/client"
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
	// presenceGrace is how long somebody whose connection was lost is still there:
	// reconnects are not seen, and who closed a laptop is soon gone.
	presenceGrace = 5 * time.Second
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
		Topics:      topics(),
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

	var serving sync.WaitGroup
	ended := make(chan error, 3)
	serving.Go(func() { ended <- server.Serve(packets) })
	serving.Go(func() { ended <- web.Serve(pages) })
	service, stopService := context.WithCancel(ctx)
	defer stopService()
	ready := make(chan struct{})
	serving.Go(func() { ended <- runDice(service, where, identity.Hash(), func() { close(ready) }) })
	select {
	case err = <-ended: // one of them failed
	case <-ready:
		fmt.Fprintf(out, "open http://%s/ in a browser, twice for a talk with yourself\n", pages.Addr())
		fmt.Fprintf(out, "or join from a terminal: go run ./examples/chat join%s lobby\n", serverFlag(pages.Addr()))
		fmt.Fprintf(out, "broker at %s\n", where)
		fmt.Fprintf(out, "certificate sha-256: %s\n", identity.HashBase64())
		select {
		case err = <-ended:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	stopService()
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

// topics says what holds for the chat's topics, and that there are no others. The
// most specific pattern counts.
func topics() []broker.TopicConfig {
	const nothing = -1
	return []broker.TopicConfig{
		// Who is in a room; nobody publishes there.
		{Pattern: presenceTopic("*"), Publish: broker.AccessClosed, History: broker.Retention{Count: nothing}, PresenceGrace: presenceGrace},
		{Pattern: messagesTopic("*"), History: broker.Retention{Count: 1000, Age: 24 * time.Hour, Bytes: 1 << 20}, Retain: broker.RetainNone, Presence: broker.PresenceOff},
		// Only its last value counts.
		{Pattern: aboutTopic("*"), Class: codec.ClassLatest, History: broker.Retention{Count: nothing}, MaxKeys: 1, Presence: broker.PresenceOff},
		{Pattern: rollTopic("*"), History: broker.Retention{Count: nothing}, Retain: broker.RetainNone, Presence: broker.PresenceOff},
		// Of what goes by datagram the newest of each person is enough.
		{Pattern: "chat.*.typing", Class: codec.ClassSequenced, History: broker.Retention{Count: nothing}, Retain: broker.RetainNone, Presence: broker.PresenceOff},
		{Pattern: "chat.*.cursors", Class: codec.ClassSequenced, History: broker.Retention{Count: nothing}, Retain: broker.RetainNone, Presence: broker.PresenceOff},
		{Pattern: ">", Publish: broker.AccessClosed, Subscribe: broker.AccessClosed},
	}
}

// runDice rolls dice until ctx ends, as a client of the broker like any other.
func runDice(ctx context.Context, where string, hash [32]byte, ready func()) error {
	c, err := client.Dial(ctx, where, client.Config{CertificateHashes: [][32]byte{hash}, Agent: "tidewire-chat-dice"})
	if err == nil {
		err = errors.Join(rollDice(ctx, c, ready), c.Close())
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
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
