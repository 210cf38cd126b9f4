package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/tidewire/tidewire/broker/jwtauth"
)

func TestPublishAndSubscribe(t *testing.T) {
	isolate(t)
	b := startBroker(t)
	sub := start(t, "", "sub", "--server", b.url, "--count", "2", "chat.>")
	sub.stderr.await(t, "subscribed")
	for i := 1; i <= 2; i++ {
		out, _ := do(t, 0, "pub", "--server", b.url, "chat.lobby", fmt.Sprint("hello ", i))
		if !strings.HasPrefix(out, fmt.Sprintf("chat.lobby  #%d  epoch ", i)) {
			t.Errorf("pub printed %q", out)
		}
	}
	sub.wait(t, 0)
	if got := sub.stdout.String(); got != "chat.lobby  #1  hello 1\nchat.lobby  #2  hello 2\n" {
		t.Errorf("sub printed %q", got)
	}
}

func TestPublishAndSubscribeOptions(t *testing.T) {
	isolate(t)
	b := startBroker(t)
	for i := 1; i <= 3; i++ {
		do(t, 0, "pub", "--server", b.url, "prices", fmt.Sprint(i), "--key", "ACME", "--retain", "--ttl", "1h", "--header", "a=b=c;d", "--header", "e=f", "--id", fmt.Sprint(i))
	}
	if out, _ := do(t, 0, "pub", "--server", b.url, "prices", "again", "--id", "3"); !strings.HasPrefix(out, "prices  #3  ") {
		t.Errorf("pub with an idempotency key of before printed %q", out)
	}
	for from, want := range map[string]string{"2": "2 3", "beginning": "1 2 3", "5m": "1 2 3"} {
		out, _ := do(t, 0, "sub", "--server", b.url, "--from", from, "--count", fmt.Sprint(len(strings.Fields(want))), "prices")
		var got []string
		for line := range strings.Lines(out) {
			got = append(got, strings.TrimPrefix(strings.TrimSpace(line[strings.Index(line, "[ACME]"):]), "[ACME]  "))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("from %s: %q, want %q", from, out, want)
		}
	}
	out, _ := do(t, 0, "sub", "--server", b.url, "--json", "--class", "latest", "--count", "1", "prices") // the last value
	var m messageJSON
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		t.Fatal(err)
	}
	if m.Key != "ACME" || m.Headers["a"] != "b=c;d" || m.Headers["e"] != "f" || m.Expires == "" || !m.Retained || !m.Replayed {
		t.Errorf("sub printed %s", out)
	}
	for _, from := range []string{"0", "-5m", "begin"} {
		if _, errs := do(t, 2, "sub", "--server", b.url, "--from="+from, "prices"); !strings.Contains(errs, "is neither beginning") {
			t.Errorf("from %s: %s", from, errs)
		}
	}
	if _, errs := do(t, 1, "sub", "--server", b.url, "--from", "1", "--group", "g", "prices"); !strings.Contains(errs, "invalid_option") {
		t.Errorf("from in a group: %s", errs)
	}
}

func TestLossy(t *testing.T) {
	isolate(t)
	b := startBroker(t)
	sub := start(t, "", "sub", "--server", b.url, "--count", "1", "--class", "sequenced", "--json", "cursor")
	sub.stderr.await(t, "subscribed")
	// A datagram may be lost, and then the next one comes.
	for ended := false; !ended; {
		if out, _ := do(t, 0, "pub", "--server", b.url, "--lossy", "cursor", "1,2"); out != "cursor  sent\n" {
			t.Fatalf("pub printed %q", out)
		}
		select {
		case <-sub.done:
			ended = true
		default:
		}
	}
	sub.wait(t, 0)
	var m messageJSON
	if line, _, _ := strings.Cut(lastMessage(sub.stdout.String()), "\n"); json.Unmarshal([]byte(line), &m) != nil || !m.Lossy || string(m.Payload) != `"1,2"` {
		t.Errorf("sub printed %s", sub.stdout)
	}
}

