package broker_test

import (
	"testing"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/bustest"
)

func TestLocalBus(t *testing.T) {
	bustest.Run(t, func(*testing.T) broker.OpenBus { return broker.OpenLocalBus })
}
