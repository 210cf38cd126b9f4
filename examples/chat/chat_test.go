package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// chat is a running chat.
type chat struct {
	page string // URL without a slash at the end
	stop func() // ends it and waits; may be called more than once
}

// start runs the program on the addresses until the test ends.
func start(t *testing.T, addr, httpAddr string) chat {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	var running sync.WaitGroup
	running.Go(func() {
		if err := command(ctx, []string{"--addr", addr, "--http", httpAddr}, nil, in, io.Discard); err != nil {
			t.Error(err)
		}
		_ = in.Close()
	})
	c := chat{stop: func() {
		cancel()
		running.Wait()
	}}
	t.Cleanup(c.stop)
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if rest, ok := strings.CutPrefix(line, "open "); ok {
			c.page, _, _ = strings.Cut(rest, "/ ")
		}
		if strings.HasPrefix(line, "certificate ") {
			return c // the last line
		}
	}
}

// get reads a file of the page.
func (c chat) get(t *testing.T, path string) (string, http.Header) {
	t.Helper()
	web := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := web.Get(c.page + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", path, answer.Status, err)
	}
	return string(b), answer.Header
}

// dial connects as a program that knows the chat's topics.
func (c chat) dial(t *testing.T) *client.Client {
	t.Helper()
	s := &chatServer{page: c.page}
	t.Cleanup(s.http.CloseIdleConnections)
	config, err := s.config(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cl, err := client.Dial(t.Context(), config.URL, client.Config{Dial: s.dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	return cl
}

// guest is a terminal in a room, as somebody sits before it.
type guest struct {
	t     *testing.T
	keys  *io.PipeWriter
	paper *paper
	ended chan error
	stop  context.CancelFunc
}

// join joins a room with the program itself.
func (c chat) join(t *testing.T, name, room string) *guest {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	in, keys := io.Pipe()
	g := &guest{t: t, keys: keys, paper: newPaper(), ended: make(chan error, 1), stop: stop}
	var running sync.WaitGroup
	running.Go(func() {
		err := command(ctx, []string{"join", "--name", name, "--server", c.page, room}, in, g.paper, io.Discard)
		g.paper.end()
		g.ended <- err
	})
	t.Cleanup(func() {
		stop()
		_ = keys.Close()
		running.Wait()
	})
	g.sees("you are in #")
	return g
}

// writes types a line.
func (g *guest) writes(line string) {
	g.t.Helper()
	if _, err := fmt.Fprintln(g.keys, line); err != nil {
		g.t.Fatal(err)
	}
}

// sees waits for a line that contains each text, in whatever order, after what
// was seen before.
func (g *guest) sees(texts ...string) {
	g.t.Helper()
	for len(texts) > 0 {
		line, ok := g.paper.line()
		if !ok {
			g.t.Fatalf("the terminal ended without %q", texts)
		}
		texts = slices.DeleteFunc(texts, func(text string) bool { return strings.Contains(line, text) })
	}
}

// paper keeps what a terminal prints, so that the program never waits for who
// reads it.
type paper struct {
	mu      sync.Mutex
	printed sync.Cond
	text    strings.Builder // guarded by mu
	read    int             // of text; guarded by mu
	ended   bool            // guarded by mu
}

func newPaper() *paper {
	p := new(paper)
	p.printed.L = &p.mu
	return p
}

// Write implements io.Writer.
func (p *paper) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.printed.Broadcast()
	return p.text.Write(b)
}

// end tells that nothing more is printed.
func (p *paper) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.printed.Broadcast()
}

// line waits for the next line; false at the end.
func (p *paper) line() (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		line, _, ok := strings.Cut(p.text.String()[p.read:], "\n")
		if ok {
			p.read += len(line) + 1
			return line, true
		}
		if p.ended {
			return "", false
		}
		p.printed.Wait()
	}
}

