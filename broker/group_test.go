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

// worker is a member of a group that finishes when a test says so.
type worker struct {
	*line
	peer   *peer
	number uint64
	limit  uint64 // the credit and what it has finished
}

func (p *peer) joinGroup(number uint64, group, pattern string, credit uint64) *worker {
	p.t.Helper()
	return &worker{p.listen(codec.Subscribe{Number: number, Pattern: pattern, Credit: credit, Group: group}), p, number, credit}
}

// next reads the next message; it is not finished.
func (w *worker) next() (text string, size uint64) {
	w.t.Helper()
	for {
		f, err := w.reader.Next()
		if err != nil {
			w.t.Fatalf("want MESSAGE, got %v", err)
		}
		switch f.Type {
		case codec.TypeTopic:
		case codec.TypeMessage:
			m, err := codec.ParseMessage(f)
			if err != nil {
				w.t.Fatal(err)
			}
			return string(m.Payload.Data), uint64(f.Size())
		case codec.TypeGap:
			g, err := codec.ParseGap(f)
			if err != nil {
				w.t.Fatal(err)
			}
			return fmt.Sprintf("gap %d of %d", g.Reason, g.Count.Value), 0
		default:
			w.t.Fatalf("want MESSAGE, got %s", f.Type)
		}
	}
}

// finish tells that messages of so many bytes are finished.
func (w *worker) finish(size uint64) {
	w.t.Helper()
	w.limit += size
	w.peer.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: w.number, Limit: w.limit}))
}

func (w *worker) want(text string) uint64 {
	w.t.Helper()
	got, size := w.next()
	if got != text {
		w.t.Fatalf("got %q, want %q", got, text)
	}
	return size
}

func (w *worker) leave() {
	w.t.Helper()
	w.fin()
	w.wantEnd(codec.CodeOK)
}

func post(t *testing.T, b *broker.Broker, topic string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := b.Publish(t.Context(), topic, text, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// One member of each group gets a message, and every subscription without a group.
func TestGroup(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		q, _ := welcomedPeer(t, n)
		all := p.listen(codec.Subscribe{Number: 9, Pattern: "jobs.>"})
		one, two := p.joinGroup(1, "g", "jobs.a", 64<<10), q.joinGroup(1, "g", "jobs.a", 64<<10)
		other := q.joinGroup(2, "h", "jobs.*", 64<<10)
		for i := range 10 {
			post(t, b, "jobs.a", fmt.Sprint(i))
		}
		if _, err := b.PublishLossy(t.Context(), "jobs.a", "lossy", nil); err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			if m := all.message(); string(m.Payload.Data) != fmt.Sprint(i) {
				t.Fatalf("%+v", m)
			}
			other.want(fmt.Sprint(i))
		}
		other.want("lossy") // by stream
		// They take turns while they hold as many.
		for i := 0; i < 10; i += 2 {
			one.want(fmt.Sprint(i))
			two.want(fmt.Sprint(i + 1))
		}
		one.want("lossy")
		p.wantAlive()
		q.wantAlive()
	})
}

// A member that does not finish gets no more than its credit; who is ready gets the
// rest. What none can take waits for whoever is ready first.
func TestGroupPrefersTheReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		q, _ := welcomedPeer(t, n)
		slow, ready := p.joinGroup(1, "g", "a", 1), q.joinGroup(1, "g", "a", 64<<10)
		post(t, b, "a", "0")
		size := slow.want("0") // one message beyond its credit
		for i := 1; i < 20; i++ {
			post(t, b, "a", fmt.Sprint(i))
			ready.finish(ready.want(fmt.Sprint(i)))
		}
		synctest.Wait() // until the broker knows
		ready.leave()
		post(t, b, "a", "waits", "too")
		slow.finish(size)
		size = slow.want("waits")
		late := q.joinGroup(2, "g", "a", 1)
		late.finish(late.want("too"))
		slow.finish(size)
		synctest.Wait()
		if s := b.Stats(); s.QueuedBytes != 0 {
			t.Errorf("%d bytes are still counted", s.QueuedBytes)
		}
	})
}

