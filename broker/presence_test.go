package broker_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// enter sends PRESENCE and reads the answer, which must be ACK.
func (p *peer) enter(topic, state string) {
	p.t.Helper()
	p.control.send(codec.AppendPresence(nil, codec.Presence{Number: 5, Topic: topic, State: codec.Text(state)}))
	p.wantAck(5)
}

func (p *peer) leave(topic string) {
	p.t.Helper()
	p.control.send(codec.AppendPresence(nil, codec.Presence{Number: 6, Topic: topic, Leave: true}))
	p.wantAck(6)
}

func (p *peer) wantAck(number uint64) {
	p.t.Helper()
	a, err := codec.ParseAck(p.control.want(codec.TypeAck))
	if err != nil || a.Sequence != number || len(a.Offsets) != 1 {
		p.t.Fatalf("ACK %+v, %v; want one of %d", a, err, number)
	}
}

func (p *peer) count(pattern string) codec.Counts {
	p.t.Helper()
	p.control.send(codec.AppendCount(nil, codec.Count{Number: 8, Pattern: pattern}))
	c, err := codec.ParseCounts(p.control.want(codec.TypeCounts))
	if err != nil || c.Number != 8 {
		p.t.Fatalf("%+v, %v", c, err)
	}
	return c
}

// watch subscribes to the presence of a pattern.
func (p *peer) watch(number uint64, pattern string) *line {
	p.t.Helper()
	l := p.open()
	l.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: number, Pattern: pattern, Credit: 1 << 20, Presence: true}))
	l.want(codec.TypeSubscribed)
	return l
}

// present reads the next message of a presence, as "name: state" where the client id
// is in names, and "name left".
func (l *line) present(names map[codec.ID]string) string {
	l.t.Helper()
	_ = l.stream.SetReadDeadline(time.Now().Add(2 * time.Minute)) // a grace may be longer than the usual deadline
	for {
		f, err := l.reader.Next()
		if err != nil {
			l.t.Fatal(err)
		}
		if f.Type != codec.TypeMessage {
			continue // TOPIC, SKIP
		}
		m, err := codec.ParseMessage(f)
		if err != nil {
			l.t.Fatal(err)
		}
		if m.Key != m.Publisher.String() || !m.Retain || m.Lossy() {
			l.t.Errorf("%+v is no message of a presence", m)
		}
		if len(m.Payload.Data) == 0 {
			if m.Payload.Encoding != codec.EncodingBytes {
				l.t.Errorf("a leave of encoding %s", m.Payload.Encoding)
			}
			return names[m.Publisher] + " left"
		}
		return names[m.Publisher] + ": " + string(m.Payload.Data)
	}
}

func (l *line) wantPresent(names map[codec.ID]string, want ...string) {
	l.t.Helper()
	for _, w := range want {
		if got := l.present(names); got != w {
			l.t.Fatalf("the watcher saw %q, want %q", got, w)
		}
	}
}

func TestPresence(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		alice, wa := welcomedPeer(t, n)
		bob, wb := welcomedPeer(t, n)
		watcher, _ := welcomedPeer(t, n)
		names := map[codec.ID]string{wa.Client: "alice", wb.Client: "bob"}
		exact, pattern := watcher.watch(1, "chat.a"), watcher.watch(2, "chat.*")

		alice.enter("chat.a", "here")
		alice.enter("chat.a", "here") // no change is no message
		alice.enter("chat.a", "typing")
		bob.enter("chat.a", "hi")
		bob.enter("chat.b", "hi")
		alice.leave("chat.a")
		alice.leave("chat.a") // and leaves one message
		alice.leave("nobody.ever")
		bob.leave("chat.b")
		exact.wantPresent(names, "alice: here", "alice: typing", "bob: hi", "alice left")
		pattern.wantPresent(names, "alice: here", "alice: typing", "bob: hi", "bob: hi", "alice left", "bob left")
		if got := fmt.Sprint(watcher.count("chat.>").Topics); got != "[{chat.a 1}]" {
			t.Errorf("counts %s", got)
		}
		if s := b.Stats(); s.Presences != 1 {
			t.Errorf("%d presences", s.Presences)
		}

		// The end of a session that ends cleanly is a leave, at once.
		bob.control.fin()
		exact.wantPresent(names, "bob left")
		if got := watcher.count("chat.>"); len(got.Topics) > 0 || got.More {
			t.Errorf("counts %+v", got)
		}
		eventually(t, func() bool { return b.Stats().Presences == 0 })
	})
}

