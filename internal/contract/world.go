package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/natsbus"
	"github.com/tidewire/tidewire/wt"
)

// Options say what a world is made of.
type Options struct {
	// NATS is the URL of the server that joins the brokers, of which there are then
	// two. "" is one broker that stands alone.
	NATS string
	// Topics configure the brokers: testdata/topics.json.
	Topics []byte
	// Logger gets what the brokers say. nil discards.
	Logger *slog.Logger
}

// World is what a scenario happens in. One scenario at a time has it.
type World struct {
	// Static after NewWorld.
	identity  *wt.Identity
	authority *authority
	nodes     []*node

	mu       sync.Mutex
	doors    map[string]*door // by client; guarded by mu
	together bool             // all clients have the first broker; guarded by mu
}

// NewWorld starts the brokers.
func NewWorld(o Options) (*World, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	identity, err := wt.NewDevIdentity()
	if err != nil {
		return nil, err
	}
	topics, err := parseTopics(o.Topics)
	if err != nil {
		return nil, err
	}
	w := &World{identity: identity, authority: newAuthority(), doors: make(map[string]*door)}
	config := broker.Config{
		Authenticator: w.authority,
		Logger:        o.Logger,
		// Little, so that a scenario can fill it.
		MaxQueueBytes:   64 << 10,
		MaxSessionBytes: 128 << 10,
		TokenGrace:      time.Second,
		Topics:          topics,
	}
	brokers := 1
	if o.NATS != "" {
		brokers = 2
		config.Bus = natsbus.Open(natsbus.Config{URL: o.NATS, Logger: o.Logger})
	}
	for range brokers {
		n := &node{config: config, log: o.Logger}
		w.nodes = append(w.nodes, n)
		if err := n.start(); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	return w, nil
}

// Close ends the brokers.
func (w *World) Close() error {
	var errs []error
	for _, n := range w.nodes {
		errs = append(errs, n.shut(), n.stop(false))
	}
	return errors.Join(errs...)
}

// ErrUnknownStep is what Do returns for a step that it does not know.
var ErrUnknownStep = errors.New("unknown step")

// Do carries out a step that is about the world: its name, and its fields as JSON.
// What it returns goes to the interpreter as JSON.
func (w *World) Do(name string, fields []byte) (any, error) {
	f, ok := worldSteps[name]
	if !ok {
		return nil, fmt.Errorf("%w %q", ErrUnknownStep, name)
	}
	return f(w, fields)
}

// ServeHTTP is Do for browsers: POST of an object with one member, the step.
func (w *World) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	var step map[string]json.RawMessage
	answer, err := func() (any, error) {
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&step); err != nil {
			return nil, err
		}
		for name, fields := range step {
			return w.Do(name, fields)
		}
		return nil, errors.New("a step without a name")
	}()
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(answer)
}

// worldSteps are the steps about the world, by name.
var worldSteps = map[string]func(*World, []byte) (any, error){
	"begin":      worldStep((*World).begin),
	"end":        worldStep((*World).end),
	"address":    worldStep((*World).address),
	"token":      worldStep((*World).token),
	"cut":        worldStep((*World).cut),
	"restore":    worldStep((*World).restore),
	"silence":    worldStep((*World).silence),
	"move":       worldStep((*World).move),
	"stop":       worldStep((*World).stop),
	"start":      worldStep((*World).start),
	"revoke":     worldStep((*World).revoke),
	"disconnect": worldStep((*World).disconnect),
}

// worldStep makes a step of a method: its fields are decoded, and one that is not
// known is an error.
func worldStep[F any](do func(*World, F) (any, error)) func(*World, []byte) (any, error) {
	return func(w *World, b []byte) (any, error) {
		var fields F
		if err := Decode(b, &fields); err != nil {
			return nil, err
		}
		return do(w, fields)
	}
}

// Decode decodes JSON, and refuses members that v does not have.
func Decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

type beginStep struct {
	Together bool `json:"together"`
}

// begin makes the world ready for a scenario.
func (w *World) begin(s beginStep) (any, error) {
	if _, err := w.end(struct{}{}); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.together = s.Together
	return nil, nil
}

