package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// maxStdin bounds what is read from standard input, in bytes: the most that any
// broker takes.
const maxStdin = 16 << 20

// publishTimeout bounds the wait for an acknowledgement.
const publishTimeout = 10 * time.Second

// pubCommand is `broker pub`.
type pubCommand struct {
	Topic    string  `arg:"" help:"Topic to publish to."`
	Payload  *string `arg:"" optional:"" help:"The payload; standard input if it is left out."`
	Lossy    bool    `help:"Publish by datagram, as a message of which only the newest counts; there is no position to print then."`
	Encoding string  `help:"What the payload is: text, json, bytes, or msgpack, which is made of JSON. The default is text, or bytes if it is no UTF-8." enum:",text,json,msgpack,bytes" default:""`
	JSON     bool    `name:"json" help:"The same as --encoding json."`
	publishFlags
	connectFlags
}

// publishFlags are the options of a message.
type publishFlags struct {
	Key    string            `help:"Key of the message: the value that it names within its topic." placeholder:"KEY"`
	Retain bool              `help:"Make it the last value of its topic, or key; an empty payload clears that."`
	TTL    time.Duration     `name:"ttl" help:"How long the message counts, such as 90s; 0 is for ever." default:"0s" placeholder:"TIME"`
	Header map[string]string `help:"Header to send with it; repeatable." mapsep:"none" placeholder:"NAME=VALUE"`
	ID     string            `name:"id" help:"Idempotency key: what was published with it a short time ago is not published again." placeholder:"ID"`
}

func (f publishFlags) options() *client.PublishOptions {
	return &client.PublishOptions{Key: f.Key, Retain: f.Retain, TTL: f.TTL, Headers: f.Header, ID: f.ID}
}

// Run publishes one message.
func (c *pubCommand) Run(p *process) error {
	if c.JSON && c.Encoding != "" && c.Encoding != "json" {
		return usagef("--json and --encoding %s contradict each other", c.Encoding)
	}
	if c.JSON {
		c.Encoding = "json"
	}
	payload, err := c.payload(p)
	if err != nil {
		return err
	}
	connection, err := c.connect(p, nil)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(p.ctx, publishTimeout)
	defer cancel()
	target, err := serverURL(c.Server)
	if err != nil {
		return err
	}
	if c.Lossy {
		if err := connection.PublishLossy(ctx, c.Topic, payload, c.options()); err != nil {
			return c.explain(err, target)
		}
		fmt.Fprintf(p.stdout, "%s  sent\n", c.Topic)
		return nil
	}
	position, err := connection.Publish(ctx, c.Topic, payload, c.options())
	if err != nil {
		return c.explain(err, target)
	}
	fmt.Fprintf(p.stdout, "%s  #%d  epoch %d\n", c.Topic, position.Offset, position.Epoch)
	return nil
}

// payload returns what to publish.
func (c *pubCommand) payload(p *process) (codec.Payload, error) {
	if c.Payload != nil {
		return makePayload([]byte(*c.Payload), c.Encoding)
	}
	data, err := io.ReadAll(io.LimitReader(p.stdin, maxStdin+1))
	if err != nil {
		return codec.Payload{}, fmt.Errorf("standard input: %w", err)
	}
	if len(data) > maxStdin {
		return codec.Payload{}, usagef("standard input has more than %d bytes, which no broker takes", maxStdin)
	}
	return makePayload(data, c.Encoding)
}
