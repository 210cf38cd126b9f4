package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/wt"
)

func TestClosedToOtherMachines(t *testing.T) {
	isolate(t)
	key := write(t, "secret", strings.Repeat("k", 32)+"\n")
	for _, test := range []struct {
		args       []string
		want, omit string
	}{
		{nil, "--cert FILE", "-"},
		{nil, "--jwt-hmac-key-file FILE", "-"},
		{[]string{"--allow-anyone"}, "a certificate:", "an authenticator:"},
		{[]string{"--jwt-hmac-key-file", key}, "a certificate:", "an authenticator:"},
		{[]string{"--allow-development-certificate"}, "an authenticator:", "a certificate:"},
	} {
		for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0"} {
			_, errs := do(t, 2, append([]string{"--addr", addr}, test.args...)...)
			if !strings.Contains(errs, test.want) || strings.Contains(errs, test.omit+" ") {
				t.Errorf("%s %q: %s", addr, test.args, errs)
			}
		}
	}
}

func TestBadSettings(t *testing.T) {
	dir := isolate(t)
	key := write(t, "secret", strings.Repeat("k", 32)+"\n")
	short := write(t, "short", "k")
	identity, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	certificate := filepath.Join(dir, "certificate.pem")
	if err := identity.Save(certificate); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"--addr nonsense":                     {"--addr", "nonsense"},
		"--cert and --key belong":             {"--cert", certificate},
		"no such file":                        {"--cert", "/does/not/exist", "--key", certificate},
		"has 1 bytes; it needs":               {"--jwt-hmac-key-file", short},
		"--jwt-hmac-key has 5 bytes":          {"--jwt-hmac-key", "short"},
		"no PEM":                              {"--jwt-ed25519-key", key},
		"of use only with a key":              {"--jwt-issuer", "x"},
		"contradict each other":               {"--allow-anyone", "--jwt-hmac-key-file", key},
		"is no origin":                        {"--allow-origin", "app.example"},
		`"https://app.example/" is no`:        {"--allow-origin", "https://app.example/"},
		"in lower case":                       {"--allow-origin", "https://App.example"},
		"--stop-timeout":                      {"--stop-timeout", "0s"},
		"--max-payload is not positive":       {"--max-payload", "0"},
		"--max-sessions is not positive":      {"--max-sessions=-1"},
		"--max-payload is above 16MiB":        {"--max-payload", "17MiB"},
		"--publish-rate is negative":          {"--publish-rate=-1"},
		"of use only with --nats":             {"--nats-prefix", "x"},
		"must be one of \"page\",\"metrics\"": {"--expose", "everything"},
	} {
		c := start(t, "", append([]string{"--addr", "127.0.0.1:0"}, args...)...)
		<-c.done
		if c.code == 0 || !strings.Contains(c.stderr.String(), want) {
			t.Errorf("%q: exit code %d, %s; want %q", args, c.code, c.stderr, want)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	isolate(t)
	b := startBroker(t)
	addr := strings.TrimPrefix(b.site, "http://")
	if _, errs := do(t, 2, "--addr", addr); !strings.Contains(errs, addr+" is in use") {
		t.Error(errs)
	}
}

func TestHTTP(t *testing.T) {
	isolate(t)
	b := startBroker(t)
	if status, body, _ := b.get(t, "/healthz"); status != 200 || body != "ok\n" {
		t.Errorf("health: %d %q", status, body)
	}
	do(t, 0, "pub", "--server", b.url, "a", "hello")
	status, body, _ := b.get(t, "/metrics")
	for _, line := range []string{
		"# TYPE tidewire_sessions gauge",
		"tidewire_messages_published_total 1",
		"tidewire_messages_published_bytes_total 5",
		"tidewire_sessions_welcomed_total 1",
		`tidewire_messages_dropped_total{reason="overflow"} 0`,
		`tidewire_messages_dropped_total{reason="expired"} 0`,
		`tidewire_gaps_total{reason="conflated"} 0`,
		`tidewire_gaps_total{reason="history"} 0`,
		"tidewire_presences 0",
		"tidewire_requests 0",
		"tidewire_groups 0",
		"tidewire_slow_subscriptions 0",
		"tidewire_history_bytes ",
		"tidewire_packet_loss_ratio 0",
		`tidewire_rtt_seconds{quantile="0.99"} `,
		`tidewire_messages_dropped_total{reason="rate_limited"} 0`,
		"go_goroutines ",
	} {
		if status != 200 || !strings.Contains(body, line) {
			t.Errorf("metrics, status %d, have no %q", status, line)
		}
	}
	if status, _, _ := b.get(t, "/nothing"); status != 404 {
		t.Errorf("status %d", status)
	}
	// A name that somebody has made to resolve to this machine.
	transport := &http.Transport{DisableKeepAlives: true}
	if status, _, _ := fetch(t, transport, b.site+"/metrics", "evil.example"); status != http.StatusMisdirectedRequest {
		t.Errorf("status %d under another name", status)
	}
	if status, _, _ := fetch(t, transport, b.site+"/metrics", "localhost:1"); status != 200 {
		t.Errorf("status %d as localhost", status)
	}
}

func TestPage(t *testing.T) {
	isolate(t)
	b := startBroker(t)
	status, body, header := b.get(t, "/")
	if status != 200 || !strings.Contains(body, "<title>Tidewire") || !strings.Contains(header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("page: %d, %v", status, header)
	}
	for name, kind := range map[string]string{
		"/page.js": "text/javascript", "/log.js": "text/javascript", "/payload.js": "text/javascript",
		"/page.css": "text/css", "/icon.svg": "image/svg+xml", "/tidewire.js": "text/javascript",
	} {
		status, body, header := b.get(t, name)
		if status != 200 || body == "" || !strings.HasPrefix(header.Get("Content-Type"), kind) || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d, %v", name, status, header)
		}
	}
	_, body, _ = b.get(t, "/config.json")
	var config pageConfig
	if err := json.Unmarshal([]byte(body), &config); err != nil || "https://"+config.Host+config.Path != b.url || len(config.CertificateHashes) != 2 || config.CertificateHashes[1] == b.hash || config.CertificateHashes[0] != b.hash || config.Tokens {
		t.Errorf("config %s, %v", body, err)
	}
}

