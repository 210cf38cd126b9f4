package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/wt"
)

const (
	// keepAlive is how often a silent connection is probed, so that it outlives the
	// idle timeouts of clients, 30 s in browsers, and of routers on the way.
	keepAlive = 15 * time.Second
	// spareStreams are the streams that a client may have open beyond its
	// subscriptions and publications: CONNECT, control, and those that end.
	spareStreams = 128
)

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
func (s *setup) open() (*server, error) {
	config := s.command.config()
	config.Authenticator, config.Bus, config.Logger, config.Name = s.auth, s.bus, s.log, s.command.Name
	b, err := broker.New(config)
	if err != nil {
		return nil, s.command.explainBus(err)
	}
	v := &server{log: s.log, broker: b, health: new(health), tls: s.rotation == nil}
	v.wt, err = wt.NewServer(wt.ServerConfig{
		TLSConfig:          s.tls,
		QUICConfig:         &quic.Config{KeepAlivePeriod: keepAlive},
		Handler:            wt.HandlerFunc(v.serveSession),
		CheckOrigin:        s.originPolicy().check(s.log),
		MaxIncomingStreams: int64(s.command.MaxSubscriptions) + int64(s.command.MaxPublications) + spareStreams,
		Logger:             s.log,
	})
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	handler, err := s.webHandler(b, v.health)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	v.web = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	if v.tls {
		v.web.TLSConfig = s.tls.Clone()
	}
	return v, nil
}

// serveSession gives the sessions at the broker's path to the broker, and answers
// every other with 404.
func (s *server) serveSession(ctx context.Context, r *wt.Request) {
	if r.Path != sessionPath {
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
