package broker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// What a message has beside its payload comes out as it went in, whichever way it
// came (PROTOCOL §7.2).
func TestMessageOptions(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		sub, pub := p.open(), p.open()
		sub.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: "a", Credit: 1 << 20}))
		sub.want(codec.TypeSubscribed)
		pub.send(codec.AppendPublication(nil, codec.Publication{Topic: "a", First: 1}))
		full := codec.Publish{
			Sequence: 1, Payload: codec.Text("x"), Key: "k", TTL: codec.Some(60_000), Retain: true, ID: "i",
			Headers: codec.Headers{{Name: "kind", Value: "a"}, {Name: "level", Value: "3"}},
		}
		pub.send(codec.AppendPublish(nil, full))
		pub.want(codec.TypeAck)
		full.Sequence, full.Topic, full.ID = 7, "a", "j"
		p.control.send(codec.AppendPublish(nil, full))
		p.control.want(codec.TypeAck)
		if _, err := b.Publish(t.Context(), "a", "x", &broker.PublishOptions{
			Key: "k", TTL: time.Minute, Retain: true, ID: "l", Headers: map[string]string{"level": "3", "kind": "a"},
		}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			m, err := codec.ParseMessage(sub.want(codec.TypeMessage))
			if err != nil {
				t.Fatal(err)
			}
			kind, _ := m.Headers.Get("kind")
			level, _ := m.Headers.Get("level")
			if m.Key != "k" || !m.Retain || kind != "a" || level != "3" || len(m.Headers) != 2 || m.Reply != nil {
				t.Errorf("message %d is %+v", i, m)
			}
			if got := m.Expires.Value - m.Time; !m.Expires.Set || got > 60_000 || got < 60_000-5_000 {
				t.Errorf("message %d expires %d ms after its time", i, got)
			}
		}
	})
}

// A bad option is answered, and nothing else is lost.
func TestBadMessageOptions(t *testing.T) {
	bad := map[string]codec.Publish{
		"a key that is too long":               {Key: strings.Repeat("k", codec.MaxKey+1)},
		"a time to live of nothing":            {TTL: codec.Some(0)},
		"a lossy message to be kept":           {Mode: codec.ModeLossy, Retain: true},
		"an idempotency key that is too long":  {ID: strings.Repeat("i", codec.MaxID+1)},
		"a header without a name":              {Headers: codec.Headers{{Value: "x"}}},
		"a header twice":                       {Headers: codec.Headers{{Name: "a"}, {Name: "a"}}},
		"a header's value that is too long":    {Headers: codec.Headers{{Name: "a", Value: strings.Repeat("v", codec.MaxHeaderValue+1)}}},
		"a header's name with a colon":         {Headers: codec.Headers{{Name: "a:b"}}},
		"headers that are too long all in all": {Headers: manyHeaders(9, codec.MaxHeaderValue)},
	}
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		pub := p.open()
		pub.send(codec.AppendPublication(nil, codec.Publication{Topic: "a", First: 1}))
		sequence := uint64(0)
		for what, m := range bad {
			sequence++
			m.Sequence, m.Payload = sequence, codec.Text("x")
			pub.send(codec.AppendPublish(nil, m))
			wantNack(t, what, pub, sequence, codec.CodeInvalidOption)
			m.Topic = "a"
			p.control.send(codec.AppendPublish(nil, m))
			wantNack(t, what, p.control, sequence, codec.CodeInvalidOption)
		}
		pub.send(codec.AppendPublish(nil, codec.Publish{Sequence: sequence + 1, Payload: codec.Text("x")}))
		pub.want(codec.TypeAck)
		p.wantAlive()
	})
}

func manyHeaders(n, size int) (h codec.Headers) {
	for i := range n {
		h = append(h, codec.Header{Name: string(rune('a' + i)), Value: strings.Repeat("v", size)})
	}
	return h
}

// wantNack reads NACK for a number with a code.
func wantNack(t *testing.T, what string, l *line, number uint64, code codec.Code) {
	t.Helper()
	nack, err := codec.ParseNack(l.want(codec.TypeNack))
	if err != nil || nack.Sequence != number || nack.Code != code {
		t.Errorf("%s: %+v, %v; want number %d, %s", what, nack, err, number, code)
	}
}

// The broker's own messages are checked in the same way.
func TestBadBrokerOptions(t *testing.T) {
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	for what, opts := range map[string]broker.PublishOptions{
		"key":      {Key: strings.Repeat("k", codec.MaxKey+1)},
		"utf-8":    {Key: "\xff"},
		"id":       {ID: strings.Repeat("i", codec.MaxID+1)},
		"ttl":      {TTL: -1},
		"short":    {TTL: time.Microsecond},
		"header":   {Headers: map[string]string{"a b": ""}},
		"value":    {Headers: map[string]string{"a": "\xff"}},
		"too many": {Headers: tooMany()},
	} {
		if _, err := b.Publish(t.Context(), "a", "x", &opts); codec.CodeOf(err) != codec.CodeInvalidOption {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := b.PublishLossy(t.Context(), "a", "x", &broker.PublishOptions{Retain: true}); codec.CodeOf(err) != codec.CodeInvalidOption {
		t.Errorf("a lossy message to be kept: %v", err)
	}
}

func tooMany() map[string]string {
	h := make(map[string]string)
	for _, e := range manyHeaders(codec.MaxHeaders+1, 1) {
		h[e.Name] = e.Value
	}
	return h
}
