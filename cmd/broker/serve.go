package main

import (
	"errors"
	"log/slog"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tidewire/tidewire/broker"
)

// sessionPath is where clients connect.
const sessionPath = "/tidewire"

// groups are the headings of the flags in the help.
var groups = []kong.Group{
	{Key: "network", Title: "Network:"},
	{Key: "auth", Title: "Who may connect:"},
	{Key: "limits", Title: "Limits (sizes may be written as 64KiB, 1MiB, 1GiB):"},
	{Key: "topics", Title: "Topics (durations may be written as 90s, 5m, 1h):"},
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
	topicFlags `group:"topics"`

	Name        string        `group:"running" help:"Name that clients are told." default:"tidewire" env:"TIDEWIRE_NAME"`
	Config      configFile    `group:"running" help:"YAML or JSON file of settings: the names of these flags, and values." placeholder:"FILE" env:"TIDEWIRE_CONFIG"`
	StopTimeout time.Duration `group:"running" help:"How long sessions may drain after the first signal." default:"10s" env:"TIDEWIRE_STOP_TIMEOUT"`
	LogLevel    slog.Level    `group:"running" help:"Least level that is logged, to standard error: debug, info, warn or error." default:"info" env:"TIDEWIRE_LOG_LEVEL"`
	LogFormat   string        `group:"running" help:"text or json." enum:"text,json" default:"text" env:"TIDEWIRE_LOG_FORMAT"`
	stateFlags  `group:"running"`
}

// Run serves until p's context ends, and then drains.
func (c *serveCommand) Run(p *process) error {
	s, err := c.setup(p)
	if err != nil {
		return err
	}
	pages, packets, err := listen(s.addr)
	if err != nil {
		return err
	}
	s.addr = pages.Addr().String()
	v, err := s.open()
	if err != nil {
		return errors.Join(err, pages.Close(), packets.Close())
	}
	for _, surprise := range c.surprises(c.MaxPayload) {
		s.log.Warn("the configuration of topics may not do what it is meant to", slog.String("what", surprise))
	}
	s.welcome(p.stdout)
	return v.serve(p.ctx, pages, packets, c.StopTimeout)
}

func (c *serveCommand) logger(p *process) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(p.stderr, options))
	}
	return slog.New(slog.NewTextHandler(p.stderr, options))
}

// config returns limits and topics as the broker takes them.
func (c *serveCommand) config() broker.Config {
	config := c.brokerConfig()
	config.Topics, config.MaxHistoryBytes = c.topicConfigs(), int64(c.MaxHistory)
	return config
}
