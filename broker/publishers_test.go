package broker_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// publication opens a publication and reads nothing.
func (p *peer) publication(topic string, first uint64) *line {
	p.t.Helper()
	l := p.open()
	l.send(codec.AppendPublication(nil, codec.Publication{Topic: topic, First: first}))
	return l
}

// publishes sends messages whose payloads are their sequences.
func (l *line) publishes(first, last uint64) {
	l.t.Helper()
	var b []byte
	for i := first; i <= last; i++ {
		b = codec.AppendPublish(b, codec.Publish{Sequence: i, Payload: codec.Text(fmt.Sprint(i))})
	}
	l.send(b)
}

// wantAnswers reads answers up to that of the last sequence: offsets by sequence, and
// 0 for what was refused with a code.
func (l *line) wantAnswers(last uint64, refused codec.Code) map[uint64]uint64 {
	l.t.Helper()
	answers := make(map[uint64]uint64)
	for {
		f, err := l.reader.Next()
		if err != nil {
			l.t.Fatalf("after %d answers: %v", len(answers), err)
		}
		switch f.Type {
		case codec.TypeAck:
			a, err := codec.ParseAck(f)
			if err != nil {
				l.t.Fatal(err)
			}
			for i, o := range a.Offsets {
				answers[a.Sequence+uint64(i)] = o
			}
		case codec.TypeNack:
			nack, err := codec.ParseNack(f)
			if err != nil || nack.Code != refused {
				l.t.Fatalf("NACK %+v (%v), want %s", nack, err, refused)
			}
			answers[nack.Sequence] = 0
		default:
			l.t.Fatalf("%s among the answers", f.Type)
		}
		if _, ok := answers[last]; ok {
			return answers
		}
	}
}

// What came in one piece is answered by one ACK, with the credit for all of it.
func TestBatchIsAnsweredByOneAck(t *testing.T) {
	script(t, func(t *testing.T, _ *broker.Broker, n *memNetwork) {
		p, w := welcomedPeer(t, n)
		l := p.publication("x", 1)
		const size = 20
		for first := uint64(1); first < 20*size; first += size {
			l.publishes(first, first+size-1)
			a, err := codec.ParseAck(l.want(codec.TypeAck))
			if err != nil || a.Sequence != first || len(a.Offsets) != size || a.Limit.Value <= w.Limits.PublicationCredit {
				t.Fatalf("%+v, %v", a, err)
			}
		}
		l.fin()
		l.wantEnd(codec.CodeOK)
	}, broker.Config{})
}

// A client that has lost its connection publishes again what got no answer, and every
// message is delivered once, in order, with the position that it got first.
func TestPublishAgainAfterReconnect(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		watcher, _ := welcomedPeer(t, n)
		sub, _ := watcher.subscribed(codec.Subscribe{Number: 1, Pattern: "a"})
		p, w := welcomedPeer(t, n)
		l := p.publication("a", 1)
		l.publishes(1, 20)
		first := l.wantAnswers(20, codec.CodeOK)
		if _, err := b.Publish(t.Context(), "a", "between", nil); err != nil {
			t.Fatal(err)
		}
		l.publishes(21, 30) // whose answers nobody reads
		synctest.Wait()

		p = resumedPeer(t, n, w)
		l = p.publication("a", 15)
		l.publishes(15, 40)
		again := l.wantAnswers(40, codec.CodeOK)
		for sequence := uint64(15); sequence <= 20; sequence++ {
			if again[sequence] != first[sequence] || first[sequence] != sequence {
				t.Errorf("%d got offset %d, and %d when it came again", sequence, first[sequence], again[sequence])
			}
		}
		for sequence := uint64(21); sequence <= 40; sequence++ {
			if again[sequence] != sequence+1 {
				t.Errorf("%d got offset %d, want %d", sequence, again[sequence], sequence+1)
			}
		}
		for i := uint64(1); i <= 40; i++ {
			sub.wantMessage(fmt.Sprint(i))
			if i == 20 {
				sub.wantMessage("between")
			}
		}
		if s := b.Stats(); s.Published != 41 || s.Duplicates != 16 || s.Rejected != 0 {
			t.Errorf("%d published, %d duplicates, %d rejected", s.Published, s.Duplicates, s.Rejected)
		}
		if got, _ := b.Publish(t.Context(), "a", "end", nil); got.Offset != 42 {
			t.Errorf("the topic stands at %d", got.Offset)
		}
	}, broker.Config{})
}

