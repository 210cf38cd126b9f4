package main

import (
	"os"
	"path/filepath"
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
	file := filepath.Join(dir, "dev-identity.pem")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// Whoever does not have it is told what to do.
	if _, errs := do(t, 1, "pub", "--server", second.url, "--state-dir", t.TempDir(), "a", "x"); !strings.Contains(errs, "--cert-hash HASH") || !strings.Contains(errs, "there is no development identity") {
		t.Error(errs)
	}
	do(t, 0, "pub", "--server", second.url, "--state-dir", t.TempDir(), "--cert-hash", second.hash, "a", "x")
	// So is one who has another.
	other, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Save(file); err != nil {
		t.Fatal(err)
	}
	if _, errs := do(t, 1, "pub", "--server", second.url, "a", "x"); !strings.Contains(errs, "it is not the development identity") {
		t.Error(errs)
	}
	if err := os.WriteFile(file, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs := do(t, 1, "--addr", "127.0.0.1:0"); !strings.Contains(errs, "delete that file") {
		t.Error(errs)
	}
}

func TestIdentityIsReplacedInTime(t *testing.T) {
	isolate(t)
	flags := stateFlags{StateDir: filepath.Join(t.TempDir(), "made", "on demand")}
	synctest.Test(t, func(t *testing.T) {
		first, err := flags.loadOrMake()
		if err != nil {
			t.Fatal(err)
		}
		end := first.Certificate().Leaf.NotAfter
		time.Sleep(time.Until(end.Add(-identityReserve)))
		if again, err := flags.loadOrMake(); err != nil || again.Hash() != first.Hash() {
			t.Errorf("with two days left: another identity, or %v", err)
		}
		time.Sleep(time.Second)
		next, err := flags.loadOrMake()
		if err != nil || next.Hash() == first.Hash() {
			t.Errorf("with less than two days left: the same identity, or %v", err)
		}
		if stored, err := flags.load(); err != nil || stored.Hash() != next.Hash() {
			t.Errorf("what is stored is another identity, or %v", err)
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
