package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// Where the broker takes so many messages a second, who was in many topics is there
// again a while after a reconnect; and where it may not be any more, it is told.
func TestPresenceIsEnteredAgain(t *testing.T) {
	var closed atomic.Bool
	config := broker.Config{
		PublishRate: 5, Authenticator: doors{&closed},
		Topics: []broker.TopicConfig{{Pattern: "room.>", PresenceGrace: time.Hour}},
	}
	inWorld(t, config, func(t *testing.T, w *world) {
		lost := make(map[string]codec.Code)
		c := w.dial(func(c *client.Config) {
			c.OnPresenceLost = func(topic string, err error) { lost[topic] = codec.CodeOf(err) }
		})
		other := w.dial()
		const rooms = 20
		for i := range rooms {
			if err := c.Enter(t.Context(), fmt.Sprint("room.", i), "here"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		closed.Store(true)
		w.restart()
		w.connected(c)
		time.Sleep(10 * time.Minute)
		if counts, err := other.PresenceCount(t.Context(), "room.*"); err != nil || len(counts) != rooms-1 {
			t.Errorf("after a reconnect the client is present in %d topics of %d (%v)", len(counts), rooms-1, err)
		}
		synctest.Wait()
		if len(lost) != 1 || lost["room.7"] != codec.CodeSubscribeDenied {
			t.Errorf("told of %v", lost)
		}
		// What is left meanwhile stays left.
		if err := c.Leave(t.Context(), "room.3"); err != nil {
			t.Fatal(err)
		}
		w.restart()
		w.connected(c)
		if err := c.Leave(t.Context(), "room.19"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if counts, err := other.PresenceCount(t.Context(), "room.*"); err != nil || len(counts) != rooms-3 || counts["room.3"]+counts["room.19"] > 0 {
			t.Errorf("present in %v, %v", counts, err)
		}
	})
}

// doors lets everybody in everywhere, once it is closed but to room.7.
type doors struct{ closed *atomic.Bool }

func (d doors) Authenticate(context.Context, broker.Credentials) (broker.Principal, error) {
	return guest{d}, nil
}

type guest struct{ doors }

func (guest) ID() string                       { return "guest" }
func (guest) CanPublish(string) bool           { return true }
func (g guest) CanSubscribe(topic string) bool { return topic != "room.7" || !g.closed.Load() }
func (guest) Expires() time.Time               { return time.Time{} }

// Who gives up a connection from which nothing comes, and that carries what he sends, has
// not left: he is back within the grace, and nobody notices.
func TestPresenceOutlastsAConnectionThatIsGivenUp(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		watch, err := w.dial().WatchPresence(t.Context(), "room")
		if err != nil {
			t.Fatal(err)
		}
		var conns []*deafConn
		c := w.dial(func(config *client.Config) {
			config.Dial = func(ctx context.Context, url string) (client.Conn, error) {
				conn, err := w.connect(ctx, url)
				conns = append(conns, &deafConn{Conn: conn})
				return conns[len(conns)-1], err
			}
		})
		if err := c.Enter(t.Context(), "room", "here"); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(w.events(watch), ", "); got != "joined room here" {
			t.Errorf("got %q", got)
		}
		conns[0].deaf.Store(true)
		conns[0].all.Store(true)
		time.Sleep(time.Minute)
		if got := w.events(watch); len(got) > 0 || len(conns) != 2 {
			t.Errorf("after %d connections: %q", len(conns), got)
		}
	})
}

// Who leaves without a connection has left when the grace is over, and is not entered
// again.
func TestPresenceIsLeftWhileOffline(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		for _, topic := range []string{"room.1", "room.2", "room.3"} {
			if err := c.Enter(t.Context(), topic, "here"); err != nil {
				t.Fatal(err)
			}
		}
		w.cut()
		if err := c.Leave(t.Context(), "room.1"); err != nil {
			t.Error(err)
		}
		entered := make(chan error)
		go func() { entered <- c.Enter(t.Context(), "room.2", "waits") }()
		synctest.Wait()
		if err := c.Leave(t.Context(), "room.2"); err != nil {
			t.Error(err)
		}
		late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := c.Enter(late, "room.3", "in vain"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("entered without a connection: %v", err)
		}
		w.heal()
		w.connected(c)
		if err := <-entered; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		members, err := c.Presence(t.Context(), "room.3")
		if err != nil || len(members) != 1 || string(members[0].State.Data) != "here" {
			t.Errorf("present in room.3: %v, %v", members, err)
		}
		if counts, err := c.PresenceCount(t.Context(), "room.*"); err != nil || len(counts) != 1 {
			t.Errorf("present in %v, %v", counts, err)
		}
	})
}

