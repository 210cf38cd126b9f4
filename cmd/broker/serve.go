package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/alecthomas/kong"
	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/wt"
)

// path is where clients connect.
const path = "/tidewire"

const (
	// keepAlive is how often a silent connection is probed, so that it outlives the
	// idle timeouts of clients, 30 s in browsers, and of routers on the way.
	keepAlive = 15 * time.Second
	// spareStreams are the streams that a client may have open beyond its
	// subscriptions and publications: CONNECT, control, and those that end.
	spareStreams = 128
)

// groups are the headings of the flags in the help.
var groups = []kong.Group{
	{Key: "network", Title: "Network:"},
	{Key: "auth", Title: "Who may connect:"},
	{Key: "limits", Title: "Limits (sizes may be written as 64KiB, 1MiB, 1GiB):"},
	{Key: "running", Title: "Running:"},
	{Key: "connection", Title: "Connection:"},
}

// serveCommand is `broker serve`, and broker without a command.
type serveCommand struct {
	Addr   string   `group:"network" help:"Address to serve on: UDP for WebTransport, TCP for HTTP." default:"127.0.0.1:4433" env:"TIDEWIRE_ADDR"`
	Cert   string   `group:"network" help:"PEM file of the certificate and its chain. Without it a development identity is made." placeholder:"FILE" env:"TIDEWIRE_CERT"`
	Key    string   `group:"network" help:"PEM file of the certificate's key." placeholder:"FILE" env:"TIDEWIRE_KEY"`
	Origin []string `group:"network" name:"allow-origin" help:"Origin of pages that may connect, such as https://app.example, or * for any; repeatable. Always welcome: the broker's own page, and on loopback every page of this machine." placeholder:"ORIGIN" env:"TIDEWIRE_ALLOW_ORIGIN"`
	Expose []string `group:"network" help:"What of HTTP other machines may see beside /healthz: page, metrics; repeatable." enum:"page,metrics" placeholder:"WHAT" env:"TIDEWIRE_EXPOSE"`

	natsFlags  `group:"network"`
	authFlags  `group:"auth"`
	limitFlags `group:"limits"`

	Name        string        `group:"running" help:"Name that clients are told." default:"tidewire" env:"TIDEWIRE_NAME"`
	Config      configFile    `group:"running" help:"YAML or JSON file of settings: the names of these flags, and values." placeholder:"FILE" env:"TIDEWIRE_CONFIG"`
	StopTimeout time.Duration `group:"running" help:"How long sessions may drain after the first signal." default:"10s" env:"TIDEWIRE_STOP_TIMEOUT"`
	LogLevel    slog.Level    `group:"running" help:"Least level that is logged, to standard error: debug, info, warn or error." default:"info" env:"TIDEWIRE_LOG_LEVEL"`
	LogFormat   string        `group:"running" help:"text or json." enum:"text,json" default:"text" env:"TIDEWIRE_LOG_FORMAT"`
	stateFlags  `group:"running"`
}

// Run serves until p's context ends, and then drains.
func (c *serveCommand) Run(p *process) error {
	h, err := c.house(p)
	if err != nil {
		return err
	}
	pages, packets, err := listen(c.Addr)
	if err != nil {
		return err
	}
	h.addr = pages.Addr().String()
	s, err := h.open()
	if err != nil {
		return errors.Join(err, pages.Close(), packets.Close())
	}
	h.welcome(p.stdout)
	return s.serve(p.ctx, pages, packets, c.StopTimeout)
}

// house is what serve has found out from its flags, files and addresses.
type house struct {
	command  *serveCommand
	log      *slog.Logger
	local    bool // nobody else than this machine reaches the address
	tls      *tls.Config
	identity *wt.Identity // nil with --cert
	auth     broker.Authenticator
	tokens   bool           // clients need a token
	bus      broker.OpenBus // nil: the broker stands alone
	unsaved  error          // why the identity is not stored; nil if it is
	addr     string         // where the sockets are bound; set once they are
}

// house checks the settings, and reads the files that they name.
func (c *serveCommand) house(p *process) (*house, error) {
	h := &house{command: c, log: c.logger(p)}
	addr, err := net.ResolveTCPAddr("tcp", c.Addr)
	if err != nil {
		return nil, usagef("--addr %s: %v", c.Addr, err)
	}
	h.local = addr.IP.IsLoopback()
	if c.StopTimeout <= 0 {
		return nil, usagef("--stop-timeout is not positive")
	}
	if err := errors.Join(c.checkOrigins(), c.check()); err != nil {
		return nil, err
	}
	if h.auth, h.tokens, err = c.authenticator(); err != nil {
		return nil, err
	}
	if h.bus, err = c.natsFlags.bus(c.Name, h.log); err != nil {
		return nil, err
	}
	if err := h.checkClosed(); err != nil {
		return nil, err
	}
	return h, h.loadCertificate()
}

