package main

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/wt"
)

// setup is what serve has found out from its flags, files and addresses.
type setup struct {
	command  *serveCommand
	log      *slog.Logger
	local    bool // nobody else than this machine reaches the address
	tls      *tls.Config
	rotation *wt.Rotation // of the development identity; nil with --cert
	auth     broker.Authenticator
	tokens   bool           // clients need a token
	bus      broker.OpenBus // nil: the broker stands alone
	unsaved  error          // why the identities are not stored; nil if they are
	// addr is the address that --addr was resolved to, so that what is bound is what
	// was checked; with its port once the sockets are bound.
	addr string
}

// setup checks the settings, and reads the files that they name.
func (c *serveCommand) setup(p *process) (*setup, error) {
	s := &setup{command: c, log: c.logger(p)}
	addr, err := net.ResolveTCPAddr("tcp", c.Addr)
	if err != nil {
		return nil, usagef("--addr %s: %v", c.Addr, err)
	}
	s.addr, s.local = addr.String(), addr.IP.IsLoopback()
	if c.StopTimeout <= 0 {
		return nil, usagef("--stop-timeout is not positive")
	}
	if err := errors.Join(c.checkOrigins(), c.limitFlags.check(), c.topicFlags.check(c.MaxPayload)); err != nil {
		return nil, err
	}
	if err := c.config().Check(); err != nil {
		return nil, usagef("%s", strings.ReplaceAll(err.Error(), "broker: ", "")) // run says it
	}
	if s.auth, s.tokens, err = c.authenticator(); err != nil {
		return nil, err
	}
	if s.bus, err = c.bus(c.Name, s.log); err != nil {
		return nil, err
	}
	if err := s.checkClosed(); err != nil {
		return nil, err
	}
	return s, s.loadCertificate()
}

// checkClosed refuses to be open to other machines by oversight: they are served
// with a certificate and an authenticator, or if that was said in plain words.
func (s *setup) checkClosed() error {
	c := s.command
	text := ""
	if c.Cert == "" && !c.NoCertificate {
		text += "\n  a certificate:     --cert FILE --key FILE" +
			"\n                     or --allow-development-certificate, to try things out in your own network"
	}
	if !s.tokens && !c.AllowAnyone {
		text += "\n  an authenticator:  --jwt-hmac-key-file FILE or --jwt-ed25519-key FILE; `broker token` makes keys and tokens" +
			"\n                     or --allow-anyone, and whoever reaches the broker reads and writes every topic"
	}
	if s.local || text == "" {
		return nil
	}
	return usagef("other machines can reach %s, so it needs what is missing here:%s", c.Addr, text)
}

// loadCertificate takes the certificate of --cert, or the development identity.
func (s *setup) loadCertificate() error {
	c := s.command
	if (c.Cert == "") != (c.Key == "") {
		return usagef("--cert and --key belong together")
	}
	if c.Cert != "" {
		certificate, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return usagef("--cert %s --key %s: %v", c.Cert, c.Key, err)
		}
		s.tls = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}
		return nil
	}
	var err error
	if s.rotation, s.unsaved, err = c.rotation(s.addr, s.log); err != nil {
		return err
	}
	s.tls = s.rotation.TLSConfig()
	return nil
}
