package client

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// entered is the presence of this client in one topic. It is replaced, and never
// changed, by what follows it.
type entered struct {
	state codec.Payload
	// pending: an Enter still tells the broker, on each connection until it has an
	// answer; guarded by the client's mu.
	pending bool
}

// Enter makes this client present in a topic, with a state of at most 1 KiB, or
// changes the state. It lasts until Leave, or until the session ends; over
// reconnects the client enters again by itself, within the grace (10 s by default)
// without anybody noticing: if it may not any more, Config.OnPresenceLost is called. A
// client may be present in 64 topics. It needs the permission to subscribe to the
// topic, but no subscription. If Enter fails, or ctx ends, the client is as present as before.
func (c *Client) Enter(ctx context.Context, topic string, state any) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	payload, err := codec.Encode(state)
	if err != nil {
		return err
	}
	if len(payload.Data) > codec.MaxState {
		return codec.Errorf(codec.CodePayloadTooLarge, "a state of %d bytes; the limit is %d", len(payload.Data), codec.MaxState)
	}
	if len(payload.Data) == 0 {
		// No bytes at all would tell that the client has left: this is nil.
		payload = codec.Payload{Encoding: codec.EncodingMsgpack, Data: []byte{0xc0}}
	}
	c.mu.Lock()
	before, p := c.presences[topic], &entered{state: payload, pending: true}
	c.presences[topic] = p
	c.mu.Unlock()
	err = c.tellEntered(ctx, topic, p)
	if err == nil {
		return nil
	}
	c.enterBack(topic, p, before, err)
	return err
}

// enterBack puts the presence before p, or none, in the place of p, which has failed with
// err: the broker has refused it, or nobody waits for it any more. The broker may know
// anything on the connection that stands, so it is told.
func (c *Client) enterBack(topic string, p, before *entered, err error) {
	if before != nil {
		before = &entered{state: before.state} // nobody tells of it any more
	}
	c.mu.Lock()
	conn, in := c.current, c.presences[topic] == p
	if in {
		delete(c.presences, topic)
	}
	if in && before != nil {
		c.presences[topic] = before
	}
	c.mu.Unlock()
	e, coded := errors.AsType[*Error](err)
	if !in || conn == nil || before == nil && coded && e.Remote {
		return
	}
	number := conn.ask(func(a answer) {
		switch next := c.entered(topic); {
		case next != before: // it was left, or entered again, and this may have come behind
			conn.send(presenceFrame(topic, next)(conn.ask(func(answer) {})))
		case a.err != nil && before != nil && !c.presenceLost(topic, before, a.err):
			conn.start(func() { c.enterLater(conn, topic, before, a.err) })
		}
	})
	conn.send(presenceFrame(topic, before)(number))
}

// tellEntered tells the broker of a presence until it has answered on the connection
// that stands then. Telling it again does no harm.
func (c *Client) tellEntered(ctx context.Context, topic string, p *entered) error {
	for {
		conn, err := c.reach(ctx)
		if err != nil {
			return err
		}
		if c.entered(topic) != p {
			return nil // it was left, or entered again, while this one waited
		}
		_, err = conn.do(ctx, presenceFrame(topic, p))
		if codec.CodeOf(err) == codec.CodeConnectionLost {
			continue
		}
		if err != nil {
			return err
		}
		c.mu.Lock()
		told := c.current == conn // else the next connection has not been told of it
		p.pending = !told
		c.mu.Unlock()
		if told {
			return nil
		}
	}
}

// entered returns the presence in a topic; nil if there is none.
func (c *Client) entered(topic string) *entered {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.presences[topic]
}

// Leave ends the presence in a topic. It is no error if there is none. Without a
// connection it returns at once, and the broker ends the presence when its grace is
// over.
func (c *Client) Leave(ctx context.Context, topic string) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	if err := c.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.presences, topic)
	conn := c.current
	c.mu.Unlock()
	if conn == nil {
		return nil
	}
	_, err := conn.do(ctx, presenceFrame(topic, nil))
	if codec.CodeOf(err) == codec.CodeConnectionLost {
		return nil
	}
	return err
}

// presenceFrame makes a PRESENCE that tells of p, or, if it is nil, of the end.
func presenceFrame(topic string, p *entered) func(number uint64) []byte {
	return func(number uint64) []byte {
		f := codec.Presence{Number: number, Topic: topic, Leave: p == nil}
		if p != nil {
			f.State = p.state
		}
		return codec.AppendPresence(nil, f)
	}
}

// enterAgain tells a new connection where the client is present.
func (c *Client) enterAgain(conn *connection) {
	c.mu.Lock()
	again := make(map[string]*entered, len(c.presences))
	for topic, p := range c.presences {
		if !p.pending {
			again[topic] = p
		}
	}
	c.mu.Unlock()
	for topic, p := range again {
		number := conn.ask(func(a answer) {
			if a.err != nil && !c.presenceLost(topic, p, a.err) {
				conn.start(func() { c.enterLater(conn, topic, p, a.err) })
			}
		})
		conn.send(presenceFrame(topic, p)(number))
	}
}

// enterLater enters again, where the broker could not just now, until it can.
func (c *Client) enterLater(conn *connection, topic string, p *entered, err error) {
	for attempt := 0; ; attempt++ {
		var least time.Duration
		if e, ok := errors.AsType[*Error](err); ok {
			least = e.Retry
		}
		select {
		case <-time.After(c.config.Backoff.wait(attempt, least)):
		case <-conn.ctx.Done():
			return // the next connection does
		}
		if c.entered(topic) != p {
			return
		}
		_, err = conn.do(c.ctx, presenceFrame(topic, p))
		if next := c.entered(topic); err == nil && next != p {
			// It was left, or entered again, and this may have come behind.
			conn.send(presenceFrame(topic, next)(conn.ask(func(answer) {})))
		}
		if err == nil || c.presenceLost(topic, p, err) {
			return
		}
	}
}

// presenceLost takes the refusal of a presence that was entered again. It reports
// false if it is worth trying once more on this connection.
func (c *Client) presenceLost(topic string, p *entered, err error) bool {
	code := codec.CodeOf(err)
	switch {
	case code == codec.CodeConnectionLost || c.ctx.Err() != nil:
		return true // it is entered on the next connection, or nobody cares
	case code == codec.CodeRateLimited || code.Range() == codec.RangeBroker:
		return false
	}
	c.mu.Lock()
	lost := c.presences[topic] == p
	if lost {
		delete(c.presences, topic)
	}
	c.mu.Unlock()
	if lost {
		c.log.Debug("not present any more", slog.String("topic", topic), slog.Any("error", err))
		if c.config.OnPresenceLost != nil {
			c.config.OnPresenceLost(topic, err)
		}
	}
	return true
}