// What a member has not finished when it ends goes to another, before newer messages,
// however it ends.
func TestGroupHandsOver(t *testing.T) {
	ends := map[string]func(b *broker.Broker, w *worker){
		"unsubscribe":    func(_ *broker.Broker, w *worker) { w.leave() },
		"session ends":   func(_ *broker.Broker, w *worker) { w.peer.control.fin() },
		"session lost":   func(_ *broker.Broker, w *worker) { _ = w.peer.conn.CloseWithError(1, "") },
		"frame after it": func(_ *broker.Broker, w *worker) { w.fin() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &memNetwork{}
				b := newBroker(t, n, broker.Config{})
				p, _ := welcomedPeer(t, n)
				q, _ := welcomedPeer(t, n)
				first := p.joinGroup(1, "g", "a.*", 100)
				post(t, b, "a.x", "finished")
				first.finish(first.want("finished"))
				synctest.Wait() // until the broker knows
				post(t, b, "a.x", "begun", "sent")
				first.want("begun")
				second := q.joinGroup(1, "g", "a.*", 1)
				post(t, b, "a.y", "busy")
				size := second.want("busy")
				for i := range 5 { // more than first may hold
					post(t, b, "a.x", strings.Repeat("waits", 20)+fmt.Sprint(i))
				}
				end(b, first)
				synctest.Wait()
				second.finish(size)
				for _, text := range []string{"begun", "sent"} {
					second.finish(second.want(text))
				}
				var rest []string
				for range 5 {
					text, size := second.next()
					second.finish(size)
					rest = append(rest, strings.TrimLeft(text, "waits"))
				}
				if fmt.Sprint(rest) != "[0 1 2 3 4]" {
					t.Errorf("then %v", rest)
				}
				synctest.Wait()
				if s := b.Stats(); s.QueuedBytes != 0 || s.Dropped[broker.DropEnded] != 0 || s.Dropped[broker.DropNoMember] != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// A member whose permission is revoked loses what it has not finished to another.
func TestGroupRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{Authenticator: byToken{}})
		p, _ := welcomedPeer(t, n)
		q, _ := welcomedPeer(t, n)
		first := p.joinGroup(1, "g", "a", 64<<10)
		post(t, b, "a", "x")
		first.want("x")
		second := q.joinGroup(1, "g", "a", 64<<10)
		p.control.send(codec.AppendAuth(nil, codec.Auth{Number: 1, Token: "nothing"}))
		first.wantEnd(codec.CodePermissionRevoked)
		second.want("x")
	})
}

// Without a member the messages of a group are for nobody.
func TestGroupWithoutMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		w := p.joinGroup(1, "g", "a", 1)
		post(t, b, "a", "x", "y")
		w.want("x")
		w.leave()
		post(t, b, "a", "z")
		synctest.Wait()
		if s := b.Stats(); s.QueuedBytes != 0 || s.Dropped[broker.DropNoMember] != 2 || s.Subscriptions != 0 {
			t.Errorf("%+v", s)
		}
		w = p.joinGroup(2, "g", "a", 1)
		post(t, b, "a", "new")
		w.want("new")
	})
}

// The members of a group may have different patterns: one of them gets a message all
// the same, and takes over what others leave.
func TestGroupOfPatterns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		exact, wild := p.joinGroup(1, "g", "a.b", 1), p.joinGroup(2, "g", "a.>", 64<<10)
		seen := make(map[string]int)
		post(t, b, "a.b", "0", "1", "2", "3")
		for range 3 {
			text, size := wild.next()
			wild.finish(size)
			seen[text]++
		}
		text, _ := exact.next()
		seen[text]++
		for i := range 4 {
			if seen[fmt.Sprint(i)] != 1 {
				t.Fatalf("%v", seen)
			}
		}
		synctest.Wait() // until the broker knows
		exact.leave()
		wild.finish(wild.want(text))
		synctest.Wait()
		if s := b.Stats(); s.QueuedBytes != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// What waits for a group is bounded; what there is no room for is a gap, told to one
// member.
func TestGroupOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{MaxQueueBytes: 10 << 10})
		p, _ := welcomedPeer(t, n)
		w := p.joinGroup(1, "g", "a", 1)
		for range 30 {
			if _, err := b.Publish(t.Context(), "a", make([]byte, 1000), nil); err != nil {
				t.Fatal(err)
			}
		}
		got, gap := 0, ""
		for got < 30 {
			text, size := w.next()
			if size == 0 {
				gap = text
				var reason, missed int
				if _, err := fmt.Sscanf(text, "gap %d of %d", &reason, &missed); err != nil || reason != int(codec.GapOverflow) {
					t.Fatal(text, err)
				}
				got += missed
				continue
			}
			got++
			w.finish(size)
		}
		if gap == "" {
			t.Error("no gap was told")
		}
		synctest.Wait()
		s := b.Stats()
		if s.QueuedBytes != 0 || s.Gaps[codec.GapOverflow] != 1 || s.Dropped[broker.DropOverflow] == 0 {
			t.Errorf("%+v", s)
		}
		p.wantAlive()
	})
}

