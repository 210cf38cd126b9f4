package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/wt"
)

// serve runs a peer's server in this process until standard input ends. It prints
// its address and the hash of its certificate.
func serve(peer string) error {
	identity, err := wt.NewDevIdentity()
	if err != nil {
		return err
	}
	started := func(addr string) {
		fmt.Println(addr, identity.HashBase64())
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	switch peer {
	case "tidewire":
		b, err := broker.New(broker.Config{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return err
		}
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		srv, err := wt.NewServer(wt.ServerConfig{TLSConfig: identity.TLSConfig(), Handler: b})
		if err != nil {
			return err
		}
		go func() { _ = srv.Serve(packets) }() // ends with the process
		started(packets.LocalAddr().String())
	case "quichub":
		l, err := listenHub(identity.TLSConfig())
		if err != nil {
			return err
		}
		started(l.String())
	case "natsws":
		opts := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, MaxConn: 100_000}
		opts.Websocket.Host = "127.0.0.1"
		opts.Websocket.Port = server.RANDOM_PORT
		opts.Websocket.TLSConfig = &tls.Config{Certificates: []tls.Certificate{identity.Certificate()}, MinVersion: tls.VersionTLS13}
		s, err := server.NewServer(opts)
		if err != nil {
			return err
		}
		s.Start()
		if !s.ReadyForConnections(10 * time.Second) {
			return fmt.Errorf("the NATS server does not come up")
		}
		started(strings.TrimPrefix(s.WebsocketURL(), "wss://"))
	default:
		return fmt.Errorf("no peer %q", peer)
	}
	return nil
}

// process is a server that this program has started.
type process struct {
	command *exec.Cmd
	stdin   io.Closer
	addr    string
	hash    [32]byte
}

func startServer(ctx context.Context, peer string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, self, "serve", peer)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	p := &process{command: c, stdin: in}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("the server did not start: %w", err)
	}
	var hash string
	if _, err := fmt.Sscan(line, &p.addr, &hash); err != nil {
		p.stop()
		return nil, err
	}
	p.hash, err = wt.ParseHash(hash)
	return p, err
}

func (p *process) stop() {
	_ = p.stdin.Close()
	_ = p.command.Wait()
}

// cpu returns the CPU time that the server has used, in seconds.
func (p *process) cpu() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.command.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100 // USER_HZ
}

// rss returns the server's resident memory in KiB.
func (p *process) rss() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(v)[0], 64)
			return n
		}
	}
	return 0
}
