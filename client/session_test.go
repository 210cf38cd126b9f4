package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// tokens is an authenticator whose tokens last a minute.
type tokens struct{}

func (tokens) Authenticate(context.Context, broker.Credentials) (broker.Principal, error) {
	return minute{time.Now().Add(time.Minute)}, nil
}

type minute struct{ until time.Time }

func (minute) ID() string               { return "somebody" }
func (minute) CanPublish(string) bool   { return true }
func (minute) CanSubscribe(string) bool { return true }
func (m minute) Expires() time.Time     { return m.until }

// A token is replaced before it expires, and the source is asked again if it fails.
func TestTokenIsReplacedInTime(t *testing.T) {
	inWorld(t, broker.Config{Authenticator: tokens{}}, func(t *testing.T, w *world) {
		var asked []time.Duration
		began := time.Now()
		c := w.dial(func(c *client.Config) {
			c.GetToken = func(context.Context) (string, error) {
				asked = append(asked, time.Since(began))
				if len(asked) == 3 {
					return "", errors.New("try again")
				}
				return fmt.Sprint("token ", len(asked)), nil
			}
			c.OnState = func(s client.State, err error) {
				if s == client.StateDisconnected {
					t.Errorf("disconnected: %v", err)
				}
			}
		})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if c.State() != client.StateConnected {
			t.Errorf("the client is %s: %v", c.State(), c.Err())
		}
		if len(asked) < 12 || len(asked) > 16 {
			t.Errorf("asked %d times: %v", len(asked), asked)
		}
		if life := asked[1] - asked[0]; life < 40*time.Second || life > 48*time.Second {
			t.Errorf("asked for the second one after %v", life)
		}
		_ = c.Close() // before the broker ends, which would be a disconnection
	})
}

// A source that says that there is no token for this client ends it, and one that
// only failed does not.
func TestTokenSourceRefuses(t *testing.T) {
	inWorld(t, broker.Config{Authenticator: tokens{}}, func(t *testing.T, w *world) {
		var failing atomic.Pointer[error]
		failing.Store(new(error))
		c := w.dial(func(c *client.Config) {
			c.GetToken = func(context.Context) (string, error) { return "token", *failing.Load() }
		})
		away := errors.New("the source is away")
		failing.Store(&away)
		w.cut()
		w.heal()
		time.Sleep(time.Minute)
		if c.State() == client.StateClosed {
			t.Fatalf("the client ended: %v", c.Err())
		}
		var out error = &client.Error{Code: codec.CodeUnauthorized, Reason: "signed out"}
		failing.Store(&out)
		time.Sleep(time.Minute)
		if c.State() != client.StateClosed || codec.CodeOf(c.Err()) != codec.CodeUnauthorized {
			t.Errorf("the client is %s: %v", c.State(), c.Err())
		}
	})
}

// events returns what a watch has seen, once nothing moves any more.
func (w *world) events(watch *client.PresenceWatch) (events []string) {
	w.t.Helper()
	synctest.Wait()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Millisecond)
	defer cancel()
	for e, err := range watch.Events(ctx) {
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			w.t.Fatal(err)
		}
		events = append(events, fmt.Sprintf("%s %s %s", e.Kind, e.Topic, e.Member.State.Data))
	}
	return events
}

