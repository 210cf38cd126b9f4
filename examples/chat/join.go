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
	"net/http"
	"strings"
	"sync"
	"time"

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
	// answerTimeout bounds the wait for an acknowledgement.
	answerTimeout = 10 * time.Second
	// leaveTimeout bounds the farewell.
	leaveTimeout = time.Second
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
	t := &terminal{name: cleanName(j.name), room: room, screen: &screen{Logger: log.New(out, "", 0)}}
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
	return webTransport{session}, nil
}

// webTransport is a session as a client.Conn.
type webTransport struct{ *wt.Session }

// OpenStream implements client.Conn.
func (t webTransport) OpenStream(ctx context.Context) (client.Stream, error) {
	stream, err := t.Session.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	return stream, nil
}

// terminal is somebody in a room.
type terminal struct {
	// Static after construction.
	name   string
	room   string
	client *client.Client
	screen *screen

	mu     sync.Mutex
	people map[string]present // by publisher; guarded by mu
}

// present is somebody who is there.
type present struct {
	name  string
	until time.Time
}

// run is in the room until in or ctx ends, or a subscription does.
func (t *terminal) run(ctx context.Context, in io.Reader) error {
	t.begin()
	messages, err := t.client.Subscribe(ctx, messagesTopic(t.room), nil)
	if err != nil {
		return err
	}
	here, err := t.client.Subscribe(ctx, hereTopic(t.room), nil)
	if err != nil {
		return err
	}
	inside, leave := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	work.Go(func() { leave(t.listen(inside, messages, t.hear)) })
	work.Go(func() { leave(t.listen(inside, here, t.meet)) })
	work.Go(func() { t.stay(inside) })
	t.screen.Printf("you are in #%s as %s; write a line to say it, /who to see who is here, /quit to leave", t.room, t.name)
	leave(t.talk(inside, in))
	work.Wait()

	// The room is told even after an interrupt.
	farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	if t.client.Err() == nil {
		_ = t.announce(farewell, statusLeft, false) // who stays sees it run out otherwise
	}
	if cause := context.Cause(inside); !errors.Is(cause, errLeft) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// begin forgets who is there.
func (t *terminal) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.people = make(map[string]present)
}

// errLeft ends what goes on in the room after the last line.
var errLeft = errors.New("left the room")

// talk says each line. It returns errLeft at the end.
func (t *terminal) talk(ctx context.Context, in io.Reader) error {
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
			t.say(ctx, line)
		}
	}
}

// say publishes a line, or does what it asks for.
func (t *terminal) say(ctx context.Context, line string) {
	if line == "/who" {
		t.who()
		return
	}
	text := cleanText(line)
	if text == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if _, err := t.client.Publish(ctx, messagesTopic(t.room), said{ID: rand.Text(), Name: t.name, Text: text}, nil); err != nil {
		t.screen.Printf("! not sent: %v", err)
	}
}

// listen hands each item of a subscription on until it ends or ctx does.
func (t *terminal) listen(ctx context.Context, s *client.Subscription, take func(context.Context, client.Message)) error {
	for m, err := range s.Messages(ctx) {
		if err != nil {
			return err
		}
		take(ctx, m)
	}
	return errLeft
}

// hear prints what is said.
func (t *terminal) hear(_ context.Context, m client.Message) {
	if m.Gap != nil {
		t.screen.Printf("~ %s", gapText(m.Gap))
		return
	}
	if m.Publisher == t.client.ID() {
		return // the line stands in the terminal already
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

// meet takes note of who is there.
func (t *terminal) meet(ctx context.Context, m client.Message) {
	if m.Gap != nil {
		if m.Gap.Reason == codec.GapReconnect {
			t.begin() // a broker that was started again gives everybody another id
		}
		return // whoever was missed announces it again
	}
	if m.Publisher == t.client.ID() {
		return
	}
	a, err := client.Decode[announcement](m)
	if err != nil {
		return // none of the chat's
	}
	holds := map[string]time.Duration{statusHere: hereHolds, statusAway: awayHolds}[a.Status]
	id, name := m.Publisher.String(), cleanName(a.Name)
	t.mu.Lock()
	before, known := t.people[id]
	switch {
	case holds == 0:
		delete(t.people, id)
	case known || len(t.people) < maxSessions:
		t.people[id] = present{name, time.Now().Add(holds)}
	}
	t.mu.Unlock()
	switch {
	case holds == 0 && known:
		t.screen.Printf("- %s has left", name)
	case holds > 0 && !known:
		t.screen.Printf("+ %s is here", name)
	case holds > 0 && before.name != name:
		t.screen.Printf("* %s is now %s", before.name, name)
	}
	if a.Ask {
		_ = t.announce(ctx, statusHere, false) // the next one comes soon
	}
}

// stay announces that one is there, and forgets those who no longer do, until
// ctx ends.
func (t *terminal) stay(ctx context.Context) {
	tick := time.NewTicker(hereEvery)
	defer tick.Stop()
	for ask := true; ; ask = false {
		// Without a connection this waits for one, and so says at once that one is back.
		_ = t.announce(ctx, statusHere, ask)
		t.forget(time.Now())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (t *terminal) announce(ctx context.Context, status string, ask bool) error {
	_, err := t.client.Publish(ctx, hereTopic(t.room), announcement{Name: t.name, Status: status, Via: "terminal", Ask: ask}, nil)
	return err
}

// forget drops those whose announcement no longer holds.
func (t *terminal) forget(now time.Time) {
	var gone []string
	t.mu.Lock()
	for id, p := range t.people {
		if p.until.Before(now) {
			delete(t.people, id)
			gone = append(gone, p.name)
		}
	}
	t.mu.Unlock()
	for _, name := range gone {
		t.screen.Printf("- %s is gone", name)
	}
}

// who prints who is there.
func (t *terminal) who() {
	names := []string{t.name + " (you)"}
	t.mu.Lock()
	for _, p := range t.people {
		names = append(names, p.name)
	}
	t.mu.Unlock()
	t.screen.Printf("here: %s", strings.Join(names, ", "))
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
