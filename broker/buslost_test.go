package broker_test

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// tappedBus opens the local bus, and gives the broker as the bus sees it.
func tappedBus(sink *broker.Sink) broker.OpenBus {
	return func(s broker.Sink) (broker.Bus, error) {
		*sink = s
		return broker.OpenLocalBus(s)
	}
}

// That the bus has lost messages is told where it was: behind what waited, before what
// came later. So who comes back from behind it has been told.
func TestBusLossIsToldInItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		var sink broker.Sink
		b := newBroker(t, n, broker.Config{Bus: tappedBus(&sink)})
		for _, pattern := range []string{"a", "*"} {
			p, _ := welcomedPeer(t, n)
			l := p.listen(codec.Subscribe{Pattern: pattern, Credit: 1})
			post(t, b, "a", "taken", "waits")
			synctest.Wait()
			sink.Lost(pattern, "")
			sink.Lost(pattern, "")
			post(t, b, "a", "later")
			if m := l.message(); string(m.Payload.Data) != "taken" {
				t.Fatalf("%s", m.Payload.Data)
			}
			p.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 1 << 20}))
			if m := l.message(); string(m.Payload.Data) != "waits" {
				t.Fatalf("%s", m.Payload.Data)
			}
			g, err := codec.ParseGap(l.want(codec.TypeGap))
			if err != nil || g.Topic != 0 || g.Reason != codec.GapBus {
				t.Fatalf("%+v, %v", g, err)
			}
			if m := l.message(); string(m.Payload.Data) != "later" {
				t.Fatalf("%s", m.Payload.Data)
			}
			_ = p.conn.CloseWithError(0, "")
		}
	})
}

// Who begins with what is kept, or reads it, and crosses the place, is told too.
func TestHistoryAcrossABusLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		var sink broker.Sink
		b := newBroker(t, n, broker.Config{Bus: tappedBus(&sink)})
		post(t, b, "a", "before", "just before")
		sink.Lost("a", "")
		post(t, b, "a", "behind")
		p, _ := welcomedPeer(t, n)
		for i, c := range []struct {
			from codec.From
			told bool
		}{
			{codec.From{Kind: codec.FromBeginning}, true},
			{codec.From{Kind: codec.FromLast, N: 2}, true},
			{codec.From{Kind: codec.FromLast, N: 1}, false},
		} {
			for k, pattern := range []string{"a", "*"} {
				l := p.listen(codec.Subscribe{Number: uint64(10*i + k + 1), Pattern: pattern, From: c.from})
				told := false
				for {
					f, err := l.reader.Next()
					if err != nil {
						t.Fatal(err)
					}
					if f.Type == codec.TypeGap {
						g, err := codec.ParseGap(f)
						told = err == nil && g.Reason == codec.GapBus
					}
					if m, err := codec.ParseMessage(f); f.Type == codec.TypeMessage && err == nil && string(m.Payload.Data) == "behind" {
						break
					}
				}
				if told != c.told {
					t.Errorf("%s from %+v: told is %v", pattern, c.from, told)
				}
			}
		}
		for _, backward := range []bool{false, true} {
			l := p.open()
			l.send(codec.AppendFetch(nil, codec.Fetch{Topic: "a", Backward: backward, Limit: 10}))
			l.want(codec.TypePage)
			want := []string{"before", "just before", "", "behind"}
			if backward {
				want = []string{"behind", "", "just before", "before"}
			}
			for _, text := range want {
				if text != "" {
					if m := l.message(); string(m.Payload.Data) != text {
						t.Fatalf("backward %v: %s, want %s", backward, m.Payload.Data, text)
					}
					continue
				}
				g, err := codec.ParseGap(l.want(codec.TypeGap))
				if err != nil || g.Reason != codec.GapBus || g.From.Value != 2 || g.To.Value != 2 || g.Count.Set {
					t.Errorf("backward %v: %+v, %v", backward, g, err)
				}
			}
			l.wantEnd(codec.CodeOK)
		}
	})
}