// A state that the broker refuses after a reconnect leaves the one before in force.
func TestRefusedStateAfterReconnect(t *testing.T) {
	config := broker.Config{PublishRate: 1, Topics: []broker.TopicConfig{{Pattern: "room.>", PresenceGrace: time.Second}}}
	inWorld(t, config, func(t *testing.T, w *world) {
		c, other := w.dial(), w.dial()
		topics := []string{"room.1", "room.2", "room.3", "room.4", "room.5"}
		for _, topic := range topics {
			if err := c.Enter(t.Context(), topic, "before"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		w.cut()
		answers := make(chan error)
		for _, topic := range topics {
			go func() { answers <- c.Enter(t.Context(), topic, "after") }()
		}
		synctest.Wait()
		w.heal()
		w.connected(c)
		w.connected(other)
		refused := 0
		for range topics {
			if err := <-answers; err != nil {
				refused++
			}
		}
		time.Sleep(10 * time.Minute)
		counts, err := other.PresenceCount(t.Context(), "room.*")
		if refused == 0 || err != nil || len(counts) != len(topics) {
			t.Errorf("%d were refused, present in %v, %v", refused, counts, err)
		}
	})
}

// Who stops waiting for an Enter is as present as before.
func TestEnterThatIsGivenUp(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		if err := c.Enter(t.Context(), "room.1", "before"); err != nil {
			t.Fatal(err)
		}
		w.network.Gate = make(chan struct{})
		w.network.Shut.Store(true) // no answer comes
		for _, topic := range []string{"room.1", "room.2"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if err := c.Enter(ctx, topic, "after"); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			cancel()
		}
		w.network.Shut.Store(false)
		close(w.network.Gate)
		synctest.Wait()
		counts, err := c.PresenceCount(t.Context(), "room.*")
		if err != nil || len(counts) != 1 || counts["room.1"] != 1 {
			t.Errorf("present in %v, %v", counts, err)
		}
		members, err := c.Presence(t.Context(), "room.1")
		if err != nil || len(members) != 1 || string(members[0].State.Data) != "before" {
			t.Errorf("present: %v, %v", members, err)
		}
	})
}

// Who leaves just when the client has come back, and enters again, has left.
func TestLeaveWhileComingBack(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		const rooms = 60
		var back atomic.Bool
		var c *client.Client
		other := w.dial()
		c = w.dial(seeing(func(f codec.Frame) {
			if f.Type != codec.TypePresence || !back.CompareAndSwap(true, false) {
				return
			}
			now, cancel := context.WithCancel(context.Background())
			cancel() // it does not wait for the answer
			for i := range rooms {
				_ = c.Leave(now, fmt.Sprint("room.", i))
			}
		}))
		for round := range 100 {
			for i := range rooms {
				if err := c.Enter(t.Context(), fmt.Sprint("room.", i), "here"); err != nil {
					t.Fatal(err)
				}
			}
			w.cut()
			back.Store(true)
			w.heal()
			w.connected(c)
			w.connected(other)
			if counts, err := other.PresenceCount(t.Context(), "room.*"); err != nil || len(counts) > 0 {
				t.Fatalf("round %d: every room was left, and yet present in %v, %v", round, counts, err)
			}
		}
	})
}

