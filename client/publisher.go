package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// publisher is what this client publishes to one topic, over all connections: the
// messages without an answer, in order, and the lane on which they travel. Its
// first message goes alone on the control stream; if another one comes soon, a
// publication stream is opened for those that follow, after the answer to what went
// before, so that all of them stay in order (PROTOCOL §7.2).
//
// Each message has a number of the publisher when it goes onto a lane. If the
// connection is lost, what has no answer goes onto the next one, with the same
// numbers if the client id is the same, so that the broker knows what it has
// published (PROTOCOL §7.6).
type publisher struct {
	// Static after construction.
	client *Client
	topic  string

	used atomic.Int64 // when it was made or published to last, ns since the Unix epoch

	mu           sync.Mutex
	queue        []*outgoing // without an answer, in order; guarded by mu
	numbered     int         // queue[:numbered] have a sequence; guarded by mu
	sent         int         // queue[:sent] are on the lane at hand; guarded by mu
	next         uint64      // sequence of the next message that gets one; guarded by mu
	id           codec.ID    // client id to which the sequences belong; guarded by mu
	published    bool        // used tells of a message; guarded by mu
	establishing bool        // establish runs; guarded by mu
	conn         *connection // that was used last; guarded by mu
	failures     int         // streams of it that failed one after the other; guarded by mu
	lane         *lane       // nil if there is none; guarded by mu
	gone         bool        // the client has forgotten it, and makes a new one; guarded by mu
}

// outgoing is a message that is being published.
type outgoing struct {
	message codec.Publish // Sequence 0: it has none yet
	at      time.Time     // when it was given to the client
	size    int           // bytes that it counts for
	result  PublishResult

	sentAt    time.Time // when it went out first; guarded by publisher.mu
	tentative bool      // sentAt holds if the writer takes it; guarded by publisher.mu
}

// PublishResult is what becomes of a message that PublishAsync took.
type PublishResult struct {
	done     chan struct{}
	position Position
	err      error
}

// Done is closed when the result is there.
func (r *PublishResult) Done() <-chan struct{} { return r.done }

// Wait waits for the result, which is that of Publish. If ctx ends, its error is
// returned, and the message goes on.
func (r *PublishResult) Wait(ctx context.Context) (Position, error) {
	select {
	case <-r.done:
		return r.position, r.err
	case <-ctx.Done():
		return Position{}, ctx.Err()
	}
}

func failedResult(err error) *PublishResult {
	r := &PublishResult{done: make(chan struct{}), err: err}
	close(r.done)
	return r
}

const (
	// soon is how long after a message another one opens a stream.
	soon = 10 * time.Second
	// maxPending bounds the messages without an answer that PublishAsync takes while
	// there is a connection, in bytes.
	maxPending = 16 << 20
	// maxPublishers is how many publishers are kept of which none is at work.
	maxPublishers = 1024
)

// publishers are the publishers of a client.
type publishers struct {
	pending atomic.Int64 // bytes of messages without an answer

	mu      sync.Mutex
	byTopic map[string]*publisher // guarded by mu
	floor   uint64                // publishers that were forgotten had no higher sequence; guarded by mu
	ended   bool                  // no message is taken any more; guarded by mu
}

// publisher returns the publisher of a topic; nil if the client has ended.
func (c *Client) publisher(topic string) *publisher {
	s := &c.publishers
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	if p := s.byTopic[topic]; p != nil {
		return p
	}
	if s.byTopic == nil {
		s.byTopic = make(map[string]*publisher)
	}
	if len(s.byTopic) >= maxPublishers {
		s.forgetSomeLocked()
	}
	p := &publisher{client: c, topic: topic, next: s.floor + 1}
	p.used.Store(time.Now().UnixNano())
	s.byTopic[topic] = p
	return p
}

// forgetSomeLocked forgets up to two publishers that do nothing. Those that follow
// begin above their sequences, so that none is used twice.
func (s *publishers) forgetSomeLocked() {
	looked, forgotten := 0, 0
	for topic, p := range s.byTopic { // in random order
		p.mu.Lock()
		if len(p.queue) == 0 && p.lane == nil && !p.establishing {
			p.gone = true
			s.floor = max(s.floor, p.next-1)
			delete(s.byTopic, topic)
			forgotten++
		}
		p.mu.Unlock()
		if looked++; looked == 64 || forgotten == 2 {
			return
		}
	}
}

// end makes every message that has no answer fail with err.
func (s *publishers) end(err error) {
	s.mu.Lock()
	s.ended = true
	all := s.byTopic
	s.byTopic = nil
	s.mu.Unlock()
	for _, p := range all {
		p.mu.Lock()
		p.failLocked(err)
		p.mu.Unlock()
	}
}

