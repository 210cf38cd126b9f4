package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// A client with more topics than publications changes their streams all the time,
// and each topic stays in order.
func TestMoreTopicsThanPublications(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{Limits: codec.Limits{Publications: 4}})
		c, p := dial(t, n), dial(t, n)
		const topics, each = 6, 40
		big := strings.Repeat("a", 20_000)
		subs := make([]*client.Subscription, topics)
		for i := range subs {
			subs[i] = subscribe(t, c, fmt.Sprint("t", i), &client.SubscribeOptions{Credit: 1 << 20})
		}
		var wg sync.WaitGroup
		for i := range topics {
			wg.Go(func() {
				for k := range each {
					if _, err := p.Publish(t.Context(), fmt.Sprint("t", i), fmt.Sprint(big, k), nil); err != nil {
						t.Errorf("message %d of topic %d: %v", k, i, err)
						return
					}
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		for i, sub := range subs {
			for k, m := range take(t, sub, each) {
				if !strings.HasSuffix(text(m), "a"+fmt.Sprint(k)) {
					t.Fatalf("topic %d, item %d is …%s", i, k, text(m)[max(0, len(text(m))-20):])
				}
			}
		}
	})
}

// Messages wait for room on the control stream; however many there are, the
// connection lives.
func TestManyMessagesOnTheControlStream(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		c := dial(t, n, failOnDisconnect(t))
		body := strings.Repeat("a", 11_000)
		var wg sync.WaitGroup
		for i := range 800 { // 8 MiB
			wg.Go(func() {
				if _, err := c.Publish(within(t), fmt.Sprint("t", i), body, nil); err != nil {
					t.Errorf("publish: %v", err)
				}
			})
		}
		wg.Wait()
	})
}

func TestLossyMessagesWaitForRoom(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		c := dial(t, n, failOnDisconnect(t))
		big := strings.Repeat("a", 200_000)
		for range 200 {
			if err := c.PublishLossy(within(t), "x", big, nil); err != nil {
				t.Fatal(err)
			}
		}
		publish(t, c, "x", "after")
	})
}

func failOnDisconnect(t *testing.T) func(*client.Config) {
	return func(c *client.Config) {
		c.OnState = func(s client.State, err error) {
			if s == client.StateDisconnected {
				t.Errorf("disconnected: %v", err)
			}
		}
	}
}

// While the broker does not write, answers do not come; a caller that ceases to
// wait frees neither the stream nor the order of what it has sent.
func TestPublishOrderAfterCallersHaveGone(t *testing.T) {
	n := &memNetwork{}
	newBroker(t, n, broker.Config{})
	p, c := dial(t, n), dial(t, n)
	sub := subscribe(t, c, "x", nil)
	n.Gate = make(chan struct{})
	n.Shut.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := p.Publish(ctx, "x", "0", nil)
		first <- err
	}()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	second := make(chan error)
	go func() {
		_, err := p.Publish(within(t), "x", "1", nil)
		second <- err
	}()
	n.Shut.Store(false)
	close(n.Gate)
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	// The first may or may not have been sent; if it was, it came first.
	items := take(t, sub, 1)
	if text(items[0]) == "0" {
		items = take(t, sub, 1)
	}
	if text(items[0]) != "1" {
		t.Errorf("got %q", text(items[0]))
	}
}

// beginPublish publishes 20,000 bytes, which go on a stream, and returns where the
// result will be.
func beginPublish(t *testing.T, c *client.Client, opts *client.PublishOptions) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, err := c.Publish(within(t), "x", make([]byte, 20_000), opts)
		result <- err
	}()
	return result
}

// publication takes a publication and its first message, and checks its sequence.
func (s *scriptedBroker) publication(first uint64) *line {
	s.t.Helper()
	l := s.accept()
	p, err := codec.ParsePublication(l.want(codec.TypePublication))
	if err != nil || p.First != first {
		s.t.Fatalf("a publication from %d, %v; want %d", p.First, err, first)
	}
	m, err := codec.ParsePublish(l.want(codec.TypePublish))
	if err != nil || m.Sequence != first {
		s.t.Fatalf("PUBLISH %d, %v; want %d", m.Sequence, err, first)
	}
	return l
}