// A client that comes back is present still, and nobody has noticed; after a
// restart of the broker it enters again.
func TestPresenceOverReconnects(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c, other := w.dial(), w.dial()
		watch, err := other.WatchPresence(t.Context(), "room.*")
		if err != nil {
			t.Fatal(err)
		}
		enter := func(topic string, state any) {
			t.Helper()
			if err := c.Enter(t.Context(), topic, state); err != nil {
				t.Fatal(err)
			}
		}
		enter("room.1", "a")
		enter("room.1", "b")
		enter("room.2", nil)
		enter("room.2", "c")
		if got := w.events(watch); fmt.Sprint(got) != "[joined room.1 a updated room.1 b joined room.2 \xc0 updated room.2 c]" {
			t.Errorf("got %q", got)
		}
		w.cut()
		time.Sleep(time.Second)
		w.heal()
		w.connected(c)
		w.connected(other)
		time.Sleep(time.Minute)
		if got := w.events(watch); len(got) > 0 {
			t.Errorf("got %q", got)
		}
		if err := c.Leave(t.Context(), "room.2"); err != nil {
			t.Fatal(err)
		}
		if got := w.events(watch); fmt.Sprint(got) != "[left room.2 c]" {
			t.Errorf("got %q", got)
		}
		w.restart()
		w.connected(c)
		w.connected(other)
		members, err := other.Presence(t.Context(), "room.1")
		if err != nil || len(members) != 1 || string(members[0].State.Data) != "b" || members[0].Client != c.ID() {
			t.Errorf("present are %v, %v", members, err)
		}
		counts, err := other.PresenceCount(t.Context(), "room.*")
		if err != nil || len(counts) != 1 || counts["room.1"] != 1 {
			t.Errorf("counted were %v, %v", counts, err)
		}
		if got := w.events(watch); len(got) == 0 || got[0] != "gap  " {
			t.Errorf("got %q", got)
		}
	})
}

// Who has gone while a watch could not see it has left, once, and in the end it has told
// of those who are there.
func TestPresenceWatchCompares(t *testing.T) {
	for name, away := range map[string]func(*world){
		"the broker was restarted":   func(w *world) { w.restart() },
		"the history does not reach": func(*world) { time.Sleep(2 * time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
				stays, goes, other := w.dial(), w.dial(), w.dial()
				watch, err := other.WatchPresence(t.Context(), "room.*")
				if err != nil {
					t.Fatal(err)
				}
				for _, topic := range []string{"room.1", "room.2"} {
					if err := errors.Join(goes.Enter(t.Context(), topic, "goes"), stays.Enter(t.Context(), topic, "stays")); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				w.cutHard()
				gone := goes.ID()
				if err := goes.Close(); err != nil {
					t.Fatal(err)
				}
				away(w)
				w.heal()
				w.connected(stays)
				w.connected(other)

				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				present := make(map[string]bool)
				gaps, left := 0, 0
				for e, err := range watch.Events(ctx) {
					if ctx.Err() != nil {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					who := e.Topic + " " + e.Member.Client.String()
					switch e.Kind {
					case client.PresenceGap:
						gaps++
					case client.Left:
						if !present[who] {
							t.Errorf("%s has left, and was not there", who)
						}
						delete(present, who)
						if e.Member.Client == gone && string(e.Member.State.Data) == "goes" {
							left++
						}
					default:
						present[who] = true
					}
				}
				if gaps == 0 || left != 2 {
					t.Errorf("%d gaps, and who has gone has left %d topics; want 2", gaps, left)
				}
				if len(present) != 2 || !present["room.1 "+stays.ID().String()] || !present["room.2 "+stays.ID().String()] {
					t.Errorf("present are %v", present)
				}
			})
		})
	}
}