// TestWhatOthersSee looks at the HTTP side of a broker that other machines reach.
func TestWhatOthersSee(t *testing.T) {
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, test := range []struct {
		expose []string
		status map[string]int
	}{
		{nil, map[string]int{"/healthz": 200, "/metrics": 404, "/": 404, "/config.json": 404, "/tidewire.js": 404}},
		{[]string{"metrics"}, map[string]int{"/healthz": 200, "/metrics": 200, "/": 404}},
		{[]string{"page"}, map[string]int{"/healthz": 200, "/metrics": 404, "/": 200, "/config.json": 200, "/tidewire.js": 200}},
	} {
		h := &setup{command: &serveCommand{Expose: test.expose}}
		handler, err := h.webHandler(b, new(health))
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range test.status {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "https://broker.example"+path, nil))
			if w.Code != want {
				t.Errorf("expose %q: %s has status %d, want %d", test.expose, path, w.Code, want)
			}
		}
	}
}

func TestDraining(t *testing.T) {
	h := new(health)
	h.draining.Store(true)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
	if w.Code != http.StatusServiceUnavailable || w.Body.String() != "draining\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

func TestOwnCertificate(t *testing.T) {
	isolate(t)
	identity, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "certificate.pem")
	if err := identity.Save(file); err != nil {
		t.Fatal(err)
	}
	b := startBroker(t, "--cert", file, "--key", file)
	if b.hash != "" || !strings.HasPrefix(b.site, "https://") {
		t.Errorf("hash %q, site %s", b.hash, b.site)
	}
	roots := x509.NewCertPool()
	roots.AddCert(identity.Certificate().Leaf)
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}
	if status, _, _ := fetch(t, transport, b.site+"/healthz", ""); status != 200 {
		t.Errorf("status %d over https", status)
	}
	if _, errs := do(t, 1, "pub", "--server", b.url, "a", "x"); !strings.Contains(errs, "is not trusted") || !strings.Contains(errs, "--cert-hash") {
		t.Error(errs)
	}
	do(t, 0, "pub", "--server", b.url, "--cert-hash", identity.HashBase64(), "a", "x")
	do(t, 0, "pub", "--server", b.url, "--cert-hash", identity.HashHex(), "a", "x")
}

func TestOrigins(t *testing.T) {
	isolate(t)
	b := startBroker(t, "--allow-origin", "https://app.example")
	hash, err := parseHash(b.hash)
	if err != nil {
		t.Fatal(err)
	}
	for origin, welcome := range map[string]bool{
		"":                       true, // no browser
		b.site:                   true,
		"http://localhost:8080":  true,
		"http://[::1]:8080":      true,
		"https://app.example":    true,
		"https://other.example":  false,
		"http://app.example":     false,
		"null":                   false,
		"file://127.0.0.1":       false,
		"http://127.0.0.1.nip.x": false,
	} {
		dialer := wt.Dialer{CertificateHashes: [][32]byte{hash}, Origin: origin}
		session, err := dialer.Dial(t.Context(), b.url)
		if err == nil {
			_ = session.Close()
		}
		if (err == nil) != welcome {
			t.Errorf("origin %q: %v, welcome %v", origin, err, welcome)
		}
	}
}

func TestOriginsBeyondLoopback(t *testing.T) {
	p := originPolicy{scheme: "https", allowed: map[string]bool{"https://app.example": true}}
	for origin, welcome := range map[string]bool{
		"": true, "https://broker.example:4433": true, "https://app.example": true,
		"http://broker.example:4433": false, "https://broker.example": false, "http://localhost": false, "http://127.0.0.1:4433": false, "null": false,
	} {
		if p.welcomes(&wt.Request{Origin: origin, Authority: "broker.example:4433"}) != welcome {
			t.Errorf("origin %q: welcome is not %v", origin, welcome)
		}
	}
	if !(originPolicy{any: true}).welcomes(&wt.Request{Origin: "https://anything.example"}) {
		t.Error("* does not welcome any origin")
	}
}

// TestSignal starts the program as one, and ends it as an operator does.
func TestSignal(t *testing.T) {
	dir := isolate(t)
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		program := exec.CommandContext(t.Context(), os.Args[0], "--addr", "127.0.0.1:0", "--log-format", "json")
		program.Env = append(os.Environ(), asProgram+"=1", "TIDEWIRE_STATE_DIR="+dir)
		stdout, stderr := newOutput(), newOutput()
		program.Stdout, program.Stderr = stdout, stderr
		if err := program.Start(); err != nil {
			t.Fatal(err)
		}
		stdout.await(t, "Ctrl-C")
		if err := program.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := program.Wait(); err != nil {
			t.Errorf("%v: %v", signal, err)
		}
		if !strings.Contains(stderr.String(), `"msg":"stopping`) {
			t.Errorf("%v: %s", signal, stderr)
		}
	}
}