// What was sent and not answered before a publication was refused has an unknown
// outcome, whatever the broker's code says of the end.
func TestUnansweredPublishIsUnknown(t *testing.T) {
	script := newScriptedBroker(t)
	c := script.dial(codec.Limits{})
	result := beginPublish(t, c, nil)
	l := script.publication(1)
	l.send(codec.AppendEnd(nil, codec.End{Code: codec.CodeOverloaded, Retry: codec.Some(1)}))
	l.fin()
	wantCode(t, <-result, codec.CodeConnectionLost)
}

// What was sent and not answered when the session ended is sent again, under the
// same number if the client is known still, and otherwise only if it has an
// idempotency key.
func TestPublishGoesOnAfterReconnect(t *testing.T) {
	for name, next := range map[string]struct {
		id   byte
		key  string
		lost bool
	}{"known still": {id: 1}, "unknown": {id: 2, lost: true}, "unknown, with a key": {id: 2, key: "k"}} {
		t.Run(name, func(t *testing.T) {
			script := newScriptedBroker(t)
			c := script.dial(codec.Limits{})
			result := beginPublish(t, c, &client.PublishOptions{ID: next.key})
			script.publication(1)
			script.control.send(codec.AppendEnd(nil, codec.End{Code: codec.CodeShuttingDown, Retry: codec.Some(1)}))
			script.control.fin()
			script.id = codec.ID{next.id}
			script.welcome(codec.Limits{})
			if next.lost {
				wantCode(t, <-result, codec.CodeConnectionLost)
				return
			}
			first := uint64(next.id) // a number is not used for two clients
			l := script.publication(first)
			l.send(codec.AppendAck(nil, codec.Ack{Sequence: first, Epoch: 1, Offsets: []uint64{7}}))
			if err := <-result; err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The successor of a publication does not reach the broker before END of the one
// before it was read, and waits for the answers to single messages.
func TestPublicationWaitsForItsPredecessor(t *testing.T) {
	script := newScriptedBroker(t)
	c := script.dial(codec.Limits{Publications: 2})
	big := make([]byte, 20_000)
	results := make(chan error)
	send := func(topic string) {
		go func() {
			_, err := c.Publish(within(t), topic, big, nil)
			results <- err
		}()
	}
	begin := func(topic string) *line {
		l := script.accept()
		f, err := codec.ParsePublication(l.want(codec.TypePublication))
		if err != nil || f.Topic != topic {
			t.Fatalf("publication of %q, %v; want %q", f.Topic, err, topic)
		}
		return l
	}
	ack := func(l *line, sequence uint64) {
		l.want(codec.TypePublish)
		l.send(codec.AppendAck(nil, codec.Ack{Sequence: sequence, Epoch: 1, Offsets: []uint64{sequence}}))
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	send("a")
	a := begin("a")
	ack(a, 1)
	send("b") // takes the place of a, which gets FIN
	b := begin("b")
	ack(b, 1)
	a.wantFIN()
	send("a")
	// The broker is slow to end the first one of a; until then nothing more of it
	// comes, on the old stream or on a new one.
	script.wantNoStream(func() { send("b"); ack(b, 2) })
	a.send(codec.AppendEnd(nil, codec.End{Code: codec.CodeOK}))
	a.fin()
	ack(begin("a"), 2)
}

// A stream that the broker stops reading is no connection that was lost: the
// message goes on another stream.
func TestPublicationThatCannotBeWritten(t *testing.T) {
	script := newScriptedBroker(t)
	c := script.dial(codec.Limits{})
	result := make(chan error)
	go func() {
		_, err := c.Publish(within(t), "x", make([]byte, 200_000), nil)
		result <- err
	}()
	l := script.accept()
	l.stream.CancelRead(0)
	l.stream.CancelWrite(0)
	l = script.publication(1)
	l.send(codec.AppendAck(nil, codec.Ack{Sequence: 1, Epoch: 1, Offsets: []uint64{1}}))
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if c.State() != client.StateConnected {
		t.Errorf("the client is %s", c.State())
	}
}
