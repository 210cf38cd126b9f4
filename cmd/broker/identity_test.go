package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt"
)

func TestIdentityIsKept(t *testing.T) {
	dir := isolate(t)
	first := startBroker(t)
	first.interrupt()
	first.wait(t, 0)
	second := startBroker(t)
	if first.hash != second.hash {
		t.Error("the second broker has another identity")
	}
	files, err := filepath.Glob(filepath.Join(dir, "identities", "127.0.0.1_0", "identity-*.pem"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
	// Whoever does not have it is told what to do.
	if _, errs := do(t, 1, "pub", "--server", second.url, "--state-dir", t.TempDir(), "a", "x"); !strings.Contains(errs, "--cert-hash HASH") || !strings.Contains(errs, "there is no development identity") {
		t.Error(errs)
	}
	do(t, 0, "pub", "--server", second.url, "--state-dir", t.TempDir(), "--cert-hash", second.hash, "a", "x")
	// So is one who has others.
	other, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if err := errors.Join(os.Remove(file), other.Save(file)); err != nil {
			t.Fatal(err)
		}
	}
	if _, errs := do(t, 1, "pub", "--server", second.url, "a", "x"); !strings.Contains(errs, "it is no development identity") {
		t.Error(errs)
	}
	if err := os.WriteFile(files[0], []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs := do(t, 1, "--addr", "127.0.0.1:0"); !strings.Contains(errs, "delete "+filepath.Dir(files[0])) {
		t.Error(errs)
	}
}

// A broker that runs for months serves certificates that are valid: those that its
// page has told long before, and that this machine trusts.
func TestIdentityIsRenewed(t *testing.T) {
	isolate(t)
	flags := stateFlags{StateDir: filepath.Join(t.TempDir(), "made", "on [demand]")}
	synctest.Test(t, func(t *testing.T) {
		rotation, unsaved, err := flags.rotation("[::1]:4433", slog.New(slog.DiscardHandler))
		if err != nil || unsaved != nil {
			t.Fatal(err, unsaved)
		}
		s := &setup{rotation: rotation}
		trust := &localTrust{state: flags}
		var told []string
		changes := 0
		for range 60 {
			certificate, err := rotation.GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			leaf := certificate.Leaf
			hash := sha256.Sum256(leaf.Raw)
			text := base64.StdEncoding.EncodeToString(hash[:])
			if told != nil && !slices.Contains(told, text) {
				t.Fatal("it serves what its page has not told a day before")
			}
			if told != nil && told[0] != text {
				changes++
			}
			if now := time.Now(); now.Before(leaf.NotBefore) || !now.Before(leaf.NotAfter) {
				t.Errorf("it serves a certificate that is valid from %v to %v", leaf.NotBefore, leaf.NotAfter)
			}
			if err := trust.verify(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}); err != nil {
				t.Errorf("this machine does not trust it: %v", err)
			}
			told = s.pageConfig().CertificateHashes
			time.Sleep(24 * time.Hour)
		}
		if changes < 5 || changes > 7 {
			t.Errorf("%d changes in 60 days", changes)
		}
		stored, err := flags.stored()
		if err != nil || len(stored) > 3 {
			t.Errorf("%d identities are stored, %v", len(stored), err)
		}
	})
}

func TestNoHome(t *testing.T) {
	isolate(t)
	for _, name := range []string{"TIDEWIRE_STATE_DIR", "XDG_CONFIG_HOME", "HOME"} {
		t.Setenv(name, "")
	}
	b := startBroker(t)
	if !strings.Contains(b.stdout.String(), "--cert-hash "+b.hash) {
		t.Errorf("a broker without a home does not tell how to trust it: %s", b.stdout)
	}
	do(t, 0, "pub", "--server", b.url, "--cert-hash", b.hash, "a", "x")
	if _, errs := do(t, 1, "pub", "--server", b.url, "a", "x"); !strings.Contains(errs, "--state-dir") {
		t.Error(errs)
	}
}