// enqueue takes messages for a topic, which stay together. bounded: it is refused
// if more waits than Config.Offline allows; without a connection it always is.
func (c *Client) enqueue(topic string, messages []codec.Publish, bounded bool) (*publisher, []*outgoing, error) {
	now := time.Now()
	batch := make([]*outgoing, len(messages))
	size := int64(0)
	for i, m := range messages {
		o := &outgoing{message: m, at: now, size: messageSize(m), result: PublishResult{done: make(chan struct{})}}
		batch[i] = o
		size += int64(o.size)
	}
	conn, err := c.connection()
	if err != nil {
		return nil, nil, err
	}
	most := c.config.Offline.MaxBytes
	if conn != nil {
		most = max(most, maxPending)
	}
	if waits := c.publishers.pending.Add(size); (bounded || conn == nil) && waits > int64(most) {
		c.publishers.pending.Add(-size)
		return nil, nil, codec.Errorf(codec.CodeQueueFull, "more than %d bytes wait to be published: wait for the results of some, or raise Config.Offline.MaxBytes", most)
	}
	for {
		p := c.publisher(topic)
		if p == nil {
			c.publishers.pending.Add(-size)
			return nil, nil, context.Cause(c.ctx)
		}
		p.mu.Lock()
		if p.gone {
			p.mu.Unlock()
			continue
		}
		p.queue = append(p.queue, batch...)
		p.pumpLocked()
		p.mu.Unlock()
		return p, batch, nil
	}
}

// messageSize is what a message counts for among what waits.
func messageSize(m codec.Publish) int {
	n := 64 + len(m.Payload.Data) + len(m.Key) + len(m.ID)
	for _, h := range m.Headers {
		n += len(h.Name) + len(h.Value)
	}
	return n
}

// sinceUse returns how long ago the publisher was used.
func (p *publisher) sinceUse() time.Duration {
	return time.Since(time.Unix(0, p.used.Load()))
}

func (p *publisher) usedLocked() {
	p.published = true
	p.used.Store(time.Now().UnixNano())
}

// pumpLocked sends what can be sent now, and sees to it that the rest will be.
func (p *publisher) pumpLocked() {
	switch {
	case p.lane != nil:
		p.lane.fillLocked() // if it closes, its end pumps again
	case len(p.queue) == 0 || p.establishing:
	case p.client.start(p.establish):
		p.establishing = true
	default:
		p.failLocked(context.Cause(p.client.ctx))
	}
}

// start runs f on a goroutine that Close waits for; false if the client has ended.
func (c *Client) start(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.subs == nil {
		return false
	}
	c.wg.Go(f)
	return true
}

// answeredLocked hands the answer to the oldest message to who waits for it.
func (p *publisher) answeredLocked(a answer) {
	o := p.queue[0]
	p.queue[0] = nil
	p.queue = p.queue[1:]
	p.numbered--
	p.sent--
	p.failures = 0
	p.settle(o, a)
}

// settle gives a message its result. One that the broker had published before, and
// does not remember where, is published; of one that it may have forgotten nobody
// knows.
func (p *publisher) settle(o *outgoing, a answer) {
	switch codec.CodeOf(a.err) {
	case codec.CodeDuplicate:
		a = answer{}
	case codec.CodeForgotten:
		a.err = o.unknown(fmt.Sprintf("the connection was lost before the answer: %v", a.err))
	}
	p.client.publishers.pending.Add(-int64(o.size))
	o.result.position, o.result.err = a.position, a.err
	close(o.result.done)
}

// failLocked makes all messages fail: the client has ended. Of one that was sent nobody
// knows whether it was published.
func (p *publisher) failLocked(err error) {
	for _, o := range p.queue {
		e := err
		if !o.sentAt.IsZero() && codec.CodeOf(err) != codec.CodeClosed {
			e = lost(err)
		}
		p.settle(o, answer{err: e})
	}
	p.queue, p.numbered, p.sent = nil, 0, 0
}

// unknown is the error of a message that was sent, and of which nobody can tell what
// became of it.
func (o *outgoing) unknown(why string) *Error {
	why += "; the message may have been published or not"
	if o.message.ID == "" {
		why += ": give it a PublishOptions.ID, and it can be published again without coming twice"
	}
	return &Error{Code: codec.CodeConnectionLost, Reason: why}
}

// abandon takes a message back that was not sent yet.
func (p *publisher) abandon(o *outgoing, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.queue, o); i >= p.numbered {
		p.queue = slices.Delete(p.queue, i, i+1)
		p.settle(o, answer{err: err})
	}
}

// adoptLocked prepares what waits for a connection under a client id. What may have
// been published already, and would not be recognized, fails.
func (p *publisher) adoptLocked(id codec.ID) {
	same := p.id == id
	p.id = id
	if p.numbered == 0 || same {
		return
	}
	rest := p.queue[:0]
	for _, o := range p.queue {
		if !o.sentAt.IsZero() && o.message.ID == "" {
			p.settle(o, answer{err: o.unknown("the connection was lost before the answer, and the session could not be resumed")})
			continue
		}
		o.message.Sequence = 0
		rest = append(rest, o)
	}
	clear(p.queue[len(rest):])
	p.queue, p.numbered = rest, 0
}

