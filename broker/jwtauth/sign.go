package jwtauth

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidewire/tidewire/codec"
)

// SigningKey is what tokens are made with. Exactly one of HMAC and Ed25519 is set.
type SigningKey struct {
	// ID, if it is not "", becomes the header kid.
	ID string
	// HMAC is a shared secret of at least 32 bytes; tokens are signed with HS256.
	HMAC []byte
	// Ed25519 is a private key; tokens are signed with EdDSA.
	Ed25519 ed25519.PrivateKey
}

// public returns the key that checks what k signs.
func (k SigningKey) public() (Key, error) {
	if len(k.Ed25519) > 0 && len(k.Ed25519) != ed25519.PrivateKeySize {
		return Key{}, fmt.Errorf("an Ed25519 private key has %d bytes, not %d", ed25519.PrivateKeySize, len(k.Ed25519))
	}
	key := Key{ID: k.ID, HMAC: k.HMAC}
	if len(k.Ed25519) > 0 {
		key.Ed25519, _ = k.Ed25519.Public().(ed25519.PublicKey)
	}
	_, err := key.methods()
	return key, err
}

// Grant is what a token says.
type Grant struct {
	// Principal is the claim sub: who. It is required, and at most 256 bytes long.
	Principal string
	// Publish and Subscribe are patterns, at most 256 of each, none of the system.
	Publish   []string
	Subscribe []string
	// Expires is the claim exp, to the second. The zero time leaves it out, which
	// an Authenticator accepts only with Config.AllowNoExpiry.
	Expires time.Time
	// NotBefore, Issuer and Audience become nbf, iss and aud, unless they are zero.
	NotBefore time.Time
	Issuer    string
	Audience  string
	// ID and IssuedAt become jti and iat, unless they are zero: what Config.Revoked
	// may go by.
	ID       string
	IssuedAt time.Time
}

// Sign makes a token. The error tells what an Authenticator would not accept: a
// bad key or a bad grant.
func Sign(key SigningKey, g Grant) (string, error) {
	if _, err := key.public(); err != nil {
		return "", fmt.Errorf("jwtauth: signing key: %w", err)
	}
	c := claims{
		RegisteredClaims: jwt.RegisteredClaims{Subject: g.Principal, Issuer: g.Issuer, ID: g.ID},
		Publish:          g.Publish,
		Subscribe:        g.Subscribe,
	}
	if !g.Expires.IsZero() {
		c.ExpiresAt = jwt.NewNumericDate(g.Expires)
	}
	if !g.NotBefore.IsZero() {
		c.NotBefore = jwt.NewNumericDate(g.NotBefore)
	}
	if !g.IssuedAt.IsZero() {
		c.IssuedAt = jwt.NewNumericDate(g.IssuedAt)
	}
	if g.Audience != "" {
		c.Audience = jwt.ClaimStrings{g.Audience}
	}
	if err := c.check(); err != nil {
		return "", fmt.Errorf("jwtauth: the token is not made: %w", err)
	}
	var method jwt.SigningMethod = jwt.SigningMethodHS256
	var secret any = key.HMAC
	if len(key.Ed25519) > 0 {
		method, secret = jwt.SigningMethodEdDSA, key.Ed25519
	}
	token := jwt.NewWithClaims(method, c)
	if key.ID != "" {
		token.Header["kid"] = key.ID
	}
	text, err := token.SignedString(secret)
	if err != nil {
		return "", fmt.Errorf("jwtauth: sign: %w", err)
	}
	if len(text) > codec.MaxToken {
		return "", errors.New("jwtauth: the token is not made: it would be longer than the 16 KiB that the protocol allows (PROTOCOL §10)")
	}
	return text, nil
}
