package jwtauth

import (
	"errors"
	"fmt"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidewire/tidewire/codec"
)

const (
	// MaxPatterns bounds each list of patterns in a token.
	MaxPatterns = 256
	// MaxSubject bounds the principal's ID, in bytes.
	MaxSubject = 256
	// maxNumericDate is the first second after the year 9999: later dates are of
	// no use, and overflow the clock.
	maxNumericDate = 253402300800
)

// claims are the payload of a token.
type claims struct {
	jwt.RegisteredClaims
	Publish   []string `json:"publish,omitempty"`
	Subscribe []string `json:"subscribe,omitempty"`
}

// check reports what is wrong with claims whose signature is good; the text is
// for the client.
func (c *claims) check() error {
	switch {
	case c.Subject == "":
		return errors.New("it has no claim sub, which names the principal")
	case len(c.Subject) > MaxSubject:
		return fmt.Errorf("its claim sub is longer than %d bytes", MaxSubject)
	}
	for _, date := range []*jwt.NumericDate{c.ExpiresAt, c.NotBefore, c.IssuedAt} {
		if date != nil && (date.Unix() < 0 || date.Unix() >= maxNumericDate) {
			return errors.New("its claim exp, nbf or iat is no time in seconds since 1970")
		}
	}
	if err := checkPatterns(c.Publish); err != nil {
		return fmt.Errorf("its claim publish: %w", err)
	}
	if err := checkPatterns(c.Subscribe); err != nil {
		return fmt.Errorf("its claim subscribe: %w", err)
	}
	return nil
}

func checkPatterns(patterns []string) error {
	if len(patterns) > MaxPatterns {
		return fmt.Errorf("%d patterns, and at most %d are allowed", len(patterns), MaxPatterns)
	}
	for _, p := range patterns {
		if err := codec.CheckPattern(p); err != nil {
			if e, ok := errors.AsType[*codec.Error](err); ok {
				return errors.New(e.Reason) // its code is another one than the token's
			}
			return err
		}
		if codec.IsSystem(p) {
			return fmt.Errorf("%q belongs to the system, which no token opens", p)
		}
	}
	return nil
}
