package jwtauth_test

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/jwtauth"
	"github.com/tidewire/tidewire/codec"
)

// FuzzAuthenticate holds that only what was signed is accepted, to the byte, and
// that every refusal has a code for the client.
func FuzzAuthenticate(f *testing.F) {
	private := ed25519.NewKeyFromSeed(secret[:ed25519.SeedSize])
	a := newAuth(f, jwtauth.Config{Keys: []jwtauth.Key{
		{ID: "h", HMAC: secret},
		{ID: "e", Ed25519: private.Public().(ed25519.PublicKey)},
	}})
	g := grant()
	g.Expires = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	signed := []string{
		sign(f, jwtauth.SigningKey{HMAC: secret}, g),
		sign(f, jwtauth.SigningKey{ID: "h", HMAC: secret}, g),
		sign(f, jwtauth.SigningKey{ID: "e", Ed25519: private}, g),
	}
	for _, token := range signed {
		accept(f, a, token)
		f.Add(token)
	}
	f.Add("")
	f.Add("..")
	f.Add("eyJhbGciOiJub25lIn0.eyJzdWIiOiJyb290IiwiZXhwIjo0MTAyNDQ0ODAwfQ.")
	f.Add(signClaims(f, jwt.SigningMethodHS256, []byte("x"), jwt.MapClaims{"publish": 7}, map[string]any{"kid": 7}))
	f.Fuzz(func(t *testing.T, token string) {
		p, err := a.Authenticate(t.Context(), broker.Credentials{Token: token})
		if err != nil {
			coded, ok := errors.AsType[*codec.Error](err)
			if !ok || coded.Code.Range() != codec.RangePermission || coded.Reason == "" {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if !slices.Contains(signed, token) {
			t.Fatalf("%q was accepted as %q", token, p.ID())
		}
	})
}