// Each place is told, however often the bus has missed something.
func TestHistoryAcrossSeveralBusLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		var sink broker.Sink
		b := newBroker(t, n, broker.Config{Bus: tappedBus(&sink)})
		nobody := func(string) bool { return false }
		post(t, b, "a", "1")
		sink.Lapsed("a", nobody)
		post(t, b, "a", "2")
		sink.Lost("a", "")
		post(t, b, "a", "3")
		sink.Lapsed("a", nobody)
		post(t, b, "a", "4")

		p, _ := welcomedPeer(t, n)
		read := func(l *line, last string) (got []string) {
			for {
				f, err := l.reader.Next()
				if err != nil {
					t.Fatal(err)
				}
				switch f.Type {
				case codec.TypeGap:
					g, err := codec.ParseGap(f)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, g.Reason.String())
				case codec.TypeMessage:
					m, err := codec.ParseMessage(f)
					if err != nil {
						t.Fatal(err)
					}
					if got = append(got, string(m.Payload.Data)); got[len(got)-1] == last {
						return got
					}
				}
			}
		}
		for _, c := range []struct {
			backward bool
			last     string
			want     []string
		}{
			{false, "4", []string{"1", "bus", "2", "bus", "3", "bus", "4"}},
			{true, "1", []string{"4", "bus", "3", "bus", "2", "bus", "1"}},
		} {
			l := p.open()
			l.send(codec.AppendFetch(nil, codec.Fetch{Topic: "a", Backward: c.backward, Limit: 10}))
			if got := read(l, c.last); !slices.Equal(got, c.want) {
				t.Errorf("backward %v: %q", c.backward, got)
			}
		}
		l := p.listen(codec.Subscribe{Number: 1, Pattern: "a", From: codec.From{Kind: codec.FromBeginning}})
		// The loss at which no offset was given up is told in the beginning.
		if got := read(l, "4"); !slices.Equal(got, []string{"bus", "1", "bus", "2", "3", "bus", "4"}) {
			t.Errorf("subscribed: %q", got)
		}
	})
}

// A loss while the topics of a pattern are looked through is told behind SUBSCRIBED.
func TestBusLossBeforeSubscribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		var sink broker.Sink
		store := &slowStore{Store: broker.NewMemoryStore(0), gate: make(chan struct{})}
		b := newBroker(t, n, broker.Config{Bus: tappedBus(&sink), Store: store})
		if _, err := b.Publish(t.Context(), "a", "kept", &broker.PublishOptions{Retain: true}); err != nil {
			t.Fatal(err)
		}
		p, _ := welcomedPeer(t, n)
		l := p.open()
		l.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: "*", Credit: 1 << 10}))
		synctest.Wait() // it looks through the topics
		sink.Lost("*", "")
		close(store.gate)
		l.want(codec.TypeSubscribed)
		if g, err := codec.ParseGap(l.want(codec.TypeGap)); err != nil || g.Reason != codec.GapBus {
			t.Errorf("%+v, %v", g, err)
		}
		if m := l.message(); string(m.Payload.Data) != "kept" {
			t.Errorf("%s", m.Payload.Data)
		}
	})
}

// The oldest losses of a topic become one when there are many. A page tells it once.
func TestHistoryAcrossManyBusLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		var sink broker.Sink
		b := newBroker(t, n, broker.Config{Bus: tappedBus(&sink)})
		const losses, each = 40, 3
		for range losses {
			sink.Lapsed("a", func(string) bool { return false })
			post(t, b, "a", "1", "2", "3")
		}
		p, _ := welcomedPeer(t, n)
		for _, backward := range []bool{false, true} {
			l := p.open()
			l.send(codec.AppendFetch(nil, codec.Fetch{Topic: "a", Backward: backward, Limit: 1000}))
			gaps, messages := 0, 0
			for {
				f, err := l.reader.Next()
				if err != nil {
					t.Fatal(err)
				}
				if f.Type == codec.TypeEnd {
					break
				}
				switch f.Type {
				case codec.TypeGap:
					gaps++
				case codec.TypeMessage:
					messages++
				}
			}
			if messages != losses*each || gaps > losses {
				t.Errorf("backward %v: %d messages and %d gaps for %d losses", backward, messages, gaps, losses)
			}
		}
	})
}