// checkClosed refuses to be open to other machines by oversight: they are served
// with a certificate and an authenticator, or if that was said in plain words.
func (h *house) checkClosed() error {
	c := h.command
	text := ""
	if c.Cert == "" && !c.NoCertificate {
		text += "\n  a certificate:     --cert FILE --key FILE" +
			"\n                     or --allow-development-certificate, to try things out in your own network"
	}
	if !h.tokens && !c.AllowAnyone {
		text += "\n  an authenticator:  --jwt-hmac-key-file FILE or --jwt-ed25519-key FILE; `broker token` makes keys and tokens" +
			"\n                     or --allow-anyone, and whoever reaches the broker reads and writes every topic"
	}
	if h.local || text == "" {
		return nil
	}
	return usagef("other machines can reach %s, so it needs what is missing here:%s", c.Addr, text)
}

// loadCertificate takes the certificate of --cert, or the development identity.
func (h *house) loadCertificate() error {
	c := h.command
	if (c.Cert == "") != (c.Key == "") {
		return usagef("--cert and --key belong together")
	}
	if c.Cert != "" {
		certificate, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return usagef("--cert %s --key %s: %v", c.Cert, c.Key, err)
		}
		h.tls = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}
		return nil
	}
	var err error
	if _, h.unsaved = c.file(); h.unsaved != nil {
		h.identity, err = wt.NewDevIdentity()
	} else {
		h.identity, err = c.loadOrMake()
	}
	if err != nil {
		return err
	}
	h.tls = h.identity.TLSConfig()
	return nil
}

func (c *serveCommand) logger(p *process) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(p.stderr, options))
	}
	return slog.New(slog.NewTextHandler(p.stderr, options))
}

// server is the broker behind its two sockets.
type server struct {
	// Static after construction.
	log    *slog.Logger
	broker *broker.Broker
	wt     *wt.Server
	web    *http.Server
	health *health
	tls    bool // HTTP is HTTPS
}

// open makes the broker and what serves it.
func (h *house) open() (*server, error) {
	config := h.command.brokerConfig()
	config.Authenticator, config.Bus, config.Logger, config.Name = h.auth, h.bus, h.log, h.command.Name
	b, err := broker.New(config)
	if err != nil {
		return nil, h.command.explainBus(err)
	}
	s := &server{log: h.log, broker: b, health: new(health), tls: h.identity == nil}
	s.wt, err = wt.NewServer(wt.ServerConfig{
		TLSConfig:          h.tls,
		QUICConfig:         &quic.Config{KeepAlivePeriod: keepAlive},
		Handler:            wt.HandlerFunc(s.serveSession),
		CheckOrigin:        h.originPolicy().welcomes,
		MaxIncomingStreams: int64(h.command.MaxSubscriptions) + int64(h.command.MaxPublications) + spareStreams,
		Logger:             h.log,
	})
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	s.web = &http.Server{
		Handler:           h.webHandler(b, s.health),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
	}
	if s.tls {
		s.web.TLSConfig = h.tls.Clone()
	}
	return s, nil
}

// serveSession gives the sessions at the broker's path to the broker, and answers
// every other with 404.
func (s *server) serveSession(ctx context.Context, r *wt.Request) {
	if r.Path != path {
		_ = r.Reject(http.StatusNotFound, nil)
		return
	}
	s.broker.ServeWebTransport(ctx, r)
}

// serve owns both sockets. It returns when ctx has ended and everything has
// drained, or when a socket fails.
func (s *server) serve(ctx context.Context, pages net.Listener, packets net.PacketConn, stopTimeout time.Duration) error {
	var serving sync.WaitGroup
	ended := make(chan error, 2)
	serving.Go(func() { ended <- fmt.Errorf("UDP: %w", s.wt.Serve(packets)) })
	serving.Go(func() {
		if s.tls {
			ended <- fmt.Errorf("TCP: %w", s.web.ServeTLS(pages, "", ""))
		} else {
			ended <- fmt.Errorf("TCP: %w", s.web.Serve(pages))
		}
	})
	var err error
	select {
	case err = <-ended: // before it was asked to: a socket has failed
	case <-ctx.Done():
		s.log.Info("stopping: sessions are told and drained; a second signal ends at once", slog.Duration("timeout", stopTimeout))
	}
	err = errors.Join(err, s.stop(stopTimeout))
	serving.Wait()
	return err
}

// stop drains the sessions, and ends what is left when the time is over. That is
// no error: it is what the time is for.
func (s *server) stop(timeout time.Duration) error {
	s.health.draining.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := s.broker.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		s.log.Warn("the time to drain is over: what was left has been cut")
		err = nil
	}
	for _, closed := range []error{s.wt.Shutdown(ctx), s.web.Shutdown(ctx)} {
		if !errors.Is(closed, context.DeadlineExceeded) {
			err = errors.Join(err, closed)
		}
	}
	// What Shutdown has left behind at the deadline.
	return errors.Join(err, s.web.Close())
}