// A live map is whole again after whatever happened meanwhile.
func TestMapOverReconnects(t *testing.T) {
	config := broker.Config{Topics: []broker.TopicConfig{{Pattern: "m", History: broker.Retention{Count: 2}}}}
	inWorld(t, config, func(t *testing.T, w *world) {
		p, c := w.dial(), w.dial()
		set := func(key, value string) {
			t.Helper()
			w.publish(p, "m", &client.PublishOptions{Key: key, Retain: true}, value)
		}
		for i := range 5 {
			set(fmt.Sprint("k", i), "0")
		}
		m, err := client.OpenMap[string](t.Context(), c, "m", nil)
		if err != nil {
			t.Fatal(err)
		}
		entries := func() (s string) {
			synctest.Wait()
			for key, e := range m.All() {
				s += key + "=" + e.Value + " "
			}
			return s
		}
		if got := entries(); got != "k0=0 k1=0 k2=0 k3=0 k4=0 " {
			t.Errorf("got %q", got)
		}
		w.cutHard()
		w.heal()
		w.connected(p)
		set("k0", "") // what is cleared is not kept: only reading it again shows it
		for range 5 {
			set("k1", "1")
		}
		w.connected(c)
		time.Sleep(time.Second)
		if got := entries(); got != "k1=1 k2=0 k3=0 k4=0 " || m.Len() != 4 {
			t.Errorf("after a cut: %q", got)
		}
		w.restart()
		w.connected(p)
		set("new", "2")
		w.connected(c)
		time.Sleep(time.Second)
		if got := entries(); got != "new=2 " {
			t.Errorf("after a restart: %q", got)
		}
		if _, ok := m.Get("k1"); ok {
			t.Error("k1 is still there")
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		for range m.Changes(t.Context()) {
			continue // ends
		}
	})
}

// A live map outlives that it cannot be read again just now, and asks with patience.
func TestMapOutlivesRefusals(t *testing.T) {
	var away atomic.Bool
	var asked atomic.Int64
	config := broker.Config{Bus: func(sink broker.Sink) (broker.Bus, error) {
		bus, err := broker.OpenLocalBus(sink)
		return leavingBus{bus, &away, &asked}, err
	}}
	inWorld(t, config, func(t *testing.T, w *world) {
		c := w.dial()
		m, err := client.OpenMap[string](t.Context(), c, "m", nil)
		if err != nil {
			t.Fatal(err)
		}
		asked.Store(0)
		away.Store(true)
		w.restart() // another epoch: the map is read again
		w.connected(c)
		time.Sleep(time.Minute)
		if n := asked.Load(); n < 10 || n > 1000 {
			t.Errorf("the broker was asked %d times in a minute", n)
		}
		away.Store(false)
		time.Sleep(10 * time.Second)
		w.publish(c, "m", &client.PublishOptions{Key: "k", Retain: true}, "v")
		synctest.Wait()
		if _, ok := m.Get("k"); !ok {
			t.Error("the map does not follow any more")
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		for _, err := range m.Changes(t.Context()) {
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// leavingBus takes no subscriptions while it is away, but the first one.
type leavingBus struct {
	broker.Bus
	away  *atomic.Bool
	asked *atomic.Int64
}

func (b leavingBus) Subscribe(ctx context.Context, pattern, group string) (uint64, error) {
	if n := b.asked.Add(1); n > 1 && b.away.Load() {
		return 0, codec.Errorf(codec.CodeBusUnavailable, "the bus is away")
	}
	return b.Bus.Subscribe(ctx, pattern, group)
}

// Who publishes to a topic cannot make a live map of it grow without a bound.
func TestMapIsBounded(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		p, c := w.dial(), w.dial()
		set := func(key, value string) {
			t.Helper()
			w.publish(p, "m", &client.PublishOptions{Key: key, Retain: true}, value)
		}
		set("a", "1")
		m, err := client.OpenMap[string](t.Context(), c, "m", &client.MapOptions{MaxKeys: 2})
		if err != nil {
			t.Fatal(err)
		}
		set("b", "2")
		set("b", "3") // the same key
		set("a", "")
		set("c", "4")
		synctest.Wait()
		if m.Len() != 2 {
			t.Errorf("%d entries", m.Len())
		}
		set("d", "5")
		for _, err = range m.Changes(t.Context()) {
			continue
		}
		if codec.CodeOf(err) != codec.CodeQueueFull || m.Len() != 2 {
			t.Errorf("%v, with %d entries", err, m.Len())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if _, err := client.OpenMap[string](t.Context(), c, "m", &client.MapOptions{MaxKeys: 2}); codec.CodeOf(err) != codec.CodeQueueFull {
			t.Errorf("a map that is too large: %v", err)
		}
	})
}

// Keys that come and go do not heap up before a loop that is slow.
func TestMapChangesAreBounded(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		p, c := w.dial(), w.dial()
		set := func(key, value string) {
			t.Helper()
			w.publish(p, "m", &client.PublishOptions{Key: key, Retain: true}, value)
		}
		set("a", "1")
		m, err := client.OpenMap[string](t.Context(), c, "m", &client.MapOptions{MaxKeys: 3})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for change, err := range m.Changes(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(change.Key, "=", change.Entry.Value, change.Cleared))
			if len(got) == 1 {
				for i := range 20 {
					key := fmt.Sprint("k", i)
					set(key, "1")
					set(key, "")
				}
				set("a", "")
				set("b", "2")
				set("b", "3")
				synctest.Wait()
			}
			if change.Key == "end" {
				break
			}
			if len(got) == 3 {
				set("end", "")
				set("end", "4")
			}
		}
		slices.Sort(got[1:3])
		if want := "[a=1false a=true b=3false end=4false]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %v", got, want)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// What changed before a map ended is told before the error.
func TestMapTellsItsLastChanges(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		for round := range 30 {
			topic := fmt.Sprint("m.", round)
			m, err := client.OpenMap[string](t.Context(), c, topic, &client.MapOptions{MaxKeys: 2})
			if err != nil {
				t.Fatal(err)
			}
			set := func(key string) { w.publish(c, topic, &client.PublishOptions{Key: key}, "v") }
			set("a")
			synctest.Wait()
			var got []string
			for change, err := range m.Changes(t.Context()) {
				if err != nil {
					got = append(got, codec.CodeOf(err).String())
					continue
				}
				if got = append(got, change.Key); change.Key == "a" {
					set("b")
					set("c") // one too many
					synctest.Wait()
				}
			}
			if fmt.Sprint(got) != "[a b queue_full]" {
				t.Fatalf("round %d: got %v", round, got)
			}
		}
	})
}

// What a member of a group has not finished goes to another one.
func TestGroupHandsOver(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		p, first, second := w.dial(), w.dial(), w.dial()
		opts := &client.SubscribeOptions{Group: "g"}
		one := w.subscribe(first, "jobs", opts)
		w.publish(p, "jobs", nil, "0", "1", "2", "3")
		finished := 0
		for _, err := range one.Messages(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if finished++; finished == 2 {
				break // the second one failed
			}
		}
		synctest.Wait()
		two := w.subscribe(second, "jobs", opts)
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		got := w.all(two)
		slices.Sort(got)
		if fmt.Sprint(got) != "[1 2 3]" {
			t.Errorf("the other member got %q", got)
		}
	})
}

