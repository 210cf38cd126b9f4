package broker_test

import (
	"testing"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/storetest"
)

func openMemoryStore(_ *testing.T, maxBytes int64) broker.Store {
	return broker.NewMemoryStore(maxBytes)
}

func TestMemoryStore(t *testing.T) { storetest.Run(t, openMemoryStore) }

func FuzzMemoryStore(f *testing.F) { storetest.Fuzz(f, openMemoryStore) }
