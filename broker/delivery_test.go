package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// One message walks the whole way: up a publication stream, through the bus and
// its topic, and down a subscription stream, as bytes on the wire.
func TestLifeOfAMessage(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		onBus := make(chan broker.Message, 1)
		b := newBroker(t, n, broker.Config{
			Bus: func(s broker.Sink) (broker.Bus, error) { return recordingBus{s, onBus}, nil },
		})

		// A subscriber says HELLO and opens a stream for a pattern.
		bob, welcome := welcomedPeer(t, n)
		down := bob.open()
		down.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: "chat.*", Priority: 3, Credit: 64 << 10}))
		down.want(codec.TypeSubscribed)

		// A publisher opens a stream for a topic, and publishes its first message.
		alice, aliceWelcome := welcomedPeer(t, n)
		up := alice.open()
		up.send(codec.AppendPublication(nil, codec.Publication{Topic: "chat.lobby", Publisher: aliceWelcome.Client, First: 1}))
		up.send(codec.AppendPublish(nil, codec.Publish{Sequence: 1, Payload: codec.Text("hello")}))

		// The broker acknowledges it with a position: the bus has it.
		ack, err := codec.ParseAck(up.want(codec.TypeAck))
		if err != nil || ack.Sequence != 1 || len(ack.Offsets) != 1 || ack.Offsets[0] != 1 {
			t.Fatalf("%+v, %v", ack, err)
		}
		if m := <-onBus; m.Topic != "chat.lobby" || m.Publisher != aliceWelcome.Client || string(m.Payload.Data) != "hello" {
			t.Fatalf("on the bus: %+v", m)
		}

		// The subscriber is told the topic's number, and gets the message.
		topic, err := codec.ParseTopic(down.want(codec.TypeTopic))
		if err != nil || topic.Name != "chat.lobby" || topic.Epoch != ack.Epoch || topic.Offset != 0 {
			t.Fatalf("%+v, %v", topic, err)
		}
		frame := down.want(codec.TypeMessage)
		m, err := codec.ParseMessage(frame)
		if err != nil {
			t.Fatal(err)
		}
		if m.Topic != topic.Topic || m.Offset != 1 || m.Previous != 1 || m.Lossy() || m.Publisher != aliceWelcome.Client ||
			m.Payload.Encoding != codec.EncodingText || string(m.Payload.Data) != "hello" || m.Time > 1000*uint64(deadline.Seconds()) {
			t.Fatalf("%+v", m)
		}

		// Its credit is spent, and given back by FLOW; FIN unsubscribes.
		bob.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 64<<10 + uint64(frame.Size()), Offset: codec.Some(1)}))
		down.fin()
		down.wantEnd(codec.CodeOK)
		eventually(t, func() bool { return b.Stats().Subscriptions == 0 })
		if s := b.Stats(); s.Published != 1 || s.Delivered != 1 || s.QueuedBytes != 0 {
			t.Errorf("%+v", s)
		}
		if welcome.Limits != codec.DefaultLimits() {
			t.Errorf("limits %+v", welcome.Limits)
		}
	})
}

func (recordingBus) Distribute(string, broker.Message) bool { return false }

// recordingBus is the local bus, and shows what goes over it.
type recordingBus struct {
	sink     broker.Sink
	messages chan broker.Message
}

func (b recordingBus) Publish(_ context.Context, m broker.Message) (broker.Position, error) {
	b.messages <- m
	return b.sink.Sequence(m)
}
func (recordingBus) Subscribe(context.Context, string, string) (uint64, error) { return 0, nil }
func (recordingBus) Unsubscribe(string, string)                                {}
func (recordingBus) Reply(context.Context, []byte, broker.Message) error       { return nil }
func (recordingBus) Joined() bool                                              { return false }
func (recordingBus) Close(context.Context) error                               { return nil }