// Of two that enter a topic at once, and one that leaves it, what the broker knows in the
// end is what the client enters again.
func TestEnterAndLeaveAtOnce(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		const rooms = 20
		c := w.dial()
		present := func() (all string) {
			t.Helper()
			for i := range rooms {
				members, err := c.Presence(t.Context(), fmt.Sprint("room.", i))
				if err != nil || len(members) > 1 {
					t.Fatal(members, err)
				}
				all += "-"
				for _, m := range members {
					all += string(m.State.Data)
				}
			}
			return all
		}
		for round := range 50 {
			var wg sync.WaitGroup
			for i := range rooms {
				topic := fmt.Sprint("room.", i)
				wg.Go(func() { _ = c.Enter(t.Context(), topic, "1") })
				wg.Go(func() { _ = c.Enter(t.Context(), topic, "2") })
				if i%2 == 0 {
					wg.Go(func() { _ = c.Leave(t.Context(), topic) })
				}
			}
			wg.Wait()
			before := present()
			w.cut()
			w.heal()
			w.connected(c)
			time.Sleep(time.Minute) // the grace is over
			if after := present(); after != before {
				t.Fatalf("round %d: present as %s, and after a reconnect as %s", round, before, after)
			}
		}
	})
}

// Of two states that are refused neither counts.
func TestTwoRefusedAtOnce(t *testing.T) {
	config := broker.Config{PublishRate: 1, Topics: []broker.TopicConfig{{Pattern: "room", PresenceGrace: time.Second}}}
	inWorld(t, config, func(t *testing.T, w *world) {
		c, other := w.dial(), w.dial()
		for i := range 5 { // uses up what the broker takes in a second
			_ = c.Enter(t.Context(), fmt.Sprint("other.", i), "here")
		}
		w.network.Gate = make(chan struct{})
		w.network.Shut.Store(true)
		errs := make(chan error)
		for _, state := range []string{"1", "2"} {
			go func() { errs <- c.Enter(t.Context(), "room", state) }()
		}
		synctest.Wait()
		w.network.Shut.Store(false)
		close(w.network.Gate)
		for range 2 {
			if err := <-errs; codec.CodeOf(err) != codec.CodeRateLimited {
				t.Error(err)
			}
		}
		time.Sleep(time.Hour)
		if members, err := other.Presence(t.Context(), "room"); err != nil || len(members) > 0 {
			t.Errorf("present: %v, %v", members, err)
		}
	})
}

// Where members are only counted a watch tells each number, nobody's too, and after what
// it could not see the one that holds.
func TestPresenceWatchCounts(t *testing.T) {
	config := broker.Config{Topics: []broker.TopicConfig{{Pattern: "room.*", Presence: broker.PresenceCounts}}}
	inWorld(t, config, func(t *testing.T, w *world) {
		c, other := w.dial(), w.dial()
		watch, err := other.WatchPresence(t.Context(), "room.*")
		if err != nil {
			t.Fatal(err)
		}
		counts := func() (counts []string) {
			t.Helper()
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			for e, err := range watch.Events(ctx) {
				switch {
				case ctx.Err() != nil:
					return counts
				case err != nil:
					t.Fatal(err)
				}
				counts = append(counts, fmt.Sprint(e.Kind, " ", e.Topic, " ", e.Count))
			}
			return counts
		}
		for _, topic := range []string{"room.1", "room.2"} {
			if err := c.Enter(t.Context(), topic, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Leave(t.Context(), "room.1"); err != nil {
			t.Fatal(err)
		}
		if got := counts(); fmt.Sprint(got) != "[counted room.1 1 counted room.2 1 counted room.1 0]" {
			t.Errorf("got %q", got)
		}
		w.cutHard()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		w.restart()
		w.heal()
		w.connected(other)
		if got := counts(); fmt.Sprint(got) != "[gap  0 counted room.2 0]" {
			t.Errorf("after a restart: got %q", got)
		}
	})
}
