package wt_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt"
)

// selfSigned makes a certificate for 127.0.0.2 that is valid for lifetime.
func selfSigned(t *testing.T, key crypto.Signer, from time.Time, lifetime time.Duration) (*tls.Config, [32]byte) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: from.Add(lifetime), DNSNames: []string{"localhost"}}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, sha256.Sum256(der)
}

func TestCertificateHashes(t *testing.T) {
	const day = 24 * time.Hour
	p256 := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	now := time.Now()
	cases := map[string]struct {
		key      crypto.Signer
		from     time.Time
		lifetime time.Duration
		refused  string // a part of the error
	}{
		"right":             {p256, now.Add(-time.Hour), 14 * day, ""},
		"valid too long":    {p256, now.Add(-time.Hour), 14*day + time.Second, "more than 14 days"},
		"RSA":               {rsaKey, now.Add(-time.Hour), day, "not ECDSA P-256"},
		"another curve":     {p384, now.Add(-time.Hour), day, "not ECDSA P-256"},
		"expired":           {p256, now.Add(-2 * day), day, "valid from"},
		"not yet valid":     {p256, now.Add(day), day, "valid from"},
		"of another server": {p256, now.Add(-time.Hour), day, "matches none"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			config, hash := selfSigned(t, c.key, c.from, c.lifetime)
			if c.refused == "matches none" {
				hash[0]++
			}
			n := newNetwork(t, 0)
			serve(t, n.server, wt.ServerConfig{TLSConfig: config, Handler: accepting(make(chan *wt.Session, 1))})
			dialer := wt.Dialer{PacketConn: n.client, CertificateHashes: [][32]byte{{1, 2, 3}, hash}}
			session, err := dialer.Dial(t.Context(), serverURL)
			if c.refused == "" {
				check(t, err)
				check(t, session.Close())
			} else if err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("dial returned %v, want an error with %q", err, c.refused)
			}
		})
	}
}

func TestCertificateAuthorities(t *testing.T) {
	identity := must(wt.NewDevIdentity("127.0.0.2"))(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(identity.CertificatePEM())
	for name, c := range map[string]struct {
		dialer wt.Dialer
		works  bool
	}{
		"given root":   {wt.Dialer{TLSConfig: &tls.Config{RootCAs: roots}}, true},
		"system roots": {wt.Dialer{}, false},
		"insecure":     {wt.Dialer{InsecureSkipVerify: true}, true},
		"wrong name":   {wt.Dialer{TLSConfig: &tls.Config{RootCAs: roots, ServerName: "other.example"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, 0)
			serve(t, n.server, wt.ServerConfig{TLSConfig: identity.TLSConfig(), Handler: accepting(make(chan *wt.Session, 1))})
			dialer := c.dialer
			dialer.PacketConn = n.client
			session, err := dialer.Dial(t.Context(), serverURL)
			if c.works {
				check(t, err)
				check(t, session.Close())
			} else if err == nil {
				t.Error("dial accepted the certificate")
			}
		})
	}
}

func TestDialArguments(t *testing.T) {
	cases := []struct {
		dialer wt.Dialer
		url    string
	}{
		{wt.Dialer{}, "http://localhost/"},
		{wt.Dialer{}, "https:///path"},
		{wt.Dialer{}, "https://user@localhost/"},
		{wt.Dialer{}, "https://localhost/#part"},
		{wt.Dialer{}, ":"},
		{wt.Dialer{InsecureSkipVerify: true, CertificateHashes: make([][32]byte, 1)}, "https://localhost/"},
		{wt.Dialer{Subprotocols: []string{"ü"}}, "https://localhost/"},
		{wt.Dialer{Subprotocols: []string{"a", ""}}, "https://localhost/"},
	}
	for _, c := range cases {
		if _, err := c.dialer.Dial(t.Context(), c.url); err == nil {
			t.Errorf("dial of %q: no error", c.url)
		}
	}
}

// Dial ends with its context wherever the server leaves it waiting.
func TestDialContext(t *testing.T) {
	stages := map[string]func(p *peer){
		"no SETTINGS": func(*peer) {},
		"no answer":   func(p *peer) { p.control(settingsFrame(8, 1, 0x33, 1, 0x2c7cf000, 1)) },
	}
	for name, stage := range stages {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
				defer cancel()
				began := time.Now()
				p, result := listenPeer(ctx, t, wt.Dialer{})
				stage(p)
				if err := (<-result).err; !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 7*time.Second {
					t.Errorf("dial returned %v after %v", err, time.Since(began))
				}
			})
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t, 0)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			dialer := wt.Dialer{PacketConn: n.client}
			if _, err := dialer.Dial(ctx, serverURL); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("dial returned %v", err)
			}
		})
	})
}