// Who begins to watch is told who is there, in the same form.
func TestPresenceIsToldToNewcomers(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		alice, wa := welcomedPeer(t, n)
		bob, wb := welcomedPeer(t, n)
		names := map[codec.ID]string{wa.Client: "alice", wb.Client: "bob"}
		alice.enter("chat.a", "here")
		bob.enter("chat.a", "hi")
		alice.enter("chat.a", "typing")
		bob.enter("chat.b", "hi")
		bob.leave("chat.b")
		watcher, _ := welcomedPeer(t, n)
		exact, pattern := watcher.watch(1, "chat.a"), watcher.watch(2, "chat.*")
		exact.wantPresent(names, "bob: hi", "alice: typing")
		pattern.wantPresent(names, "bob: hi", "alice: typing")
		alice.leave("chat.a")
		exact.wantPresent(names, "alice left")
		pattern.wantPresent(names, "alice left")
	})
}

// A client that closes its connection without a word of its own does not come back.
func TestPresenceOfAConnectionThatIsClosed(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		alice, _ := welcomedPeer(t, n)
		alice.enter("a", "x")
		_ = alice.conn.CloseWithError(0, "")
		eventually(t, func() bool { return b.Stats().Presences == 0 })
	})
}

// resumedPeer connects under an id that it had.
func resumedPeer(t *testing.T, n network, w codec.Welcome) *peer {
	t.Helper()
	p := newPeer(t, n)
	p.control = p.open()
	p.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version, Resume: codec.Resume{Client: w.Client, Secret: w.Secret}}))
	again, err := codec.ParseWelcome(p.control.want(codec.TypeWelcome))
	if err != nil || again.Client != w.Client {
		t.Fatalf("%+v, %v", again, err)
	}
	return p
}

// bubble runs a test over a network in memory, in virtual time.
func bubble(t *testing.T, config broker.Config, test func(t *testing.T, n *memNetwork, b *broker.Broker)) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b, err := broker.New(config)
		if err != nil {
			t.Fatal(err)
		}
		stop := n.Serve(b)
		defer stop()
		test(t, n, b)
	})
}

// A connection that is lost is no leave until the grace is over, and no join when
// the client comes back in it.
func TestPresenceGrace(t *testing.T) {
	config := broker.Config{Topics: []broker.TopicConfig{
		{Pattern: "long", PresenceGrace: time.Minute},
		{Pattern: "none", PresenceGrace: -1},
	}}
	bubble(t, config, func(t *testing.T, n *memNetwork, b *broker.Broker) {
		alice, w := welcomedPeer(t, n)
		watcher, _ := welcomedPeer(t, n)
		names := map[codec.ID]string{w.Client: "alice"}
		usual, long, none := watcher.watch(1, "usual"), watcher.watch(2, "long"), watcher.watch(3, "none")
		for _, topic := range []string{"usual", "long", "none"} {
			alice.enter(topic, "here")
		}
		for _, l := range []*line{usual, long, none} {
			l.wantPresent(names, "alice: here")
		}

		lost := time.Now()
		_ = alice.conn.CloseWithError(7, "")
		none.wantPresent(names, "alice left")
		if d := time.Since(lost); d > 0 {
			t.Errorf("without a grace the leave came after %v", d)
		}
		time.Sleep(9 * time.Second)
		alice = resumedPeer(t, n, w)
		alice.enter("usual", "here") // the same state: nobody sees anything
		time.Sleep(5 * time.Second)
		alice.enter("usual", "and now")
		usual.wantPresent(names, "alice: and now")

		lost = time.Now()
		_ = alice.conn.CloseWithError(7, "")
		usual.wantPresent(names, "alice left")
		if d := time.Since(lost); d != 10*time.Second {
			t.Errorf("the grace was %v", d)
		}
		// The other topic was never entered again: its grace is that of the first loss.
		long.wantPresent(names, "alice left")
		if d := time.Since(lost); d != time.Minute-14*time.Second {
			t.Errorf("the leave came %v after the second loss", d)
		}
		if s := b.Stats(); s.Presences != 0 {
			t.Errorf("%d presences", s.Presences)
		}
	})
}

// A client that comes back and then ends cleanly is gone at once, also from where it
// has not entered again.
func TestPresenceEndsInTheGrace(t *testing.T) {
	bubble(t, broker.Config{}, func(t *testing.T, n *memNetwork, b *broker.Broker) {
		alice, w := welcomedPeer(t, n)
		alice.enter("a", "here")
		alice.enter("b", "here")
		_ = alice.conn.CloseWithError(7, "")
		synctest.Wait()
		if s := b.Stats(); s.Presences != 2 {
			t.Fatalf("%d presences", s.Presences)
		}
		alice = resumedPeer(t, n, w)
		alice.enter("a", "here")
		alice.control.fin()
		synctest.Wait()
		if s := b.Stats(); s.Presences != 0 {
			t.Errorf("%d presences", s.Presences)
		}
	})
}

