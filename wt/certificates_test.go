package wt_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// authority is a certificate authority of a test.
type authority struct {
	t      *testing.T
	key    *ecdsa.PrivateKey
	leaf   *x509.Certificate
	serial int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	return &authority{t: t, key: key, leaf: must(x509.ParseCertificate(der))(t), serial: 1}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.leaf)
	return pool
}

// issue returns a new certificate and its key in PEM.
func (a *authority) issue(name string, usage x509.ExtKeyUsage) (cert, key []byte) {
	a.t.Helper()
	a.serial++
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, a.leaf, private.Public(), a.key))(a.t)
	keyDER := must(x509.MarshalPKCS8PrivateKey(private))(a.t)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// pair is issue for tls.Config.
func (a *authority) pair(name string, usage x509.ExtKeyUsage) tls.Certificate {
	a.t.Helper()
	cert, key := a.issue(name, usage)
	return must(tls.X509KeyPair(cert, key))(a.t)
}

func TestCertificateFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		ca := newAuthority(t)
		write := func(cert, key []byte) {
			t.Helper()
			check(t, os.WriteFile(certFile, cert, 0o600))
			check(t, os.WriteFile(keyFile, key, 0o600))
		}
		write(ca.issue("server.example", x509.ExtKeyUsageServerAuth)) // serial number 2
		said := new(strings.Builder)
		files := must(wt.LoadCertificateFiles(wt.CertificateFilesConfig{
			CertFile: certFile, KeyFile: keyFile, Interval: 5 * time.Second, Logger: slog.New(slog.NewTextHandler(said, nil)),
		}))(t)

		n := wttest.NewNetwork(t, wttest.Link{}, 1)
		sessions := make(chan *wt.Session, 1)
		server := wttest.Serve(t, n, wt.ServerConfig{TLSConfig: files.TLSConfig(), Handler: accepting(sessions)})
		dial := func() (client, serverSide *wt.Session) {
			t.Helper()
			dialer := wt.Dialer{PacketConn: n.NewEndpoint(), TLSConfig: &tls.Config{RootCAs: ca.pool(), ServerName: "server.example"}}
			session := must(dialer.Dial(t.Context(), server.URL))(t)
			t.Cleanup(func() { _ = session.Close() })
			return session, <-sessions
		}
		wantSerial := func(when string, want int64) {
			t.Helper()
			session, _ := dial()
			if got := session.Conn().ConnectionState().TLS.PeerCertificates[0].SerialNumber.Int64(); got != want {
				t.Errorf("%s: certificate %d is served, want %d", when, got, want)
			}
		}
		first, firstServer := dial()

		secondCert, secondKey := ca.issue("server.example", x509.ExtKeyUsageServerAuth)
		write(secondCert, secondKey)
		wantSerial("within the interval", 2)
		time.Sleep(5 * time.Second)
		wantSerial("after the interval", 3)

		// What is not a pair is not taken, and said once.
		thirdCert, thirdKey := ca.issue("server.example", x509.ExtKeyUsageServerAuth)
		for name, broken := range map[string]func(){
			"key not written":          func() { write(thirdCert, secondKey) },
			"half a certificate":       func() { write(thirdCert[:100], thirdKey) },
			"empty files":              func() { write(nil, nil) },
			"certificate is not there": func() { check(t, os.Remove(certFile)) },
			"key is not there":         func() { write(thirdCert, nil); check(t, os.Remove(keyFile)) },
		} {
			write(secondCert, secondKey)
			time.Sleep(5 * time.Second)
			wantSerial("as before", 3)
			said.Reset()
			broken()
			for range 3 {
				time.Sleep(5 * time.Second)
				wantSerial(name, 3)
			}
			if warnings := strings.Count(said.String(), "level=WARN"); warnings != 1 {
				t.Errorf("%s: %d warnings", name, warnings)
			}
			if err := files.Reload(); err == nil {
				t.Errorf("%s: Reload succeeded", name)
			}
		}
		said.Reset()
		write(thirdCert, thirdKey)
		time.Sleep(5 * time.Second)
		wantSerial("once the pair is whole", 4)
		if !strings.Contains(said.String(), "level=INFO") {
			t.Errorf("nothing was said of the new certificate: %q", said)
		}

		// Reload does not wait for the interval.
		write(ca.issue("server.example", x509.ExtKeyUsageServerAuth))
		check(t, files.Reload())
		wantSerial("after Reload", 5)

		check(t, first.SendDatagram(t.Context(), []byte("still here")))
		if got := must(firstServer.ReceiveDatagram(t.Context()))(t); string(got) != "still here" {
			t.Errorf("the first session received %q", got)
		}
	})
}

