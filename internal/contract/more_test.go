package contract

import (
	"strings"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/client"
)

// extras are what scenarios keep beside clients, subscriptions and positions.
type extras struct {
	ids map[string]uuid.UUID
}

func newExtras() extras {
	return extras{ids: make(map[string]uuid.UUID)}
}

func splitBar(s string) []string { return strings.Split(s, "|") }

func messageKey(client.Message) string { return "" }

func (r *run) checkMeta(want, client.Message) error { return nil }
