package client_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// A subscription that comes back gets exactly what it has missed, again and again,
// whether or not there was something.
func TestResumeFillsTheGap(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		b := w.running
		exact := w.subscribe(c, "a.x", nil)
		pattern := w.subscribe(c, "a.*", nil)
		w.publish(c, "a.x", nil, "0")
		for round := range 4 {
			w.cut()
			var missed []string
			for i := range round { // nothing in the first round
				missed = append(missed, fmt.Sprint(round, ".", i))
				if _, err := b.Publish(t.Context(), "a.x", missed[i], nil); err != nil {
					t.Fatal(err)
				}
			}
			if round > 0 {
				if _, err := b.Publish(t.Context(), fmt.Sprint("a.new", round), "new", nil); err != nil {
					t.Fatal(err)
				}
			}
			w.heal()
			w.connected(c)
			want := missed
			if round == 0 {
				want = []string{"0"}
			}
			w.want(exact, want...)
			if round > 0 {
				want = append(want, "new")
			}
			got := w.all(pattern)
			slices.Sort(got)
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("round %d: the pattern got %q, want %q", round, got, want)
			}
		}
	})
}

// A pattern learns that its session is another one although the connection on which that
// began got no further than WELCOME.
func TestPatternLearnsOfAnotherSession(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		dials := 0
		c := w.dial(func(config *client.Config) {
			config.Dial = func(ctx context.Context, url string) (client.Conn, error) {
				conn, err := w.connect(ctx, url)
				if err != nil {
					return nil, err
				}
				dials++
				between := &deafConn{Conn: conn}
				between.deaf.Store(dials == 2)
				return between, nil
			}
		})
		pattern := w.subscribe(c, "a.*", nil)
		w.publish(c, "a.x", nil, "1")
		w.want(pattern, "1")
		first := c.ID()
		w.restart()
		w.connected(c)
		second := c.ID()
		w.publish(w.dial(), "a.y", nil, "missed")
		w.cut()
		w.heal()
		w.connected(c)
		if dials != 3 || second == first || c.ID() != second {
			t.Fatalf("%d connections, of the clients %v, %v and %v", dials, first, second, c.ID())
		}
		w.publish(c, "a.x", nil, "2")
		if got := w.all(pattern); len(got) == 0 || got[0] != "messages are missing: reconnect" || got[len(got)-1] != "2" {
			t.Errorf("got %q", got)
		}
	})
}