// The message at which a loop was left, by a panic too, is finished when the next one
// begins, and if that ends at once.
func TestGroupLoopsOneAfterTheOther(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		p, first, second := w.dial(), w.dial(), w.dial()
		one := w.subscribe(first, "jobs", &client.SubscribeOptions{Group: "g", Credit: 1}) // one at a time
		w.publish(p, "jobs", nil, "0", "1", "2", "3")
		take := func(panics bool) (job string) {
			defer func() { _ = recover() }()
			for m, err := range one.Messages(t.Context()) {
				if err != nil {
					t.Error(err)
				}
				job = string(m.Payload.Data)
				if panics {
					panic(job)
				}
				break
			}
			return job
		}
		for i := range 4 {
			if job := take(i%2 > 0); job != fmt.Sprint(i) {
				t.Errorf("got %q, want %d", job, i)
			}
		}
		w.want(one)
		two := w.subscribe(second, "jobs", &client.SubscribeOptions{Group: "g"})
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		w.want(two)
	})
}

// A request is never sent twice: one whose connection is lost fails. A caller that
// goes away leaves nothing behind.
func TestRequestsThatFail(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c, server := w.dial(), w.dial()
		w.subscribe(server, "slow", nil)
		failed := make(chan error, 1)
		go func() {
			_, err := c.Request(t.Context(), "slow", "?", nil)
			failed <- err
		}()
		synctest.Wait()
		w.cut()
		if err := <-failed; codec.CodeOf(err) != codec.CodeConnectionLost {
			t.Errorf("got %v", err)
		}
		w.heal()
		w.connected(c)
		w.connected(server)
		began := time.Now()
		_, err := c.Request(t.Context(), "slow", "?", &client.RequestOptions{Timeout: 300 * time.Millisecond})
		if codec.CodeOf(err) != codec.CodeRequestTimeout || time.Since(began) != 300*time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Request(ctx, "slow", "?", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		sub := w.subscribe(server, "many", nil)
		go func() {
			for m, err := range sub.Messages(ctx) {
				if err != nil {
					return
				}
				for range 3 {
					_ = m.Reply(t.Context(), "!", &client.ReplyOptions{Headers: map[string]string{"a": "b"}})
				}
			}
		}()
		replies := 0
		for m, err := range c.RequestMany(t.Context(), "many", "?", &client.RequestOptions{Timeout: time.Second}) {
			if err != nil || m.Headers["a"] != "b" || string(m.Payload.Data) != "!" {
				t.Errorf("got %+v, %v", m, err)
			}
			replies++
		}
		if replies != 3 {
			t.Errorf("%d replies", replies)
		}
		if err := (client.Message{}).Reply(t.Context(), "!", nil); codec.CodeOf(err) != codec.CodeInvalidOption {
			t.Errorf("a reply to nothing: %v", err)
		}
	})
}

