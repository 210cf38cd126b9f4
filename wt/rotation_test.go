package wt_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

const day = 24 * time.Hour

// Over two months, what is served is trusted by whoever has hashes that are up to
// a period old, with a clock that differs by half a day.
func TestRotation(t *testing.T) {
	for _, period := range []time.Duration{0, 12 * day, 3 * day, time.Hour} {
		t.Run(period.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rotation := must(wt.NewRotation(wt.RotationConfig{Hosts: []string{"example.com"}, Period: period}))(t)
				if period == 0 {
					period = 10 * day
				}
				const steps = 7 // a period
				var lists [][][32]byte
				served := make(map[[32]byte]time.Duration)
				for i := range 6*steps + 1 {
					present := rotation.Present()
					certificate := must(rotation.GetCertificate(nil))(t)
					if certificate.Leaf != present.Certificate().Leaf {
						t.Fatalf("step %d: another certificate is served than the present one", i)
					}
					if lifetime := certificate.Leaf.NotAfter.Sub(certificate.Leaf.NotBefore); lifetime > 14*day {
						t.Fatalf("step %d: valid for %v", i, lifetime)
					}
					check(t, certificate.Leaf.VerifyHostname("example.com"))
					for _, skew := range []time.Duration{-12 * time.Hour, 0, 12 * time.Hour} {
						if !present.ValidAt(time.Now().Add(skew)) {
							t.Errorf("step %d: not valid to a clock that differs by %v", i, skew)
						}
					}
					lists = append(lists, rotation.Hashes())
					for _, list := range lists[max(0, i-steps):] {
						if !slices.Contains(list, present.Hash()) {
							t.Errorf("step %d: what is served was not published a period ago", i)
						}
					}
					if list := lists[i]; len(list) != 2 || list[0] != present.Hash() || list[1] != rotation.Next().Hash() || list[0] == list[1] {
						t.Errorf("step %d: published %x", i, list)
					}
					if at := rotation.NextAt(); !at.After(time.Now()) || at.After(time.Now().Add(period)) {
						t.Errorf("step %d: the next identity comes at %v", i, at)
					}
					served[present.Hash()] += period / steps
					time.Sleep(period / steps)
				}
				if len(served) < 6 {
					t.Errorf("%d identities were served in six periods", len(served))
				}
			})
		})
	}
}

func TestRotationConfig(t *testing.T) {
	for _, period := range []time.Duration{-1, 12*day + 1} {
		if _, err := wt.NewRotation(wt.RotationConfig{Period: period}); err == nil {
			t.Errorf("a period of %v was accepted", period)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(file, nil, 0o600))
	if _, err := wt.NewRotation(wt.RotationConfig{Dir: file}); err == nil {
		t.Error("a file was taken for a directory")
	}
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "identity-1.pem"), []byte("broken"), 0o600))
	if _, err := wt.NewRotation(wt.RotationConfig{Dir: dir}); err == nil {
		t.Error("a broken identity was passed over")
	}
}

