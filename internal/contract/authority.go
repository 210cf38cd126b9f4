package contract

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// Grant is what a token gives.
type Grant struct {
	Principal string   `json:"principal"`
	Publish   []string `json:"publish"`
	Subscribe []string `json:"subscribe"`
	Seconds   float64  `json:"seconds"` // how long it is valid from when it was made; 0: for ever
}

// authority hands out tokens, and is the authenticator of the brokers. Who shows no
// token may do everything.
type authority struct {
	mu      sync.Mutex
	grants  map[string]*principal // by token; guarded by mu
	revoked map[string][]string   // patterns that are taken away, by principal; guarded by mu
}

func newAuthority() *authority {
	return &authority{grants: make(map[string]*principal), revoked: make(map[string][]string)}
}

func (a *authority) grant(g Grant) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	token := fmt.Sprintf("token-%d", len(a.grants)+1)
	p := &principal{authority: a, grant: g}
	if g.Seconds != 0 {
		p.expires = time.Now().Add(time.Duration(g.Seconds * float64(time.Second)))
	}
	a.grants[token] = p
	return token
}

// revoke takes what the patterns match away from a principal.
func (a *authority) revoke(principal string, patterns []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked[principal] = append(a.revoked[principal], patterns...)
}

func (a *authority) isRevoked(principal, pattern string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return permits(a.revoked[principal], pattern)
}

// Authenticate implements broker.Authenticator.
func (a *authority) Authenticate(_ context.Context, c broker.Credentials) (broker.Principal, error) {
	if c.Token == "" {
		return &principal{authority: a, grant: Grant{Publish: []string{">"}, Subscribe: []string{">"}}}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.grants[c.Token]
	if p == nil {
		return nil, codec.Errorf(codec.CodeUnauthorized, "there is no such token")
	}
	if !p.expires.IsZero() && time.Now().After(p.expires) {
		return nil, codec.Errorf(codec.CodeTokenExpired, "the token has expired")
	}
	return p, nil
}

// principal is who shows a token.
type principal struct {
	authority *authority
	grant     Grant
	expires   time.Time
}

func (p *principal) ID() string         { return p.grant.Principal }
func (p *principal) Expires() time.Time { return p.expires }

func (p *principal) CanPublish(topic string) bool {
	return permits(p.grant.Publish, topic) && !p.authority.isRevoked(p.grant.Principal, topic)
}

func (p *principal) CanSubscribe(pattern string) bool {
	return permits(p.grant.Subscribe, pattern) && !p.authority.isRevoked(p.grant.Principal, pattern)
}

func permits(patterns []string, pattern string) bool {
	for _, p := range patterns {
		if codec.Contains(p, pattern) {
			return true
		}
	}
	return false
}
