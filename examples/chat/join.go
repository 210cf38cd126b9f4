package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt"
)

// joining is how somebody joins a room.
type joining struct {
	name   string
	room   string
	server string // URL of the page
}

const (
	// answerTimeout bounds the wait for dice.
	answerTimeout = 10 * time.Second
	// leaveTimeout bounds the wait for the answers to the last lines.
	leaveTimeout = 3 * time.Second
	// showLast is how many messages who comes is shown.
	showLast = 20
	// maxReconnectWait bounds the wait between attempts to connect again.
	maxReconnectWait = 4 * time.Second
)

// join joins a room: it prints what is said there and who is there, and says
// each line of in. It returns when in or ctx ends, or when the broker refuses.
//
// The goroutine that reads in ends with the next line or with in itself, since
// the reading of a terminal cannot be cancelled; the others have ended when join
// returns.
func join(ctx context.Context, j joining, in io.Reader, out io.Writer) error {
	room, err := roomToken(j.room)
	if err != nil {
		return err
	}
	page := &chatServer{page: strings.TrimSuffix(j.server, "/")}
	defer page.http.CloseIdleConnections()
	config, err := page.config(ctx)
	if err != nil {
		return fmt.Errorf("%w; is the chat running? (go run ./examples/chat)", err)
	}
	t := &terminal{name: cleanName(j.name), room: room, screen: &screen{Logger: log.New(out, "", 0)}, people: make(map[uuid.UUID]string)}
	t.client, err = client.Dial(ctx, config.URL, client.Config{
		Dial:    page.dial,
		Backoff: client.Backoff{Max: maxReconnectWait},
		OnState: t.screen.state,
		Agent:   "tidewire-chat-terminal",
	})
	if err != nil {
		return err
	}
	defer func() { _ = t.client.Close() }()
	return t.run(ctx, in)
}

// chatServer is the HTTP side of a running chat. Its methods may be called
// concurrently.
type chatServer struct {
	page string
	http http.Client
}

// config asks how the broker is reached.
func (s *chatServer) config(ctx context.Context) (serverConfig, error) {
	var config serverConfig
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.page+"/config.json", nil)
	if err != nil {
		return config, err
	}
	answer, err := s.http.Do(r)
	if err != nil {
		return config, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return config, fmt.Errorf("%s is not the chat: %s", s.page, answer.Status)
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, 64<<10)).Decode(&config); err != nil {
		return config, fmt.Errorf("%s is not the chat: %w", s.page, err)
	}
	return config, nil
}

// dial is the Dial of a client.Config. It asks for the certificate's hash each
// time, because a server that was started again has a new one.
func (s *chatServer) dial(ctx context.Context, _ string) (client.Conn, error) {
	config, err := s.config(ctx)
	if err != nil {
		return nil, err
	}
	hash, err := wt.ParseHash(config.Hash)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.page, err)
	}
	d := wt.Dialer{CertificateHashes: [][32]byte{hash}}
	session, err := d.Dial(ctx, config.URL)
	if err != nil {
		return nil, err
	}
	return client.WebTransport(session), nil
}

// terminal is somebody in a room.
type terminal struct {
	// Static after construction.
	name   string
	room   string
	client *client.Client
	screen *screen

	sending sync.WaitGroup // lines that have no answer yet

	mu     sync.Mutex
	people map[uuid.UUID]string // the names of the others; guarded by mu
}

// run is in the room until in or ctx ends, or a subscription does.
func (t *terminal) run(ctx context.Context, in io.Reader) error {
	// One's own lines stand in the terminal already.
	messages, err := t.client.Subscribe(ctx, messagesTopic(t.room), &client.SubscribeOptions{From: client.FromLast(showLast), NoEcho: true})
	if err != nil {
		return err
	}
	topic, err := t.client.Subscribe(ctx, aboutTopic(t.room), &client.SubscribeOptions{Class: client.Latest})
	if err != nil {
		return err
	}
	watch, err := t.client.WatchPresence(ctx, presenceTopic(t.room))
	if err != nil {
		return err
	}
	if err := t.client.Enter(ctx, presenceTopic(t.room), person{Name: t.name, Via: "terminal"}); err != nil {
		return err
	}
	t.screen.Printf("you are in #%s as %s; write a line to say it, /help tells what else there is", t.room, t.name)

	inside, leave := context.WithCancelCause(ctx)
	answers, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	var work sync.WaitGroup
	work.Go(func() { leave(each(inside, messages, t.hear)) })
	work.Go(func() { leave(each(inside, topic, t.learn)) })
	work.Go(func() { leave(t.meet(inside, watch)) })
	leave(t.talk(inside, answers, in))
	// What was said last may be on its way yet.
	timer := time.AfterFunc(leaveTimeout, giveUp)
	defer timer.Stop()
	t.sending.Wait()
	work.Wait()
	if cause := context.Cause(inside); !errors.Is(cause, errLeft) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil // to close the client is to leave
}

// errLeft ends what goes on in the room after the last line.
var errLeft = errors.New("left the room")

