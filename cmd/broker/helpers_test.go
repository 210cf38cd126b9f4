package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain runs the program itself where a test has started it for that.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// asProgram is the variable with which the test binary is the program.
const asProgram = "RUN_AS_BROKER"

// patience bounds what a test waits for; it is never what a test measures.
const patience = 30 * time.Second

// output is what a command writes, readable while it runs. Its methods may be
// called concurrently.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer  // guarded by mu
	written chan struct{} // closed and replaced with each write; guarded by mu
}

func newOutput() *output { return &output{written: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.written)
	o.written = make(chan struct{})
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// await waits until a text has been written.
func (o *output) await(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		o.mu.Lock()
		have, written := o.text.String(), o.written
		o.mu.Unlock()
		if strings.Contains(have, text) {
			return
		}
		select {
		case <-written:
		case <-ctx.Done():
			t.Fatalf("%q was not written, but %q", text, have)
		}
	}
}

// command is one that runs.
type command struct {
	stdout, stderr *output
	interrupt      context.CancelFunc
	done           chan struct{} // closed when it has ended
	code           int           // valid once done is closed
}

// start runs a command until it ends, or the test does.
func start(t *testing.T, stdin string, args ...string) *command {
	t.Helper()
	ctx, interrupt := context.WithCancel(context.Background())
	c := &command{stdout: newOutput(), stderr: newOutput(), interrupt: interrupt, done: make(chan struct{})}
	go func() { // ends with the command, which Cleanup waits for
		defer close(c.done)
		c.code = run(ctx, args, strings.NewReader(stdin), c.stdout, c.stderr)
	}()
	t.Cleanup(func() {
		interrupt()
		<-c.done
	})
	return c
}

// wait waits for the end and wants an exit code.
func (c *command) wait(t *testing.T, code int) {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		t.Fatalf("it does not end; it wrote %q and %q", c.stdout, c.stderr)
	}
	if c.code != code {
		t.Fatalf("exit code %d, want %d; it wrote %q and %q", c.code, code, c.stdout, c.stderr)
	}
}

// do runs a command to its end, wants an exit code, and returns what it wrote.
func do(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	c := start(t, "", args...)
	c.wait(t, code)
	return c.stdout.String(), c.stderr.String()
}

// isolate gives the test a folder of state, and an environment without settings.
func isolate(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "TIDEWIRE_") {
			t.Setenv(name, "") // so that it is restored
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("TIDEWIRE_STATE_DIR", dir)
	return dir
}

// instance is a broker that runs.
type instance struct {
	*command
	url  string
	site string // of HTTP
	hash string // "" with --cert
}

var (
	urlLine    = regexp.MustCompile(`URL +(\S+)`)
	healthLine = regexp.MustCompile(`health +(\S+)/healthz`)
	hashLine   = regexp.MustCompile(`certificate +(\S+)`)
)

// startBroker runs a broker on free ports.
func startBroker(t *testing.T, args ...string) *instance {
	t.Helper()
	return startBrokerAt(t, "127.0.0.1:0", args...)
}

func startBrokerAt(t *testing.T, addr string, args ...string) *instance {
	t.Helper()
	b := &instance{command: start(t, "", append([]string{"--addr", addr}, args...)...)}
	ready := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-b.done:
			t.Errorf("the broker has ended: %s", b.stderr)
		case <-ready:
		}
	})
	b.stdout.await(t, "Ctrl-C")
	close(ready)
	watching.Wait()
	welcome := b.stdout.String()
	b.url = urlLine.FindStringSubmatch(welcome)[1]
	b.site = healthLine.FindStringSubmatch(welcome)[1]
	if hash := hashLine.FindStringSubmatch(welcome); hash != nil {
		b.hash = hash[1]
	}
	return b
}

// get fetches a page of the broker.
func (b *instance) get(t *testing.T, path string) (status int, body string, header http.Header) {
	t.Helper()
	return fetch(t, &http.Transport{DisableKeepAlives: true}, b.site+path, "")
}

// fetch gets a URL, under another host's name if one is given.
func fetch(t *testing.T, transport http.RoundTripper, url, host string) (status int, body string, header http.Header) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		request.Host = host
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(bufio.NewReader(response.Body))
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text), response.Header
}

// write makes a file in a folder of the test.
func write(t *testing.T, name, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
