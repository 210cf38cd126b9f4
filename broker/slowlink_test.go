package broker_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt/wttest"
)

// A message that a slow link takes long for arrives, once, and holds up nothing that is
// more urgent: neither control frames nor a subscription of higher priority. That the
// link is slow is no reason to end a subscription.
func TestLongMessageOnASlowLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, size = 20_000, 250_000 // 12.5 s
		s := simulate(t, wttest.Link{Latency: 10 * time.Millisecond}, broker.Config{})
		c := s.dial(t, s.network.NewEndpoint)
		long := subscribe(t, c, "long", &client.SubscribeOptions{Priority: 5, Credit: 1 << 20})
		urgent := subscribe(t, c, "urgent", &client.SubscribeOptions{Priority: 1})
		s.network.SetLink(wttest.Link{Latency: 10 * time.Millisecond, Rate: rate, Queue: 16 << 10})

		start := time.Now()
		for _, m := range []struct{ topic, value string }{{"long", strings.Repeat("l", size)}, {"urgent", "first"}} {
			if m.topic == "urgent" {
				time.Sleep(time.Second) // the long one is on its way
			}
			if _, err := s.broker.Publish(t.Context(), m.topic, m.value, nil); err != nil {
				t.Fatal(err)
			}
		}
		if m := take(t, urgent, 1)[0]; text(m) != "first" || time.Since(start) > 4*time.Second {
			t.Errorf("%s after %v", text(m), time.Since(start))
		}
		for range 3 {
			time.Sleep(time.Second)
			asked := time.Now()
			if _, err := c.Health(within(t)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(asked); took > 2*time.Second {
				t.Errorf("PONG took %v", took)
			}
		}
		if m := take(t, long, 1)[0]; len(text(m)) != size || time.Since(start) > 25*time.Second {
			t.Errorf("%d bytes after %v: %v", len(text(m)), time.Since(start), m.Gap)
		}
		if sent := s.broker.Stats().DeliveredBytes; sent > size+1000 {
			t.Errorf("%d bytes were sent for %d", sent, size)
		}
	})
}

// When two subscriptions swap their priorities the order of what arrives follows, of
// what waits already too; one of a priority between them stays between them.
func TestPrioritiesSwapOnASlowLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, messages, size = 20_000, 50, 4_000 // 10 s for each subscription
		s := simulate(t, wttest.Link{Latency: 10 * time.Millisecond}, broker.Config{})
		c := s.dial(t, s.network.NewEndpoint)
		first := subscribe(t, c, "first", &client.SubscribeOptions{Priority: 2, Credit: 1 << 20})
		between := subscribe(t, c, "between", &client.SubscribeOptions{Priority: 4, Credit: 1 << 20})
		last := subscribe(t, c, "last", &client.SubscribeOptions{Priority: 6, Credit: 1 << 20})
		s.network.SetLink(wttest.Link{Latency: 10 * time.Millisecond, Rate: rate, Queue: 16 << 10})
		var mu sync.Mutex
		var order []string // the topics of what has arrived
		var taking sync.WaitGroup
		for _, sub := range []*client.Subscription{first, between, last} {
			for range messages {
				post(t, s.broker, sub.Pattern(), strings.Repeat("x", size))
			}
			taking.Go(func() {
				n := 0
				for m, err := range sub.Messages(t.Context()) {
					if err != nil || m.Gap != nil {
						t.Errorf("%s: %v, gap %v", sub.Pattern(), err, m.Gap)
						return
					}
					mu.Lock()
					order = append(order, m.Topic)
					mu.Unlock()
					if n++; n == messages {
						return
					}
				}
			})
		}
		time.Sleep(6 * time.Second)
		mu.Lock()
		before := len(order)
		mu.Unlock()
		if err := errors.Join(first.SetPriority(6), last.SetPriority(2)); err != nil {
			t.Fatal(err)
		}
		taking.Wait()
		if before < 10 || before > 40 || slices.ContainsFunc(order[:before], func(topic string) bool { return topic != "first" }) {
			t.Fatalf("before the swap came %v", order[:before])
		}
		// What was on its way when the broker learnt of it comes first; what the link
		// has lost comes a little later.
		const underWay = 10
		after := order[before:]
		for _, topic := range []string{"last", "between"} {
			end := len(after)
			for after[end-1] != topic {
				end--
			}
			if others := end - messages; others > underWay {
				t.Errorf("%d others came before all of %q: %v", others, topic, after)
			}
			after = slices.DeleteFunc(after, func(other string) bool { return other == topic })
		}
	})
}

// A session that ends while a frame of its control stream is under way ends behind that.
func TestEndBehindALongControlFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{})
		p, w := welcomedPeer(t, n)
		q, _ := welcomedPeer(t, n)
		service := q.listen(codec.Subscribe{Pattern: "ask"})
		p.ask(codec.Request{Number: 1, Topic: "ask", Payload: codec.Text("?")})
		reply := strings.Repeat("r", 200_000) // more than the stream takes unread
		q.control.send(codec.AppendReply(nil, codec.Reply{To: service.message().Reply, Payload: codec.Text(reply)}))
		time.Sleep(550 * time.Millisecond) // some turns of the writer, and half of one
		if !b.DisconnectClient(w.Client, "enough") {
			t.Fatal("no session")
		}
		time.Sleep(1500 * time.Millisecond) // the writer has given up, and the farewell has not
		p.wantResponse(1, reply)
		p.control.wantEnd(codec.CodePermissionRevoked)
	})
}

// What a stream has not taken of a batch counts as waiting until it has, or has ended.
func TestRestOfABatchCounts(t *testing.T) {
	for name, end := range map[string]func(p *peer, l *line){
		"written": func(_ *peer, l *line) { l.message() },
		"failed":  func(*peer, *line) { time.Sleep(10 * time.Second) },
		"closed":  func(p *peer, _ *line) { _ = p.conn.CloseWithError(0, "") },
	} {
		t.Run(name, func(t *testing.T) {
			script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
				p, _ := welcomedPeer(t, n)
				const long = 200_000 // more than the streams take unread
				var lines []*line
				for i := range uint64(5) {
					lines = append(lines, p.listen(codec.Subscribe{Number: i + 1, Pattern: "a"}))
				}
				post(t, b, "a", strings.Repeat("x", long))
				for i := range lines {
					synctest.Wait() // until the writer has begun with this one
					p.control.send(codec.AppendPriority(nil, codec.Priority{Subscription: uint64(i + 1), Priority: 7}))
					time.Sleep(150 * time.Millisecond)
				}
				if q := b.Stats().QueuedBytes; q < int64(len(lines)*long/2) {
					t.Errorf("%d bytes wait", q)
				}
				for _, l := range slices.Backward(lines) { // the last one is in front
					end(p, l)
				}
				synctest.Wait()
				if q := b.Stats().QueuedBytes; q != 0 {
					t.Errorf("%d bytes wait in the end", q)
				}
			}, broker.Config{})
		})
	}
}
