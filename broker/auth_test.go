package broker_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// tokens is an authenticator whose tokens are the names of its principals.
type tokens map[string]principal

type principal struct {
	id                 string
	publish, subscribe []string
	ttl                time.Duration
}

func (ts tokens) Authenticate(_ context.Context, c broker.Credentials) (broker.Principal, error) {
	p, ok := ts[c.Token]
	if !ok {
		return nil, errors.New("a detail that is not for the client")
	}
	g := &granted{principal: p}
	if p.ttl > 0 {
		g.expires = time.Now().Add(p.ttl)
	}
	return g, nil
}

type granted struct {
	principal
	expires time.Time
}

func (g *granted) ID() string         { return g.id }
func (g *granted) Expires() time.Time { return g.expires }
func (g *granted) CanPublish(topic string) bool {
	return slices.ContainsFunc(g.publish, func(p string) bool { return codec.Match(p, topic) })
}
func (g *granted) CanSubscribe(pattern string) bool {
	return slices.ContainsFunc(g.subscribe, func(p string) bool { return codec.Contains(p, pattern) })
}

func token(s string) func(*client.Config) {
	return func(c *client.Config) { c.Token = s }
}

func TestPermissions(t *testing.T) {
	auth := tokens{"alice": {id: "alice", publish: []string{"chat.*"}, subscribe: []string{"chat.>", "news.*"}}}
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{Authenticator: auth})
		for _, bad := range []string{"", "mallory", strings.Repeat("x", codec.MaxToken)} {
			_, err := tryDial(t, n, token(bad))
			wantCode(t, err, codec.CodeUnauthorized)
			if e, _ := errors.AsType[*client.Error](err); !e.Remote || strings.Contains(e.Reason, "detail") {
				t.Errorf("the client was told %q", e.Reason)
			}
		}
		c := dial(t, n, token("alice"))
		for pattern, want := range map[string]codec.Code{
			"chat.a": codec.CodeOK, "chat.*": codec.CodeOK, "chat.>": codec.CodeOK, "news.*": codec.CodeOK,
			"news.>": codec.CodeSubscribeDenied, ">": codec.CodeSubscribeDenied, "*.a": codec.CodeSubscribeDenied, "other": codec.CodeSubscribeDenied,
			"$SYS.>": codec.CodeSystemTopic,
		} {
			sub, err := c.Subscribe(within(t), pattern, nil)
			if codec.CodeOf(err) != want {
				t.Errorf("subscribe to %q: %v, want %s", pattern, err, want)
			}
			if sub != nil {
				_ = sub.Close()
			}
		}
		for topic, want := range map[string]codec.Code{"chat.a": codec.CodeOK, "chat.a.b": codec.CodePublishDenied, "news.a": codec.CodePublishDenied} {
			for range 3 { // alone on the control stream, then on a publication
				if _, err := c.Publish(within(t), topic, "x", nil); codec.CodeOf(err) != want {
					t.Errorf("publish to %q: %v, want %s", topic, err, want)
				}
			}
		}
		// A datagram that is not permitted is dropped and counted.
		if n.datagrams() {
			if err := c.PublishLossy(within(t), "news.a", "x", nil); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool { return b.Stats().Dropped[broker.DropBadDatagram] == 1 })
		}
	})
}

// A new token takes effect in place: what it does not permit ends with a code, and
// nothing else notices.
func TestTokenIsReplacedInPlace(t *testing.T) {
	auth := tokens{
		"wide":   {id: "alice", publish: []string{"a", "b"}, subscribe: []string{"a", "b"}},
		"narrow": {id: "alice", publish: []string{"b"}, subscribe: []string{"b"}},
		"bob":    {id: "bob", publish: []string{">"}, subscribe: []string{">"}},
	}
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{Authenticator: auth})
		c := dial(t, n, token("wide"))
		a, kept := subscribe(t, c, "a", nil), subscribe(t, c, "b", nil)
		for range 2 {
			publish(t, c, "a", "x") // opens a publication
			publish(t, c, "b", "x")
		}
		take(t, a, 2)
		wantCode(t, c.Authenticate(within(t), "mallory"), codec.CodeUnauthorized)
		wantCode(t, c.Authenticate(within(t), "bob"), codec.CodeUnauthorized)
		publish(t, c, "a", "the old token is still in force")
		if err := c.Authenticate(within(t), "narrow"); err != nil {
			t.Fatal(err)
		}
		var last error
		for _, err := range a.Messages(within(t)) {
			last = err
		}
		wantCode(t, last, codec.CodePermissionRevoked)
		eventually(t, func() bool {
			_, err := c.Publish(within(t), "a", "x", nil)
			code := codec.CodeOf(err)
			return code == codec.CodePublishDenied || code == codec.CodePermissionRevoked
		})
		publish(t, c, "b", "x")
		for _, m := range take(t, kept, 3) {
			if m.Gap != nil {
				t.Errorf("the other subscription met %s", m.Gap)
			}
		}
		if s := b.Stats(); s.SessionsTotal != 1 {
			t.Errorf("%d sessions: the client has connected again", s.SessionsTotal)
		}
	})
}

