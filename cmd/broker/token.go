package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tidewire/tidewire/broker/jwtauth"
)

// tokenCommand is `broker token`.
type tokenCommand struct {
	Subject     string        `name:"sub" help:"Whom the token names." default:"someone" placeholder:"NAME"`
	Publish     []string      `help:"Pattern that may be published to; repeatable. The default is > : everything." default:">" sep:"none" placeholder:"PATTERN"`
	Subscribe   []string      `help:"Pattern that may be subscribed to; repeatable. The default is > : everything." default:">" sep:"none" placeholder:"PATTERN"`
	TTL         time.Duration `name:"ttl" help:"How long the token is good. Clocks may differ by 5 s, and a session lasts 25 s longer, to show a new token." default:"1h"`
	Issuer      string        `help:"Claim iss." placeholder:"NAME" env:"TIDEWIRE_JWT_ISSUER"`
	Audience    string        `help:"Claim aud." placeholder:"NAME" env:"TIDEWIRE_JWT_AUDIENCE"`
	KeyID       string        `name:"kid" help:"Header kid." placeholder:"ID"`
	HMACKey     string        `name:"hmac-key" help:"Secret to sign with, at least 32 bytes." xor:"key" placeholder:"SECRET"`
	HMACKeyFile string        `name:"hmac-key-file" help:"File of the secret to sign with. It is made if it is not there." xor:"key" placeholder:"FILE"`
	Ed25519Key  string        `name:"ed25519-key" help:"PEM file of the private key to sign with. It is made if it is not there, and FILE.pub with the public key beside it." xor:"key" placeholder:"FILE"`
	stateFlags
}

// Help is shown by --help.
func (*tokenCommand) Help() string {
	return "The token alone goes to standard output, and how to start a broker that accepts it to standard error. Without a key the secret of the state folder signs, which is made if it is not there; it is never shown."
}

// Run makes the token.
func (c *tokenCommand) Run(p *process) error {
	if c.TTL <= 0 {
		return usagef("--ttl is not positive")
	}
	key, flags, err := c.key()
	if err != nil {
		return err
	}
	key.ID = c.KeyID
	expires := time.Now().Add(c.TTL)
	token, err := jwtauth.Sign(key, jwtauth.Grant{
		Principal: c.Subject,
		Publish:   c.Publish,
		Subscribe: c.Subscribe,
		Expires:   expires,
		Issuer:    c.Issuer,
		Audience:  c.Audience,
	})
	if err != nil {
		return usagef("%v", err)
	}
	if c.Issuer != "" {
		flags += " --jwt-issuer " + c.Issuer
	}
	if c.Audience != "" {
		flags += " --jwt-audience " + c.Audience
	}
	fmt.Fprintf(p.stderr, "good until %s; start the broker with\n\n  %s %s\n\n", expires.Local().Format(time.DateTime), programName(), flags)
	fmt.Fprintln(p.stdout, token)
	return nil
}

// key returns the key to sign with, and the flags of a broker that accepts what it
// signs.
func (c *tokenCommand) key() (key jwtauth.SigningKey, flags string, err error) {
	switch {
	case c.HMACKey != "":
		return jwtauth.SigningKey{HMAC: []byte(c.HMACKey)}, "--jwt-hmac-key SECRET", nil
	case c.HMACKeyFile != "":
		return secretFile(c.HMACKeyFile)
	case c.Ed25519Key != "":
		private, err := readOrMakeEd25519(c.Ed25519Key)
		return jwtauth.SigningKey{Ed25519: private}, "--jwt-ed25519-key " + c.Ed25519Key + ".pub", err
	}
	// A secret that was shown would stay in terminals, and as a flag in the list of
	// processes.
	dir, err := c.dir()
	if err != nil {
		return key, "", fmt.Errorf("no key to sign with: name a file with --hmac-key-file (%w)", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return key, "", fmt.Errorf("the folder for the secret: %w", err)
	}
	return secretFile(filepath.Join(dir, "token-secret"))
}

// secretFile returns the secret in a file, which it makes if it is not there.
func secretFile(name string) (key jwtauth.SigningKey, flags string, err error) {
	secret, err := readSecret(name)
	if errors.Is(err, fs.ErrNotExist) {
		secret = newSecret()
		err = writeNew(name, append(secret[:len(secret):len(secret)], '\n'), 0o600)
	}
	return jwtauth.SigningKey{HMAC: secret}, "--jwt-hmac-key-file " + name, err
}

// newSecret returns 64 characters that hold 32 random bytes. They are hexadecimal,
// so that a secret never looks like a flag.
func newSecret() []byte {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails: see crypto/rand
	return hex.AppendEncode(nil, secret)
}

// readOrMakeEd25519 reads a private key, or makes one, and its public key beside
// it, if there is none.
func readOrMakeEd25519(name string) (ed25519.PrivateKey, error) {
	text, err := readFile(name)
	if err == nil {
		private, err := jwtauth.ParseEd25519PrivateKey(text)
		if err != nil {
			return nil, usagef("--ed25519-key %s: %v", name, err)
		}
		return private, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	if err := writeNew(name+".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER}), 0o644); err != nil {
		return nil, err
	}
	return private, writeNew(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER}), 0o600)
}

// writeNew writes a file that must not exist before.
func writeNew(name string, text []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Close())
}
