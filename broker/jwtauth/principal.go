package jwtauth

import (
	"slices"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// principal is who a token names. Nothing of it changes but what revoked answers.
type principal struct {
	id        string
	expires   time.Time // zero: never
	publish   []string
	subscribe []string
	revoked   func() bool // nil: it cannot be
}

// ID returns the claim sub.
func (p *principal) ID() string { return p.id }

// Expires returns the claim exp, and the leeway behind it.
func (p *principal) Expires() time.Time { return p.expires }

// CanPublish reports whether a pattern of the claim publish matches the topic.
func (p *principal) CanPublish(topic string) bool {
	return !p.isRevoked() && slices.ContainsFunc(p.publish, func(allowed string) bool { return codec.Match(allowed, topic) })
}

// CanSubscribe reports whether a pattern of the claim subscribe contains the
// pattern, so that nothing is ever narrowed (PROTOCOL §3).
func (p *principal) CanSubscribe(pattern string) bool {
	return !p.isRevoked() && slices.ContainsFunc(p.subscribe, func(allowed string) bool { return codec.Contains(allowed, pattern) })
}

func (p *principal) isRevoked() bool { return p.revoked != nil && p.revoked() }
