package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/jwtauth"
)

// maxKeyFile bounds a file of a key, in bytes.
const maxKeyFile = 64 << 10

// authFlags tell who may connect.
type authFlags struct {
	HMACKey       string   `name:"jwt-hmac-key" help:"Accept tokens signed with this secret, the text as it is, at least 32 bytes. Other users of this machine can see flags: rather use the environment, or a file." placeholder:"SECRET" env:"TIDEWIRE_JWT_HMAC_KEY"`
	HMACKeyFile   string   `name:"jwt-hmac-key-file" help:"Accept tokens signed with the secret in this file, without a line break at its end." placeholder:"FILE" env:"TIDEWIRE_JWT_HMAC_KEY_FILE"`
	Ed25519Key    []string `name:"jwt-ed25519-key" help:"Accept tokens signed with the private key of this public key (PEM); repeatable." placeholder:"FILE" env:"TIDEWIRE_JWT_ED25519_KEY"`
	Issuer        string   `name:"jwt-issuer" help:"Claim iss that tokens must have." placeholder:"NAME" env:"TIDEWIRE_JWT_ISSUER"`
	Audience      string   `name:"jwt-audience" help:"Claim aud that tokens must have." placeholder:"NAME" env:"TIDEWIRE_JWT_AUDIENCE"`
	AllowAnyone   bool     `help:"Serve other machines without tokens: whoever reaches the broker reads and writes every topic." env:"TIDEWIRE_ALLOW_ANYONE"`
	NoCertificate bool     `name:"allow-development-certificate" help:"Serve other machines with the development identity: clients must be told its hash." env:"TIDEWIRE_ALLOW_DEVELOPMENT_CERTIFICATE"`
}

// minSecret is the least bytes of a secret, as jwtauth wants them.
const minSecret = 32

// authenticator returns the one that the flags ask for, and whether it asks
// clients for a token.
func (f authFlags) authenticator() (auth broker.Authenticator, tokens bool, err error) {
	config := jwtauth.Config{Issuer: f.Issuer, Audience: f.Audience}
	if f.HMACKey != "" {
		if len(f.HMACKey) < minSecret {
			return nil, false, usagef("--jwt-hmac-key has %d bytes; a secret has at least %d", len(f.HMACKey), minSecret)
		}
		config.Keys = append(config.Keys, jwtauth.Key{HMAC: []byte(f.HMACKey)})
	}
	if f.HMACKeyFile != "" {
		secret, err := readSecret(f.HMACKeyFile)
		if err != nil {
			return nil, false, usagef("--jwt-hmac-key-file: %v", err)
		}
		if len(secret) < minSecret {
			return nil, false, usagef("--jwt-hmac-key-file: the secret in %s has %d bytes; it needs at least %d", f.HMACKeyFile, len(secret), minSecret)
		}
		config.Keys = append(config.Keys, jwtauth.Key{HMAC: secret})
	}
	for _, name := range f.Ed25519Key {
		text, err := readFile(name)
		if err != nil {
			return nil, false, usagef("--jwt-ed25519-key: %v", err)
		}
		key, err := jwtauth.ParseEd25519PublicKey(text)
		if err != nil {
			return nil, false, usagef("--jwt-ed25519-key %s: %v", name, err)
		}
		config.Keys = append(config.Keys, jwtauth.Key{Ed25519: key})
	}
	switch {
	case len(config.Keys) == 0 && (f.Issuer != "" || f.Audience != ""):
		return nil, false, usagef("--jwt-issuer and --jwt-audience are of use only with a key: --jwt-hmac-key-file or --jwt-ed25519-key")
	case len(config.Keys) == 0:
		return broker.Open{AllowRemote: f.AllowAnyone}, false, nil
	case f.AllowAnyone:
		return nil, false, usagef("--allow-anyone and a key contradict each other: with a key, clients need a token")
	}
	a, err := jwtauth.New(config)
	if err != nil {
		return nil, false, usagef("%v", err)
	}
	return a, true, nil
}

// readSecret reads a secret from a file; a line break at its end is not part of it.
func readSecret(name string) ([]byte, error) {
	text, err := readFile(name)
	return []byte(strings.TrimRight(string(text), "\r\n")), err
}

// readFile reads a file of a key.
func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err == nil && len(text) > maxKeyFile {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxKeyFile)
	}
	return text, err
}
