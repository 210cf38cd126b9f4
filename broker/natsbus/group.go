package natsbus

import (
	"encoding/base64"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// A group is a queue group of NATS: the server chooses one among all brokers and plain
// clients that are in it, for each message, whatever their patterns are.
//
// Queue subscriptions have a connection of their own. The one that publishes has
// NoEcho, so on it this broker's members would never be chosen for what its own
// clients publish. The alternative, one connection with echo, would bring back every
// message that the broker publishes and also wants.
//
// What a member here has not finished, and no other one here can take, is published
// again under handOver: there the members in brokers listen, and nobody else, so that
// neither plain subscriptions nor other groups get it twice.

// handOver begins the subjects of messages that are handed over; what follows is the
// group, as a token, and the subject.
const handOver = "_TIDEWIRE.group."

// Joined implements broker.Bus.
func (b *bus) Joined() bool { return true }

// Distribute implements broker.Bus. It takes the connection of the queue
// subscriptions, so that the server has seen that they end before it chooses.
func (b *bus) Distribute(group string, m broker.Message) bool {
	if codec.IsSystem(m.Topic) {
		return false
	}
	msg, err := b.encode(handOverSubject(group, b.config.Prefix+m.Topic), m)
	if err != nil {
		return false
	}
	if m.Reply != nil {
		msg.Reply = b.subjectOf(m.Reply)
	}
	return b.queues.PublishMsg(msg) == nil
}

// distribute takes a message that NATS has chosen this broker for.
func (b *bus) distribute(m *nats.Msg) {
	group, ok := groupOf(m.Sub.Queue)
	if !ok {
		return
	}
	subject := strings.TrimPrefix(m.Subject, handOverSubject(group, ""))
	topic, ok := strings.CutPrefix(subject, b.config.Prefix)
	if !ok || codec.IsSystem(topic) || codec.CheckTopic(topic) != nil {
		return
	}
	b.sink.Distribute(group, b.decode(topic, m))
}

func handOverSubject(group, subject string) string {
	return handOver + base64.RawURLEncoding.EncodeToString([]byte(group)) + "." + subject
}

// queueOf returns the queue group of a group: the name itself where NATS can have it,
// so that plain clients may be in it.
func queueOf(group string) string {
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f && r <= 0xa0 }
	if strings.HasPrefix(group, "=") || strings.ContainsFunc(group, bad) {
		return "=" + base64.RawURLEncoding.EncodeToString([]byte(group))
	}
	return group
}

// groupOf returns the group of a queue group.
func groupOf(queue string) (string, bool) {
	code, coded := strings.CutPrefix(queue, "=")
	if !coded {
		return queue, true
	}
	name, err := base64.RawURLEncoding.DecodeString(code)
	return string(name), err == nil
}
