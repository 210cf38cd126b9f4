package main

import (
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/natsbus"
)

// natsFlags join the broker with others over NATS.
type natsFlags struct {
	NATS            string        `name:"nats" help:"Join other brokers over the NATS servers at these URLs, joined by commas." placeholder:"URL" env:"TIDEWIRE_NATS"`
	NATSPrefix      string        `name:"nats-prefix" help:"Put before each topic, with a dot, to make the NATS subject." placeholder:"SUBJECT" env:"TIDEWIRE_NATS_PREFIX"`
	NATSLinger      time.Duration `name:"nats-linger" help:"How long to listen on for a topic after its last subscription has ended. Who comes back meanwhile has missed nothing." default:"1m" env:"TIDEWIRE_NATS_LINGER"`
	NATSCredentials string        `name:"nats-credentials" help:"File of credentials (JWT and NKey) for NATS." placeholder:"FILE" env:"TIDEWIRE_NATS_CREDENTIALS"`
}

// bus returns the bus that the flags ask for; nil is the local one.
func (f natsFlags) bus(name string, log *slog.Logger) (broker.OpenBus, error) {
	if f.NATS == "" {
		if f.NATSPrefix != "" || f.NATSCredentials != "" {
			return nil, usagef("--nats-prefix and --nats-credentials are of use only with --nats")
		}
		return nil, nil
	}
	options := []nats.Option{nats.Name(name)}
	if f.NATSCredentials != "" {
		options = append(options, nats.UserCredentials(f.NATSCredentials))
	}
	linger := f.NATSLinger
	if linger == 0 {
		linger = -1 // not at all
	}
	return natsbus.Open(natsbus.Config{URL: f.NATS, Prefix: f.NATSPrefix, Linger: linger, Options: options, Logger: log}), nil
}

// explainBus says what to do about a bus that cannot be opened. It does not name
// the URL, which may hold a password.
func (f natsFlags) explainBus(err error) error {
	if errors.Is(err, nats.ErrNoServers) {
		return errors.New("no NATS server answers at the URL of --nats; is it running?")
	}
	return err
}