// A connection that replaces another takes over what that was present in, however
// late the other one ends.
func TestPresenceOfAReplacedSession(t *testing.T) {
	bubble(t, broker.Config{}, func(t *testing.T, n *memNetwork, b *broker.Broker) {
		first, w := welcomedPeer(t, n)
		watcher, _ := welcomedPeer(t, n)
		names := map[codec.ID]string{w.Client: "alice"}
		a, other := watcher.watch(1, "a"), watcher.watch(2, "b")
		first.enter("a", "one")
		first.enter("b", "one")
		a.wantPresent(names, "alice: one")
		other.wantPresent(names, "alice: one")
		began := time.Now()
		second := resumedPeer(t, n, w)
		second.enter("a", "one")
		first.control.wantEnd(codec.CodeReplaced)
		other.wantPresent(names, "alice left") // it was not entered again
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("after %v", d)
		}
		second.enter("a", "two")
		a.wantPresent(names, "alice: two")
		if s := b.Stats(); s.Presences != 1 {
			t.Errorf("%d presences", s.Presences)
		}
	})
}

// A broker that stops ends the graces that run.
func TestPresenceShutdown(t *testing.T) {
	bubble(t, broker.Config{}, func(t *testing.T, n *memNetwork, b *broker.Broker) {
		alice, _ := welcomedPeer(t, n)
		alice.enter("a", "here")
		_ = alice.conn.CloseWithError(7, "")
		synctest.Wait()
		began := time.Now()
		if err := b.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > 0 {
			t.Errorf("it took %v", d)
		}
		if s := b.Stats(); s.Presences != 0 {
			t.Errorf("%d presences", s.Presences)
		}
		time.Sleep(time.Minute) // no timer is left to publish anything
		if s := b.Stats(); s.Published != 1 {
			t.Errorf("%d messages", s.Published)
		}
	})
}

// A topic may tell only how many there are.
func TestPresenceCounts(t *testing.T) {
	config := broker.Config{Topics: []broker.TopicConfig{{Pattern: "big", Presence: broker.PresenceCounts}}}
	bubble(t, config, func(t *testing.T, n *memNetwork, _ *broker.Broker) {
		watcher, _ := welcomedPeer(t, n)
		l := watcher.watch(1, "big")
		next := func() int {
			t.Helper()
			m, err := codec.ParseMessage(l.want(codec.TypeMessage))
			if err != nil || m.Key != "" || !m.Publisher.IsZero() || !m.Retain {
				t.Fatalf("%+v, %v", m, err)
			}
			if len(m.Payload.Data) == 0 {
				return 0
			}
			var count int
			if err := m.Payload.Decode(&count); err != nil {
				t.Fatal(err)
			}
			return count
		}
		var peers []*peer
		for i := range 3 {
			p, _ := welcomedPeer(t, n)
			p.enter("big", "x")
			p.enter("big", "another state is nobody's business")
			if got := next(); got != i+1 {
				t.Errorf("a count of %d, want %d", got, i+1)
			}
			peers = append(peers, p)
		}
		for i, p := range peers {
			p.leave("big")
			if got := next(); got != 2-i {
				t.Errorf("a count of %d, want %d", got, 2-i)
			}
		}
	})
}

