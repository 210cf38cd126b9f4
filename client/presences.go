package client

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// presences are where this client is present.
//
// A presence is chosen and its frame queued under mu, so the last frame of a topic on a
// connection says what byTopic does. The alternative, to look again when the answer has
// come, always leaves a moment in which an older frame can go out behind a newer one.
type presences struct {
	mu      sync.Mutex
	byTopic map[string]*entered // guarded by mu
}

// entered is the presence of this client in one topic.
type entered struct {
	// Static.
	state codec.Payload

	// Guarded by the presences' mu.
	pending bool     // an Enter still tells the broker, on each connection until it has an answer
	failed  bool     // its Enter has failed: it counts no more
	before  *entered // what it took the place of; nil when the broker has taken it
}

// Enter makes this client present in a topic, with a state of at most 1 KiB, or
// changes the state. It lasts until Leave, or until the session ends; over
// reconnects the client enters again by itself, within the grace (10 s by default)
// without anybody noticing: if it may not any more, Config.OnPresenceLost is called. A
// client may be present in 64 topics. It needs the permission to subscribe to the
// topic, but no subscription. If Enter fails, or ctx ends, the client is as present as
// before. Of several calls at once for a topic the one that began last counts.
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
	c.presences.mu.Lock()
	p := &entered{state: payload, pending: true, before: c.presences.byTopic[topic]}
	c.presences.byTopic[topic] = p
	c.presences.mu.Unlock()
	err = c.tellEntered(ctx, topic, p)
	if err != nil {
		c.enterBack(topic, p)
	}
	return err
}

// tellEntered tells the broker of a presence until it has answered on the connection
// that stands then. Telling it again does no harm.
func (c *Client) tellEntered(ctx context.Context, topic string, p *entered) error {
	for {
		conn, err := c.reach(ctx)
		if err != nil {
			return err
		}
		q, ok := c.tellPresence(conn, topic, p)
		if !ok {
			return nil // it was left, or entered again, while this one waited
		}
		_, err = conn.await(ctx, q)
		if codec.CodeOf(err) == codec.CodeConnectionLost {
			continue
		}
		if err != nil {
			return err
		}
		c.presences.mu.Lock()
		told := c.standing() == conn // else the next connection has not been told of it
		p.pending, p.before = !told, nil
		c.presences.mu.Unlock()
		if told {
			return nil
		}
	}
}

// tellPresence queues PRESENCE if p is what the client is in a topic; else nobody tells
// of p any more, unless it takes its place again.
func (c *Client) tellPresence(conn *connection, topic string, p *entered) (q question, ok bool) {
	c.presences.mu.Lock()
	defer c.presences.mu.Unlock()
	if c.presences.byTopic[topic] != p {
		p.pending = false
		return question{}, false
	}
	return conn.put(presenceFrame(topic, p)), true
}

// enterBack puts what was there before p, or nothing, in the place of p, which has failed:
// the broker has refused it, or nobody waits for it any more. The broker may know
// anything on the connection that stands, so it is told.
func (c *Client) enterBack(topic string, p *entered) {
	c.presences.mu.Lock()
	defer c.presences.mu.Unlock()
	p.failed, p.pending = true, false
	if c.presences.byTopic[topic] != p {
		return
	}
	before := p.before
	for before != nil && before.failed {
		before = before.before
	}
	if before == nil {
		delete(c.presences.byTopic, topic)
	} else {
		c.presences.byTopic[topic] = before
	}
	if conn := c.standing(); conn != nil {
		c.enterAgainLocked(conn, topic, before)
	}
}

// enterAgainLocked queues PRESENCE of p, which is what the client is in a topic and
// nobody waits for; nil tells that it is not present.
func (c *Client) enterAgainLocked(conn *connection, topic string, p *entered) {
	number := conn.ask(func(a answer) {
		if a.err != nil && p != nil && !c.presenceLost(topic, p, a.err) {
			conn.start(func() { c.enterLater(conn, topic, p, a.err) })
		}
	})
	conn.send(presenceFrame(topic, p)(number))
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
	c.presences.mu.Lock()
	delete(c.presences.byTopic, topic)
	conn := c.standing()
	if conn == nil {
		c.presences.mu.Unlock()
		return nil
	}
	q := conn.put(presenceFrame(topic, nil))
	c.presences.mu.Unlock()
	_, err := conn.await(ctx, q)
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

// enterAgain tells a new connection, which stands already, where the client is present.
func (c *Client) enterAgain(conn *connection) {
	c.presences.mu.Lock()
	defer c.presences.mu.Unlock()
	for topic, p := range c.presences.byTopic {
		if !p.pending {
			c.enterAgainLocked(conn, topic, p)
		}
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
		q, ok := c.tellPresence(conn, topic, p)
		if !ok {
			return
		}
		if _, err = conn.await(c.ctx, q); err == nil || c.presenceLost(topic, p, err) {
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
	c.presences.mu.Lock()
	lost := c.presences.byTopic[topic] == p
	if lost {
		delete(c.presences.byTopic, topic)
	}
	c.presences.mu.Unlock()
	if lost {
		c.log.Debug("not present any more", slog.String("topic", topic), slog.Any("error", err))
		if c.config.OnPresenceLost != nil {
			c.config.OnPresenceLost(topic, err)
		}
	}
	return true
}
