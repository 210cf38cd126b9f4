package main

import (
	"context"
	"fmt"
	"io"
	"time"

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
	connectFlags
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
		if err := connection.PublishLossy(ctx, c.Topic, payload, nil); err != nil {
			return c.explain(err, target)
		}
		fmt.Fprintf(p.stdout, "%s  sent\n", c.Topic)
		return nil
	}
	position, err := connection.Publish(ctx, c.Topic, payload, nil)
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
