package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt"
)

// connectFlags tell which broker to connect to, and as whom.
type connectFlags struct {
	Server      string        `group:"connection" help:"URL of the broker." default:"https://127.0.0.1:4433/tidewire" placeholder:"URL" env:"TIDEWIRE_SERVER"`
	Token       string        `group:"connection" help:"Token to show, where the broker asks for one." placeholder:"TOKEN" env:"TIDEWIRE_TOKEN"`
	CertHash    []string      `group:"connection" help:"SHA-256 of the broker's certificate, in base64 or hexadecimal, to trust in place of authorities; repeatable. Not needed for a broker on this machine." placeholder:"HASH" env:"TIDEWIRE_CERT_HASH"`
	ConnectTime time.Duration `group:"connection" name:"connect-timeout" help:"How long connecting may take." default:"10s" env:"TIDEWIRE_CONNECT_TIMEOUT"`
	stateFlags  `group:"connection"`
}

// connect dials the broker. onState may be nil.
func (f connectFlags) connect(p *process, onState func(client.State, error)) (*client.Client, error) {
	target, err := serverURL(f.Server)
	if err != nil {
		return nil, err
	}
	config := client.Config{Token: f.Token, ConnectTimeout: f.ConnectTime, Agent: "tidewire-cli", OnState: onState}
	for _, text := range f.CertHash {
		hash, err := parseHash(text)
		if err != nil {
			return nil, err
		}
		config.CertificateHashes = append(config.CertificateHashes, hash)
	}
	var local localTrust
	if len(f.CertHash) == 0 && isLoopbackHost(target.Hostname()) {
		local.state = f.stateFlags
		// verify takes the place of the usual check, which knows no identities.
		config.TLSConfig = &tls.Config{InsecureSkipVerify: true, VerifyConnection: local.verify}
	}
	ctx, stop := untilRefused(p.ctx, target)
	defer stop()
	c, err := client.Dial(ctx, target.String(), config)
	if err != nil {
		if errors.Is(context.Cause(ctx), errNobody) {
			return nil, nobodyAnswers(target)
		}
		if why := local.failure(); why != nil {
			return nil, fmt.Errorf("the certificate of %s is not trusted: %w", target, why)
		}
		return nil, f.explain(err, target)
	}
	return c, nil
}

// serverURL completes what is usually left out of a broker's URL.
func serverURL(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return nil, usagef("--server %q is no URL of a broker, such as %s", text, defaultServer)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = sessionPath
	}
	return u, nil
}

// parseHash reads the value of --cert-hash.
func parseHash(text string) ([32]byte, error) {
	hash, err := wt.ParseHash(text)
	if err != nil {
		return hash, usagef("--cert-hash %q is no SHA-256 in base64 or hexadecimal", text)
	}
	return hash, nil
}

// localTrust trusts, on this machine, the development identities that brokers
// have stored, and besides what the system trusts.
type localTrust struct {
	state stateFlags

	mu  sync.Mutex
	err error // the last refusal; guarded by mu
}

// verify is a tls.Config.VerifyConnection. It reads the identities anew each time,
// because a broker changes its own from time to time.
func (t *localTrust) verify(state tls.ConnectionState) error {
	err := t.check(state)
	t.mu.Lock()
	t.err = err
	t.mu.Unlock()
	return err
}

func (t *localTrust) check(state tls.ConnectionState) error {
	leaf := state.PeerCertificates[0] // a server always has one
	identities, err := t.state.stored()
	if err != nil {
		return err
	}
	for _, identity := range identities {
		if sha256.Sum256(leaf.Raw) != identity.Hash() {
			continue
		}
		if !identity.ValidAt(time.Now()) {
			return errors.New("the development identity has expired: do the clocks agree?")
		}
		return nil
	}
	options := x509.VerifyOptions{DNSName: state.ServerName, Intermediates: x509.NewCertPool()}
	for _, certificate := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(certificate)
	}
	if _, err := leaf.Verify(options); err != nil {
		dir, _ := t.state.identities()
		if len(identities) == 0 {
			return fmt.Errorf("%w, and there is no development identity in %s; if another user runs the broker, give the hash that it printed: --cert-hash HASH", err, dir)
		}
		return fmt.Errorf("%w, and it is no development identity in %s; start the broker again, or give the hash that it printed: --cert-hash HASH", err, dir)
	}
	return nil
}

// failure returns why the last certificate was refused; nil if it was not.
func (t *localTrust) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// nobodyAnswers is the error where this machine has no broker.
func nobodyAnswers(target *url.URL) error {
	return fmt.Errorf("no broker answers at %s: start one with `%s`", target, programName())
}

// explain says what to do about an error of the client.
func (f connectFlags) explain(err error, target *url.URL) error {
	e, ok := errors.AsType[*codec.Error](err)
	if !ok {
		return err
	}
	switch e.Code {
	case codec.CodeConnectTimeout, codec.CodeConnectFailed:
		switch {
		case strings.Contains(e.Reason, "certificate"):
			return fmt.Errorf("the certificate of %s is not trusted: %s; if it is a development identity, give the hash that the broker printed: --cert-hash HASH", target, e.Reason)
		case strings.Contains(e.Reason, "status 404"):
			return fmt.Errorf("%s is not where the broker takes clients: its path is %s", target, sessionPath)
		case strings.Contains(e.Reason, "no such host"):
			return fmt.Errorf("there is no host %s", target.Hostname())
		case isLoopbackHost(target.Hostname()):
			return nobodyAnswers(target)
		}
		return fmt.Errorf("no broker answers at %s: is it running, and does UDP get through to it?", target)
	case codec.CodeUnauthorized:
		if f.Token == "" {
			return fmt.Errorf("%s: give one with --token or TIDEWIRE_TOKEN; `%s token` makes them", e.Reason, programName())
		}
	case codec.CodeTokenExpired:
		return fmt.Errorf("%s; `%s token` makes them", e.Reason, programName())
	}
	return fmt.Errorf("%s (%s, %d)", e.Reason, e.Code, uint32(e.Code))
}
