package client

import (
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// earlyDatagrams are those whose topic number is not known yet: TOPIC travels by
// stream, and a datagram may overtake it (PROTOCOL §8).
type earlyDatagrams struct {
	waiting []earlyDatagram
	bytes   int
	dropped *atomic.Uint64
}

type earlyDatagram struct {
	message codec.Message
	size    int
	at      time.Time
}

// The bounds of PROTOCOL §8.
const (
	maxEarly      = 64
	maxEarlyBytes = 64 << 10
	maxEarlyAge   = time.Second
)

// add keeps a datagram, and drops the oldest ones beyond the bounds.
func (e *earlyDatagrams) add(m codec.Message, size int) {
	e.waiting = append(e.waiting, earlyDatagram{m, size, time.Now()})
	e.bytes += size
	for len(e.waiting) > 0 && (len(e.waiting) > maxEarly || e.bytes > maxEarlyBytes || time.Since(e.waiting[0].at) > maxEarlyAge) {
		e.bytes -= e.waiting[0].size
		e.waiting = e.waiting[1:]
		e.dropped.Add(1)
	}
}

// take returns the datagrams of a topic that still count.
func (e *earlyDatagrams) take(topic uint64) []codec.Message {
	var taken []codec.Message
	rest := e.waiting[:0]
	for _, d := range e.waiting {
		switch {
		case d.message.Topic != topic:
			rest = append(rest, d)
			continue
		case time.Since(d.at) <= maxEarlyAge:
			taken = append(taken, d.message)
		default:
			e.dropped.Add(1)
		}
		e.bytes -= d.size
	}
	clear(e.waiting[len(rest):])
	e.waiting = rest
	return taken
}

// receiveDatagrams hands datagrams to the subscriptions that know their topic.
func (n *connection) receiveDatagrams() {
	for {
		b, err := n.conn.ReceiveDatagram(n.ctx)
		if err != nil {
			return // there are none, or the connection has ended
		}
		n.heardNow()
		m, err := parseDatagram(b)
		if err != nil {
			n.client.badDatagrams.Add(1) // no error of the connection (PROTOCOL §8)
			continue
		}
		n.mu.Lock()
		subs := make([]*Subscription, 0, 4)
		for _, sub := range n.subs {
			subs = append(subs, sub)
		}
		n.mu.Unlock()
		known := false
		for _, sub := range subs {
			known = sub.datagram(m) || known
		}
		if !known {
			n.mu.Lock()
			n.early.add(m, len(b))
			n.mu.Unlock()
		}
	}
}

// parseDatagram parses a datagram, which must be a MESSAGE.
func parseDatagram(b []byte) (codec.Message, error) {
	f, err := codec.ParseDatagram(b)
	if err != nil {
		return codec.Message{}, err
	}
	if f.Type != codec.TypeMessage {
		return codec.Message{}, codec.Errorf(codec.CodeUnexpectedFrame, "%s in a datagram", f.Type)
	}
	return codec.ParseMessage(f)
}

// announced gives a subscription the datagrams that have waited for a topic.
func (n *connection) announced(sub *Subscription, topic uint64) {
	n.mu.Lock()
	early := n.early.take(topic)
	n.mu.Unlock()
	for _, m := range early {
		sub.datagram(m)
	}
}