// talk says each line, and returns errLeft at the end. Answers are waited for
// until the context answers ends.
func (t *terminal) talk(ctx, answers context.Context, in io.Reader) error {
	lines := make(chan string)
	scanner := bufio.NewScanner(in) // owned by the goroutine until lines is closed
	go func() {                     // not waited for: see join
		defer close(lines)
		for scanner.Scan() {
			select {
			case lines <- scanner.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case line, ok := <-lines:
			if !ok && scanner.Err() != nil {
				return scanner.Err()
			}
			if !ok || line == "/quit" {
				return errLeft
			}
			t.take(ctx, answers, line)
		}
	}
}

const help = `/who            who is here
/topic TEXT     what the room is about
/fade TEXT      say something that is gone after 30 s
/roll 2d6       throw dice
/quit           leave`

// take says a line, or does what it asks for.
func (t *terminal) take(ctx, answers context.Context, line string) {
	command, rest, _ := strings.Cut(line, " ")
	text := cleanText(rest)
	switch command {
	case "/who":
		t.who()
	case "/topic":
		var value any = about{Name: t.name, Text: text}
		if text == "" {
			value = []byte{} // clears it
		}
		t.publish(answers, aboutTopic(t.room), value, &client.PublishOptions{Retain: true})
	case "/fade":
		t.say(answers, text, fadeAfter)
	case "/roll":
		t.roll(ctx, text)
	case "/help":
		t.screen.Print(help)
	default:
		if strings.HasPrefix(line, "/") {
			t.screen.Printf("there is no %s\n%s", cleanText(command), help)
			return
		}
		t.say(answers, cleanText(line), 0)
	}
}

// say publishes what is said. The id makes it arrive once, also where its answer was
// lost together with the broker that gave it.
func (t *terminal) say(ctx context.Context, text string, ttl time.Duration) {
	if text == "" {
		return
	}
	id := rand.Text()
	t.publish(ctx, messagesTopic(t.room), said{ID: id, Name: t.name, Text: text}, &client.PublishOptions{ID: id, TTL: ttl})
}

// publish publishes in the order of the calls, also what was written without a
// connection. It does not wait; what went wrong is told.
func (t *terminal) publish(ctx context.Context, topic string, value any, opts *client.PublishOptions) {
	result := t.client.PublishAsync(topic, value, opts)
	t.sending.Go(func() {
		if _, err := result.Wait(ctx); err != nil {
			t.screen.Printf("! not sent: %v", err)
		}
	})
}

// roll asks for dice. What fell is said in the room.
func (t *terminal) roll(ctx context.Context, dice string) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	m, err := t.client.Request(ctx, rollTopic(t.room), throw{Name: t.name, Dice: dice}, nil)
	if err != nil {
		t.screen.Printf("! no dice: %v", err)
		return
	}
	if answer, err := client.Decode[thrown](m); err == nil && answer.Error != "" {
		t.screen.Printf("! %s", cleanText(answer.Error))
	}
}

// each hands each item of a subscription on until it ends or ctx does.
func each(ctx context.Context, s *client.Subscription, take func(client.Message)) error {
	for m, err := range s.Messages(ctx) {
		if err != nil {
			return err
		}
		take(m)
	}
	return errLeft
}

// hear prints what is said.
func (t *terminal) hear(m client.Message) {
	if m.Gap != nil {
		// What was to fade is not missed.
		if m.Gap.Reason != codec.GapExpired {
			t.screen.Printf("~ %s", gapText(m.Gap))
		}
		return
	}
	s, err := client.Decode[said](m)
	if err != nil || cleanText(s.Text) == "" {
		return // none of the chat's
	}
	at := m.Time.Local().Format("15:04")
	text := strings.ReplaceAll(cleanText(s.Text), "\n", "\n      ")
	t.screen.Printf("%s %s: %s", at, cleanName(s.Name), text)
}

// gapText tells of missing messages as the page does.
func gapText(g *client.Gap) string {
	switch g.Count {
	case 0:
		return "some messages could not be kept"
	case 1:
		return "1 message could not be kept"
	}
	return fmt.Sprintf("%d messages could not be kept", g.Count)
}

// learn prints what the room is about.
func (t *terminal) learn(m client.Message) {
	if m.Gap != nil {
		return // the newest counts
	}
	if a, err := client.Decode[about](m); err == nil && cleanText(a.Text) != "" {
		t.screen.Printf("# %s (%s)", cleanText(a.Text), cleanName(a.Name))
	}
}

// meet tells who comes and goes, until ctx ends.
func (t *terminal) meet(ctx context.Context, watch *client.PresenceWatch) error {
	for e, err := range watch.Events(ctx) {
		if err != nil {
			return err
		}
		// After a gap the watch itself tells who came and left meanwhile.
		if e.Kind != client.PresenceGap && e.Member.Client != t.client.ID() {
			t.met(e)
		}
	}
	return errLeft
}

// met takes note of who came, went, or is called something else.
func (t *terminal) met(e client.PresenceEvent) {
	id := e.Member.Client
	t.mu.Lock()
	before, known := t.people[id]
	if e.Kind == client.Left {
		delete(t.people, id)
		t.mu.Unlock()
		if known {
			t.screen.Printf("- %s has left", before)
		}
		return
	}
	var p person
	_ = e.Member.Decode(&p) // somebody whose state is none of the chat's has no name
	name := cleanName(p.Name)
	t.people[id] = name
	t.mu.Unlock()
	switch {
	case !known:
		t.screen.Printf("+ %s is here", name)
	case before != name:
		t.screen.Printf("* %s is now %s", before, name)
	}
}

// who prints who is there.
func (t *terminal) who() {
	t.mu.Lock()
	names := slices.Sorted(maps.Values(t.people))
	t.mu.Unlock()
	t.screen.Printf("here: %s", strings.Join(append([]string{t.name + " (you)"}, names...), ", "))
}

// screen prints lines, one at a time.
type screen struct {
	*log.Logger
	// lost: it was said that the connection is lost. Owned by the client, which
	// never calls state concurrently.
	lost bool
}

// state is the OnState of a client.Config: it tells of a connection that is lost,
// and of one that is back.
func (s *screen) state(state client.State, err error) {
	switch {
	case state == client.StateDisconnected && !s.lost:
		s.lost = true
		s.Printf("~ the connection is lost (%v); trying again", err)
	case state == client.StateConnected && s.lost:
		s.lost = false
		s.Printf("~ connected again")
	}
}