func TestPresenceRefusals(t *testing.T) {
	auth := tokens{"": {id: "x", subscribe: []string{"open.>", "off", "small"}, publish: []string{"alive"}}}
	config := broker.Config{Authenticator: auth, Topics: []broker.TopicConfig{
		{Pattern: "off", Presence: broker.PresenceOff},
		{Pattern: "small", MaxMembers: 1},
	}}
	long := "open." + strings.Repeat("x", codec.MaxTopic-5)
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, config)
		other, _ := welcomedPeer(t, n)
		other.enter("small", "x")
		p, _ := welcomedPeer(t, n)
		for i, c := range []struct {
			topic string
			state codec.Payload
			code  codec.Code
		}{
			{"open.a", codec.Text(""), codec.CodeInvalidOption},
			{"open.a", codec.Bytes(make([]byte, codec.MaxState+1)), codec.CodePayloadTooLarge},
			{"open..a", codec.Text("x"), codec.CodeInvalidTopic},
			{"open.*", codec.Text("x"), codec.CodeInvalidTopic},
			{"", codec.Text("x"), codec.CodeInvalidTopic},
			{long, codec.Text("x"), codec.CodeInvalidTopic},
			{"$SYS.a", codec.Text("x"), codec.CodeSystemTopic},
			{"denied", codec.Text("x"), codec.CodeSubscribeDenied},
			{"off", codec.Text("x"), codec.CodeNotOffered},
			{"small", codec.Text("x"), codec.CodeTooManyPresences},
		} {
			p.control.send(codec.AppendPresence(nil, codec.Presence{Number: uint64(i), Topic: c.topic, State: c.state}))
			wantNack(t, c.topic, p.control, uint64(i), c.code)
		}
		for pattern, code := range map[string]codec.Code{
			"open..a": codec.CodeInvalidPattern, ">": codec.CodeSubscribeDenied, "$presence.>": codec.CodeSystemTopic,
			"denied": codec.CodeSubscribeDenied, "off": codec.CodeNotOffered, "": codec.CodeInvalidPattern,
		} {
			p.control.send(codec.AppendCount(nil, codec.Count{Number: 9, Pattern: pattern}))
			wantNack(t, pattern, p.control, 9, code)
			if pattern == "" || pattern == "open..a" {
				continue // no SUBSCRIBE can carry it
			}
			l := p.open()
			l.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: pattern, Credit: 1, Presence: true}))
			l.wantEnd(code)
		}
		l := p.open()
		l.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: long, Credit: 1, Presence: true}))
		l.wantEnd(codec.CodeInvalidPattern)
		for i := range codec.MaxPresences {
			p.enter(fmt.Sprint("open.", i), "x")
		}
		p.control.send(codec.AppendPresence(nil, codec.Presence{Number: 1, Topic: "open.more", State: codec.Text("x")}))
		wantNack(t, "one too many", p.control, 1, codec.CodeTooManyPresences)
		p.enter("open.0", "a change is none too many")
		p.leave("open.0")
		p.enter("open.more", "x")
		p.wantAlive()
	})
}

// COUNTS is bounded, and says when there are others.
func TestPresenceCountsAreBounded(t *testing.T) {
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	n := &memNetwork{}
	n.start(t, b)
	for i := range 20 {
		p, _ := welcomedPeer(t, n)
		for k := range codec.MaxPresences {
			p.enter(fmt.Sprintf("short.%02d.%02d", i, k), "x")
			if k%2 == 0 && i < 10 {
				p.leave(fmt.Sprintf("short.%02d.%02d", i, k))
				p.enter(fmt.Sprintf("%s.%02d.%02d", strings.Repeat("x", 230), i, k), "x")
			}
		}
	}
	p, _ := welcomedPeer(t, n)
	short := p.count("short.>")
	if len(short.Topics) != 20*codec.MaxPresences-320 || short.More || short.Topics[0].Topic != "short.00.01" {
		t.Errorf("%d topics, %v, %+v", len(short.Topics), short.More, short.Topics[0])
	}
	if long := p.count("*.*.*"); len(long.Topics) != codec.MaxCounts || !long.More {
		t.Errorf("%d topics, %v", len(long.Topics), long.More)
	}
	q, _ := welcomedPeer(t, n)
	q.enter("x", "x")
	if one := q.count("x"); len(one.Topics) != 1 || one.Topics[0].Count != 1 {
		t.Errorf("%+v", one)
	}
	bytes := p.count(strings.Repeat("x", 230) + ".>")
	size := 0
	for _, c := range bytes.Topics {
		size += len(c.Topic)
	}
	if !bytes.More || size > 64<<10 || size < 56<<10 {
		t.Errorf("%d topics of %d bytes, %v", len(bytes.Topics), size, bytes.More)
	}
}

