package broker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// byToken permits everything to the token "", and nothing to any other one.
// Before its first answer it may be held.
type byToken struct{ enter, leave chan struct{} }

func (a byToken) Authenticate(_ context.Context, c broker.Credentials) (broker.Principal, error) {
	return &held{byToken: a, allow: c.Token == ""}, nil
}

type held struct {
	byToken
	allow bool
	asked atomic.Bool
}

func (*held) ID() string         { return "somebody" }
func (*held) Expires() time.Time { return time.Time{} }
func (p *held) CanPublish(string) bool {
	return p.answer()
}
func (p *held) CanSubscribe(string) bool { return p.answer() }

func (p *held) answer() bool {
	if p.allow && p.enter != nil && !p.asked.Swap(true) {
		close(p.enter)
		<-p.leave
	}
	return p.allow
}

// A token that is replaced while a subscription or publication is being opened
// holds for it.
func TestTokenIsReplacedWhileAStreamOpens(t *testing.T) {
	for name, first := range map[string][]byte{
		"subscription": codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: "x", Credit: 1000}),
		"publication":  codec.AppendPublication(nil, codec.Publication{Topic: "x", First: 1}),
	} {
		t.Run(name, func(t *testing.T) {
			n := &memNetwork{}
			auth := byToken{make(chan struct{}), make(chan struct{})}
			b := newBroker(t, n, broker.Config{Authenticator: auth})
			p, _ := welcomedPeer(t, n)
			l := p.open()
			l.send(first)
			<-auth.enter
			p.control.send(codec.AppendAuth(nil, codec.Auth{Number: 1, Token: "narrow"}))
			p.control.want(codec.TypeAuthenticated)
			close(auth.leave)
			f, err := l.reader.Next()
			if err != nil {
				t.Fatal(err)
			}
			e, err := codec.ParseEnd(f)
			if err != nil || e.Code.Range() != codec.RangePermission {
				t.Fatalf("got %s, %+v, %v", f.Type, e, err)
			}
			eventually(t, func() bool { s := b.Stats(); return s.Subscriptions == 0 && s.Publications == 0 })
		})
	}
}

// slowBus is the local bus; it can be held in Subscribe and Publish.
type slowBus struct {
	broker.Bus
	enter, leave chan struct{}
	refs         *atomic.Int64
}

func openSlowBus() (slowBus, broker.OpenBus) {
	b := slowBus{enter: make(chan struct{}), leave: make(chan struct{}), refs: new(atomic.Int64)}
	return b, func(s broker.Sink) (broker.Bus, error) {
		local, err := broker.OpenLocalBus(s)
		b.Bus = local
		return b, err
	}
}

func (b slowBus) Subscribe(context.Context, string, string) (uint64, error) {
	close(b.enter)
	<-b.leave
	b.refs.Add(1)
	return 0, nil
}

func (b slowBus) Unsubscribe(string, string) { b.refs.Add(-1) }

func (b slowBus) Publish(ctx context.Context, m broker.Message) (broker.Position, error) {
	close(b.enter)
	<-b.leave
	return b.Bus.Publish(ctx, m)
}

// A permission that is revoked while the bus is being asked ends the subscription,
// and leaves nothing behind.
func TestRevokedWhileTheBusIsAsked(t *testing.T) {
	n := &memNetwork{}
	bus, open := openSlowBus()
	b := newBroker(t, n, broker.Config{Authenticator: byToken{}, Bus: open})
	p, _ := welcomedPeer(t, n)
	l := p.open()
	l.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: "x", Credit: 1000}))
	<-bus.enter
	p.control.send(codec.AppendAuth(nil, codec.Auth{Number: 1, Token: "narrow"}))
	p.control.want(codec.TypeAuthenticated)
	if refs := bus.refs.Load(); refs != 0 {
		t.Errorf("%d references at the bus while Subscribe is under way", refs)
	}
	close(bus.leave)
	l.wantEnd(codec.CodePermissionRevoked)
	if refs := bus.refs.Load(); refs != 0 {
		t.Errorf("%d references at the bus are left", refs)
	}
	if s := b.Stats(); s.Subscriptions != 0 {
		t.Errorf("%d subscriptions", s.Subscriptions)
	}
}

// A message that was taken is answered before its publication ends.
func TestAnswerBeforeEnd(t *testing.T) {
	n := &memNetwork{}
	bus, open := openSlowBus()
	newBroker(t, n, broker.Config{Authenticator: byToken{}, Bus: open})
	p, _ := welcomedPeer(t, n)
	l := p.open()
	l.send(codec.AppendPublication(nil, codec.Publication{Topic: "x", First: 1}))
	l.send(codec.AppendPublish(nil, codec.Publish{Sequence: 1, Payload: codec.Text("a")}))
	<-bus.enter
	p.control.send(codec.AppendAuth(nil, codec.Auth{Number: 1, Token: "narrow"}))
	p.control.want(codec.TypeAuthenticated)
	close(bus.leave)
	l.want(codec.TypeAck)
	l.wantEnd(codec.CodePermissionRevoked)
}

// A principal need not be comparable.
func TestPrincipalOfAnyType(t *testing.T) {
	bubble(t, broker.Config{Authenticator: fleeting{}}, func(t *testing.T, n *memNetwork, _ *broker.Broker) {
		p, _ := welcomedPeer(t, n)
		p.control.want(codec.TypeNotice)
	})
}

// fleeting is its own principal, of a type that cannot be compared.
type fleeting struct{ _ []string }

func (fleeting) Authenticate(context.Context, broker.Credentials) (broker.Principal, error) {
	return fleetingPrincipal{expires: time.Now().Add(50 * time.Millisecond)}, nil
}

type fleetingPrincipal struct {
	expires time.Time
	_       []string
}

func (fleetingPrincipal) ID() string               { return "" }
func (p fleetingPrincipal) Expires() time.Time     { return p.expires }
func (fleetingPrincipal) CanPublish(string) bool   { return true }
func (fleetingPrincipal) CanSubscribe(string) bool { return true }

// A broker that has its sessions says so in band.
func TestTooManySessions(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{MaxSessions: 1})
		p, _ := welcomedPeer(t, n)
		q := newPeer(t, n)
		q.control = q.open()
		q.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version}))
		if e := q.control.wantEnd(codec.CodeTooManySessions); !e.Retry.Set {
			t.Error("the client is not told to try again")
		}
		p.wantAlive()
		if s := b.Stats(); s.SessionsTotal != 1 {
			t.Errorf("%d sessions were welcomed", s.SessionsTotal)
		}
	})
}