// lastMessage returns the last line.
func lastMessage(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func TestJSON(t *testing.T) {
	isolate(t)
	b := startBroker(t)
	sub := start(t, "", "sub", "--server", b.url, "--count", "6", "--json", ">")
	sub.stderr.await(t, "subscribed")
	pub := func(stdin string, args ...string) {
		t.Helper()
		start(t, stdin, append([]string{"pub", "--server", b.url}, args...)...).wait(t, 0)
	}
	pub("", "a", "<text>")
	pub("", "a", "--json", `{"x": 1}`)
	pub(`{"x":[1,2.5,null,"y"]}`, "a", "--encoding", "msgpack")
	pub("\xff\x00", "a")
	pub("", "a", "--encoding", "bytes", "plain")
	pub("", "b", "")
	sub.wait(t, 0)
	want := []struct{ topic, encoding, payload, base64 string }{
		{"a", "text", `"<text>"`, ""},
		{"a", "json", `{"x":1}`, ""},
		{"a", "msgpack", `{"x":[1,2.5,null,"y"]}`, ""},
		{"a", "bytes", "", "/wA="},
		{"a", "bytes", "", "cGxhaW4="},
		{"b", "text", `""`, ""},
	}
	lines := strings.Split(strings.TrimSpace(sub.stdout.String()), "\n")
	if len(lines) != len(want) {
		t.Fatalf("sub printed %s", sub.stdout)
	}
	offsets := make(map[string]uint64)
	for i, line := range lines {
		var m messageJSON
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		offsets[m.Topic]++
		w := want[i]
		base64 := ""
		if m.Base64 != nil {
			base64 = *m.Base64
		}
		if m.Topic != w.topic || m.Encoding != w.encoding || string(m.Payload) != w.payload || base64 != w.base64 || m.Offset != offsets[m.Topic] || m.Epoch == 0 || m.Publisher == "" || m.Lossy {
			t.Errorf("line %d is %s", i, line)
		}
		if at, err := time.Parse(time.RFC3339Nano, m.Time); err != nil || time.Since(at) > time.Hour {
			t.Errorf("line %d has time %s", i, m.Time)
		}
	}
}

// TestReconnect lets a subscription outlive its broker: what may be missing is told
// as a gap.
func TestReconnect(t *testing.T) {
	isolate(t)
	b := startBroker(t)
	people := start(t, "", "sub", "--server", b.url, "--count", "2", "a")
	people.stderr.await(t, "subscribed")
	program := start(t, "", "sub", "--server", b.url, "--count", "2", "--json", "a")
	program.stderr.await(t, "subscribed")
	do(t, 0, "pub", "--server", b.url, "a", "before")
	people.stdout.await(t, "before")
	program.stdout.await(t, "before")

	b.interrupt()
	b.wait(t, 0)
	people.stderr.await(t, "connection lost")
	b = startBrokerAt(t, strings.TrimPrefix(b.site, "http://"))
	people.stderr.await(t, "gap: ")
	program.stdout.await(t, `{"gap":`)
	do(t, 0, "pub", "--server", b.url, "a", "after")
	people.wait(t, 0)
	program.wait(t, 0)
	if errs := people.stderr.String(); !strings.Contains(errs, "connected again") || !strings.Contains(errs, "reconnect") {
		t.Error(errs)
	}
	var g gapJSON
	lines := strings.Split(program.stdout.String(), "\n")
	if err := json.Unmarshal([]byte(lines[1]), &g); err != nil || g.Gap.Topic != "a" || g.Gap.Reason != "reconnect" || g.Gap.From == nil || g.Gap.From.Offset != 1 {
		t.Errorf("%s: %v", lines[1], err)
	}
}

func TestInterruptedSubscription(t *testing.T) {
	isolate(t)
	b := startBroker(t)
	for args, code := range map[string]int{"--count=0": 0, "--count=1": 1} {
		sub := start(t, "", "sub", "--server", b.url, args, "a")
		sub.stderr.await(t, "subscribed")
		sub.interrupt()
		sub.wait(t, code)
	}
}

func TestRefusals(t *testing.T) {
	isolate(t)
	b := startBroker(t, "--max-payload", "100")
	for want, args := range map[string][]string{
		"invalid_topic":        {"pub", "a..b", "x"},
		"system_topic":         {"pub", "$SYS.x", "x"},
		"payload_too_large":    {"pub", "a", strings.Repeat("x", 101)},
		"is no JSON":           {"pub", "a", "--json", "{"},
		"contradict":           {"pub", "a", "--json", "--encoding", "text", "{}"},
		"invalid_pattern":      {"sub", "a.>.b"},
		"(system_topic, 204)":  {"sub", "$JS.API.*"},
		"is no SHA-256":        {"sub", "--cert-hash", "x", "a"},
		"is not where":         {"sub", "--server", b.url + "/elsewhere", "a"},
		"is no URL":            {"pub", "--server", "http://127.0.0.1", "a", "x"},
		"no broker answers at": {"pub", "--server", "https://127.0.0.1:1", "a", "x"},
	} {
		if !strings.Contains(strings.Join(args, " "), "--server") {
			args = append(args, "--server", b.url)
		}
		c := start(t, "", args...)
		<-c.done
		if c.code == 0 || !strings.Contains(c.stderr.String(), want) {
			t.Errorf("%q: exit code %d, %s; want %q", args, c.code, c.stderr, want)
		}
	}
}

func TestTokens(t *testing.T) {
	dir := isolate(t)
	hmac := filepath.Join(dir, "secret")
	ed25519 := filepath.Join(dir, "key.pem")
	scope := []string{"--sub", "alice", "--publish", "chat.*", "--subscribe", "chat.>", "--issuer", "tests", "--audience", "chat"}
	checks := []string{"--jwt-issuer", "tests", "--jwt-audience", "chat"}
	token := func(args ...string) string {
		t.Helper()
		out, errs := do(t, 0, append(append([]string{"token"}, scope...), args...)...)
		if !strings.Contains(errs, "--jwt-issuer tests --jwt-audience chat") {
			t.Errorf("token tells %s", errs)
		}
		return strings.TrimSpace(out)
	}
	first := token("--hmac-key-file", hmac)
	second := token("--hmac-key-file", hmac) // the file is used again
	third := token("--ed25519-key", ed25519)
	fourth := token("--ed25519-key", ed25519)
	for _, name := range []string{hmac, ed25519} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	b := startBroker(t, append(checks, "--jwt-hmac-key-file", hmac, "--jwt-ed25519-key", ed25519+".pub")...)
	if !strings.Contains(b.stdout.String(), "clients need a token") {
		t.Error(b.stdout)
	}
	for _, good := range []string{first, second, third, fourth} {
		do(t, 0, "pub", "--server", b.url, "--token", good, "chat.lobby", "x")
	}
	t.Setenv("TIDEWIRE_TOKEN", first)
	t.Setenv("TIDEWIRE_SERVER", b.url)
	do(t, 0, "pub", "chat.lobby", "x")
	t.Setenv("TIDEWIRE_TOKEN", "")
	secret, err := readSecret(hmac)
	if err != nil {
		t.Fatal(err)
	}
	expired, err := jwtauth.Sign(jwtauth.SigningKey{HMAC: secret}, jwtauth.Grant{
		Principal: "alice", Expires: time.Now().Add(-time.Hour), Issuer: "tests", Audience: "chat",
	})
	if err != nil {
		t.Fatal(err)
	}
	other, _ := do(t, 0, "token")
	for want, args := range map[string][]string{
		"give one with --token":    {"pub", "chat.lobby", "x"},
		"signature fits no key":    {"pub", "--token", strings.TrimSpace(other), "chat.lobby", "x"},
		"has expired":              {"pub", "--token", expired, "chat.lobby", "x"},
		"(publish_denied, 202)":    {"pub", "--token", first, "other", "x"},
		"(subscribe_denied, 203)":  {"sub", "--token", first, ">"},
		"not permit to subscribe":  {"sub", "--token", third, "*.lobby"},
		"to publish to \"chat.a.b": {"pub", "--token", third, "chat.a.b", "x"},
	} {
		if _, errs := do(t, 1, args...); !strings.Contains(errs, want) {
			t.Errorf("%q: %s; want %q", args, errs, want)
		}
	}
}

func TestTokenRefuses(t *testing.T) {
	dir := isolate(t)
	for want, args := range map[string][]string{
		"at least 32":    {"--hmac-key", "short"},
		"not a pattern":  {"--publish", "a..b"},
		"the system":     {"--subscribe", "$SYS.>"},
		"--ttl":          {"--ttl", "0s"},
		"no PEM file":    {"--ed25519-key", write(t, "key", "x")},
		"can't be used":  {"--ed25519-key", "x", "--hmac-key", strings.Repeat("k", 32)},
		"claim sub":      {"--sub", ""},
		"longer than 65": {"--hmac-key-file", write(t, "key", strings.Repeat("k", maxKeyFile+1))},
	} {
		c := start(t, "", append([]string{"token"}, args...)...)
		<-c.done
		if c.code == 0 || !strings.Contains(c.stderr.String(), want) || c.stdout.String() != "" {
			t.Errorf("%q: exit code %d, %s; want %q", args, c.code, c.stderr, want)
		}
	}
	// The secret that is made is good for the broker that it is told for, and is not shown.
	out, errs := do(t, 0, "token")
	name := filepath.Join(dir, "token-secret")
	secret, err := readSecret(name)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if !strings.Contains(errs, "--jwt-hmac-key-file "+name) || strings.Contains(errs+out, string(secret)) {
		t.Errorf("token tells %s", errs)
	}
	b := startBroker(t, "--jwt-hmac-key-file", name)
	again, _ := do(t, 0, "token")
	for _, token := range []string{out, again} {
		do(t, 0, "pub", "--server", b.url, "--token", strings.TrimSpace(token), "--state-dir", dir, "any.topic", "x")
	}
}

// TestNATS joins two brokers.
func TestNATS(t *testing.T) {
	isolate(t)
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not come up")
	}
	flags := []string{"--nats", s.ClientURL(), "--nats-prefix", "tide"}
	one, two := startBroker(t, flags...), startBroker(t, flags...)
	sub := start(t, "", "sub", "--server", one.url, "--count", "1", "chat.*")
	sub.stderr.await(t, "subscribed")
	do(t, 0, "pub", "--server", two.url, "chat.lobby", "over the bus")
	sub.wait(t, 0)
	if got := sub.stdout.String(); got != "chat.lobby  #1  over the bus\n" {
		t.Errorf("sub printed %q", got)
	}
	for _, b := range []*instance{one, two} {
		b.interrupt()
		b.wait(t, 0)
	}
	if _, errs := do(t, 1, "--addr", "127.0.0.1:0", "--nats", "nats://user:password@127.0.0.1:1"); !strings.Contains(errs, "no NATS server answers") || strings.Contains(errs, "password") {
		t.Error(errs)
	}
}
