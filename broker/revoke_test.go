package broker_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// changing is an authenticator whose principals' permissions change while they are
// connected.
type changing struct {
	mu     sync.Mutex
	denied map[string]bool // topics and patterns, and "" for who may not come in; guarded by mu
	// asked, if it is set, is called before each answer of Authenticate.
	asked func()
}

func (c *changing) deny(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.denied == nil {
		c.denied = make(map[string]bool)
	}
	c.denied[what] = true
}

func (c *changing) allows(what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.denied[what]
}

func (c *changing) Authenticate(_ context.Context, cred broker.Credentials) (broker.Principal, error) {
	allowed := c.allows("")
	if c.asked != nil {
		c.asked()
	}
	if !allowed {
		return nil, errors.New("barred")
	}
	return changed{c, cred.Token}, nil
}

type changed struct {
	*changing
	id string
}

func (c changed) ID() string               { return c.id }
func (changed) Expires() time.Time         { return time.Time{} }
func (c changed) CanPublish(s string) bool { return c.allows(s) }
func (c changed) CanSubscribe(s string) bool {
	return c.allows(s)
}

// tokenPeer connects with a token.
func tokenPeer(t *testing.T, n network, token string) (*peer, codec.Welcome) {
	t.Helper()
	p := newPeer(t, n)
	p.control = p.open()
	p.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version, Token: token}))
	w, err := codec.ParseWelcome(p.control.want(codec.TypeWelcome))
	if err != nil {
		t.Fatal(err)
	}
	w.Secret = append([]byte(nil), w.Secret...)
	return p, w
}

// What is revoked ends at once, with what was queued of it, and nothing else
// notices.
func TestRecheck(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		auth := new(changing)
		b := newBroker(t, n, broker.Config{Authenticator: auth})
		p, _ := tokenPeer(t, n, "alice")
		other, _ := tokenPeer(t, n, "bob")
		presence := p.watch(3, "a")
		p.enter("a", "x")
		p.enter("b", "x")
		presence.want(codec.TypeMessage)
		revoked, kept := p.open(), p.open()
		revoked.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: "a", Credit: 1}))
		kept.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 2, Pattern: "b", Credit: 1 << 20}))
		revoked.want(codec.TypeSubscribed)
		kept.want(codec.TypeSubscribed)
		pub, keptPub := p.open(), p.open()
		pub.send(codec.AppendPublication(nil, codec.Publication{Topic: "a", First: 1}))
		keptPub.send(codec.AppendPublication(nil, codec.Publication{Topic: "b", First: 1}))
		for _, l := range []*line{pub, keptPub} {
			l.send(codec.AppendPublish(nil, codec.Publish{Sequence: 1, Payload: codec.Text("x")}))
			l.want(codec.TypeAck)
		}
		kept.want(codec.TypeMessage)
		for range 2 { // the first one took the credit
			if _, err := b.Publish(t.Context(), "a", "x", nil); err != nil {
				t.Fatal(err)
			}
		}
		revoked.want(codec.TypeMessage)
		auth.deny("a")
		if got := b.Recheck("alice"); got != 1 {
			t.Errorf("%d sessions were asked for", got)
		}
		if f, err := revoked.reader.Next(); err != nil || f.Type != codec.TypeEnd {
			t.Errorf("what was queued came: %s, %v", f.Type, err)
		} else if e, err := codec.ParseEnd(f); err != nil || e.Code != codec.CodePermissionRevoked || e.Retry.Set {
			t.Errorf("%+v, %v", e, err)
		}
		pub.wantEnd(codec.CodePermissionRevoked)
		presence.wantEnd(codec.CodePermissionRevoked)
		eventually(t, func() bool { return b.Stats().Presences == 1 })
		p.control.send(codec.AppendPublish(nil, codec.Publish{Sequence: 1, Topic: "a", Payload: codec.Text("x")}))
		wantNack(t, "a", p.control, 1, codec.CodePublishDenied)

		keptPub.send(codec.AppendPublish(nil, codec.Publish{Sequence: 2, Payload: codec.Text("x")}))
		keptPub.want(codec.TypeAck)
		kept.want(codec.TypeMessage)
		p.wantAlive()
		other.wantAlive()
		if got := b.Recheck("nobody"); got != 0 {
			t.Errorf("%d sessions of nobody", got)
		}
	})
}