// All that a client publishes to a topic stays in order, whatever carries it, and
// all subscribers see the same order.
func TestOrder(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		const publishers, messages = 4, 200
		var subs []*client.Subscription
		for range 3 {
			subs = append(subs, subscribe(t, dial(t, n), "order", nil))
		}
		var wg sync.WaitGroup
		for p := range publishers {
			c := dial(t, n)
			wg.Go(func() {
				for i := range messages {
					if _, err := c.Publish(within(t), "order", fmt.Sprintf("%d %d", p, i), nil); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		var first []string
		for _, sub := range subs {
			var got []string
			next := make([]int, publishers)
			for i, m := range take(t, sub, publishers*messages) {
				var p, k int
				if _, err := fmt.Sscan(text(m), &p, &k); err != nil {
					t.Fatalf("%s: %v", text(m), err)
				}
				if k != next[p] || m.Position.Offset != uint64(i+1) {
					t.Fatalf("publisher %d: message %d at offset %d, want %d at %d", p, k, m.Position.Offset, next[p], i+1)
				}
				next[p]++
				got = append(got, text(m))
			}
			if first == nil {
				first = got
			} else if fmt.Sprint(got) != fmt.Sprint(first) {
				t.Error("two subscribers saw different orders")
			}
		}
	})
}

// Lossy messages travel by datagram where there are datagrams, and by stream where
// there are none or the message is too large; reliable ones share their sequence.
func TestLossyMessages(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		alice, bob := dial(t, n), dial(t, n)
		sub := subscribe(t, bob, "cursor.*", nil)
		large := bytes.Repeat([]byte("x"), 4000)
		for i := range 20 {
			pos := publish(t, alice, "cursor.a", fmt.Sprint("reliable ", i))
			if pos.Offset != uint64(3*i+1) {
				t.Fatalf("offset %d, want %d", pos.Offset, 3*i+1)
			}
			if err := alice.PublishLossy(within(t), "cursor.a", "lossy", nil); err != nil {
				t.Fatal(err)
			}
			if err := alice.PublishLossy(within(t), "cursor.a", large, nil); err != nil {
				t.Fatal(err)
			}
			want := uint64(3*i + 3)
			// On loopback with one message at a time nothing is lost on the way up.
			eventually(t, func() bool { return b.Stats().Published == want })
			var last uint64
			reliable := 0
			for m, err := range sub.Messages(within(t)) {
				if err != nil {
					t.Fatal(err)
				}
				if m.Gap != nil {
					if m.Gap.Reason != codec.GapLost && m.Gap.Reason != codec.GapConflated {
						t.Fatal(m.Gap)
					}
					last = m.Gap.To.Offset
				} else {
					if m.Position.Offset <= last {
						t.Fatalf("offset %d after %d", m.Position.Offset, last)
					}
					last = m.Position.Offset
					if !m.Lossy {
						reliable++
					}
				}
				if last == want {
					break
				}
			}
			if reliable != 1 {
				t.Fatalf("round %d: %d reliable messages", i, reliable)
			}
		}
	})
}

// A sequenced subscription gets the newest message of each topic in the end,
// never an older one after a newer one, and a gap wherever one is missing.
func TestSequenced(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		alice, bob := dial(t, n), dial(t, n)
		sub := subscribe(t, bob, "value.*", &client.SubscribeOptions{Class: client.Sequenced, Credit: 1000})
		const rounds = 300
		for i := range rounds {
			publish(t, alice, "value.a", i)
			publish(t, alice, "value.b", i)
		}
		last := make(map[string]uint64)
		// The last datagram may be lost; then a later one tells of it.
		for extra := 0; last["value.a"] < rounds || last["value.b"] < rounds; {
			for m, err := range sub.Messages(within(t)) {
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case m.Gap != nil:
					if m.Gap.From.Offset != last[m.Topic] && last[m.Topic] != 0 {
						t.Fatalf("%s behind %d", m.Gap, last[m.Topic])
					}
					last[m.Topic] = m.Gap.To.Offset
				case m.Position.Offset != last[m.Topic]+1:
					t.Fatalf("%s: offset %d after %d without a gap", m.Topic, m.Position.Offset, last[m.Topic])
				default:
					last[m.Topic] = m.Position.Offset
				}
				if last["value.a"] >= rounds && last["value.b"] >= rounds {
					break
				}
				if m.Gap == nil && m.Position.Offset >= rounds && extra < 20 {
					extra++
					publish(t, alice, "value.a", -1)
					publish(t, alice, "value.b", -1)
				}
			}
		}
	})
}

// A message that several subscriptions of a client match reaches each of them.
func TestOverlappingSubscriptions(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		c := dial(t, n)
		subs := []*client.Subscription{
			subscribe(t, c, "a.b", nil), subscribe(t, c, "a.b", nil), subscribe(t, c, "a.*", nil), subscribe(t, c, ">", nil),
		}
		for _, mode := range []func() error{
			func() error { _, err := b.Publish(t.Context(), "a.b", "1", nil); return err },
			func() error { _, err := b.PublishLossy(t.Context(), "a.b", "2", nil); return err },
		} {
			if err := mode(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.Publish(t.Context(), "a.b", "3", nil); err != nil {
			t.Fatal(err)
		}
		for i, sub := range subs {
			var got []string
			for m, err := range sub.Messages(within(t)) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, text(m))
				if text(m) == "3" {
					break
				}
			}
			if got[0] != "1" || len(got) > 3 {
				t.Errorf("subscription %d got %q", i, got)
			}
		}
	})
}

// Payloads come out as they went in.
func TestEncodings(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		c := dial(t, n)
		sub := subscribe(t, c, "e", nil)
		type point struct{ X, Y int }
		j, err := codec.JSON(point{1, 2})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []any{[]byte{0, 255}, "text", point{1, 2}, j} {
			publish(t, c, "e", v)
		}
		items := take(t, sub, 4)
		if b, err := client.Decode[[]byte](items[0]); err != nil || !bytes.Equal(b, []byte{0, 255}) {
			t.Error(b, err)
		}
		if s, err := client.Decode[string](items[1]); err != nil || s != "text" {
			t.Error(s, err)
		}
		for _, m := range items[2:] {
			if p, err := client.Decode[point](m); err != nil || p != (point{1, 2}) {
				t.Error(p, err)
			}
		}
	})
}
