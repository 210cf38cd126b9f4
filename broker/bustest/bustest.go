// Package bustest holds what every broker.Bus must do, as a suite of tests.
package bustest

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// deadline bounds what a test waits for; it is never what a test measures.
const deadline = 20 * time.Second

// quiet is how long a test listens for what must not come.
const quiet = 50 * time.Millisecond

// Run runs the suite. Each test calls open once; the buses that the OpenBus then makes
// stand for brokers that are joined, or for brokers that stand alone. open arranges with
// t for the end of what it starts; the suite closes the buses.
func Run(t *testing.T, open func(t *testing.T) broker.OpenBus) {
	tests := []struct {
		name string
		test func(t *testing.T, n *network)
	}{
		{"publish", publishes},
		{"refusal", refuses},
		{"order", keepsOrder},
		{"system topics", keepsSystem},
		{"nobody there", nobodyThere},
		{"foreign address", foreignAddress},
		{"close", closes},
		{"carries", carries},
		{"interest", interest},
		{"overlap", overlap},
		{"lapse", lapse},
		{"replies", replies},
		{"groups", groups},
		{"hand over", handsOver},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.test(t, &network{t: t, open: open(t)}) })
	}
}

// network makes the brokers of one test.
type network struct {
	t    *testing.T
	open broker.OpenBus
}

// station is a broker as its bus sees it, and the bus.
type station struct {
	t   *testing.T
	bus broker.Bus
	now uint64 // of its clock

	mu       sync.Mutex
	offsets  map[string]uint64
	refuse   error // what Sequence answers
	calls    int
	got      []broker.Message // sequenced
	shares   []share          // distributed
	replies  []reply
	nobody   [][]byte
	lapsed   []string
	listened func(string) bool // of the last Lapsed
}

type share struct {
	group string
	m     broker.Message
}

type reply struct {
	address []byte
	m       broker.Message
}

// station makes a broker, whose clock shows now.
func (n *network) station(now uint64) *station {
	n.t.Helper()
	s := &station{t: n.t, now: now, offsets: make(map[string]uint64)}
	bus, err := n.open(s)
	if err != nil {
		n.t.Fatal(err)
	}
	s.bus = bus
	n.t.Cleanup(func() { _ = bus.Close(context.Background()) })
	return s
}

// pair makes two brokers that are joined; a bus that joins none skips the test's rest.
func (n *network) pair() (a, b *station, ok bool) {
	n.t.Helper()
	a = n.station(1000)
	if !a.bus.Joined() {
		return nil, nil, false
	}
	return a, n.station(500_000), true
}

func (s *station) Sequence(m broker.Message) (broker.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.refuse != nil {
		return broker.Position{}, s.refuse
	}
	s.offsets[m.Topic]++
	s.got = append(s.got, m)
	return broker.Position{Epoch: 7, Offset: s.offsets[m.Topic]}, nil
}

func (s *station) Distribute(group string, m broker.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	s.shares = append(s.shares, share{group, m})
}

func (s *station) Replied(address []byte, m broker.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	s.replies = append(s.replies, reply{address, m})
}

func (s *station) NobodyThere(address []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	s.nobody = append(s.nobody, address)
}

func (s *station) Lost(string, string) {}

func (s *station) Lapsed(pattern string, listened func(string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lapsed = append(s.lapsed, pattern)
	s.listened = listened
}

func (s *station) Now() uint64 { return s.now }

// within is a context that bounds what a test waits for.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// await waits for a condition under s.mu.
func (s *station) await(what string, condition func() bool) {
	s.t.Helper()
	ctx := within(s.t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		s.mu.Lock()
		ok := condition()
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("it never came about: %s", what)
		}
	}
}

func (s *station) publish(m broker.Message) broker.Position {
	s.t.Helper()
	pos, err := s.bus.Publish(within(s.t), m)
	if err != nil {
		s.t.Fatal(err)
	}
	return pos
}

func (s *station) subscribe(pattern, group string) (since uint64) {
	s.t.Helper()
	since, err := s.bus.Subscribe(within(s.t), pattern, group)
	if err != nil {
		s.t.Fatal(err)
	}
	return since
}

// texts returns the payloads that were sequenced.
func (s *station) texts() []string {
	var texts []string
	for _, m := range s.got {
		texts = append(texts, string(m.Payload.Data))
	}
	return texts
}

func text(topic, s string) broker.Message {
	return broker.Message{Topic: topic, Payload: codec.Text(s)}
}

// own is an address of a broker.
func own(b byte) []byte { return []byte{0, b, 255, 1, 2, 3} }