// postBig publishes n messages of 1,000 bytes.
func postBig(t *testing.T, b *broker.Broker, topic string, n int) {
	t.Helper()
	for range n {
		if _, err := b.Publish(t.Context(), topic, make([]byte, 1000), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// all finishes messages until total of them, with those that gaps tell of, have come.
// It returns how many gaps tell of.
func (w *worker) all(total int) (missed int) {
	w.t.Helper()
	for n := 0; n < total; {
		text, size := w.next()
		if size > 0 {
			w.finish(size)
			n++
			continue
		}
		var reason, count int
		if _, err := fmt.Sscanf(text, "gap %d of %d", &reason, &count); err != nil || reason != int(codec.GapOverflow) {
			w.t.Fatal(text, err)
		}
		n, missed = n+count, missed+count
	}
	return missed
}

// A gap that was told to a member that ends before it has finished what is behind it is
// told to another one.
func TestGroupOverflowIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{MaxQueueBytes: 10 << 10})
		p, _ := welcomedPeer(t, n)
		first, second := p.joinGroup(1, "g", "a", 1), p.joinGroup(2, "g", "a", 1)
		postBig(t, b, "a", 1)
		_, size := first.next()
		postBig(t, b, "a", 29)
		synctest.Wait()
		missed := int(b.Stats().Dropped[broker.DropOverflow])
		first.finish(size)
		if text, _ := first.next(); text != fmt.Sprintf("gap %d of %d", codec.GapOverflow, missed) {
			t.Fatalf("got %q; %d messages were dropped", text, missed)
		}
		first.leave()
		if got := second.all(29); got != missed {
			t.Errorf("gaps tell of %d messages, and %d were dropped", got, missed)
		}
		synctest.Wait()
		if s := b.Stats(); s.QueuedBytes != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A message goes to members with another pattern where those with one have no room. What
// was dropped is told to them when these have left.
func TestGroupOverflowOfPatterns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{MaxQueueBytes: 10 << 10})
		p, _ := welcomedPeer(t, n)
		exact := p.joinGroup(1, "g", "a.b", 1)
		postBig(t, b, "a.b", 30)
		synctest.Wait()
		dropped := b.Stats().Dropped[broker.DropOverflow]
		wild := p.joinGroup(2, "g", "a.*", 1)
		postBig(t, b, "a.b", 9)
		synctest.Wait()
		if got := b.Stats().Dropped[broker.DropOverflow]; dropped == 0 || got != dropped {
			t.Errorf("%d messages were dropped, %d when there was room for none", got, dropped)
		}
		exact.leave()
		if missed := wild.all(39); missed < int(dropped) {
			t.Errorf("gaps tell of %d messages, and %d were dropped", missed, dropped)
		}
		synctest.Wait()
		if s := b.Stats(); s.QueuedBytes != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// What has expired while it waited is dropped, and counted.
func TestGroupExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		w := p.joinGroup(1, "g", "a", 1)
		post(t, b, "a", "first")
		size := w.want("first")
		if _, err := b.Publish(t.Context(), "a", "short", &broker.PublishOptions{TTL: time.Second}); err != nil {
			t.Fatal(err)
		}
		post(t, b, "a", "long")
		time.Sleep(time.Second)
		w.finish(size)
		w.finish(w.want("long"))
		synctest.Wait()
		if s := b.Stats(); s.QueuedBytes != 0 || s.Dropped[broker.DropExpired] != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A filter decides before the group chooses.
func TestGroupFilter(t *testing.T) {
	n := &memNetwork{}
	b := newBroker(t, n, broker.Config{})
	p, _ := welcomedPeer(t, n)
	filter := codec.Filter{{Name: "Kind", Operator: codec.OpIs, Values: []string{"x"}}}
	for i := range uint64(2) {
		l := p.listen(codec.Subscribe{Number: i + 1, Pattern: "a", Group: "g", Filter: filter})
		defer l.fin()
		if i == 0 {
			for _, kind := range []string{"y", "x"} {
				if _, err := b.Publish(t.Context(), "a", kind, &broker.PublishOptions{Headers: map[string]string{"Kind": kind}}); err != nil {
					t.Fatal(err)
				}
			}
			if m := l.message(); string(m.Payload.Data) != "x" {
				t.Errorf("%+v", m)
			}
		}
	}
}

func TestGroupRefused(t *testing.T) {
	n := &memNetwork{}
	newBroker(t, n, broker.Config{})
	p, _ := welcomedPeer(t, n)
	for _, s := range []codec.Subscribe{
		{Group: "g", NoEcho: true},
		{Group: "g", Presence: true},
		{Group: "g", From: codec.From{Kind: codec.FromBeginning}},
		{Group: strings.Repeat("g", codec.MaxGroup+1)},
	} {
		s.Number, s.Pattern, s.Credit = 1, "a", 1
		l := p.open()
		l.send(codec.AppendSubscribe(nil, s))
		l.wantEnd(codec.CodeInvalidOption)
	}
	p.wantAlive()
}

// A request to a group goes to one member; if that ends, another one answers.
func TestRequestToGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		newBroker(t, n, broker.Config{})
		asker, _ := welcomedPeer(t, n)
		p, _ := welcomedPeer(t, n)
		q, _ := welcomedPeer(t, n)
		first := p.listen(codec.Subscribe{Pattern: "a", Group: "g"})
		asker.ask(codec.Request{Number: 1, Topic: "a", Payload: codec.Text("?")})
		first.message()
		second := q.listen(codec.Subscribe{Pattern: "a", Group: "g"})
		_ = p.conn.CloseWithError(1, "")
		q.answer(second.message().Reply, "!")
		asker.wantResponse(1, "!")
		asker.wantDone(1, codec.CodeOK)
	})
}

