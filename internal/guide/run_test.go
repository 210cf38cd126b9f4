package guide

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/jwtauth"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/internal/memnet"
	"github.com/tidewire/tidewire/wt"
)

// snippetTimeout bounds one snippet.
const snippetTimeout = 20 * time.Second

// compiledSnippet is a snippet and the function that it was made.
type compiledSnippet struct {
	snippet
	function func(ctx context.Context, c *client.Client, g *given) error
}

// given is what a snippet may use beside ctx and c. docs/guide/README.md tells its
// readers.
type given struct {
	url           string
	config        client.Config
	key           []byte // signs tokens; nil if the broker wants none
	restartBroker func() error
	dial          func(*broker.Broker, client.Config) (c *client.Client, stop func(), err error)
}

// fetchToken stands for the call with which an application asks its own server.
func (g *given) fetchToken(context.Context) (string, error) {
	return jwtauth.Sign(jwtauth.SigningKey{HMAC: g.key}, jwtauth.Grant{
		Principal: "ada",
		Publish:   []string{">"},
		Subscribe: []string{">"},
		Expires:   time.Now().Add(time.Hour),
	})
}

// dialWithin makes a client of a broker within the process; stop ends both.
func dialWithin(b *broker.Broker, config client.Config) (c *client.Client, stop func(), err error) {
	n := new(memnet.Network)
	config.Dial = n.Dial
	end := n.Serve(b)
	if c, err = client.Dial(context.Background(), "", config); err != nil {
		end()
		return nil, nil, err
	}
	return c, func() { _ = c.Close(); end() }, nil
}

// run runs the snippet against a broker of its own.
func (s compiledSnippet) run(t *testing.T, program string) {
	b := startBroker(t, program, s.Config)
	defer b.stop(t)
	hash, err := wt.ParseHash(b.hash)
	if err != nil {
		t.Fatal(err)
	}
	g := &given{url: b.url, config: client.Config{CertificateHashes: [][32]byte{hash}}, restartBroker: b.restart, dial: dialWithin}
	var settings struct {
		Key string `yaml:"jwt-hmac-key"`
	}
	if err := yaml.Unmarshal([]byte(s.Config), &settings); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), snippetTimeout)
	defer cancel()
	config := g.config
	if settings.Key != "" {
		g.key = []byte(settings.Key)
		if config.Token, err = g.fetchToken(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.Dial(ctx, b.url, config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := printed(func() error { return s.function(ctx, c, g) })
	if err != nil {
		t.Errorf("it returned %v after printing\n%s", err, got)
	} else if !same(got, s.Output) {
		t.Errorf("it printed\n%s\nand the guide says\n%s", got, s.Output)
	}
}

// same compares what was printed, but for space at the ends of lines.
func same(got, want string) bool {
	return trimmed(got) == trimmed(want)
}

func trimmed(text string) string {
	var lines []string
	for l := range strings.Lines(text) {
		lines = append(lines, strings.TrimRight(l, " \t\n"))
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

// printed runs f and returns what it wrote to standard output.
func printed(f func() error) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	stdout := os.Stdout
	os.Stdout = w
	text := make(chan string)
	go func() {
		b, _ := io.ReadAll(r)
		text <- string(b)
	}()
	err = f()
	os.Stdout = stdout
	_ = w.Close()
	got := <-text
	return got, errors.Join(err, r.Close())
}

// brokerProgram is a broker that runs as a program.
type brokerProgram struct {
	args      []string
	url, hash string
	cmd       *exec.Cmd
}

func startBroker(t *testing.T, program, config string) *brokerProgram {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "broker.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &brokerProgram{args: []string{program, "serve", "--config", file, "--state-dir", dir, "--log-level", "warn"}}
	// A broker has an identity for each address, so that of a restarted one is the same
	// only if it was named from the beginning.
	for attempt := 1; ; attempt++ {
		err := b.start(freeAddr(t))
		if err == nil {
			return b
		}
		if attempt == 3 { // somebody else may have taken the port
			t.Fatal(err)
		}
	}
}

// freeAddr returns an address of this machine that nobody uses just now.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start starts it at an address and waits until it serves.
func (b *brokerProgram) start(addr string) error {
	cmd := exec.Command(b.args[0], append(b.args[1:], "--addr", addr)...) //nolint:gosec // the test built it
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.cmd = cmd
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		switch words := strings.Fields(lines.Text()); {
		case len(words) < 2:
		case words[0] == "URL":
			b.url = words[1]
		case words[0] == "certificate":
			b.hash = words[1]
		case words[0] == "Ctrl-C":
			return nil
		}
	}
	return fmt.Errorf("the broker ended: %w", cmd.Wait())
}

// end stops it gracefully.
func (b *brokerProgram) end() error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return b.cmd.Wait()
}

func (b *brokerProgram) stop(t *testing.T) {
	t.Helper()
	if err := b.end(); err != nil {
		t.Errorf("the broker: %v", err)
	}
}

// restart stops it and starts it again at the same address.
func (b *brokerProgram) restart() error {
	if err := b.end(); err != nil {
		return err
	}
	addr, _, _ := strings.Cut(strings.TrimPrefix(b.url, "https://"), "/")
	return b.start(addr)
}