// full is a message that has everything; it expires at so much.
func full(expires uint64) broker.Message {
	return broker.Message{
		Topic: "a.b", Mode: codec.ModeReliable, Payload: codec.Payload{Encoding: codec.EncodingMsgpack, Data: []byte{0xc0, 0, 255}},
		Publisher: codec.ID{1, 2, 3}, Key: "k 1/ü%\n", Expires: expires,
		Headers: codec.Headers{{Name: "Kind", Value: "x y"}, {Name: "Trace", Value: "ü"}}, Retain: true, ID: "id 1",
	}
}

// A message is sequenced here, as it is and once, and its position comes back.
func publishes(t *testing.T, n *network) {
	s := n.station(1000)
	m := full(61_000)
	if pos := s.publish(m); pos != (broker.Position{Epoch: 7, Offset: 1}) {
		t.Errorf("position %+v", pos)
	}
	if len(s.got) != 1 || !reflect.DeepEqual(s.got[0], m) {
		t.Errorf("%+v", s.got)
	}
	if pos := s.publish(m); pos.Offset != 2 || len(s.got) != 2 {
		t.Errorf("again: position %+v", pos)
	}
}

// What the broker refuses is an error with its code.
func refuses(t *testing.T, n *network) {
	s := n.station(0)
	s.refuse = codec.Errorf(codec.CodeOverloaded, "no")
	if _, err := s.bus.Publish(within(t), text("a", "x")); codec.CodeOf(err) != codec.CodeOverloaded {
		t.Errorf("got %v", err)
	}
}

