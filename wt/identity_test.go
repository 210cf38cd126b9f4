package wt_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/wt"
)

func TestDevIdentity(t *testing.T) {
	identity := must(wt.NewDevIdentity())(t)
	leaf := identity.Certificate().Leaf
	if lifetime := leaf.NotAfter.Sub(leaf.NotBefore); lifetime != 13*24*time.Hour {
		t.Errorf("valid for %v, want 13 days", lifetime)
	}
	if ago := time.Since(leaf.NotBefore); ago < time.Hour || ago > time.Hour+time.Minute {
		t.Errorf("backdated by %v, want 1h", ago)
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		if err := leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	hash := sha256.Sum256(leaf.Raw)
	if identity.Hash() != hash || identity.HashBase64() != base64.StdEncoding.EncodeToString(hash[:]) {
		t.Errorf("hash %x, base64 %s", identity.Hash(), identity.HashBase64())
	}
	if got := strings.ToLower(strings.ReplaceAll(identity.HashHex(), ":", "")); got != hex.EncodeToString(hash[:]) || strings.Count(identity.HashHex(), ":") != 31 {
		t.Errorf("hash in hexadecimal is %s", identity.HashHex())
	}
	if !identity.ValidAt(time.Now()) || identity.ValidAt(time.Now().Add(13*24*time.Hour)) {
		t.Error("validity in time is wrong")
	}
}

func TestSaveIdentity(t *testing.T) {
	identity := must(wt.NewDevIdentity("example.com"))(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "identity.pem")
	check(t, identity.Save(path))
	check(t, identity.Save(path)) // replaces
	loaded := must(wt.LoadIdentity(path))(t)
	if loaded.Hash() != identity.Hash() {
		t.Error("another certificate was loaded")
	}
	check(t, loaded.Certificate().Leaf.VerifyHostname("example.com"))
	if mode := must(os.Stat(path))(t).Mode().Perm(); mode != 0o600 {
		t.Errorf("file has mode %v, want 0600", mode)
	}
	if files := must(os.ReadDir(dir))(t); len(files) != 1 {
		t.Errorf("%d files were left", len(files))
	}

	other := filepath.Join(dir, "other.pem")
	check(t, must(wt.NewDevIdentity())(t).Save(other))
	text, otherText := string(must(os.ReadFile(path))(t)), string(must(os.ReadFile(other))(t))
	key := strings.Index(otherText, "-----BEGIN EC")
	for name, content := range map[string]string{
		"empty":          "",
		"no key":         text[:strings.Index(text, "-----BEGIN EC")],
		"another's key":  text[:strings.Index(text, "-----BEGIN EC")] + otherText[key:],
		"damaged key":    strings.Replace(text, "EC PRIVATE KEY-----\n", "EC PRIVATE KEY-----\nAAAA", 1),
		"no certificate": text[strings.Index(text, "-----BEGIN EC"):],
	} {
		check(t, os.WriteFile(path, []byte(content), 0o600))
		if _, err := wt.LoadIdentity(path); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
	if _, err := wt.LoadIdentity(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := identity.Save(filepath.Join(dir, "missing", "x")); err == nil {
		t.Error("saved into a directory that is not there")
	}
}

func TestParseHash(t *testing.T) {
	id, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	plain := strings.ToLower(strings.ReplaceAll(id.HashHex(), ":", ""))
	for _, s := range []string{id.HashBase64(), id.HashHex(), plain} {
		if h, err := wt.ParseHash(s); err != nil || h != id.Hash() {
			t.Errorf("ParseHash(%q) = %x, %v", s, h, err)
		}
	}
	for _, s := range []string{"", "nonsense", plain[2:], id.HashBase64() + "AA"} {
		if _, err := wt.ParseHash(s); err == nil {
			t.Errorf("ParseHash(%q) succeeded", s)
		}
	}
}