// Options that cannot be are refused before anything is sent.
func TestBadOptions(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		long := string(make([]byte, 300))
		headers := func(name, value string) *client.PublishOptions {
			return &client.PublishOptions{Headers: map[string]string{name: value}}
		}
		for i, opts := range []*client.PublishOptions{
			{Key: long}, {ID: long}, {TTL: -1}, headers("", "x"), headers("a b", "x"), headers("a", long+long),
		} {
			if _, err := c.Publish(t.Context(), "x", "v", opts); codec.CodeOf(err) != codec.CodeInvalidOption {
				t.Errorf("publish %d: %v", i, err)
			}
		}
		if err := c.PublishLossy(t.Context(), "x", "v", &client.PublishOptions{Retain: true}); codec.CodeOf(err) != codec.CodeInvalidOption {
			t.Errorf("a lossy last value: %v", err)
		}
		at := client.Position{Epoch: 1, Offset: 1}
		many := make(map[string]client.Position)
		for i := range codec.MaxPositions + 1 {
			many[fmt.Sprint("t.", i)] = at
		}
		for i, s := range []struct {
			pattern string
			opts    client.SubscribeOptions
		}{
			{"x", client.SubscribeOptions{Priority: 8}},
			{"x", client.SubscribeOptions{Credit: -1}},
			{"x", client.SubscribeOptions{Group: long}},
			{"x", client.SubscribeOptions{Group: "g", From: client.FromLast(1)}},
			{"*", client.SubscribeOptions{From: client.FromPosition(at)}},
			{"x", client.SubscribeOptions{From: client.FromPositions(nil, time.Now())}},
			{">", client.SubscribeOptions{From: client.FromPositions(many, time.Now())}},
			{"x", client.SubscribeOptions{From: client.FromLast(0)}},
			{"x", client.SubscribeOptions{From: client.FromLast(codec.MaxLast + 1)}},
			{"x", client.SubscribeOptions{Filter: client.Filter{client.Where("a").In()}}},
			{"x", client.SubscribeOptions{Filter: make(client.Filter, codec.MaxConditions+1)}},
		} {
			if _, err := c.Subscribe(t.Context(), s.pattern, &s.opts); codec.CodeOf(err) != codec.CodeInvalidOption {
				t.Errorf("subscribe %d: %v", i, err)
			}
		}
		for i, opts := range []client.HistoryOptions{
			{Limit: -1}, {Limit: codec.MaxPage + 1}, {Backward: true, From: client.FromLast(1)}, {From: client.FromPositions(nil, time.Now())},
		} {
			if _, err := c.History(t.Context(), "x", &opts); codec.CodeOf(err) != codec.CodeInvalidOption {
				t.Errorf("history %d: %v", i, err)
			}
		}
		for i, opts := range []client.RequestOptions{{Timeout: -1}, {Timeout: time.Hour}, {Max: -1}, {Key: long}} {
			for _, err := range c.RequestMany(t.Context(), "x", "?", &opts) {
				if codec.CodeOf(err) != codec.CodeInvalidOption {
					t.Errorf("request %d: %v", i, err)
				}
			}
		}
		if err := c.Enter(t.Context(), "x", make([]byte, codec.MaxState+1)); codec.CodeOf(err) != codec.CodePayloadTooLarge {
			t.Errorf("a large state: %v", err)
		}
		if err := c.Enter(t.Context(), "$x", nil); codec.CodeOf(err) != codec.CodeSystemTopic {
			t.Errorf("a topic of the system: %v", err)
		}
	})
}
