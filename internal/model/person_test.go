package model

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// person is a client with its endpoint, and what it does.
type person struct {
	name     string
	endpoint *wttest.Endpoint
	client   *client.Client
	count    map[string]int // messages, by topic
	results  []result
	gone     bool      // its network is cut
	cuts     []span    // when it was; the last one lasts while gone
	trouble  time.Time // when its network last changed, or the broker died
	batches  chain     // what it publishes in batches
	presence chain     // where it enters and leaves
	rooms    map[string]*stay
	ids      map[string]bool // the client ids that it was seen to have

	mu    sync.Mutex
	conn  client.Conn // the last one; guarded by mu
	ups   []time.Time // when it was connected; guarded by mu
	downs []time.Time // when it was not any more; guarded by mu
}

// span is a stretch of time. A zero end is not over.
type span struct{ from, to time.Time }

func (s span) meets(from, to time.Time) bool {
	return !s.from.After(to) && (s.to.IsZero() || !s.to.Before(from))
}

// chain runs functions one behind the other, without anybody waiting for them.
type chain struct{ last chan struct{} }

func (c *chain) add(f func()) {
	before, done := c.last, make(chan struct{})
	c.last = done
	go func() { // settle waits for it
		defer close(done)
		if before != nil {
			<-before
		}
		f()
	}()
}

// wait waits for what was added; it reports false if that takes longer than ctx.
func (c *chain) wait(ctx context.Context) bool {
	if c.last == nil {
		return true
	}
	select {
	case <-c.last:
		return true
	case <-ctx.Done():
		return false
	}
}

// state takes note of a change of the client's state.
func (p *person) state(s client.State, _ error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case s == client.StateConnected:
		p.ups = append(p.ups, time.Now())
	case len(p.ups) > len(p.downs):
		p.downs = append(p.downs, time.Now())
	}
}

// steady reports whether the client is connected, and would know if it were not.
func (p *person) steady() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.ups)
	return !p.gone && n > len(p.downs) && (p.ups[n-1].After(p.trouble) || time.Since(p.trouble) > 12*time.Second)
}

// lost reports whether the connection was lost, or the network cut, within a time.
func (p *person) lost(from, to time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return within(p.downs, from, to) || slices.ContainsFunc(p.cuts, func(s span) bool { return s.meets(from, to) })
}

func within(times []time.Time, from, to time.Time) bool {
	return slices.ContainsFunc(times, func(t time.Time) bool { return !t.Before(from) && !t.After(to) })
}

// join makes a client.
func (w *world) join(name string) {
	p := &person{
		name: name, endpoint: w.network.NewEndpoint(), count: make(map[string]int),
		rooms: make(map[string]*stay), ids: make(map[string]bool),
	}
	streams := w.rng.IntN(6) == 0 // only
	config := client.Config{
		Dial: func(ctx context.Context, url string) (client.Conn, error) {
			s, err := w.server.Dialer(wt.Dialer{PacketConn: p.endpoint}).Dial(ctx, url)
			if err != nil {
				return nil, err
			}
			conn := client.WebTransport(s)
			if streams {
				conn = withoutDatagrams{conn}
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			p.conn = conn
			return conn, nil
		},
		Backoff: client.Backoff{Min: 100 * time.Millisecond, Max: 2 * time.Second},
		OnState: p.state,
	}
	if w.denied.life > 0 {
		config.GetToken = w.denied.token
	}
	c, err := client.Dial(context.Background(), w.server.URL, config)
	if err != nil && w.denied.life > 0 { // there was no token just then
		c, err = client.Dial(context.Background(), w.server.URL, config)
	}
	if err != nil {
		w.t.Fatalf("%s cannot connect: %v", name, err)
	}
	if streams {
		w.say("%s has no datagrams", name)
	}
	p.client = c
	w.people = append(w.people, p)
}

// withoutDatagrams is a connection that carries streams only, as the fallback does.
type withoutDatagrams struct{ client.Conn }

func (withoutDatagrams) MaxDatagramSize() int { return 0 }

// denials are the authenticator: what nobody may do just now, and how long tokens
// last.
type denials struct {
	life time.Duration // of a token; 0: there are none

	mu        sync.Mutex
	subscribe map[string]bool // guarded by mu
	publish   map[string]bool // guarded by mu
	tokens    int             // that were asked for; guarded by mu
}

func (d *denials) set(which map[string]bool, topic string, denied bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	which[topic] = denied
}

// token is a client's GetToken. Every fifth time it fails.
func (d *denials) token(context.Context) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tokens++; d.tokens%5 == 3 {
		return "", errors.New("no token just now")
	}
	return fmt.Sprint(time.Now().Add(d.life).UnixNano()), nil
}

// Authenticate implements broker.Authenticator.
func (d *denials) Authenticate(_ context.Context, c broker.Credentials) (broker.Principal, error) {
	if d.life == 0 {
		return anyone{d, time.Time{}}, nil
	}
	ns, err := strconv.ParseInt(c.Token, 10, 64)
	if err != nil {
		return nil, err
	}
	if expires := time.Unix(0, ns); time.Now().Before(expires) {
		return anyone{d, expires}, nil
	}
	return nil, codec.Errorf(codec.CodeTokenExpired, "the token has expired")
}

// anyone may do everything but what is denied.
type anyone struct {
	d       *denials
	expires time.Time
}

func (anyone) ID() string                     { return "anyone" }
func (a anyone) Expires() time.Time           { return a.expires }
func (a anyone) CanPublish(topic string) bool { return a.may(a.d.publish, topic) }
func (a anyone) CanSubscribe(pattern string) bool {
	return a.may(a.d.subscribe, pattern) && (pattern != "room.*" || a.mayAllRooms())
}

func (a anyone) may(which map[string]bool, name string) bool {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	return !which[name]
}

// mayAllRooms reports whether no single room is denied.
func (a anyone) mayAllRooms() bool {
	return !slices.ContainsFunc(rooms, func(r room) bool { return r.topic != crowd && !a.may(a.d.subscribe, r.topic) })
}