// A session lives through rotations, and clients connect before and after with
// the hashes that they were given.
func TestRotationKeepsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rotation := must(wt.NewRotation(wt.RotationConfig{Period: time.Hour}))(t)
		n := wttest.NewNetwork(t, wttest.Link{}, 1)
		sessions := make(chan *wt.Session, 10)
		server := wttest.Serve(t, n, wt.ServerConfig{TLSConfig: rotation.TLSConfig(), Handler: accepting(sessions)})
		dial := func(hashes ...[32]byte) (*wt.Session, error) {
			dialer := wt.Dialer{CertificateHashes: hashes, PacketConn: n.NewEndpoint()}
			session, err := dialer.Dial(t.Context(), server.URL)
			if err == nil {
				t.Cleanup(func() { _ = session.Close() })
				<-sessions
			}
			return session, err
		}
		dialer := wt.Dialer{CertificateHashes: rotation.Hashes(), PacketConn: n.NewEndpoint()}
		old := must(dialer.Dial(t.Context(), server.URL))(t)
		defer old.Close()
		oldServer := <-sessions

		atFirst := rotation.Hashes()
		time.Sleep(time.Hour - time.Minute)
		must(dial(atFirst...))(t)
		must(dial(atFirst[0]))(t)
		time.Sleep(2 * time.Minute)
		afterOne := rotation.Hashes()
		must(dial(atFirst...))(t)
		must(dial(afterOne...))(t)
		if _, err := dial(atFirst[0]); err == nil || !strings.Contains(err.Error(), "matches none") {
			t.Errorf("dial with the first hash alone: %v", err)
		}
		time.Sleep(time.Hour)
		must(dial(afterOne...))(t)
		must(dial(rotation.Hashes()...))(t)
		if _, err := dial(atFirst...); err == nil {
			t.Error("hashes of two periods ago are still served")
		}

		check(t, old.SendDatagram(t.Context(), []byte("still here")))
		if got := must(oldServer.ReceiveDatagram(t.Context()))(t); string(got) != "still here" {
			t.Errorf("the first session received %q", got)
		}
	})
}

// A client with a cache of TLS sessions is not held to the certificate that its
// cached session began with.
func TestRotationOutlivesTickets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rotation := must(wt.NewRotation(wt.RotationConfig{Period: time.Hour}))(t)
		n := wttest.NewNetwork(t, wttest.Link{}, 1)
		server := wttest.Serve(t, n, wt.ServerConfig{TLSConfig: rotation.TLSConfig(), Handler: idle})
		dialer := wt.Dialer{TLSConfig: &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1)}}
		for _, pause := range []time.Duration{0, time.Hour - time.Minute, 2 * time.Minute} {
			time.Sleep(pause)
			dialer.PacketConn, dialer.CertificateHashes = n.NewEndpoint(), rotation.Hashes()
			session := must(dialer.Dial(t.Context(), server.URL))(t)
			settle() // for the ticket
			check(t, session.Close())
		}
	})
}

// A server that starts again goes on with the hashes that it published.
func TestRotationSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := wt.RotationConfig{Dir: filepath.Join(t.TempDir(), "made", "here"), Hosts: []string{"localhost"}}
		restart := func() *wt.Rotation {
			t.Helper()
			return must(wt.NewRotation(config))(t)
		}
		files := func() []string {
			t.Helper()
			var names []string
			for _, entry := range must(os.ReadDir(config.Dir))(t) {
				if mode := must(entry.Info())(t).Mode().Perm(); mode != 0o600 {
					t.Errorf("file has mode %v, want 0600", mode)
				}
				names = append(names, entry.Name())
			}
			return names
		}
		first := restart().Hashes()
		if len(files()) != 2 {
			t.Errorf("files %v, want 2", files())
		}
		time.Sleep(9 * day)
		if again := restart().Hashes(); !slices.Equal(again, first) {
			t.Errorf("hashes %x after a restart, want %x", again, first)
		}
		// Stopped during the change.
		time.Sleep(2 * day)
		second := restart()
		if hashes := second.Hashes(); hashes[0] != first[1] || hashes[1] == first[0] {
			t.Errorf("hashes %x after the period, want the second of %x and a new one", hashes, first)
		}
		// Stopped until the second is past its period, but still valid: it is served
		// as long as it lasts, so that the third can be published first.
		next := second.Next()
		if left := time.Until(second.NextAt()); left > 10*day || left < 9*day {
			t.Errorf("the next identity comes in %v", left)
		}
		time.Sleep(10 * day)
		third := restart()
		if third.Present().Hash() != next.Hash() {
			t.Errorf("present %x, want %x", third.Present().Hash(), next.Hash())
		}
		// Stopped for so long that nothing is valid any more.
		time.Sleep(30 * day)
		fresh := restart()
		if !fresh.Present().ValidAt(time.Now()) || slices.Contains(third.Hashes(), fresh.Present().Hash()) {
			t.Error("an expired identity is served")
		}
		if len(files()) != 2 {
			t.Errorf("files %v, want 2: the expired ones are left", files())
		}
	})
}

