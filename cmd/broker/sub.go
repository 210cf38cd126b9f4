package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/client"
)

// subCommand is `broker sub`.
type subCommand struct {
	Pattern string `arg:"" help:"What to subscribe to: a topic, or a pattern with * for one token or > for the rest. Quote it for the shell."`
	Count   uint64 `help:"End after this many messages; 0 is never." default:"0" placeholder:"N"`
	JSON    bool   `name:"json" help:"Print one JSON object a line; a gap is one with the key gap."`
	From    string `help:"Where to begin, other than now: beginning, a number of last messages, or how long ago, such as 5m." placeholder:"WHERE"`
	Class   string `help:"What to get when not all can be had. reliable: every message; latest: the newest of each key; sequenced: likewise, by datagram; unreliable: what comes." enum:"reliable,latest,sequenced,unreliable" default:"reliable"`
	Group   string `help:"Share the messages with the other members of this group." placeholder:"NAME"`
	connectFlags
}

// Help is shown by --help.
func (*subCommand) Help() string {
	return "Each message is a line: topic, offset, key in brackets if it has one, payload. The offset has # in front, or ~ if the message is a lossy one. " +
		"Gaps, and what happens to the connection, are told on standard error."
}

// Run prints what comes, until Count messages have, or p's context ends.
func (c *subCommand) Run(p *process) error {
	options, err := c.options()
	if err != nil {
		return err
	}
	connection, err := c.connect(p, connectionNotes(p.stderr))
	if err != nil {
		return err
	}
	defer connection.Close()
	subscription, err := connection.Subscribe(p.ctx, c.Pattern, options)
	if err != nil {
		return c.ended(p, err)
	}
	defer subscription.Close()
	fmt.Fprintf(p.stderr, "subscribed to %s\n", c.Pattern)
	show := showText
	if c.JSON {
		show = showJSON
	}
	left := c.Count
	ctx, enough := context.WithCancel(p.ctx)
	defer enough()
	for m, err := range subscription.Messages(ctx) {
		if c.Count > 0 && left == 0 {
			return nil
		}
		if err != nil {
			return c.ended(p, err)
		}
		if err := show(p, m); err != nil {
			return err
		}
		if m.Gap != nil {
			continue
		}
		if left--; left == 0 {
			enough() // in a group the last one is finished when the loop asks for the next
		}
	}
	return nil
}

// options returns what the flags ask for.
func (c *subCommand) options() (*client.SubscribeOptions, error) {
	class, err := parseClass(c.Class)
	if err != nil {
		return nil, err
	}
	options := &client.SubscribeOptions{Class: class, Group: c.Group}
	if c.From == "" {
		return options, nil
	}
	if c.From == "beginning" {
		options.From = client.FromBeginning()
	} else if n, err := parseCount(c.From); err == nil {
		options.From = client.FromLast(n)
	} else if ago, err := parsePositive(c.From); err == nil {
		options.From = client.FromTime(time.Now().Add(-ago))
	} else {
		return nil, usagef("--from %s is neither beginning, nor a number of messages, nor a time such as 90s, 5m, 1h", c.From)
	}
	return options, nil
}

// ended makes the command's error of the one that ended the subscription. To be
// interrupted is the usual end, unless messages were still to come.
func (c *subCommand) ended(p *process, err error) error {
	switch {
	case p.ctx.Err() == nil:
		target, _ := serverURL(c.Server)
		return c.explain(err, target)
	case c.Count > 0:
		return errors.New("interrupted before all messages had come")
	}
	return nil
}

// connectionNotes tells on w when the connection is lost, why it does not come back, each
// time that this is something else, and when it is back.
func connectionNotes(w io.Writer) func(client.State, error) {
	var why atomic.Value // string; "" while there is a connection
	why.Store("")
	return func(state client.State, err error) {
		switch state {
		case client.StateDisconnected:
			text := fmt.Sprint(err)
			switch why.Swap(text) {
			case "":
				fmt.Fprintf(w, "connection lost, trying again: %s\n", text)
			case text:
			default:
				fmt.Fprintf(w, "still trying: %s\n", text)
			}
		case client.StateConnected:
			if why.Swap("") != "" {
				fmt.Fprintln(w, "connected again")
			}
		}
	}
}

// showText prints a message as a line for people.
func showText(p *process, m client.Message) error {
	if m.Gap != nil {
		_, err := fmt.Fprintf(p.stderr, "gap: %v\n", m.Gap)
		return err
	}
	mode := '#'
	if m.Lossy {
		mode = '~'
	}
	key := ""
	if m.Key != "" {
		key = "[" + m.Key + "]  "
	}
	_, err := fmt.Fprintf(p.stdout, "%s  %c%d  %s%s\n", m.Topic, mode, m.Position.Offset, key, readable(m.Payload))
	return err
}

// timeJSON is how times are written in --json: RFC 3339, to the millisecond.
const timeJSON = "2006-01-02T15:04:05.000Z07:00"

// positionJSON and the types below are the objects of --json.
type positionJSON struct {
	Epoch  uint64 `json:"epoch"`
	Offset uint64 `json:"offset"`
}

type messageJSON struct {
	Topic string `json:"topic"`
	positionJSON
	Time      string `json:"time"` // timeJSON
	Publisher string `json:"publisher,omitempty"`
	Lossy     bool   `json:"lossy"`
	Key       string `json:"key,omitempty"`
	// Headers, and what follows, are left out where the message has them not.
	Headers  map[string]string `json:"headers,omitempty"`
	Expires  string            `json:"expires,omitempty"` // as Time
	Retained bool              `json:"retained,omitempty"`
	Replayed bool              `json:"replayed,omitempty"`
	Encoding string            `json:"encoding"`
	// Payload is the value where JSON can hold it; else Base64 is set.
	Payload json.RawMessage `json:"payload,omitempty"`
	Base64  *string         `json:"payload_base64,omitempty"`
}

type gapJSON struct {
	Gap struct {
		Topic  string        `json:"topic,omitempty"` // left out: any that the pattern matches
		From   *positionJSON `json:"from,omitempty"`  // left out: not known
		To     *positionJSON `json:"to,omitempty"`
		Reason string        `json:"reason"`
		Count  uint64        `json:"count,omitempty"` // left out: not known
	} `json:"gap"`
}

// showJSON prints a message or gap as one line of JSON.
func showJSON(p *process, m client.Message) error {
	encoder := json.NewEncoder(p.stdout)
	encoder.SetEscapeHTML(false)
	if m.Gap != nil {
		var g gapJSON
		g.Gap.Topic, g.Gap.Reason, g.Gap.Count = m.Gap.Topic, m.Gap.Reason.String(), m.Gap.Count
		g.Gap.From, g.Gap.To = (*positionJSON)(m.Gap.From), (*positionJSON)(m.Gap.To)
		return encoder.Encode(g)
	}
	object := messageJSON{
		Topic:        m.Topic,
		positionJSON: positionJSON(m.Position),
		Time:         m.Time.UTC().Format(timeJSON),
		Lossy:        m.Lossy,
		Key:          m.Key,
		Headers:      m.Headers,
		Retained:     m.Retained,
		Replayed:     m.Replayed,
		Encoding:     m.Payload.Encoding.String(),
	}
	if !m.Expires.IsZero() {
		object.Expires = m.Expires.UTC().Format(timeJSON)
	}
	if m.Publisher != uuid.Nil {
		object.Publisher = m.Publisher.String()
	}
	object.Payload, object.Base64 = jsonPayload(m.Payload)
	return encoder.Encode(object)
}
