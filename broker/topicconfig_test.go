package broker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// script is bubble with what a test is about in front.
func script(t *testing.T, test func(t *testing.T, b *broker.Broker, n *memNetwork), config broker.Config) {
	bubble(t, config, func(t *testing.T, n *memNetwork, b *broker.Broker) { test(t, b, n) })
}

// subscribed opens a subscription and reads SUBSCRIBED.
func (p *peer) subscribed(s codec.Subscribe) (*line, codec.Subscribed) {
	p.t.Helper()
	if s.Credit == 0 {
		s.Credit = 1 << 20
	}
	l := p.open()
	l.send(codec.AppendSubscribe(nil, s))
	answer, err := codec.ParseSubscribed(l.want(codec.TypeSubscribed))
	if err != nil {
		p.t.Fatal(err)
	}
	return l, answer
}

// wantMessage reads a MESSAGE with a payload.
func (l *line) wantMessage(payload string) codec.Message {
	l.t.Helper()
	m, err := codec.ParseMessage(l.want(codec.TypeMessage))
	if err != nil {
		l.t.Fatal(err)
	}
	if string(m.Payload.Data) != payload {
		l.t.Fatalf("payload %q, want %q", m.Payload.Data, payload)
	}
	return m
}

// publish publishes on the control stream and reads the answer: its position, or
// the code that refuses it.
func (p *peer) publish(m codec.Publish) (uint64, codec.Code) {
	p.t.Helper()
	m.Sequence = 77
	p.control.send(codec.AppendPublish(nil, m))
	f, err := p.control.reader.Next()
	if err != nil {
		p.t.Fatal(err)
	}
	if f.Type == codec.TypeNack {
		nack, err := codec.ParseNack(f)
		if err != nil || nack.Sequence != 77 {
			p.t.Fatalf("NACK %+v: %v", nack, err)
		}
		return 0, nack.Code
	}
	ack, err := codec.ParseAck(f)
	if err != nil || ack.Sequence != 77 || len(ack.Offsets) != 1 {
		p.t.Fatalf("ACK %+v: %v", ack, err)
	}
	return ack.Offsets[0], codec.CodeOK
}

func TestTopicLimits(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		publish := func(topic string, size int, retain bool, want codec.Code) {
			t.Helper()
			m := codec.Publish{Topic: topic, Payload: codec.Text(strings.Repeat("x", size)), Retain: retain}
			if _, code := p.publish(m); code != want {
				t.Errorf("%d bytes to %s: %s, want %s", size, topic, code, want)
			}
			_, err := b.Publish(t.Context(), topic, m.Payload, &broker.PublishOptions{Retain: retain})
			if codec.CodeOf(err) != want && (err != nil || want != codec.CodeOK) {
				t.Errorf("%d bytes to %s from the process: %v, want %s", size, topic, err, want)
			}
		}
		publish("small", 100, false, codec.CodeOK)
		publish("small", 101, false, codec.CodePayloadTooLarge)
		publish("other", 101, false, codec.CodeOK)
		publish("small", 100, true, codec.CodeOK)
		publish("forgets", 1, true, codec.CodeNotOffered)
		publish("forgets", 1, false, codec.CodeOK)

		l := p.open() // on a publication it is answered by NACK
		l.send(codec.AppendPublication(nil, codec.Publication{Topic: "small", First: 1}))
		l.send(codec.AppendPublish(nil, codec.Publish{Sequence: 1, Payload: codec.Text(strings.Repeat("x", 101))}))
		nack, err := codec.ParseNack(l.want(codec.TypeNack))
		if err != nil || nack.Code != codec.CodePayloadTooLarge {
			t.Errorf("NACK %+v: %v", nack, err)
		}
	}, broker.Config{Topics: []broker.TopicConfig{{Pattern: "small", MaxPayload: 100}, {Pattern: "forgets", Retain: broker.RetainNone}}})
}

func TestTopicAccess(t *testing.T) {
	topics := []broker.TopicConfig{
		{Pattern: "open.>", Publish: broker.AccessOpen, Subscribe: broker.AccessOpen},
		{Pattern: "read.>", Publish: broker.AccessClosed},
		{Pattern: "write.>", Subscribe: broker.AccessClosed},
	}
	auth := tokens{"": {publish: []string{"read.>", "write.>"}, subscribe: []string{">"}}}
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		for topic, want := range map[string]codec.Code{
			"open.a": codec.CodeOK, "read.a": codec.CodePublishDenied, "write.a": codec.CodeOK, "other": codec.CodePublishDenied,
		} {
			if _, code := p.publish(codec.Publish{Topic: topic, Payload: codec.Text("x")}); code != want {
				t.Errorf("publish to %s: %s, want %s", topic, code, want)
			}
			l := p.open()
			l.send(codec.AppendPublication(nil, codec.Publication{Topic: topic, First: 1}))
			l.fin()
			l.wantEnd(want)
		}
		number := uint64(0)
		for pattern, want := range map[string]codec.Code{
			"open.a": codec.CodeOK, "read.a": codec.CodeOK, "other": codec.CodeOK, "write.a": codec.CodeSubscribeDenied,
			"write.>": codec.CodeSubscribeDenied, ">": codec.CodeSubscribeDenied, "read.>": codec.CodeOK,
		} {
			l := p.open()
			number++
			l.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: number, Pattern: pattern, Credit: 1}))
			l.fin()
			l.wantEnd(want)
		}
		if _, err := b.Publish(t.Context(), "read.a", "x", nil); err != nil {
			t.Errorf("the process may not publish to a closed topic: %v", err)
		}
	}, broker.Config{Topics: topics, Authenticator: auth})
}

func TestTopicDefaultsOfMessages(t *testing.T) {
	topics := []broker.TopicConfig{
		{Pattern: "short", TTL: 3 * time.Second},
		{Pattern: "kept", Retain: broker.RetainAll},
	}
	script(t, func(t *testing.T, _ *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		short, _ := p.subscribed(codec.Subscribe{Number: 1, Pattern: "short"})
		kept, _ := p.subscribed(codec.Subscribe{Number: 2, Pattern: "kept"})
		other, _ := p.subscribed(codec.Subscribe{Number: 3, Pattern: "other"})
		for _, topic := range []string{"short", "kept", "other"} {
			p.publish(codec.Publish{Topic: topic, Payload: codec.Text("plain")})
			p.publish(codec.Publish{Topic: topic, Payload: codec.Text("lossy"), Mode: codec.ModeLossy})
		}
		p.publish(codec.Publish{Topic: "short", Payload: codec.Text("own"), TTL: codec.Some(10_000)})
		if m := short.wantMessage("plain"); m.Expires != codec.Some(m.Time+3000) || m.Retain {
			t.Errorf("a message of a topic with a TTL: %+v", m)
		}
		if m := short.wantMessage("lossy"); m.Expires != codec.Some(m.Time+3000) {
			t.Errorf("a lossy message of a topic with a TTL: %+v", m)
		}
		if m := short.wantMessage("own"); m.Expires != codec.Some(m.Time+10_000) {
			t.Errorf("a message with its own time to live: %+v", m)
		}
		if m := kept.wantMessage("plain"); m.Expires.Set || !m.Retain {
			t.Errorf("a message of a topic that keeps all: %+v", m)
		}
		if m := kept.wantMessage("lossy"); m.Retain {
			t.Errorf("a lossy message is a last value: %+v", m)
		}
		if m := other.wantMessage("plain"); m.Expires.Set || m.Retain {
			t.Errorf("a message of another topic: %+v", m)
		}
	}, broker.Config{Topics: topics})
}
