package natsbus_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/bustest"
	"github.com/tidewire/tidewire/broker/natsbus"
)

func TestBus(t *testing.T) {
	for name, prefix := range map[string]string{"bare": "", "prefix": "tidewire.test"} {
		t.Run(name, func(t *testing.T) {
			bustest.Run(t, func(t *testing.T) broker.OpenBus {
				return natsbus.Open(natsbus.Config{URL: natsServer(t, 0).ClientURL(), Prefix: prefix, Options: []nats.Option{patient}})
			})
		})
	}
}