// The broker ends the sessions of a principal, or of a client.
func TestDisconnect(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		auth := new(changing)
		b := newBroker(t, n, broker.Config{Authenticator: auth})
		one, w := tokenPeer(t, n, "alice")
		two, _ := tokenPeer(t, n, "alice")
		other, _ := tokenPeer(t, n, "bob")
		one.enter("a", "x")
		if !b.DisconnectClient(w.Client, "go away") || b.DisconnectClient(codec.ID{1}, "") {
			t.Error("the wrong client")
		}
		if e := one.control.wantEnd(codec.CodePermissionRevoked); e.Reason != "go away" || e.Retry.Set {
			t.Errorf("%+v", e)
		}
		one.wantClosed(codec.CodePermissionRevoked)
		if s := b.Stats(); s.Presences != 0 {
			t.Error("who was sent away is present")
		}
		two.wantAlive()
		eventually(t, func() bool { return b.Stats().Sessions == 2 })
		auth.deny("")
		if got := b.Disconnect("alice", "all of you"); got != 1 {
			t.Errorf("%d sessions", got)
		}
		two.control.wantEnd(codec.CodePermissionRevoked)
		other.wantAlive()
		back := newPeer(t, n)
		back.control = back.open()
		back.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version, Token: "alice"}))
		back.control.wantEnd(codec.CodeUnauthorized)
	})
}

// Who was let in just before it was to be disconnected does not slip through.
func TestDisconnectOfWhoIsComing(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	var once sync.Once
	auth := &changing{asked: func() {
		once.Do(func() {
			close(asked)
			<-answer
		})
	}}
	n := &memNetwork{}
	b := newBroker(t, n, broker.Config{Authenticator: auth})
	p := newPeer(t, n)
	p.control = p.open()
	p.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version, Token: "alice"}))
	<-asked
	auth.deny("")
	b.Disconnect("alice", "go away")
	close(answer)
	p.control.wantEnd(codec.CodeUnauthorized)
}

// While the authenticator thinks about a new token, the session goes on.
func TestSlowAuthenticator(t *testing.T) {
	var slow sync.Mutex // guards wait
	wait := false
	auth := &changing{}
	auth.asked = func() {
		slow.Lock()
		w := wait
		slow.Unlock()
		if w {
			time.Sleep(5 * time.Second)
		}
	}
	bubble(t, broker.Config{Authenticator: auth}, func(t *testing.T, n *memNetwork, _ *broker.Broker) {
		p, _ := tokenPeer(t, n, "alice")
		slow.Lock()
		wait = true
		slow.Unlock()
		began := time.Now()
		p.control.send(codec.AppendAuth(nil, codec.Auth{Number: 1, Token: "alice"}))
		p.wantAlive()
		if d := time.Since(began); d > 0 {
			t.Errorf("the session waited for %v", d)
		}
		p.control.send(codec.AppendAuth(nil, codec.Auth{Number: 2, Token: "alice"}))
		for number := uint64(1); number <= 2; number++ { // one after the other
			a, err := codec.ParseAuthenticated(p.control.want(codec.TypeAuthenticated))
			if err != nil || a.Number != number || time.Since(began) != time.Duration(number)*5*time.Second {
				t.Errorf("%+v, %v, after %v", a, err, time.Since(began))
			}
		}
		// The end of the session waits for the answer, and no longer.
		p.control.send(codec.AppendAuth(nil, codec.Auth{Number: 3, Token: "alice"}))
		p.control.fin()
		synctest.Wait()
	})
}
