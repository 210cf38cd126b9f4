package stress

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// wantedKind is the kind of the messages that subscriptions with a filter want.
const wantedKind = "wanted"

// publisher publishes to topics in every way that there is. It is used by one goroutine.
type publisher struct {
	world   *world
	who     *person
	name    string
	topics  []string
	padding int // the most bytes of a message beside its name
	dice    dice
	count   int
}

// publishing makes n goroutines publish with a person's client.
func (w *world) publishing(who *person, name string, topics []string, n int) {
	for i := range n {
		w.work(func(d dice) {
			p := &publisher{world: w, who: who, name: fmt.Sprint(name, ".", i), topics: topics, padding: 600, dice: d}
			for w.loading() {
				p.step()
			}
		})
	}
}

// step publishes something.
func (p *publisher) step() {
	topic := pick(p.dice, p.topics)
	if p.world.datagrams && p.dice.oneIn(2) {
		p.lossy(topic)
		return
	}
	switch p.dice.IntN(14) {
	case 0:
		p.lossy(topic)
	case 1:
		p.burst(topic)
	case 2:
		p.batch(topic)
	case 3:
		p.fromProcess(topic)
	default:
		m := p.message(topic)
		pos, err := p.who.Publish(p.world.watch, topic, m.Value, &m.PublishOptions)
		if p.check(err, &m) {
			p.acknowledged(topic, pos, &m)
		}
	}
}

// message makes the next message.
func (p *publisher) message(topic string) client.Outgoing {
	p.count++
	name := fmt.Sprint(p.name, ".", p.count)
	m := client.Outgoing{Value: name + " " + strings.Repeat("x", p.dice.IntN(p.padding))}
	m.Headers = map[string]string{"kind": pick(p.dice, []string{wantedKind, "other"})}
	if keys := strings.Contains(topic, ".keys."); keys || p.dice.oneIn(4) {
		m.Key = fmt.Sprint("k", p.dice.IntN(24))
		m.Retain = keys && p.dice.oneIn(2)
	}
	switch p.dice.IntN(16) {
	case 0:
		m.TTL = time.Millisecond + p.dice.upTo(10*time.Millisecond)
	case 1:
		m.ID = name
	}
	return m
}

// lossy publishes a message of which only the newest counts.
func (p *publisher) lossy(topic string) {
	m := p.message(topic)
	m.Retain, m.ID = false, ""
	if p.dice.oneIn(4) {
		m.TTL = 5 * time.Millisecond
	}
	p.check(p.who.PublishLossy(p.world.watch, topic, m.Value, &m.PublishOptions), &m)
}

// burst publishes many messages without waiting for the answers in between.
func (p *publisher) burst(topic string) {
	messages := make([]client.Outgoing, 50)
	results := make([]*client.PublishResult, len(messages))
	for i := range messages {
		messages[i] = p.message(topic)
		results[i] = p.who.PublishAsync(topic, messages[i].Value, &messages[i].PublishOptions)
	}
	positions := make([]client.Position, len(messages))
	for i, r := range results {
		pos, err := r.Wait(p.world.watch)
		if p.check(err, &messages[i]) {
			positions[i] = pos
		}
	}
	p.acknowledgedAll(topic, positions, messages)
}

// batch publishes many messages in one call.
func (p *publisher) batch(topic string) {
	messages := make([]client.Outgoing, 1+p.dice.IntN(20))
	for i := range messages {
		messages[i] = p.message(topic)
		messages[i].TTL = 0 // of several errors the call returns one
	}
	positions, err := p.who.PublishBatch(p.world.watch, topic, messages)
	p.check(err, &messages[0])
	p.acknowledgedAll(topic, positions, messages)
}

// fromProcess publishes a reliable message, or now and then many lossy ones, with the
// authority of the broker itself.
func (p *publisher) fromProcess(topic string) {
	publish, times := p.world.broker.Publish, 1
	if p.dice.oneIn(4) {
		publish, times = p.world.broker.PublishLossy, 400
	}
	for range times {
		m := p.message(topic)
		pos, err := publish(p.world.watch, topic, m.Value, &broker.PublishOptions{Key: fmt.Sprint("b", p.count), Headers: m.Headers})
		if p.check(err, &m) {
			p.acknowledged(topic, client.Position(pos), &m)
		}
	}
}

// check reports whether a message was published, and tells errors that must not be.
func (p *publisher) check(err error, m *client.Outgoing) bool {
	switch code := codec.CodeOf(err); {
	case err == nil:
		return true
	case code == codec.CodeExpired && m.TTL > 0:
	case p.world.ledger.evicting && (code == codec.CodeOverloaded || code == codec.CodeConnectionLost):
		// All topics were in use when the publication was to begin.
	case errors.Is(err, context.Canceled) && p.world.watch.Err() != nil:
	default:
		p.world.fault("%q is not published: %v", nameOf(codec.Text(m.Value.(string))), err)
	}
	return false
}

// acknowledged has the ledger agree with an acknowledgement, unless the broker knows of
// the message only that it has it.
func (p *publisher) acknowledged(topic string, pos client.Position, m *client.Outgoing) {
	if pos.Offset == 0 {
		return
	}
	if fault := p.world.ledger.says(topic, pos, nameOf(codec.Text(m.Value.(string)))); fault != "" {
		p.world.fault("%s: %s", p.name, fault)
	}
}

// acknowledgedAll is acknowledged for messages that were published in this order.
func (p *publisher) acknowledgedAll(topic string, positions []client.Position, messages []client.Outgoing) {
	var last client.Position
	for i, pos := range positions {
		p.acknowledged(topic, pos, &messages[i])
		if pos.Offset == 0 {
			continue
		}
		if pos.Epoch == last.Epoch && pos.Offset <= last.Offset {
			p.world.fault("%q has %d of %s, and the one before it %d", nameOf(codec.Text(messages[i].Value.(string))), pos.Offset, topic, last.Offset)
		}
		last = pos
	}
}