// What was trimmed while the client was away is one gap, and the rest comes.
func TestResumeAfterHistoryIsGone(t *testing.T) {
	config := broker.Config{Topics: []broker.TopicConfig{{Pattern: ">", History: broker.Retention{Count: 3}}}}
	inWorld(t, config, func(t *testing.T, w *world) {
		c, b := w.dial(), w.running
		sub := w.subscribe(c, "x", nil)
		pattern := w.subscribe(c, ">", nil)
		w.publish(c, "x", nil, "first")
		w.want(sub, "first")
		w.want(pattern, "first")
		w.cut()
		for i := range 10 {
			if _, err := b.Publish(t.Context(), "x", fmt.Sprint(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		w.heal()
		w.connected(c)
		want := []string{"7 messages of x are missing: history", "7", "8", "9"}
		w.want(sub, want...)
		w.want(pattern, want...)
	})
}

// A broker that has lost its memory begins a new epoch: that is a gap, once, and
// then everything is new.
func TestResumeInAnotherEpoch(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		exact, pattern := w.subscribe(c, "a.x", nil), w.subscribe(c, "a.*", nil)
		loose := w.subscribe(c, "a.x", &client.SubscribeOptions{Class: client.Unreliable})
		w.publish(c, "a.x", nil, "1", "2")
		for _, sub := range []*client.Subscription{exact, pattern, loose} {
			w.want(sub, "1", "2")
		}
		before, _ := exact.Position()
		w.restart()
		w.connected(c)
		w.publish(c, "a.x", nil, "3")
		w.want(exact, "messages of a.x are missing: reconnect", "3")
		w.want(pattern, "messages are missing: reconnect", "3")
		w.want(loose, "3")
		after, _ := exact.Position()
		if after.Epoch == before.Epoch || after.Offset == 0 {
			t.Errorf("the position is %v, after %v", after, before)
		}

		// The position of the other epoch is of no use to a new subscription either.
		again := w.subscribe(c, "a.x", &client.SubscribeOptions{From: client.FromPosition(before)})
		w.want(again, "messages of a.x are missing: reconnect", "3")
		beyond := client.Position{Epoch: after.Epoch, Offset: after.Offset + 100}
		again = w.subscribe(c, "a.x", &client.SubscribeOptions{From: client.FromPosition(beyond)})
		w.publish(c, "a.x", nil, "4")
		if got := w.all(again); len(got) < 2 || got[0] != "messages of a.x are missing: history" || got[len(got)-1] != "4" {
			t.Errorf("from beyond the end: %q", got)
		}
	})
}

// A pattern with more topics than FROM may name misses nothing, and gets nothing
// twice.
func TestResumeOfManyTopics(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c, b := w.dial(), w.running
		sub := w.subscribe(c, "t.*", &client.SubscribeOptions{Credit: 1 << 20})
		const topics = 1500
		round := func(value string) {
			for i := range topics {
				if _, err := b.Publish(t.Context(), fmt.Sprint("t.", i), value, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		count := func(items []string) map[string]int {
			n := make(map[string]int)
			for _, s := range items {
				n[s]++
			}
			return n
		}
		round("before")
		if n := count(w.all(sub)); n["before"] != topics || len(n) != 1 {
			t.Fatalf("got %v", n)
		}
		w.cut()
		round("while away")
		w.heal()
		w.connected(c)
		if n := count(w.all(sub)); n["while away"] != topics || len(n) != 1 {
			t.Errorf("got %v", n)
		}
		positions, since := sub.Positions()
		if len(positions) != codec.MaxPositions || since.IsZero() {
			t.Errorf("%d positions, since %v", len(positions), since)
		}
		if _, ok := sub.Position(); ok {
			t.Error("a pattern has one position")
		}
	})
}

// The positions of a program that is started again.
func TestFromPositions(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c, b := w.dial(), w.running
		sub := w.subscribe(c, "t.*", nil)
		w.publish(c, "t.a", nil, "a1")
		w.publish(c, "t.b", nil, "b1")
		w.want(sub, "a1", "b1")
		from := client.FromPositions(sub.Positions())
		_ = sub.Close()
		time.Sleep(time.Second)
		w.publish(c, "t.a", nil, "a2")
		if _, err := b.Publish(t.Context(), "t.c", "c1", nil); err != nil {
			t.Fatal(err)
		}
		sub = w.subscribe(c, "t.*", &client.SubscribeOptions{From: from})
		got := w.all(sub)
		slices.Sort(got)
		if fmt.Sprint(got) != "[a2 c1]" {
			t.Errorf("got %q", got)
		}
	})
}

// Where subscriptions begin, and the flags of what they get.
func TestBeginnings(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		const kept, passed, now = "kept retained replayed", "passed replayed", "now"
		for i, begin := range []struct {
			opts *client.SubscribeOptions
			want []string
		}{
			{nil, []string{kept, now}},
			{&client.SubscribeOptions{Class: client.Latest}, []string{kept, now}},
			{&client.SubscribeOptions{NoRetained: true}, []string{now}},
			{&client.SubscribeOptions{From: client.FromBeginning()}, []string{kept, passed, now}},
			{&client.SubscribeOptions{From: client.FromLast(1)}, []string{passed, now}},
			{&client.SubscribeOptions{From: client.FromTime(time.Now().Add(-time.Minute))}, []string{kept, passed, now}},
		} {
			topic := fmt.Sprint("x.", i)
			w.publish(c, topic, &client.PublishOptions{Key: "k", Retain: true, Headers: map[string]string{"a": "b"}}, "kept")
			w.publish(c, topic, nil, "passed")
			sub := w.subscribe(c, topic, begin.opts)
			w.publish(c, topic, nil, "now")
			var got []string
			for _, m := range w.messages(sub) {
				s := string(m.Payload.Data)
				if m.Gap != nil {
					s = m.Gap.String()
				}
				if m.Retained {
					s += " retained"
					if m.Key != "k" || m.Headers["a"] != "b" {
						t.Errorf("key %q, headers %v", m.Key, m.Headers)
					}
				}
				if m.Replayed {
					s += " replayed"
				}
				got = append(got, s)
			}
			if fmt.Sprint(got) != fmt.Sprint(begin.want) {
				t.Errorf("%d: got %q, want %q", i, got, begin.want)
			}
		}
	})
}