// FLOW that makes no sense does no harm.
func TestGroupBadFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		w := p.joinGroup(1, "g", "a", 100)
		post(t, b, "a", "x")
		size := w.want("x")
		for _, limit := range []uint64{0, 1, 99, 100, 100 + size - 1} {
			p.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: limit}))
		}
		synctest.Wait()
		if b.Stats().QueuedBytes == 0 {
			t.Error("it was taken for finished")
		}
		p.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: codec.MaxInteger}))
		synctest.Wait()
		if n := b.Stats().QueuedBytes; n != 0 {
			t.Errorf("%d bytes are held", n)
		}
		for i := range 10 {
			post(t, b, "a", fmt.Sprint(i))
			w.want(fmt.Sprint(i))
		}
	})
}

// Members come and go while messages are published: each message is finished at least
// once, and nothing is left.
func TestGroupChurn(t *testing.T) {
	n := &memNetwork{}
	b := newBroker(t, n, broker.Config{})
	const messages, workers = 400, 4
	var mu sync.Mutex
	finished := make(map[string]int)
	stay, _ := welcomedPeer(t, n)
	keeper := stay.joinGroup(1, "g", "a.*", 200)
	var wg sync.WaitGroup
	for range workers {
		p, _ := welcomedPeer(t, n)
		wg.Go(func() {
			for i := uint64(1); i <= 20; i++ {
				w := p.joinGroup(i, "g", "a.*", 100)
				_ = w.stream.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				for k := range i % 5 {
					f, err := w.reader.Next()
					if err != nil {
						break
					}
					if f.Type != codec.TypeMessage {
						continue
					}
					// FLOW counts in order: what is finished comes before what is not.
					if k < 2 {
						m, err := codec.ParseMessage(f)
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						finished[string(m.Payload.Data)]++
						mu.Unlock()
						w.finish(uint64(f.Size()))
					}
				}
				w.fin()
			}
		})
	}
	wg.Go(func() {
		for i := range messages {
			post(t, b, fmt.Sprint("a.", i%7), fmt.Sprint(i))
		}
	})
	posted := make(chan struct{})
	go func() {
		defer close(posted)
		wg.Wait()
		// The last one comes to who stays, whoever has finished those before it.
		post(t, b, "a.end", "end")
	}()
	all := func() bool { mu.Lock(); defer mu.Unlock(); return finished["end"] > 0 && len(finished) == messages+1 }
	for !all() {
		text, size := keeper.next()
		keeper.finish(size)
		mu.Lock()
		finished[text]++
		mu.Unlock()
	}
	<-posted
	eventually(t, func() bool { return b.Stats().Subscriptions == 1 })
	// What was being finished when the last was counted may still come twice.
	stay.control.fin()
	eventually(t, func() bool { return b.Stats().QueuedBytes == 0 })
}

// What a session holds is bounded: a member that holds something gets no more until it
// finishes some of that, and then goes on.
func TestGroupWithinTheSessionsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{MaxSessionBytes: 4 << 10})
		p, _ := welcomedPeer(t, n)
		one, two := p.joinGroup(1, "g", "a", 64<<10), p.joinGroup(2, "h", "a", 64<<10)
		const messages = 10
		for range messages {
			if _, err := b.Publish(t.Context(), "a", make([]byte, 1000), nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		for i := range 2 * messages {
			w := one
			if i%2 == 1 {
				w = two
			}
			_, size := w.next()
			synctest.Wait()
			w.finish(size)
			synctest.Wait()
		}
		if s := b.Stats(); s.QueuedBytes != 0 || s.Delivered != 2*messages {
			t.Errorf("%+v", s)
		}
	})
}