// end takes away what a scenario has left.
func (w *World) end(struct{}) (any, error) {
	w.mu.Lock()
	clear(w.doors)
	w.mu.Unlock()
	var errs []error
	for _, n := range w.nodes {
		errs = append(errs, n.shut(), n.start())
	}
	return nil, errors.Join(errs...)
}

type addressStep struct {
	Client string `json:"client"`
	Broker int    `json:"broker"` // 1 or 2; 0: the world chooses
}

// Address is how a client reaches its broker.
type Address struct {
	URL  string `json:"url"`
	Hash string `json:"hash"` // of its certificate, in base64
}

// address gives a client its own way to a broker. Where there are two, every other
// client has the second one, unless the scenario wants all on one.
func (w *World) address(s addressStep) (any, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.doors[s.Client]; d != nil {
		return Address{d.url(), w.identity.HashBase64()}, nil
	}
	at := 0
	switch {
	case s.Broker != 0:
		at = (s.Broker - 1) % len(w.nodes)
	case !w.together:
		at = len(w.doors) % len(w.nodes)
	}
	d, err := newDoor(w.nodes[at], w.identity)
	if err != nil {
		return nil, err
	}
	w.nodes[at].add(d)
	w.doors[s.Client] = d
	return Address{d.url(), w.identity.HashBase64()}, nil
}

// Identity is the certificate of the brokers.
func (w *World) Identity() *wt.Identity { return w.identity }

func (w *World) token(g Grant) (any, error) { return w.authority.grant(g), nil }

type clientStep struct {
	Client string `json:"client"`
}

func (w *World) door(client string) (*door, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.doors[client]
	if d == nil {
		return nil, fmt.Errorf("there is no client %q", client)
	}
	return d, nil
}

// cut ends the connection of a client, which notices, and lets no other pass.
func (w *World) cut(s clientStep) (any, error) {
	d, err := w.door(s.Client)
	if err != nil {
		return nil, err
	}
	return nil, d.setCut(true)
}

func (w *World) restore(s clientStep) (any, error) {
	d, err := w.door(s.Client)
	if err != nil {
		return nil, err
	}
	return nil, d.setCut(false)
}

type silenceStep struct {
	Client string `json:"client"`
	Down   bool   `json:"down"` // only what the broker sends
}

// silence loses the packets of a client, in both directions or only those to it, which
// nobody is told.
func (w *World) silence(s silenceStep) (any, error) {
	d, err := w.door(s.Client)
	if err != nil {
		return nil, err
	}
	d.quiet.set(!s.Down, true)
	return nil, nil
}

func (w *World) move(s clientStep) (any, error) {
	d, err := w.door(s.Client)
	if err != nil {
		return nil, err
	}
	return nil, d.move()
}

type stopStep struct {
	Broker     int  `json:"broker"` // 1 or 2
	Gracefully bool `json:"gracefully"`
}

func (w *World) node(broker int) (*node, error) {
	if broker < 1 || broker > 2 {
		return nil, fmt.Errorf("there is no broker %d", broker)
	}
	return w.nodes[(broker-1)%len(w.nodes)], nil
}

func (w *World) stop(s stopStep) (any, error) {
	n, err := w.node(s.Broker)
	if err != nil {
		return nil, err
	}
	return nil, n.stop(s.Gracefully)
}

type startStep struct {
	Broker int `json:"broker"` // 1 or 2
}

func (w *World) start(s startStep) (any, error) {
	n, err := w.node(s.Broker)
	if err != nil {
		return nil, err
	}
	return nil, n.start()
}

type revokeStep struct {
	Principal string   `json:"principal"`
	Patterns  []string `json:"patterns"`
}

// revoke takes what the patterns match away from a principal, as a server would
// that learns of it.
func (w *World) revoke(s revokeStep) (any, error) {
	w.authority.revoke(s.Principal, s.Patterns)
	for _, n := range w.nodes {
		if b := n.current(); b != nil {
			b.Recheck(s.Principal)
		}
	}
	return nil, nil
}

type disconnectStep struct {
	Principal string `json:"principal"`
}

// disconnect ends the sessions of a principal.
func (w *World) disconnect(s disconnectStep) (any, error) {
	for _, n := range w.nodes {
		if b := n.current(); b != nil {
			b.Disconnect(s.Principal, "by the scenario")
		}
	}
	return nil, nil
}