// elapsed is how long ago something was. The wall clock counts too: the other one stands
// still while the machine sleeps, and the broker's does not.
func elapsed(now, since time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}

// age is how long ago the message was sent first, in ms.
func (o *outgoing) age(now time.Time) uint64 {
	return uint64(elapsed(now, o.sentAt) / time.Millisecond)
}

// expired reports whether the message's time to live is over.
func (o *outgoing) expired() bool {
	return o.message.TTL.Set && elapsed(time.Now(), o.at) >= millis(o.message.TTL.Value)
}

// numberLocked gives the message at i its sequence, and returns what is to be sent.
func (p *publisher) numberLocked(i int) codec.Publish {
	o := p.queue[i]
	now := time.Now()
	if o.message.Sequence == 0 {
		o.message.Sequence = p.next
		p.next++
		p.numbered++
	}
	m := o.message
	if o.sentAt.IsZero() {
		o.sentAt, o.tentative = now, true
	} else {
		m.Age = codec.Some(o.age(now))
	}
	if m.TTL.Set {
		// It counts from Publish on.
		m.TTL.Value -= min(m.TTL.Value-1, uint64(elapsed(now, o.at)/time.Millisecond))
	}
	return m
}

// refuseLocked makes messages fail that the broker does not take, or that have expired
// before they could be sent, from the one at i on. Of what was sent under another client
// id that would say too much: it may have been published.
func (p *publisher) refuseLocked(n *connection, i int) {
	for i >= p.numbered && i < len(p.queue) {
		err := n.checkPayload(p.queue[i].message)
		if err == nil && p.queue[i].sentAt.IsZero() && p.queue[i].expired() {
			err = codec.Errorf(codec.CodeExpired, "the message waited longer than its time to live, and was not sent")
		}
		if err == nil {
			return
		}
		p.settle(p.queue[i], answer{err: err})
		p.queue = slices.Delete(p.queue, i, i+1)
	}
}

// establish finds a way for what waits: it waits for a connection, and sends a
// message on the control stream or opens a stream. It returns when there is a
// stream, or when nothing waits any more.
func (p *publisher) establish() {
	c := p.client
	for {
		conn, err := c.connected(c.ctx)
		p.mu.Lock()
		if err != nil {
			p.establishing = false
			p.failLocked(err)
			p.mu.Unlock()
			return
		}
		if p.conn != conn {
			p.conn, p.failures = conn, 0
		}
		p.adoptLocked(conn.welcome.Client)
		p.refuseLocked(conn, 0)
		if len(p.queue) == 0 {
			p.establishing = false
			p.mu.Unlock()
			return
		}
		alone := len(p.queue) == 1 && len(p.queue[0].message.Payload.Data) < maxSingle-codec.FrameOverhead &&
			(!p.published || p.sinceUse() > soon)
		wait := time.Duration(0)
		if p.failures > 0 {
			wait = c.config.Backoff.wait(p.failures-1, 0)
		}
		p.mu.Unlock()
		if wait > 0 {
			select {
			case <-time.After(wait):
			case <-conn.ctx.Done():
				continue
			}
		}
		if alone || !conn.takeSlot() {
			p.single(conn)
			continue
		}
		if p.open(conn) {
			return
		}
	}
}

// single publishes the oldest message on the control stream, and waits for the
// answer.
func (p *publisher) single(n *connection) {
	p.mu.Lock()
	if len(p.queue) == 0 { // it was taken back
		p.mu.Unlock()
		return
	}
	m := p.numberLocked(0)
	p.sent = 1
	p.usedLocked()
	p.mu.Unlock()
	answers := make(chan answer, 1)
	number := n.ask(func(a answer) { answers <- a })
	m.Topic, m.Order, m.Sequence = p.topic, codec.Some(m.Sequence), number
	err := n.sendMessage(p.client.ctx, codec.AppendPublish(nil, m))
	if err == nil {
		p.mu.Lock()
		if len(p.queue) > 0 {
			p.queue[0].tentative = false
		}
		p.mu.Unlock()
		select {
		case <-n.ctx.Done():
		case a := <-answers:
			answers <- a
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case a := <-answers:
		if p.sent == 1 { // the client may have ended
			p.answeredLocked(a)
		}
	default:
		p.takeBackLocked()
	}
}

// takeBackLocked prepares what is on a lane that has ended for the next one.
func (p *publisher) takeBackLocked() {
	for _, o := range p.queue[:p.sent] {
		if o.tentative {
			o.sentAt, o.tentative = time.Time{}, false
		}
	}
	p.sent = 0
}