// The count of a topic goes on from stream to stream and over the control stream.
func TestOneCountOverStreams(t *testing.T) {
	script(t, func(t *testing.T, _ *broker.Broker, n *memNetwork) {
		p, w := welcomedPeer(t, n)
		single := func(order uint64, want uint64, wantCode codec.Code) {
			t.Helper()
			m := codec.Publish{Topic: "a", Payload: codec.Text("x"), Order: codec.Some(order)}
			if got, code := p.publish(m); got != want || code != wantCode {
				t.Errorf("order %d: offset %d, %s; want %d, %s", order, got, code, want, wantCode)
			}
		}
		single(1, 1, codec.CodeOK)
		single(1, 1, codec.CodeOK)
		single(2, 2, codec.CodeOK)
		l := p.publication("a", 3)
		l.publishes(3, 5)
		l.fin()
		l.wantEnd(codec.CodeOK)
		single(5, 5, codec.CodeOK)
		single(8, 6, codec.CodeOK) // numbers may be left out
		single(8, 6, codec.CodeOK)
		single(9, 7, codec.CodeOK)
		p = resumedPeer(t, n, w)
		single(9, 7, codec.CodeOK)
		single(10, 8, codec.CodeOK)
		// Below first the client has its answers, and positions are forgotten.
		l = p.publication("a", 9)
		l.publishes(9, 9)
		l.wantAnswers(9, codec.CodeOK)
		single(2, 0, codec.CodeDuplicate)
		// Another topic and another client count for themselves.
		if got, code := p.publish(codec.Publish{Topic: "b", Payload: codec.Text("x"), Order: codec.Some(1)}); got != 1 || code != codec.CodeOK {
			t.Errorf("another topic: %d, %s", got, code)
		}
		p, _ = welcomedPeer(t, n)
		single(1, 9, codec.CodeOK)
	}, broker.Config{})
}

// What was refused is tried again; what was published while others published too may
// be known only as published.
func TestPublishAgainAfterRefusal(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		p, w := welcomedPeer(t, n)
		l := p.publication("a", 1)
		for i := uint64(1); i <= 3; i++ {
			size := 1
			if i == 2 {
				size = 200
			}
			l.send(codec.AppendPublish(nil, codec.Publish{Sequence: i, Payload: codec.Text(strings.Repeat("x", size))}))
		}
		if got := l.wantAnswers(3, codec.CodePayloadTooLarge); got[1] != 1 || got[2] != 0 || got[3] != 2 {
			t.Errorf("answers %v", got)
		}
		p = resumedPeer(t, n, w)
		l = p.publication("a", 1)
		l.publishes(1, 3) // the second is small now
		if got := l.wantAnswers(3, codec.CodeOK); got[1] != 1 || got[2] != 3 || got[3] != 2 {
			t.Errorf("answers to what came again: %v", got)
		}

		// A run for each message: only the newest are known.
		for i := uint64(4); i <= 1000; i++ {
			l.publishes(i, i)
			l.wantAnswers(i, codec.CodeOK)
			if _, err := b.Publish(t.Context(), "a", "other", nil); err != nil {
				t.Fatal(err)
			}
		}
		published := b.Stats().Published
		p = resumedPeer(t, n, w)
		l = p.publication("a", 4)
		l.publishes(4, 1000)
		got := l.wantAnswers(1000, codec.CodeDuplicate)
		if got[4] != 0 || got[1000] == 0 || len(got) != 997 {
			t.Errorf("%d answers; the first has offset %d, the last %d", len(got), got[4], got[1000])
		}
		if n := b.Stats().Published; n != published {
			t.Errorf("%d messages were published twice", n-published)
		}
	}, broker.Config{Topics: []broker.TopicConfig{{Pattern: "a", MaxPayload: 100}}})
}