// An identity whose successor was lost is served as long as it lasts, and the new
// successor is published meanwhile.
func TestRotationWithoutNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		present := must(wt.NewRotation(wt.RotationConfig{Dir: dir}))(t).Present()
		files := must(filepath.Glob(filepath.Join(dir, "*")))(t)
		check(t, os.Remove(files[1])) // names sort by time
		time.Sleep(9 * day)
		rotation := must(wt.NewRotation(wt.RotationConfig{Dir: dir}))(t)
		if rotation.Present().Hash() != present.Hash() {
			t.Error("the identity was not kept")
		}
		end := present.Certificate().Leaf.NotAfter
		if at := rotation.NextAt(); end.Sub(at) != time.Hour {
			t.Errorf("the change comes %v before the end, want 1h", end.Sub(at))
		}
		next := rotation.Next()
		time.Sleep(time.Until(end) - time.Hour)
		if rotation.Present().Hash() != next.Hash() {
			t.Error("the published identity was not next")
		}
	})
}

// A disk that fails does not keep identities from rotating, and is written once
// it works again.
func TestRotationDiskFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "x")
		log := new(strings.Builder)
		config := wt.RotationConfig{Dir: dir, Logger: slog.New(slog.NewTextHandler(log, nil))}
		rotation := must(wt.NewRotation(config))(t)
		before := rotation.Hashes()
		check(t, os.RemoveAll(dir))
		time.Sleep(10 * day)
		hashes := rotation.Hashes()
		if hashes[0] != before[1] || hashes[1] == before[1] {
			t.Errorf("hashes %x after a period", hashes)
		}
		if !strings.Contains(log.String(), "level=WARN") {
			t.Errorf("nothing was said about the disk: %q", log)
		}
		check(t, os.Mkdir(dir, 0o700))
		rotation.Hashes() // too early to try again
		if files := must(os.ReadDir(dir))(t); len(files) != 0 {
			t.Errorf("saved again at once: %v", files)
		}
		time.Sleep(time.Minute)
		rotation.Hashes()
		if files := must(os.ReadDir(dir))(t); len(files) != 1 {
			t.Errorf("%d files, want that of the next identity", len(files))
		}
	})
}

func TestRotationConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rotation := must(wt.NewRotation(wt.RotationConfig{Period: time.Hour, Dir: t.TempDir()}))(t)
		var users sync.WaitGroup
		for range 8 {
			users.Go(func() {
				for range 50 {
					time.Sleep(10 * time.Minute)
					if _, err := rotation.GetCertificate(nil); err != nil || len(rotation.Hashes()) != 2 || rotation.NextAt().IsZero() {
						t.Error("rotation failed")
					}
				}
			})
		}
		users.Wait()
	})
}

// A server for browsers, without a certificate authority. Its page asks for the
// hashes, and gives them to WebTransport as serverCertificateHashes.
func ExampleRotation() {
	rotation, err := wt.NewRotation(wt.RotationConfig{
		Hosts: []string{"localhost", "127.0.0.1"},
		// With Dir, a restarted server goes on with the hashes that it published.
	})
	if err != nil {
		log.Fatal(err)
	}
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig: rotation.TLSConfig(),
		Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
			if _, err := r.Accept(nil); err == nil {
				<-ctx.Done()
			}
		}),
	})
	if err != nil {
		log.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(packets) }()

	// These are good for at least ten days.
	hashes := rotation.Hashes()
	fmt.Println(len(hashes), "hashes")

	dialer := wt.Dialer{CertificateHashes: hashes}
	session, err := dialer.Dial(context.Background(), fmt.Sprintf("https://%s/", packets.LocalAddr()))
	if err != nil {
		log.Fatal(err)
	}
	_ = session.Close()
	_ = server.Close()
	fmt.Println(<-served)
	// Output:
	// 2 hashes
	// wt: server closed
}
