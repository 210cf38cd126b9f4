package natsbus

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// A request goes out with a reply subject of this broker, its inbox and the address as
// a token. The subject that a request of others came with is its address, so plain NATS
// clients and services ask and answer like any broker.

// listen subscribes to the inbox. NATS has taken that when it returns: a request that is
// handed over goes out on another connection, so its reply could come before.
func (b *bus) listen() error {
	b.replies = b.nc.NewInbox() + "."
	if _, err := b.nc.ChanSubscribe(b.replies+"*", b.inbox.messages); err != nil {
		return err
	}
	return b.nc.FlushTimeout(subscribeTimeout)
}

// subjectOf returns the reply subject of an address.
func (b *bus) subjectOf(address []byte) string {
	if len(address) > 0 && address[0] == 0 {
		return b.replies + base64.RawURLEncoding.EncodeToString(address)
	}
	return string(address)
}

// addressOf returns the address of a reply subject; nil if it is none.
func (b *bus) addressOf(subject string) []byte {
	token, own := strings.CutPrefix(subject, b.replies)
	if !own {
		if subject[0] == 0 {
			return nil // it would be taken for an address of the broker
		}
		return []byte(subject)
	}
	address, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(address) == 0 || address[0] != 0 {
		return nil
	}
	return address
}

// Reply implements broker.Bus.
func (b *bus) Reply(ctx context.Context, address []byte, m broker.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	msg, err := b.encode(string(address), m)
	if err == nil {
		err = b.nc.PublishMsg(msg)
	}
	if err != nil {
		return codec.Errorf(codec.CodeBusUnavailable, "NATS does not take the reply: %v", err)
	}
	return nil
}

// replied takes what came to the inbox. Without subscribers the NATS server answers
// itself, with status 503; what has an id is of a broker, and no answer of the server.
func (b *bus) replied(m *nats.Msg) {
	address := b.addressOf(m.Subject)
	if address == nil {
		return
	}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" && m.Header.Get(headerID) == "" {
		b.sink.NobodyThere(address)
		return
	}
	reply := b.decode("", m)
	reply.Reply = nil
	b.sink.Replied(address, reply)
}
