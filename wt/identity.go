package wt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Bounds of a development identity. Browsers accept a certificate by its hash
// if it is valid for at most 14 days (W3C WebTransport, "verify a certificate
// hash"); the backdating forgives clocks that differ.
const (
	identityLifetime    = 13 * 24 * time.Hour
	identityBackdate    = time.Hour
	maxHashedLifetime   = 14 * 24 * time.Hour
	identityKeyType     = "EC PRIVATE KEY"
	identityCertificate = "CERTIFICATE"
)

// Identity is a self-signed certificate with its key, for development and for
// peers that trust it by hash. It is immutable and safe for concurrent use.
type Identity struct {
	certificate tls.Certificate
	hash        [32]byte
}

// NewDevIdentity makes an identity that a browser accepts through
// serverCertificateHashes: ECDSA P-256, valid for 13 days from now, backdated
// by one hour. The hosts are names and IP addresses; none means localhost,
// 127.0.0.1 and ::1. A server that runs for longer has a [Rotation].
func NewDevIdentity(hosts ...string) (*Identity, error) {
	from := time.Now().Add(-identityBackdate)
	return newSelfSigned(hosts, from, from.Add(identityLifetime))
}

// newSelfSigned makes an identity that is valid for a span of time.
func newSelfSigned(hosts []string, from, until time.Time) (*Identity, error) {
	if len(hosts) == 0 {
		hosts = []string{"localhost", "127.0.0.1", "::1"}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("wt: identity: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("wt: identity: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: hosts[0]},
		NotBefore:             from,
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("wt: identity: %w", err)
	}
	return newIdentity(der, key)
}

func newIdentity(der []byte, key *ecdsa.PrivateKey) (*Identity, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("wt: identity: %w", err)
	}
	return &Identity{
		certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		hash:        sha256.Sum256(der),
	}, nil
}

// LoadIdentity reads an identity from a file that [Identity.Save] wrote. The
// file need not be valid in time any longer; [Identity.ValidAt] tells.
func LoadIdentity(path string) (*Identity, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("wt: identity: %w", err)
	}
	var der []byte
	var key *ecdsa.PrivateKey
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			break
		}
		switch block.Type {
		case identityCertificate:
			der = block.Bytes
		case identityKeyType:
			if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
				return nil, fmt.Errorf("wt: identity %s: %w", path, err)
			}
		}
	}
	if der == nil || key == nil {
		return nil, fmt.Errorf("wt: identity %s: certificate or key missing", path)
	}
	identity, err := newIdentity(der, key)
	if err != nil {
		return nil, err
	}
	if public, ok := identity.certificate.Leaf.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(&key.PublicKey) {
		return nil, fmt.Errorf("wt: identity %s: key and certificate do not belong together", path)
	}
	return identity, nil
}

// Save writes certificate and key as PEM into one file that only its owner can
// read. It replaces the file as a whole, so that a reader sees the old identity
// or the new one.
func (i *Identity) Save(path string) (err error) {
	key, ok := i.certificate.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("wt: identity: no ECDSA key")
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("wt: identity: %w", err)
	}
	text := append(i.CertificatePEM(), pem.EncodeToMemory(&pem.Block{Type: identityKeyType, Bytes: der})...)
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("wt: identity: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("wt: identity: %w", err), os.Remove(file.Name()))
		}
	}()
	_, writeErr := file.Write(text)
	if err := errors.Join(writeErr, file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// Hash returns the SHA-256 of the certificate's DER, which browsers take in
// serverCertificateHashes and [Dialer] in CertificateHashes.
func (i *Identity) Hash() [32]byte { return i.hash }

// HashBase64 returns the hash in standard base64.
func (i *Identity) HashBase64() string { return base64.StdEncoding.EncodeToString(i.hash[:]) }

// HashHex returns the hash in upper-case hexadecimal with colons between bytes.
func (i *Identity) HashHex() string {
	return string(bytes.ReplaceAll(fmt.Appendf(nil, "% X", i.hash[:]), []byte{' '}, []byte{':'}))
}

// ParseHash reads the SHA-256 hash of a certificate in either spelling: base64, as
// browsers want it and HashBase64 gives it, or hex with or without colons.
func ParseHash(s string) (hash [32]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil {
		b, err = base64.StdEncoding.DecodeString(s)
	}
	if err != nil || len(b) != len(hash) {
		return hash, fmt.Errorf("wt: %q is not the SHA-256 of a certificate, in base64 or hex", s)
	}
	return [32]byte(b), nil
}

// TLSConfig returns a new configuration with the certificate, for
// [ServerConfig].
func (i *Identity) TLSConfig() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{i.certificate}, MinVersion: tls.VersionTLS13}
}

// Certificate returns the certificate with its key.
func (i *Identity) Certificate() tls.Certificate { return i.certificate }

// CertificatePEM returns the certificate alone, without its key, as PEM.
func (i *Identity) CertificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: identityCertificate, Bytes: i.certificate.Certificate[0]})
}

// ValidAt reports whether a peer that trusts the hash accepts the certificate
// at time t.
func (i *Identity) ValidAt(t time.Time) bool {
	return checkHashedCertificate(i.certificate.Leaf, t) == nil
}

// checkHashedCertificate holds a certificate to the rules that a browser has
// for one trusted by hash: ECDSA P-256, valid now, and for at most 14 days.
func checkHashedCertificate(leaf *x509.Certificate, now time.Time) error {
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || key.Curve != elliptic.P256():
		return errors.New("its key is not ECDSA P-256")
	case now.Before(leaf.NotBefore) || now.After(leaf.NotAfter):
		return fmt.Errorf("it is valid from %s to %s only",
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
	case leaf.NotAfter.Sub(leaf.NotBefore) > maxHashedLifetime:
		return errors.New("it is valid for more than 14 days")
	default:
		return nil
	}
}

// verifyHash returns what checks a server's certificate against hashes in place
// of certificate authorities.
func verifyHash(hashes [][32]byte) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return errors.New("wt: server sent no certificate")
		}
		leaf := state.PeerCertificates[0]
		got := sha256.Sum256(leaf.Raw)
		for _, want := range hashes {
			if got != want {
				continue
			}
			if err := checkHashedCertificate(leaf, time.Now()); err != nil {
				return fmt.Errorf("wt: certificate matches a hash, but %w", err)
			}
			return nil
		}
		return fmt.Errorf("wt: certificate with SHA-256 %s matches none of the %d given hashes",
			base64.StdEncoding.EncodeToString(got[:]), len(hashes))
	}
}