func TestPublisherWindow(t *testing.T) {
	topics := []broker.TopicConfig{{Pattern: "short", Deduplicate: 5 * time.Second}, {Pattern: "none", Deduplicate: -1}}
	script(t, func(t *testing.T, _ *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		publish := func(m codec.Publish, want uint64) {
			t.Helper()
			m.Payload = codec.Text("x")
			if got, code := p.publish(m); got != want || code != codec.CodeOK {
				t.Errorf("%+v: offset %d, %s, want %d", m, got, code, want)
			}
		}
		counted := codec.Publish{Topic: "short", Order: codec.Some(1)}
		named := codec.Publish{Topic: "short", ID: "id"}
		publish(counted, 1)
		publish(named, 2)
		time.Sleep(5 * time.Second)
		publish(counted, 1)
		publish(named, 2)
		time.Sleep(5001 * time.Millisecond)
		publish(counted, 3)
		publish(named, 4)
		for i := uint64(1); i <= 4; i += 2 {
			publish(codec.Publish{Topic: "none", Order: codec.Some(1)}, i)
			publish(codec.Publish{Topic: "none", ID: "id"}, i+1)
		}
	}, broker.Config{Topics: topics})
}

// What is sent again is not published if the topic may have forgotten it, and whatever
// else comes is.
func TestSentAgainTooLate(t *testing.T) {
	topics := []broker.TopicConfig{{Pattern: "short", Deduplicate: 6 * time.Second}, {Pattern: "none", Deduplicate: -1}}
	script(t, func(t *testing.T, _ *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		publish := func(m codec.Publish, age, want uint64, wantCode codec.Code) {
			t.Helper()
			m.Payload, m.Age = codec.Text("x"), codec.Some(age)
			if got, code := p.publish(m); got != want || code != wantCode {
				t.Errorf("%+v: offset %d, %s, want %d, %s", m, got, code, want, wantCode)
			}
		}
		publish(codec.Publish{Topic: "short", Order: codec.Some(1)}, 2999, 1, codec.CodeOK)
		publish(codec.Publish{Topic: "short", Order: codec.Some(1)}, 1<<50, 1, codec.CodeOK) // it is known still
		publish(codec.Publish{Topic: "short", Order: codec.Some(2)}, 3000, 0, codec.CodeForgotten)
		publish(codec.Publish{Topic: "short", Order: codec.Some(2)}, 0, 2, codec.CodeOK) // its number is free
		publish(codec.Publish{Topic: "short", ID: "id"}, 3000, 0, codec.CodeForgotten)
		publish(codec.Publish{Topic: "short", ID: "id"}, 2999, 3, codec.CodeOK)
		publish(codec.Publish{Topic: "none", Order: codec.Some(1)}, 0, 0, codec.CodeForgotten)
		publish(codec.Publish{Topic: "none", ID: "id"}, 0, 0, codec.CodeForgotten)
		publish(codec.Publish{Topic: "other", Order: codec.Some(1)}, 109_999, 1, codec.CodeOK)
		publish(codec.Publish{Topic: "other", Order: codec.Some(2)}, 110_000, 0, codec.CodeForgotten)

		l := p.publication("short", 3)
		age := codec.Some(3000)
		l.send(codec.AppendPublish(nil, codec.Publish{Sequence: 3, Payload: codec.Text("x"), Age: age}))
		l.send(codec.AppendPublish(nil, codec.Publish{Sequence: 4, Payload: codec.Text("x")}))
		nack, err := codec.ParseNack(l.want(codec.TypeNack))
		if err != nil || nack.Sequence != 3 || nack.Code != codec.CodeForgotten {
			t.Errorf("%+v, %v", nack, err)
		}
		ack, err := codec.ParseAck(l.want(codec.TypeAck))
		if err != nil || ack.Sequence != 4 || len(ack.Offsets) != 1 || ack.Offsets[0] != 4 {
			t.Errorf("%+v, %v", ack, err)
		}
	}, broker.Config{Topics: topics})
}