// Who is present stays so, however much else is to be kept; and what presences take
// is bounded by itself.
func TestPresenceIsNotForgotten(t *testing.T) {
	bubble(t, broker.Config{MaxHistoryBytes: 64 << 10}, func(t *testing.T, n *memNetwork, _ *broker.Broker) {
		p, w := welcomedPeer(t, n)
		names := map[codec.ID]string{w.Client: "alice"}
		state := strings.Repeat("x", codec.MaxState)
		full := 0 // how many such states the broker has room for
		for ; ; full++ {
			p.control.send(codec.AppendPresence(nil, codec.Presence{Number: 7, Topic: fmt.Sprint("room.", full), State: codec.Text(state)}))
			f, err := p.control.reader.Next()
			if err != nil {
				t.Fatal(err)
			}
			if f.Type == codec.TypeAck {
				continue
			}
			nack, err := codec.ParseNack(f)
			if err != nil || nack.Code != codec.CodeTooManyPresences {
				t.Fatalf("%+v, %v", nack, err)
			}
			break
		}
		if full < 8 || full > 32 {
			t.Fatalf("%d states of 1 KiB in half of 64 KiB", full)
		}
		// Room that is left is room again, whoever leaves however.
		for range 3 {
			q, _ := welcomedPeer(t, n)
			for i := range full {
				p.leave(fmt.Sprint("room.", i))
				q.enter(fmt.Sprint("room.", i), state)
				q.enter(fmt.Sprint("room.", i), "y")
				q.enter(fmt.Sprint("room.", i), state)
			}
			q.control.send(codec.AppendPresence(nil, codec.Presence{Number: 7, Topic: "room.more", State: codec.Text(state)}))
			wantNack(t, "one more", q.control, 7, codec.CodeTooManyPresences)
			for i := range full {
				q.leave(fmt.Sprint("room.", i))
				p.enter(fmt.Sprint("room.", i), state)
			}
			q.control.fin()
		}
		time.Sleep(time.Second) // what follows is newer
		for i := range uint64(400) {
			p.control.send(codec.AppendPublish(nil, codec.Publish{
				Sequence: 1, Topic: fmt.Sprint("value.", i), Payload: codec.Text(state), Retain: true,
			}))
			p.wantAck(1)
		}
		p.watch(1, "room.0").wantPresent(names, "alice: "+state)
		p.watch(2, fmt.Sprint("room.", full-1)).wantPresent(names, "alice: "+state)
	})
}

// A token that no longer permits a topic ends the presence there.
func TestPresenceIsRevoked(t *testing.T) {
	auth := tokens{
		"wide":   {id: "alice", subscribe: []string{"a", "b"}, publish: []string{"alive"}},
		"narrow": {id: "alice", subscribe: []string{"b"}, publish: []string{"alive"}},
	}
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{Authenticator: auth})
		p := newPeer(t, n)
		p.control = p.open()
		p.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version, Token: "wide"}))
		p.control.want(codec.TypeWelcome)
		p.enter("a", "x")
		p.enter("b", "x")
		watch := p.watch(1, "a")
		p.control.send(codec.AppendAuth(nil, codec.Auth{Number: 1, Token: "narrow"}))
		p.control.want(codec.TypeAuthenticated)
		watch.wantEnd(codec.CodePermissionRevoked)
		eventually(t, func() bool { return b.Stats().Presences == 1 })
		p.control.send(codec.AppendPresence(nil, codec.Presence{Number: 3, Topic: "a", State: codec.Text("x")}))
		wantNack(t, "a", p.control, 3, codec.CodeSubscribeDenied)
		p.enter("b", "y")
	})
}

// Whatever many clients do at once, watchers see each one's changes in order, and
// in the end what is.
func TestPresenceUnderLoad(t *testing.T) {
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	n := &memNetwork{}
	n.start(t, b)
	watcher, _ := welcomedPeer(t, n)
	l := watcher.watch(1, "busy")
	const clients, rounds = 16, 50
	last := make(map[codec.ID]int)
	var working sync.WaitGroup
	for range clients {
		p, _ := welcomedPeer(t, n)
		working.Go(func() {
			for i := range rounds {
				b := codec.AppendPresence(nil, codec.Presence{Topic: "busy", Number: 1, State: codec.Text(fmt.Sprint(i))})
				if i%5 == 4 {
					b = codec.AppendPresence(nil, codec.Presence{Topic: "busy", Number: 1, Leave: true})
				}
				if _, err := p.control.stream.Write(b); err != nil {
					t.Error(err)
					return
				}
				if f, err := p.control.reader.Next(); err != nil || f.Type != codec.TypeAck {
					t.Error(f.Type, err)
					return
				}
			}
		})
	}
	for range clients * rounds {
		m, err := codec.ParseMessage(l.want(codec.TypeMessage))
		if err != nil {
			t.Fatal(err)
		}
		next := last[m.Publisher]
		want := fmt.Sprint(next)
		if next%5 == 4 {
			want = ""
		}
		if got := string(m.Payload.Data); got != want {
			t.Fatalf("the change after %d is %q", next, got)
		}
		last[m.Publisher]++
	}
	working.Wait()
	if s := b.Stats(); s.Presences != 0 {
		t.Errorf("%d presences", s.Presences)
	}
}