// When a token expires the client is told in band, has a grace, and is then ended
// with a code that says to come back with a new token.
func TestTokenExpires(t *testing.T) {
	auth := tokens{
		"short": {id: "alice", publish: []string{"a"}, ttl: 100 * time.Millisecond},
		"long":  {id: "alice", publish: []string{"a"}, ttl: time.Hour},
	}
	inVirtualTime(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{Authenticator: auth, TokenGrace: 300 * time.Millisecond})
		p := newPeer(t, n)
		p.control = p.open()
		p.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version, Token: "short"}))
		w, err := codec.ParseWelcome(p.control.want(codec.TypeWelcome))
		if err != nil || !w.Expires.Set {
			t.Fatal(w, err)
		}
		notice, err := codec.ParseNotice(p.control.want(codec.TypeNotice))
		if err != nil || notice.Code != codec.CodeTokenExpired || !notice.Deadline.Set || notice.Deadline.Value < w.Expires.Value {
			t.Fatalf("%+v, %v", notice, err)
		}
		p.control.wantEnd(codec.CodeTokenExpired)
		p.wantClosed(codec.CodeTokenExpired)

		// AUTH within the grace keeps the session.
		q := newPeer(t, n)
		q.control = q.open()
		q.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version, Token: "short"}))
		q.control.want(codec.TypeWelcome)
		q.control.want(codec.TypeNotice)
		q.control.send(codec.AppendAuth(nil, codec.Auth{Number: 1, Token: "long"}))
		a, err := codec.ParseAuthenticated(q.control.want(codec.TypeAuthenticated))
		if err != nil || a.Number != 1 || !a.Expires.Set {
			t.Fatalf("%+v, %v", a, err)
		}

		// A client with a source of tokens never notices.
		var mu sync.Mutex
		asked := 0
		c := dial(t, n, func(c *client.Config) {
			c.GetToken = func(context.Context) (string, error) {
				mu.Lock()
				defer mu.Unlock()
				if asked++; asked == 1 {
					return "short", nil
				}
				return "long", nil
			}
		})
		id := c.ID()
		eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return asked == 2
		})
		publish(t, c, "a", "x")
		if c.ID() != id || c.State() != client.StateConnected {
			t.Errorf("the client is %s, with id %s", c.State(), c.ID())
		}

		// One without ends, for good.
		d := dial(t, n, token("short"))
		eventually(t, func() bool { return d.State() == client.StateClosed })
		wantCode(t, d.Err(), codec.CodeTokenExpired)
	})
}

// A client id is public: only the secret, and the same principal, resume it.
func TestResume(t *testing.T) {
	auth := tokens{"alice": {id: "alice", publish: []string{"alive"}}, "bob": {id: "bob"}}
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{Authenticator: auth})
		hello := func(token string, r codec.Resume) *peer {
			p := newPeer(t, n)
			p.control = p.open()
			p.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version, Token: token, Resume: r}))
			return p
		}
		welcome := func(p *peer) codec.Welcome {
			w, err := codec.ParseWelcome(p.control.want(codec.TypeWelcome))
			if err != nil {
				t.Fatal(err)
			}
			w.Secret = append([]byte(nil), w.Secret...)
			return w
		}
		first := hello("alice", codec.Resume{})
		w := welcome(first)

		forged := append([]byte(nil), w.Secret...)
		forged[len(forged)-1]++
		hello("bob", codec.Resume{Client: w.Client, Secret: w.Secret}).control.wantEnd(codec.CodeResumeDenied)
		hello("alice", codec.Resume{Client: w.Client, Secret: forged}).control.wantEnd(codec.CodeResumeDenied)
		hello("alice", codec.Resume{Client: codec.ID{9}, Secret: w.Secret}).control.wantEnd(codec.CodeResumeDenied)
		first.wantAlive()

		// The secret of a broker that is no more gives a new id.
		unknown := welcome(hello("alice", codec.Resume{Client: w.Client, Secret: make([]byte, 40)}))
		if unknown.Client == w.Client {
			t.Error("an unknown secret has resumed the id")
		}
		first.wantAlive()

		// The right one resumes it, and replaces the connection that is still open.
		if again := welcome(hello("alice", codec.Resume{Client: w.Client, Secret: w.Secret})); again.Client != w.Client {
			t.Errorf("resumed as %s, want %s", again.Client, w.Client)
		}
		first.control.wantEnd(codec.CodeReplaced)
		first.wantClosed(codec.CodeReplaced)
	})
}

// Without an authenticator a broker takes clients of its own machine only.
func TestOpenIsForLoopback(t *testing.T) {
	remote := broker.Credentials{RemoteAddr: netAddr("192.0.2.1")}
	if _, err := (broker.Open{}).Authenticate(t.Context(), remote); codec.CodeOf(err) != codec.CodeUnauthorized {
		t.Errorf("a remote client: %v", err)
	}
	if _, err := (broker.Open{AllowRemote: true}).Authenticate(t.Context(), remote); err != nil {
		t.Errorf("a remote client that was allowed: %v", err)
	}
	for _, local := range []string{"127.0.0.1", "127.8.8.8", "::1"} {
		if _, err := (broker.Open{}).Authenticate(t.Context(), broker.Credentials{RemoteAddr: netAddr(local)}); err != nil {
			t.Errorf("%s: %v", local, err)
		}
	}
	if _, err := (broker.Open{}).Authenticate(t.Context(), broker.Credentials{}); err == nil {
		t.Error("a client without an address was taken")
	}
}
