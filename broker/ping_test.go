package broker_test

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

func (p *peer) ping(ping codec.Ping) codec.Pong {
	p.t.Helper()
	p.control.send(codec.AppendPing(nil, ping))
	pong, err := codec.ParsePong(p.control.want(codec.TypePong))
	if err != nil || pong.Number != ping.Number {
		p.t.Fatalf("%+v, %v", pong, err)
	}
	return pong
}

// PING is answered at once with what the transport knows (PROTOCOL §5.9).
func TestPing(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		for number := range uint64(3) {
			pong := p.ping(codec.Ping{Number: number, Subscriptions: true})
			if n.datagrams() != pong.Sent.Set || pong.Sent.Set != pong.Lost.Set || pong.Lost.Value > pong.Sent.Value || len(pong.Subscriptions) > 0 {
				t.Errorf("%+v", pong)
			}
			if n.datagrams() && pong.Sent.Value == 0 {
				t.Errorf("no packets: %+v", pong)
			}
		}
	})
}

// PONG tells the path as the transport does, and how the subscriptions stand.
func TestPingTellsOfSubscriptions(t *testing.T) {
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	p := ficklePeer(t, b, func(*fickle, []byte) error { return nil })
	for _, number := range []uint64{9, 3} {
		sub := p.open()
		sub.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: number, Pattern: "a", Credit: 1}))
		sub.want(codec.TypeSubscribed)
	}
	for range 4 { // the first one exceeds the credit
		if _, err := b.Publish(t.Context(), "a", "0123456789", nil); err != nil {
			t.Fatal(err)
		}
	}
	var pong codec.Pong
	eventually(t, func() bool {
		pong = p.ping(codec.Ping{Number: 1, Subscriptions: true})
		return !slices.ContainsFunc(pong.Subscriptions, func(s codec.SubscriptionHealth) bool { return s.Messages != 3 })
	})
	if pong.RTT.Value != 3000 || pong.Sent.Value != 7 || pong.Lost.Value != 2 {
		t.Errorf("the path is told as %+v", pong)
	}
	if len(pong.Subscriptions) != 2 || pong.Subscriptions[0].Subscription != 3 || pong.Subscriptions[1].Subscription != 9 || pong.Subscriptions[0].Bytes < 30 {
		t.Errorf("the subscriptions are told as %+v", pong.Subscriptions)
	}
	if pong := p.ping(codec.Ping{Number: 2}); pong.Subscriptions != nil {
		t.Errorf("the subscriptions are told unasked: %+v", pong)
	}
}

// A client that asks and does not read makes the broker keep little.
func TestPingWithoutReading(t *testing.T) {
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	p := ficklePeer(t, b, func(*fickle, []byte) error { return nil })
	for number := range uint64(1000) {
		sub := p.open()
		sub.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: number + 1, Pattern: "a", Credit: 1}))
		sub.want(codec.TypeSubscribed)
	}
	const pings = 64
	for number := range uint64(pings) {
		p.control.send(codec.AppendPing(nil, codec.Ping{Number: number, Subscriptions: true}))
	}
	for number := range uint64(pings) {
		pong, err := codec.ParsePong(p.control.want(codec.TypePong))
		if err != nil || pong.Number != number || len(pong.Subscriptions) != 1000 {
			t.Fatalf("PONG %d: %d with %d subscriptions, %v", number, pong.Number, len(pong.Subscriptions), err)
		}
	}
	p.wantAlive()
}

// What PONG tells of one path Paths tells of all.
func TestPaths(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		for range 3 {
			welcomedPeer(t, n)
		}
		got := b.Paths()
		if n.datagrams() && (got.Sessions != 3 || got.RTT50 <= 0 || got.RTT99 < got.RTT50 || got.Loss < 0 || got.Loss > 1) {
			t.Errorf("%+v", got)
		}
		if !n.datagrams() && got != (broker.PathStats{}) {
			t.Errorf("%+v of transports that know nothing", got)
		}
	})
}

// A subscription that lags is counted as long as it does, and its gap under the
// reason.
func TestSlowSubscriptionsAreCounted(t *testing.T) {
	bubble(t, broker.Config{MaxQueueBytes: 1000, Topics: []broker.TopicConfig{{Pattern: "a", History: broker.Retention{Count: -1}}}}, func(t *testing.T, n *memNetwork, b *broker.Broker) {
		p, _ := welcomedPeer(t, n)
		sub := p.open()
		sub.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: "a", Credit: 1}))
		sub.want(codec.TypeSubscribed)
		for range 20 {
			if _, err := b.Publish(t.Context(), "a", make([]byte, 100), nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait() // the writer has used the credit
		if got := b.Stats().SlowSubscriptions; got != 1 {
			t.Errorf("%d subscriptions lag", got)
		}
		health := p.ping(codec.Ping{Number: 1, Subscriptions: true}).Subscriptions[0]
		if health.Bytes < 500 || health.Bytes > 1000 || health.Messages == 0 || health.Messages+health.Dropped+1 != 20 {
			t.Errorf("its health is %+v", health)
		}
		p.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 1 << 20}))
		for {
			f, err := sub.reader.Next()
			if err != nil {
				t.Fatal(err)
			}
			if f.Type == codec.TypeGap {
				break
			}
		}
		if s := b.Stats(); s.SlowSubscriptions != 0 || s.Gaps[codec.GapOverflow] != 1 {
			t.Errorf("%d lag, gaps %v", s.SlowSubscriptions, s.Gaps)
		}
	})
}