// A member whose connection takes nothing any more holds nothing back once that is lost.
func TestGroupStalledMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, n := &memNetwork{}, &memNetwork{}
		b := newBroker(t, slow, broker.Config{})
		n.start(t, b)
		p, _ := welcomedPeer(t, slow)
		q, _ := welcomedPeer(t, n)
		p.joinGroup(1, "g", "a", 1<<20)
		slow.Gate = make(chan struct{})
		slow.Shut.Store(true)
		post(t, b, "a", "0", "1", "2")
		second := q.joinGroup(1, "g", "a", 1<<20)
		synctest.Wait()
		_ = p.conn.CloseWithError(1, "")
		slow.Shut.Store(false)
		close(slow.Gate)
		for i := range 3 {
			second.finish(second.want(fmt.Sprint(i)))
		}
		synctest.Wait()
		if s := b.Stats(); s.QueuedBytes != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// What has expired before it could be written to its member is dropped, and counted; the
// member has room for as much again.
func TestGroupMessageExpiresInAMembersQueue(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		w := p.joinGroup(1, "g", "jobs", 1<<20)
		long := strings.Repeat("x", 200<<10) // more than the connection takes unread
		post(t, b, "jobs", long)
		synctest.Wait()
		for _, text := range []string{"late", "too"} {
			if _, err := b.Publish(t.Context(), "jobs", text, &broker.PublishOptions{TTL: time.Second}); err != nil {
				t.Fatal(err)
			}
		}
		post(t, b, "jobs", "last")
		time.Sleep(2 * time.Second)
		size := w.want(long)
		size += w.want("last")
		synctest.Wait()
		if s := b.Stats(); s.Dropped[broker.DropExpired] != 2 || s.QueuedBytes != int64(size) {
			t.Errorf("%d expired, %d bytes wait, want %d", s.Dropped[broker.DropExpired], s.QueuedBytes, size)
		}
		w.finish(size)
		synctest.Wait()
		if s := b.Stats(); s.QueuedBytes != 0 {
			t.Errorf("%d bytes wait", s.QueuedBytes)
		}
		w.leave()
	}, broker.Config{})
}

// Messages that the bus has brought have no offset of their own. What expires of them is
// told apart from what was written and is not finished.
func TestGroupMessageOfTheBusExpiresInAMembersQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		var sink broker.Sink
		b := newBroker(t, n, broker.Config{Bus: tappedBus(&sink)})
		p, _ := welcomedPeer(t, n)
		w := p.joinGroup(1, "g", "jobs", 1<<20)
		heir := p.joinGroup(2, "g", "jobs", 1<<20)
		long := strings.Repeat("x", 200<<10) // more than the connection takes unread
		for _, text := range []string{long, "other", "late", "finished"} {
			m := broker.Message{Topic: "jobs", Payload: codec.Text(text)}
			if text == "late" {
				m.Expires = sink.Now() + 1000
			}
			sink.Distribute("g", m)
		}
		synctest.Wait()
		time.Sleep(2 * time.Second)
		size := w.want(long)
		synctest.Wait()
		s := b.Stats()
		if s.Dropped[broker.DropExpired] != 1 || s.QueuedBytes < int64(size) {
			t.Errorf("%d expired, and %d bytes are counted: the long message is not finished", s.Dropped[broker.DropExpired], s.QueuedBytes)
		}
		heir.finish(heir.want("other"))
		heir.finish(heir.want("finished"))
		w.leave()
		heir.finish(heir.want(long))
		synctest.Wait()
		if s := b.Stats(); s.QueuedBytes != 0 {
			t.Errorf("%d bytes wait", s.QueuedBytes)
		}
	})
}

// A message of a group outlives its topic, which is given up meanwhile: whoever takes it
// then has subscribed to the topic that came in its place.
func TestGroupOutlivesATopic(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		wild := p.joinGroup(1, "g", "a.*", 1000)
		post(t, b, "a.b", "job")
		wild.want("job") // and does not finish it
		post(t, b, "x", "x")
		q, _ := welcomedPeer(t, n)
		exact := q.joinGroup(1, "g", "a.b", 1000)
		wild.leave()
		exact.want("job")
		post(t, b, "a.b", "another")
		exact.want("another")
	}, broker.Config{MaxTopics: 1})
}