// A message with an idempotency key is delivered once, whoever publishes it, however
// it travels.
func TestIdempotencyKeys(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		watcher, _ := welcomedPeer(t, n)
		sub, _ := watcher.subscribed(codec.Subscribe{Number: 1, Pattern: "a"})
		p, _ := welcomedPeer(t, n)
		m := codec.Publish{Topic: "a", ID: "one", Payload: codec.Text("first")}
		if got, _ := p.publish(m); got != 1 {
			t.Errorf("offset %d", got)
		}
		m.Payload = codec.Text("second") // the key counts, and nothing else
		if got, _ := p.publish(m); got != 1 {
			t.Errorf("again: offset %d", got)
		}
		if pos, err := b.Publish(t.Context(), "a", "third", &broker.PublishOptions{ID: "one"}); pos.Offset != 1 || err != nil {
			t.Errorf("from the process: offset %d, %v", pos.Offset, err)
		}
		l := watcher.publication("a", 1)
		for i, id := range []string{"one", "two", "one", ""} {
			l.send(codec.AppendPublish(nil, codec.Publish{Sequence: uint64(i + 1), ID: id, Payload: codec.Text("on a stream " + id)}))
		}
		if got := l.wantAnswers(4, codec.CodeOK); got[1] != 1 || got[2] != 2 || got[3] != 1 || got[4] != 3 {
			t.Errorf("on a stream: %v", got)
		}
		if got, _ := p.publish(codec.Publish{Topic: "b", ID: "one", Payload: codec.Text("x")}); got != 1 {
			t.Errorf("another topic: offset %d", got)
		}
		if got, _ := p.publish(codec.Publish{Topic: "a", ID: "one", Mode: codec.ModeLossy, Payload: codec.Text("x")}); got != 1 {
			t.Errorf("lossy: offset %d", got)
		}
		sub.wantMessage("first")
		sub.wantMessage("on a stream two")
		sub.wantMessage("on a stream ")
		if d := b.Stats().Duplicates; d != 5 {
			t.Errorf("%d duplicates are counted, want 5", d)
		}
	}, broker.Config{})
}

// gatedBus keeps what is published to the topic "slow" until it is let through.
type gatedBus struct {
	broker.Bus
	entered chan struct{}
	through chan struct{}
}

func (b *gatedBus) Publish(ctx context.Context, m broker.Message) (broker.Position, error) {
	if m.Topic == "slow" && string(m.Payload.Data) == "1" {
		b.entered <- struct{}{}
		<-b.through
	}
	return b.Bus.Publish(ctx, m)
}

// While the bus still has a message of a client's old connection, the new one waits
// with what it publishes again, and then learns that it was published.
func TestOldConnectionWithinTheBus(t *testing.T) {
	slow := &gatedBus{entered: make(chan struct{}), through: make(chan struct{})}
	open := func(sink broker.Sink) (broker.Bus, error) {
		bus, err := broker.OpenLocalBus(sink)
		slow.Bus = bus
		return slow, err
	}
	synctest.Test(t, func(t *testing.T) {
		slow.entered, slow.through = make(chan struct{}), make(chan struct{})
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{Bus: open})
		p, w := welcomedPeer(t, n)
		p.publication("slow", 1).publishes(1, 3)
		<-slow.entered
		p = resumedPeer(t, n, w)
		l := p.publication("slow", 1)
		l.publishes(1, 3)
		synctest.Wait()
		if s := b.Stats(); s.Published != 0 {
			t.Errorf("%d messages overtook the one that the bus has", s.Published)
		}
		close(slow.through)
		got := l.wantAnswers(3, codec.CodeOK)
		if got[1] != 1 || got[2] != 2 || got[3] != 3 {
			t.Errorf("answers %v", got)
		}
		if s := b.Stats(); s.Published != 3 || s.Duplicates < 1 {
			t.Errorf("%d published, %d duplicates", s.Published, s.Duplicates)
		}
		// An end of the session while it waits is no end of the broker.
		synctest.Wait()
		_ = p.conn.CloseWithError(0, "")
	})
}
