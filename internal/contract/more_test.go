package contract

import (
	"strings"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/client"
)

// extras are what scenarios keep beside clients, subscriptions and positions.
type extras struct {
	ids     map[string]uuid.UUID
	maps    map[string]*client.Map[any]
	watches map[string]*watcher
	results map[string][]*client.PublishResult
	stops   []func() // of iterations
}

func newExtras() extras {
	return extras{
		ids:     make(map[string]uuid.UUID),
		maps:    make(map[string]*client.Map[any]),
		watches: make(map[string]*watcher),
		results: make(map[string][]*client.PublishResult),
	}
}

func splitBar(s string) []string { return strings.Split(s, "|") }