func TestLoadCertificateFiles(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	cert, key := ca.issue("a", x509.ExtKeyUsageServerAuth)
	_, otherKey := ca.issue("b", x509.ExtKeyUsageServerAuth)
	path := func(name string, content []byte) string {
		p := filepath.Join(dir, name)
		check(t, os.WriteFile(p, content, 0o600))
		return p
	}
	certFile, keyFile, other := path("cert", cert), path("key", key), path("other", otherKey)
	both := path("both", append(cert, key...))
	for name, config := range map[string]wt.CertificateFilesConfig{
		"nothing":           {},
		"no such file":      {CertFile: certFile, KeyFile: filepath.Join(dir, "missing")},
		"another's key":     {CertFile: certFile, KeyFile: other},
		"negative interval": {CertFile: certFile, KeyFile: keyFile, Interval: -1},
	} {
		if _, err := wt.LoadCertificateFiles(config); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
	files := must(wt.LoadCertificateFiles(wt.CertificateFilesConfig{CertFile: both, KeyFile: both}))(t)
	if name := files.Certificate().Leaf.Subject.CommonName; name != "a" {
		t.Errorf("certificate of %q", name)
	}
}

// A server that asks for client certificates, and a client that trusts its
// authority.
func TestClientCertificates(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	asked := &tls.Config{
		Certificates: []tls.Certificate{ca.pair("server.example", x509.ExtKeyUsageServerAuth)},
		ClientCAs:    ca.pool(),
	}
	required := asked.Clone()
	required.ClientAuth = tls.RequireAndVerifyClientCert
	asked.ClientAuth = tls.VerifyClientCertIfGiven
	perClient := &tls.Config{
		Certificates:       asked.Certificates,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return required, nil },
	}
	trusting := func(certificates ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: ca.pool(), ServerName: "server.example", Certificates: certificates}
	}
	friend := trusting(ca.pair("friend", x509.ExtKeyUsageClientAuth))
	for name, c := range map[string]struct {
		server, client *tls.Config
		peer           string // the client's name, as the server has it
		refused        bool
	}{
		"required and given":            {required, friend, "friend", false},
		"required and missing":          {required, trusting(), "", true},
		"required, of a stranger":       {required, trusting(stranger.pair("friend", x509.ExtKeyUsageClientAuth)), "", true},
		"required, a server's":          {required, trusting(ca.pair("friend", x509.ExtKeyUsageServerAuth)), "", true},
		"asked and given":               {asked, friend, "friend", false},
		"asked and missing":             {asked, trusting(), "", false},
		"by GetConfigForClient":         {perClient, friend, "friend", false},
		"by GetConfigForClient, absent": {perClient, trusting(), "", true},
		"server of a stranger":          {required, &tls.Config{RootCAs: stranger.pool(), ServerName: "server.example"}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			n := wttest.NewNetwork(t, wttest.Link{}, 1)
			requests := make(chan *wt.Request, 1)
			handler := wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
				requests <- r
				if _, err := r.Accept(nil); err == nil {
					<-ctx.Done()
				}
			})
			origin := func(r *wt.Request) bool { return len(r.TLS().PeerCertificates) > 0 == (c.peer != "") }
			server := wttest.Serve(t, n, wt.ServerConfig{TLSConfig: c.server, Handler: handler, CheckOrigin: origin})
			dialer := wt.Dialer{PacketConn: n.NewEndpoint(), TLSConfig: c.client}
			session, err := dialer.Dial(t.Context(), server.URL)
			if c.refused {
				var refused *quic.TransportError
				if !errors.As(err, &refused) || !refused.ErrorCode.IsCryptoError() {
					t.Errorf("dial returned %v, want an error of TLS", err)
				}
				return
			}
			check(t, err)
			defer session.Close()
			state := (<-requests).TLS()
			if state.ServerName != "server.example" || state.NegotiatedProtocol != "h3" || !state.HandshakeComplete {
				t.Errorf("TLS is %+v", state)
			}
			switch {
			case c.peer == "" && len(state.PeerCertificates) != 0:
				t.Errorf("the client has a certificate")
			case c.peer != "" && (len(state.VerifiedChains) == 0 || state.PeerCertificates[0].Subject.CommonName != c.peer):
				t.Errorf("the client is %v", state.PeerCertificates)
			}
		})
	}
}

// A server whose certificate is renewed by another program, and which admits only
// clients with a certificate of its own authority.
func ExampleCertificateFiles() {
	files, err := wt.LoadCertificateFiles(wt.CertificateFilesConfig{
		CertFile: "/etc/ssl/example.com/fullchain.pem",
		KeyFile:  "/etc/ssl/example.com/privkey.pem",
		Logger:   slog.Default(),
	})
	if err != nil {
		log.Fatal(err)
	}
	clients := x509.NewCertPool() // of the authority that issues them
	config := files.TLSConfig()
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, clients
	server, err := wt.NewServer(wt.ServerConfig{
		Addr:      net.JoinHostPort("", "4433"),
		TLSConfig: config,
		Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
			session, err := r.Accept(nil)
			if err != nil {
				return
			}
			defer session.Close()
			fmt.Println("welcome,", r.TLS().PeerCertificates[0].Subject.CommonName)
		}),
	})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.ListenAndServe())
}
