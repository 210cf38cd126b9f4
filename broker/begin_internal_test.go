package broker

import (
	"context"
	"testing"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// idleStream is a stream that nothing is written to.
type idleStream struct{ Stream }

func (idleStream) SetPriority(int8, bool) {}

// idleSession is a session whose queues nobody empties.
func idleSession(b *Broker) *session {
	s := &session{broker: b, subs: make(map[uint64]*subscription), writing: true}
	s.changed.L = &s.mu
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// queued is an idle session's subscription that the router does not know.
func queued(s *session, number uint64, pattern string) *subscription {
	sub := &subscription{session: s, number: number, pattern: pattern, out: newOutlet(idleStream{}, rankFirst)}
	sub.out.sub = sub
	sub.out.limit = 1 << 20
	return sub
}

// What happens between the look at a topic and the moment from which the router knows a
// subscription to it: a message of class reliable comes, or the bus loses some.
func TestWhileASubscriptionBegins(t *testing.T) {
	for _, c := range []struct {
		name      string
		from      func(b *Broker, pos Position) codec.From
		meanwhile func(b *Broker) error
		debt      uint64 // messages that are owed, but for last values
		gap       bool   // of the bus
	}{
		{"since a time, a message comes", func(b *Broker, _ Position) codec.From {
			return codec.From{Kind: codec.FromTime, Time: b.now() + 1}
		}, publishOne, 1, false},
		{"now, a message comes", func(*Broker, Position) codec.From { return codec.From{} }, publishOne, 0, false},
		{"behind a position, a message comes", behind, publishOne, 1, false},
		{"behind a position, the bus loses messages", behind, func(b *Broker) error {
			(*sink)(b).Lost("t", "")
			return nil
		}, 0, true},
		{"behind a position, nothing happens", behind, func(*Broker) error { return nil }, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newTestBroker(t, Config{})
			pos, err := b.Publish(t.Context(), "t", "before", nil)
			if err != nil {
				t.Fatal(err)
			}
			s := idleSession(b)
			sub := queued(s, 1, "t")
			if sub.topic, err = b.topics.get("t", true); err != nil {
				t.Fatal(err)
			}
			f := codec.Subscribe{Number: 1, Pattern: "t", From: c.from(b, pos)}
			begin, err := s.beginning(sub.topic, f, codec.ClassReliable)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.meanwhile(b); err != nil {
				t.Fatal(err)
			}
			if err := s.beginTopic(sub, f, begin, pos); err != nil {
				t.Fatal(err)
			}
			defer b.router.remove(sub)
			s.mu.Lock()
			defer s.mu.Unlock()
			var debt uint64
			if d := sub.own.debt; d != nil {
				debt = d.to - max(d.from, d.snapshot)
			}
			gap := false
			for _, e := range sub.out.queue.entries {
				gap = gap || e.reason == codec.GapBus
			}
			if debt != c.debt || gap != c.gap {
				t.Errorf("%d messages are owed, a gap of the bus is told: %v; want %d, %v", debt, gap, c.debt, c.gap)
			}
			s.stopped = true
		})
	}
}

func behind(_ *Broker, pos Position) codec.From {
	return codec.From{Kind: codec.FromPosition, Epoch: pos.Epoch, Offset: pos.Offset}
}

func publishOne(b *Broker) error {
	_, err := b.Publish(context.Background(), "t", "meanwhile", nil)
	return err
}

// A message whose time was taken before a subscription began, and which is appended while the
// subscription looks at the topic, is owed to it if it asks for what is as old.
func TestBeginsDuringAnAppend(t *testing.T) {
	b := newTestBroker(t, Config{})
	if _, err := b.Publish(t.Context(), "t", "before", nil); err != nil {
		t.Fatal(err)
	}
	tp, err := b.topics.get("t", true)
	if err != nil {
		t.Fatal(err)
	}
	s := idleSession(b)
	since := b.now() + 1
	tp.mu.Lock() // who appends has it
	found := make(chan beginning)
	go func() {
		g, err := s.beginning(tp, codec.Subscribe{Number: 1, Pattern: "*", From: codec.From{Kind: codec.FromPositions, Time: since}}, codec.ClassReliable)
		if err != nil {
			t.Error(err)
		}
		found <- g
	}()
	select {
	case g := <-found:
		tp.mu.Unlock()
		t.Fatalf("it begins at %+v, and does not know what is being appended", g)
	case <-time.After(10 * time.Millisecond):
	}
	tp.used.Store(int64(since))
	tp.mu.Unlock()
	if g := <-found; g.clamp {
		t.Error("it begins behind what was being appended")
	}
}