func TestPage(t *testing.T) {
	c := start(t, "127.0.0.1:0", "127.0.0.1:0")
	page, header := c.get(t, "/")
	if !strings.Contains(page, "<title>Tidewire chat") {
		t.Errorf("no page: %.80q", page)
	}
	if policy := header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("Content-Security-Policy %q", policy)
	}
	for path, kind := range map[string]string{"/app.js": "javascript", "/tidewire.js": "javascript", "/style.css": "text/css", "/icon.svg": "svg"} {
		if _, header := c.get(t, path); !strings.Contains(header.Get("Content-Type"), kind) {
			t.Errorf("%s is %q", path, header.Get("Content-Type"))
		}
	}
	var config serverConfig
	text, header := c.get(t, "/config.json")
	if err := json.Unmarshal([]byte(text), &config); err != nil || !strings.HasPrefix(config.URL, "https://127.0.0.1:") || len(config.Hash) != 44 {
		t.Errorf("config.json: %s, %v", text, err)
	}
	if header.Get("Cache-Control") != "no-store" {
		t.Error("config.json may be kept, and its hash is a new one after a start")
	}
}

// TestPageIsComplete: each module that a module imports is a file of the page.
func TestPageIsComplete(t *testing.T) {
	c := start(t, "127.0.0.1:0", "127.0.0.1:0")
	seen := map[string]bool{"/tidewire.js": true}
	for todo := []string{"/app.js"}; len(todo) > 0; {
		path := todo[0]
		todo = todo[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		text, _ := c.get(t, path)
		for line := range strings.Lines(text) {
			if _, from, ok := strings.Cut(line, ` from "./`); ok {
				todo = append(todo, "/"+strings.TrimSuffix(strings.TrimSpace(from), `";`))
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d modules were found", len(seen))
	}
}

func TestTerminals(t *testing.T) {
	c := start(t, "127.0.0.1:0", "127.0.0.1:0")
	ada := c.join(t, "Ada", "Tea Room")
	bob := c.join(t, "Bob", "tea-room")
	ada.sees("+ Bob is here")
	bob.sees("+ Ada is here")
	ada.writes("is there tea?")
	bob.sees("Ada: is there tea?")
	bob.writes("there is")
	ada.sees("Bob: there is")
	bob.writes("/who")
	bob.sees("Bob (you), Ada")
	bob.writes("/quit")
	ada.sees("- Bob has left")
	if err := <-bob.ended; err != nil {
		t.Error(err)
	}
	ada.stop() // an interrupt
	if err := <-ada.ended; err != nil {
		t.Error(err)
	}
}

// TestOtherProgram: a program that knows no more than README.md talks with a
// terminal, in MessagePack and in JSON.
func TestOtherProgram(t *testing.T) {
	c := start(t, "127.0.0.1:0", "127.0.0.1:0")
	ada := c.join(t, "Ada", "lobby")
	program := c.dial(t)
	sub, err := program.Subscribe(t.Context(), "chat.lobby.messages", nil)
	if err != nil {
		t.Fatal(err)
	}
	ada.writes("hello, program")
	for m, err := range sub.Messages(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		v, err := client.Decode[map[string]any](m)
		if err != nil || v["name"] != "Ada" || v["text"] != "hello, program" || v["id"] == "" {
			t.Errorf("a message of %v, %v", v, err)
		}
		break
	}
	for _, value := range []any{
		map[string]any{"name": "Program", "text": "by MessagePack"},
		json.RawMessage(`{"name":"Program","text":"by JSON"}`),
	} {
		if _, err := program.Publish(t.Context(), "chat.lobby.messages", value, nil); err != nil {
			t.Fatal(err)
		}
	}
	ada.sees("Program: by MessagePack")
	ada.sees("Program: by JSON")
}

// TestForeignMessages: what is none of the chat's is passed over, and what could
// command a terminal does not reach it.
func TestForeignMessages(t *testing.T) {
	c := start(t, "127.0.0.1:0", "127.0.0.1:0")
	ada := c.join(t, "Ada", "lobby")
	program := c.dial(t)
	for _, value := range []any{"text", []byte{0xc1}, 7, map[string]any{"text": 7}, map[string]any{"name": "Eve"},
		said{Name: "Eve\x1b[2J\n\u202e", Text: "\x1b]0;mine\x07red\u2066\r\x00 fish"}} {
		for _, topic := range []string{aboutTopic("lobby"), messagesTopic("lobby")} {
			if _, err := program.Publish(t.Context(), topic, value, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	ada.sees("Eve[2J: ]0;minered fish", "# ]0;minered fish (Eve[2J)")
	if err := program.Enter(t.Context(), presenceTopic("lobby"), "a text"); err != nil {
		t.Fatal(err)
	}
	ada.sees("+ somebody is here")
	if err := program.Enter(t.Context(), presenceTopic("lobby"), person{Name: "Eve\x1b[2J"}); err != nil {
		t.Fatal(err)
	}
	ada.sees("* somebody is now Eve[2J")
}

// TestHistory: who comes sees what was said and what the room is about, but not
// what has faded.
func TestHistory(t *testing.T) {
	c := start(t, "127.0.0.1:0", "127.0.0.1:0")
	ada := c.join(t, "Ada", "lobby")
	bob := c.join(t, "Bob", "lobby")
	ada.writes("/topic tides")
	bob.sees("# tides (Ada)")
	ada.writes("/help")
	ada.sees("/roll 2d6")
	ada.writes("/rol 2d6")
	ada.sees("there is no /rol")
	ada.writes("one")
	ada.writes("/fade for a moment")
	ada.writes("two")
	bob.sees("Ada: one")
	bob.sees("Ada: for a moment")
	bob.sees("Ada: two")
	clara := c.join(t, "Clara", "lobby")
	clara.sees("Ada: one", "Ada: two", "# tides (Ada)")

	program := c.dial(t)
	page, err := program.History(t.Context(), messagesTopic("lobby"), nil)
	if err != nil || len(page.Messages) != 3 {
		t.Fatalf("a history of %d messages, %v", len(page.Messages), err)
	}
	fading := page.Messages[1]
	if lasts := fading.Expires.Sub(fading.Time); lasts <= 0 || lasts > fadeAfter {
		t.Errorf("it fades after %v", lasts)
	}
	if _, err := program.Publish(t.Context(), messagesTopic("lobby"), said{Name: "Program", Text: "gone at once"}, &client.PublishOptions{TTL: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	for { // until it has expired
		page, err := program.History(t.Context(), messagesTopic("lobby"), &client.HistoryOptions{Backward: true, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		if gap := page.Messages[0].Gap; gap != nil && gap.Reason == codec.GapExpired {
			break
		}
	}
	dan := c.join(t, "Dan", "lobby")
	ada.writes("three")
	for {
		line, ok := dan.paper.line()
		if !ok || strings.Contains(line, "gone at once") || strings.Contains(line, "could not be kept") {
			t.Fatalf("%q, %v", line, ok)
		}
		if strings.Contains(line, "Ada: three") {
			break
		}
	}
}

// TestDice: the server rolls dice for who asks, and says in the room what fell.
func TestDice(t *testing.T) {
	c := start(t, "127.0.0.1:0", "127.0.0.1:0")
	ada := c.join(t, "Ada", "lobby")
	ada.writes("/roll 1d1")
	ada.sees("! there are 1 to 20 dice")
	ada.writes("/roll 2d6")
	ada.sees("Dice: Ada rolls 2d6: ")
	m, err := c.dial(t).Request(t.Context(), rollTopic("lobby"), throw{Name: "Program"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Decode[thrown](m)
	if err != nil || answer.Error != "" || answer.Total < 1 || answer.Total > 6 {
		t.Errorf("the dice fell %+v, %v", answer, err)
	}
	ada.sees("Dice: Program rolls 1d6: ")
}

// TestOtherTopics: the broker is the chat's, and serves nobody else.
func TestOtherTopics(t *testing.T) {
	program := start(t, "127.0.0.1:0", "127.0.0.1:0").dial(t)
	for _, topic := range []string{"chat", "chat.lobby.files", "warez", presenceTopic("lobby")} {
		if _, err := program.Publish(t.Context(), topic, "mine", nil); codec.CodeOf(err) != codec.CodePublishDenied {
			t.Errorf("publishing to %s: %v", topic, err)
		}
	}
	for _, pattern := range []string{">", "chat.>", "warez"} {
		if _, err := program.Subscribe(t.Context(), pattern, nil); codec.CodeOf(err) != codec.CodeSubscribeDenied {
			t.Errorf("subscribing to %s: %v", pattern, err)
		}
	}
}

func TestPayloadLimit(t *testing.T) {
	c := start(t, "127.0.0.1:0", "127.0.0.1:0")
	_, err := c.dial(t).Publish(t.Context(), messagesTopic("lobby"), make([]byte, maxPayload+1), nil)
	if codec.CodeOf(err) != codec.CodePayloadTooLarge {
		t.Errorf("too large a payload: %v", err)
	}
}

// TestRestart: a terminal finds a server that was started again, whose
// certificate is another one, and says that something may be missing.
func TestRestart(t *testing.T) {
	c := start(t, "127.0.0.1:0", "127.0.0.1:0")
	s := &chatServer{page: c.page}
	defer s.http.CloseIdleConnections()
	before, err := s.config(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ada := c.join(t, "Ada", "lobby")
	ada.writes("before")
	eve := c.join(t, "Eve", "lobby")
	ada.sees("+ Eve is here")
	c.stop()
	eve.stop() // and so does not come back
	ada.sees("the connection is lost")
	ada.writes("written meanwhile")
	ada.writes("and this")
	c = start(t, strings.TrimPrefix(before.URL, "https://"), strings.TrimPrefix(c.page, "http://"))
	after, err := s.config(t.Context())
	if err != nil || after.URL != before.URL || after.Hash == before.Hash {
		t.Errorf("the server at %s is now at %s, %v", before.URL, after.URL, err)
	}
	ada.sees("connected again", "some messages could not be kept", "- Eve has left")
	bob := c.join(t, "Bob", "lobby")
	ada.sees("+ Bob is here")
	bob.sees("Ada: written meanwhile")
	bob.sees("Ada: and this")
	bob.writes("welcome back")
	ada.sees("Bob: welcome back")
}

func TestOrigins(t *testing.T) {
	c := start(t, "127.0.0.1:0", "127.0.0.1:0")
	port := c.page[strings.LastIndex(c.page, ":"):]
	s := &chatServer{page: c.page}
	defer s.http.CloseIdleConnections()
	config, err := s.config(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for origin, welcome := range map[string]bool{
		c.page: true, "http://localhost" + port: true, "http://evil.example" + port: false, "http://localhost:1": false, "null": false,
	} {
		d := wt.Dialer{Origin: origin, InsecureSkipVerify: true}
		session, err := d.Dial(t.Context(), config.URL)
		if err == nil {
			_ = session.Close()
		}
		if (err == nil) != welcome {
			t.Errorf("origin %q: %v, welcome %v", origin, err, welcome)
		}
	}
}

func TestLoopbackOnly(t *testing.T) {
	for _, args := range [][]string{
		{"--addr", "0.0.0.0:0"}, {"--addr", ":0"}, {"--addr", "192.0.2.1:0"}, {"--addr", "[::]:0"},
		{"--http", "0.0.0.0:0"}, {"--http", ":0"},
	} {
		args = append([]string{"--addr", "127.0.0.1:0", "--http", "127.0.0.1:0"}, args...)
		err := command(t.Context(), args, nil, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestBadArguments(t *testing.T) {
	for _, args := range [][]string{{"--port", "1"}, {"lobby"}, {"join"}, {"join", "a", "b"}, {"join", "--nick", "Ada", "a"}} {
		var said bytes.Buffer
		if err := command(t.Context(), args, nil, io.Discard, &said); !errors.Is(err, errUsage) || said.Len() == 0 {
			t.Errorf("%v: %v, %q", args, err, said.String())
		}
	}
	for _, args := range [][]string{{"--addr", "nowhere"}, {"--http", "127.0.0.1:99999"}, {"join", "!!!"}, {"join", "--server", "http://127.0.0.1:1", "lobby"}} {
		if err := command(t.Context(), args, nil, io.Discard, io.Discard); err == nil || errors.Is(err, errUsage) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
