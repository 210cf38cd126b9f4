package jwtauth

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

// MinSecret is the least length of a shared secret, in bytes.
const MinSecret = 32

// maxKeyID bounds the ID of a key, in bytes.
const maxKeyID = 128

// Key is what tokens are checked with. Exactly one of HMAC and Ed25519 is set.
type Key struct {
	// ID is compared with the header kid of a token; at most 128 bytes. A key
	// without one is tried for every token. No two keys have the same.
	ID string
	// HMAC is a shared secret of at least 32 bytes. It is used for HS256, from 48
	// bytes on for HS384 too, and from 64 on for HS512 (RFC 7518 §3.2: no shorter
	// than the hash). Whoever has it can make tokens.
	HMAC []byte
	// Ed25519 is a public key, for EdDSA (RFC 8037).
	Ed25519 ed25519.PublicKey
}

// methods returns the algorithms that the key is used for, or what is wrong with
// the key. It never tells the key itself.
func (k Key) methods() ([]string, error) {
	switch {
	case len(k.ID) > maxKeyID:
		return nil, fmt.Errorf("its ID is longer than %d bytes", maxKeyID)
	case (len(k.HMAC) > 0) == (len(k.Ed25519) > 0):
		return nil, errors.New("it needs either HMAC or Ed25519")
	case len(k.Ed25519) > 0 && len(k.Ed25519) != ed25519.PublicKeySize:
		return nil, fmt.Errorf("an Ed25519 public key has %d bytes, not %d", ed25519.PublicKeySize, len(k.Ed25519))
	case len(k.Ed25519) > 0:
		return []string{jwt.SigningMethodEdDSA.Alg()}, nil
	case len(k.HMAC) < MinSecret:
		return nil, fmt.Errorf("a secret has at least %d bytes, not %d", MinSecret, len(k.HMAC))
	}
	var methods []string
	for _, m := range []*jwt.SigningMethodHMAC{jwt.SigningMethodHS256, jwt.SigningMethodHS384, jwt.SigningMethodHS512} {
		if len(k.HMAC) >= m.Hash.Size() {
			methods = append(methods, m.Alg())
		}
	}
	return methods, nil
}

// verifier is a checked Key as the JWT library takes it.
type verifier struct {
	id      string
	methods []string
	key     jwt.VerificationKey
}

// verifier checks the key and copies it.
func (k Key) verifier() (verifier, error) {
	methods, err := k.methods()
	if err != nil {
		return verifier{}, err
	}
	v := verifier{id: k.ID, methods: methods}
	if len(k.Ed25519) > 0 {
		v.key = slices.Clone(k.Ed25519)
	} else {
		v.key = slices.Clone(k.HMAC)
	}
	return v, nil
}

// ParseEd25519PublicKey reads a public key in PEM ("PUBLIC KEY", as `openssl pkey
// -pubout` writes it). A private key is an error: who checks tokens should not be
// able to make them.
func ParseEd25519PublicKey(text []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("jwtauth: this is no PEM file")
	}
	switch block.Type {
	case "PUBLIC KEY":
	case "PRIVATE KEY":
		return nil, errors.New("jwtauth: this is a private key; the broker needs the public one only, as `openssl pkey -pubout` writes it")
	default:
		return nil, fmt.Errorf("jwtauth: the PEM block is %q, not \"PUBLIC KEY\"", block.Type)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("jwtauth: public key: %w", err)
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("jwtauth: this is a public key of %T, not of Ed25519", parsed)
	}
	return key, nil
}

// ParseEd25519PrivateKey reads a private key in PEM ("PRIVATE KEY", as `openssl
// genpkey -algorithm ed25519` writes it), for Sign.
func ParseEd25519PrivateKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("jwtauth: this is no PEM file of a private key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("jwtauth: private key: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("jwtauth: this is a private key of %T, not of Ed25519", parsed)
	}
	return key, nil
}