// What one goroutine publishes to a topic stays in order, here and elsewhere.
func keepsOrder(t *testing.T, n *network) {
	s := n.station(0)
	stations := []*station{s}
	if s.bus.Joined() {
		other := n.station(0)
		other.subscribe("a.*", "")
		stations = append(stations, other)
	}
	const each = 200
	var wg sync.WaitGroup
	for _, topic := range []string{"a.x", "a.y"} {
		wg.Go(func() {
			for i := range each {
				if _, err := s.bus.Publish(within(t), text(topic, strconv.Itoa(i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i, s := range stations {
		s.await("all messages", func() bool { return len(s.got) == 2*each })
		next := make(map[string]int)
		for _, m := range s.got {
			if want := strconv.Itoa(next[m.Topic]); string(m.Payload.Data) != want {
				t.Fatalf("broker %d: %s instead of %s", i, m.Payload.Data, want)
			}
			next[m.Topic]++
		}
	}
}

// Topics of the system stay in their broker.
func keepsSystem(t *testing.T, n *network) {
	s := n.station(0)
	if s.bus.Joined() {
		other := n.station(0)
		for _, pattern := range []string{"$a", ">", "_b.>"} {
			other.subscribe(pattern, "")
		}
		defer func() {
			s.publish(text("end", "end"))
			other.await("the end", func() bool { return slices.Contains(other.texts(), "end") })
			if len(other.got) != 1 {
				t.Errorf("another broker got %v", other.texts())
			}
		}()
	}
	for _, topic := range []string{"$a", "_b.c"} {
		s.subscribe(topic, "")
		s.publish(text(topic, "x"))
		s.bus.Unsubscribe(topic, "")
	}
	if len(s.got) != 2 {
		t.Errorf("got %v", s.texts())
	}
}

// A request that nobody else can get is told so, once, to who asked.
func nobodyThere(t *testing.T, n *network) {
	s := n.station(0)
	s.subscribe("a", "") // its own is not somebody else
	m := text("a", "?")
	m.Reply = own(1)
	s.publish(m)
	s.await("nobody there", func() bool { return len(s.nobody) > 0 })
	time.Sleep(quiet)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.nobody) != 1 || !bytes.Equal(s.nobody[0], own(1)) || len(s.replies) > 0 {
		t.Errorf("%v, %v", s.nobody, s.replies)
	}
}

// A bus that stands alone has given no address, so it takes no reply.
func foreignAddress(t *testing.T, n *network) {
	s := n.station(0)
	if s.bus.Joined() {
		return // any address might be somebody's
	}
	if err := s.bus.Reply(within(t), []byte("somewhere"), text("", "!")); err == nil {
		t.Error("a reply to nowhere is taken")
	}
	if s.bus.Distribute("g", text("a", "x")) {
		t.Error("a message for a group elsewhere is taken")
	}
}

// After Close the broker is not called any more, and nothing is published.
func closes(t *testing.T, n *network) {
	s := n.station(0)
	s.subscribe("a", "")
	s.subscribe("a", "g")
	joined := s.bus.Joined()
	if err := s.bus.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	calls := s.calls
	if joined {
		other := n.station(0)
		other.publish(text("a", "late"))
		time.Sleep(quiet)
		if _, err := s.bus.Publish(within(t), text("a", "x")); err == nil {
			t.Error("a closed bus publishes")
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := other.bus.Subscribe(canceled, "b", ""); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("subscribe: %v", err)
		}
	}
	if s.calls != calls {
		t.Errorf("the broker was called %d times", s.calls-calls)
	}
	s.bus.Unsubscribe("a", "") // does no harm
	s.bus.Unsubscribe("a", "g")
}

// All that a message has reaches the other broker; it expires after the same time.
func carries(t *testing.T, n *network) {
	a, b, ok := n.pair()
	if !ok {
		return
	}
	b.subscribe("a.b", "")
	m := full(a.now + 60_000)
	a.publish(m)
	lossy := broker.Message{Topic: "a.b", Mode: codec.ModeLossy, Payload: codec.Payload{Encoding: codec.EncodingJSON, Data: []byte("{}")}}
	a.publish(lossy)
	b.await("both messages", func() bool { return len(b.got) == 2 })
	m.Expires = b.now + 60_000
	for i, want := range []broker.Message{m, lossy} {
		got := b.got[i]
		if len(got.Headers) == 0 {
			got.Headers = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
	}
}

// A broker gets what it wants, as long as one of its subscriptions does.
func interest(t *testing.T, n *network) {
	a, b, ok := n.pair()
	if !ok {
		return
	}
	b.subscribe("a", "")
	b.subscribe("a", "")
	b.bus.Unsubscribe("a", "")
	a.publish(text("b", "unwanted"))
	a.publish(text("a", "wanted"))
	b.await("a message", func() bool { return len(b.got) > 0 })
	if texts := b.texts(); !slices.Equal(texts, []string{"wanted"}) {
		t.Errorf("%v", texts)
	}
	b.bus.Unsubscribe("never", "")
	b.bus.Unsubscribe("never", "g")
}

// Patterns that overlap bring a message once.
func overlap(t *testing.T, n *network) {
	a, b, ok := n.pair()
	if !ok {
		return
	}
	for _, pattern := range []string{"a.b", "a.*", ">"} {
		b.subscribe(pattern, "")
	}
	for i := range 20 {
		a.publish(text("a.b", strconv.Itoa(i)))
	}
	a.publish(text("a.b", "end"))
	b.await("the end", func() bool { return slices.Contains(b.texts(), "end") })
	if len(b.got) != 21 {
		t.Errorf("%d messages", len(b.got))
	}
}

// A pattern that was not listened to is told before Subscribe returns, unless another
// one has listened for it all along.
func lapse(t *testing.T, n *network) {
	a, b, ok := n.pair()
	if !ok {
		s := n.station(1000)
		if since := s.subscribe("a", ""); since != 0 || len(s.lapsed) > 0 {
			t.Errorf("a bus that carries nothing has missed something: %d, %v", since, s.lapsed)
		}
		return
	}
	if since := a.subscribe("a.*", ""); since != a.now || !slices.Equal(a.lapsed, []string{"a.*"}) {
		t.Errorf("since %d, lapsed %v", since, a.lapsed)
	}
	a.now += 1000
	if since := a.subscribe("a.b", ""); since != a.now-1000 || len(a.lapsed) != 1 {
		t.Errorf("a contained pattern: since %d, lapsed %v", since, a.lapsed)
	}
	if since := a.subscribe(">", ""); since != a.now || len(a.lapsed) != 2 {
		t.Errorf("a wider pattern: since %d, lapsed %v", since, a.lapsed)
	}
	if !a.listened("a.x") {
		t.Error("a topic that was listened to is not known")
	}
	// A group's share says nothing about the rest.
	b.subscribe("a.*", "g")
	if len(b.lapsed) > 0 {
		t.Errorf("lapsed %v", b.lapsed)
	}
}

// A reply comes back with the address that the request had, as often as it is given.
func replies(t *testing.T, n *network) {
	a, b, ok := n.pair()
	if !ok {
		return
	}
	b.subscribe("svc", "")
	m := text("svc", "?")
	m.Reply = own(9)
	a.publish(m)
	b.await("the request", func() bool { return len(b.got) == 1 })
	address := b.got[0].Reply
	if len(address) == 0 || address[0] == 0 {
		t.Fatalf("address %q", address)
	}
	answer := full(0)
	answer.Topic, answer.Key, answer.Retain, answer.ID = "", "", false, ""
	for range 2 {
		if err := b.bus.Reply(within(t), address, answer); err != nil {
			t.Fatal(err)
		}
	}
	// What has no bytes and a header Status is a reply all the same.
	empty := broker.Message{Headers: codec.Headers{{Name: "Status", Value: "503"}}}
	if err := b.bus.Reply(within(t), address, empty); err != nil {
		t.Fatal(err)
	}
	a.await("three replies", func() bool { return len(a.replies) == 3 })
	for i, r := range a.replies {
		if !bytes.Equal(r.address, own(9)) {
			t.Errorf("address %v", r.address)
		}
		if want := []broker.Message{answer, answer, empty}[i]; !bytes.Equal(r.m.Payload.Data, want.Payload.Data) ||
			r.m.Payload.Encoding != want.Payload.Encoding || !slices.Equal(r.m.Headers, want.Headers) || r.m.Publisher != want.Publisher {
			t.Errorf("reply %d: %+v", i, r.m)
		}
	}
	if len(a.nobody) > 0 {
		t.Error("nobody is said to be there")
	}
}

// Of the brokers that have members one gets each message, the publisher's own too; it
// is sequenced apart from that.
func groups(t *testing.T, n *network) {
	a, b, ok := n.pair()
	if !ok {
		return
	}
	for _, s := range []*station{a, b} {
		s.subscribe("jobs.*", "g")
	}
	b.subscribe("jobs.>", "h h") // another group, with a name that has a space
	const count = 200
	for i := range count {
		m := text("jobs.x", strconv.Itoa(i))
		if i == 0 {
			m.Reply = own(1)
		}
		a.publish(m)
	}
	shares := func(s *station, group string) (texts []string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, x := range s.shares {
			if x.group == group {
				texts = append(texts, string(x.m.Payload.Data))
			}
			if x.m.Topic != "jobs.x" {
				t.Fatalf("%+v", x.m)
			}
		}
		return texts
	}
	b.await("all messages", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.shares)+len(b.shares) >= 2*count
	})
	if n := len(shares(b, "h h")); n != count {
		t.Errorf("the other group got %d of %d", n, count)
	}
	here, there := shares(a, "g"), shares(b, "g")
	all := slices.Concat(here, there)
	slices.Sort(all)
	if len(here) == 0 || len(there) == 0 || len(slices.Compact(all)) != count {
		t.Errorf("%d here, %d there", len(here), len(there))
	}
	if len(a.got) != count || len(b.got) != 0 {
		t.Errorf("sequenced %d here, %d there", len(a.got), len(b.got))
	}
	// The request of this broker comes back with its own address, here or there.
	for _, s := range []*station{a, b} {
		for _, x := range s.shares {
			if string(x.m.Payload.Data) != "0" || x.group != "g" {
				continue
			}
			if s == a && !bytes.Equal(x.m.Reply, own(1)) || s == b && (len(x.m.Reply) == 0 || x.m.Reply[0] == 0) {
				t.Errorf("address %q", x.m.Reply)
			}
		}
	}
	if len(a.nobody) > 0 {
		t.Error("nobody is said to be there")
	}
}

// What a broker without members gives back goes to one with members, and to nobody
// else; its own subscriptions have ended when it does.
func handsOver(t *testing.T, n *network) {
	a, b, ok := n.pair()
	if !ok {
		return
	}
	a.subscribe("jobs.*", "g")
	b.subscribe("jobs.x", "g")
	b.subscribe("jobs.x", "other")
	b.subscribe("jobs.x", "")
	a.bus.Unsubscribe("jobs.*", "g")
	m := full(a.now + 60_000)
	m.Topic, m.Reply = "jobs.x", own(4)
	for range 20 {
		if !a.bus.Distribute("g", m) {
			t.Fatal("it is not taken")
		}
	}
	b.await("all messages", func() bool { return len(b.shares) == 20 })
	for _, x := range b.shares {
		if x.group != "g" || x.m.Topic != "jobs.x" || x.m.Key != m.Key || x.m.Expires != b.now+60_000 || !slices.Equal(x.m.Headers, m.Headers) {
			t.Errorf("%+v", x)
		}
	}
	if err := b.bus.Reply(within(t), b.shares[0].m.Reply, text("", "!")); err != nil {
		t.Fatal(err)
	}
	a.await("the reply", func() bool { return len(a.replies) == 1 })
	if len(a.shares) > 0 || len(b.got) > 0 || !bytes.Equal(a.replies[0].address, own(4)) {
		t.Errorf("%d here, %d sequenced, address %v", len(a.shares), len(b.got), a.replies[0].address)
	}
}