// A priority that is set while a subscription is being resumed counts.
func TestPriorityWhileResuming(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		var told atomic.Int64 // the priority, from SUBSCRIBE on
		c := w.dial(seeing(func(f codec.Frame) {
			switch f.Type {
			case codec.TypeSubscribe:
				s, err := codec.ParseSubscribe(f)
				if err != nil {
					t.Error(err)
				}
				told.Store(int64(s.Priority))
			case codec.TypePriority:
				p, err := codec.ParsePriority(f)
				if err != nil {
					t.Error(err)
				}
				// Without SUBSCRIBE the broker ignores it.
				told.CompareAndSwap(3, int64(p.Priority))
			}
		}))
		sub := w.subscribe(c, "a.*", nil) // goes on at a time, and so after WELCOME
		w.cut()
		told.Store(0)
		w.network.Gate = make(chan struct{})
		w.network.Shut.Store(true)
		w.heal()
		time.Sleep(3 * time.Second) // HELLO has come, and its answer has not
		if err := sub.SetPriority(1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.network.Shut.Store(false)
		close(w.network.Gate)
		w.connected(c)
		if got := told.Load(); got != 1 {
			t.Errorf("the broker was told priority %d", got)
		}
	})
}

// A pattern that is cut off while topics still wait to be given from its beginning gets
// them when it is back, and one that has got them gets nothing twice.
func TestPatternCutOffInItsBeginning(t *testing.T) {
	const topics = 40
	for name, opts := range map[string]client.SubscribeOptions{
		"last":   {From: client.FromLast(2)},
		"values": {},
		"time":   {From: client.FromTime(time.Now().AddDate(-50, 0, 0))},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
				c, b := w.dial(), w.running
				for i := range topics {
					if _, err := b.Publish(t.Context(), fmt.Sprint("a.", i), make([]byte, 2000), &broker.PublishOptions{Retain: true}); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Second)
				opts.Credit = 4000
				cutOff, whole := w.subscribe(c, "a.*", &opts), w.subscribe(c, "a.*", &opts)
				if got := len(w.messages(whole)); got != topics {
					t.Fatalf("%d messages in the beginning", got)
				}
				w.cut()
				w.heal()
				w.connected(c)
				messages, gaps := 0, 0
				for _, m := range w.messages(cutOff) {
					if m.Gap == nil {
						messages++
					} else {
						gaps++
					}
				}
				if messages != topics || gaps > 0 {
					t.Errorf("%d of %d messages, and %d gaps", messages, topics, gaps)
				}
				w.want(whole)
				w.want(whole)
				w.cut()
				w.heal()
				w.connected(c)
				w.want(cutOff)
			})
		})
	}
}

// So many topics that a stream cannot begin at the positions of all: it is told that
// something is missing.
func TestPatternOfManyTopicsCutOffInItsBeginning(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c, b := w.dial(), w.running
		for i := range codec.MaxPositions + 10 {
			if _, err := b.Publish(t.Context(), fmt.Sprint("a.", i), "x", &broker.PublishOptions{Retain: true}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		sub := w.subscribe(c, "a.*", &client.SubscribeOptions{Credit: 1000})
		w.cut()
		w.heal()
		w.connected(c)
		messages, gaps := 0, 0
		for _, m := range w.messages(sub) {
			switch {
			case m.Gap == nil:
				messages++
			case m.Gap.Topic == "" && m.Gap.Reason == codec.GapReconnect:
				gaps++
			default:
				t.Errorf("%v", m.Gap)
			}
		}
		if messages < codec.MaxPositions || gaps != 1 {
			t.Errorf("%d messages and %d gaps", messages, gaps)
		}
		w.cut()
		w.heal()
		w.connected(c)
		w.want(sub) // it was told
	})
}

// A request that is open when the broker stops may have been carried out: its error says
// so, and why.
func TestRequestOpenWhileTheBrokerStops(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		c := w.dial()
		w.subscribe(w.dial(), "a", nil) // gets the request, and does not answer
		result := make(chan error, 1)
		go func() {
			_, err := c.Request(t.Context(), "a", "?", nil)
			result <- err
		}()
		synctest.Wait()
		if err := w.running.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		err := <-result
		if codec.CodeOf(err) != codec.CodeConnectionLost || !strings.Contains(err.Error(), "shutting_down") {
			t.Errorf("%v", err)
		}
	})
}
