package client

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// Class is the delivery class of a subscription (PROTOCOL §9).
type Class = codec.Class

// The classes that brokers offer.
const (
	// Reliable brings every reliable message, in order, and of the lossy ones what
	// arrives.
	Reliable = codec.ClassReliable
	// Sequenced brings the newest message, by datagram: what is older than the last
	// one seen is dropped.
	Sequenced = codec.ClassSequenced
)

// DefaultCredit is the credit of a subscription, in bytes.
const DefaultCredit = 256 << 10

// SubscribeOptions change a subscription. nil is the default.
type SubscribeOptions struct {
	// Class is the delivery class. The default is Reliable.
	Class Class
	// Priority is 1 (first) to 7 (last); 0 stands for the usual 3.
	Priority uint8
	// Credit bounds the bytes of messages that the broker sends ahead of the
	// application. 0 is 256 KiB; the broker may give less. For large numbers of
	// slow subscriptions less is better.
	Credit int
}

// Subscription is an interest in a pattern that lives until Close, whatever
// becomes of the connection.
type Subscription struct {
	// Static after construction.
	client   *Client
	pattern  string
	class    Class
	priority uint8
	credit   uint64

	established chan struct{} // closed when the broker has answered for the first time
	arrived     chan struct{} // holds one token while the inbox is not empty
	ctx         context.Context
	cancel      context.CancelFunc // with done

	mu      sync.Mutex
	inbox   inbox             // guarded by mu
	stats   SubscriptionStats // guarded by mu
	done    bool              // no more items come; guarded by mu
	err     error             // why; nil after Close; guarded by mu
	was     bool              // it was established before; guarded by mu
	last    *Position         // of an exact pattern, when the stream ended; guarded by mu
	serving chan struct{}     // closed when the last serve has returned; nil if none has begun; guarded by mu
	running bool              // serve runs; guarded by mu

	// Of the stream at hand; guarded by mu.
	conn     *connection
	stream   Stream // nil if there is none
	number   uint64
	sequence *sequencer // nil before SUBSCRIBED
	topic    uint64     // number of the topic of an exact pattern
	window   uint64     // the credit, as far as the broker gives it
	received uint64     // bytes of MESSAGE frames
	limit    uint64     // the credit that was told
	told     error      // what STREAM_END said
}

// Subscribe subscribes to a pattern (PROTOCOL §3) and waits for the broker's
// answer. The error is the broker's refusal, such as CodeSubscribeDenied, or
// CodeInvalidPattern. A broker that just now takes no more streams, or did not see
// the subscription's in time, is asked again until ctx ends. ctx bounds the call
// only: the subscription lives until its Close.
func (c *Client) Subscribe(ctx context.Context, pattern string, opts *SubscribeOptions) (*Subscription, error) {
	if opts == nil {
		opts = &SubscribeOptions{}
	}
	if err := codec.CheckPattern(pattern); err != nil {
		return nil, err
	}
	if opts.Priority > codec.MaxPriority || opts.Credit < 0 {
		return nil, codec.Errorf(codec.CodeInvalidOption, "the priority is above %d, or the credit negative", codec.MaxPriority)
	}
	s := newSubscription(c, pattern, *opts)
	for {
		conn, err := c.connected(ctx)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		if c.subs == nil {
			c.mu.Unlock()
			return nil, context.Cause(c.ctx)
		}
		c.subs[s] = struct{}{}
		c.mu.Unlock()
		if conn.serve(s) {
			break
		}
		// The connection has ended just now. The next one might have begun this
		// subscription, or might not have seen it.
		c.mu.Lock()
		delete(c.subs, s)
		c.mu.Unlock()
	}
	select {
	case <-s.established:
	case <-s.ctx.Done():
	case <-ctx.Done():
		_ = s.Close()
		return nil, ctx.Err()
	}
	s.mu.Lock()
	err, done := s.err, s.done
	s.mu.Unlock()
	if done {
		return nil, err
	}
	return s, nil
}

func newSubscription(c *Client, pattern string, opts SubscribeOptions) *Subscription {
	s := &Subscription{
		client:      c,
		pattern:     pattern,
		class:       opts.Class,
		priority:    opts.Priority,
		credit:      uint64(opts.Credit),
		established: make(chan struct{}),
		arrived:     make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.inbox = newInbox(&s.stats)
	if s.priority == 0 {
		s.priority = codec.DefaultPriority
	}
	if s.credit == 0 {
		s.credit = DefaultCredit
	}
	return s
}

// Pattern returns the pattern.
func (s *Subscription) Pattern() string { return s.pattern }

// Messages iterates over what comes: messages, and gaps as items whose Gap is
// set. It ends after yielding an error once: ctx's, the broker's coded refusal, or
// ErrClosed; it ends without one after Close.
//
// Breaking out of the loop does not unsubscribe: what comes meanwhile waits,
// within the credit, for the next iteration. Concurrent iterations share the
// messages.
func (s *Subscription) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		for {
			m, err, ok := s.next(ctx)
			if !ok {
				return
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// next waits for the next item; ok is false after Close.
func (s *Subscription) next(ctx context.Context) (m Message, err error, ok bool) {
	for {
		s.mu.Lock()
		if !s.inbox.empty() {
			m, credit := s.inbox.pop()
			s.signalLocked()
			var flow []byte
			if credit > 0 {
				flow = s.flowLocked()
			}
			conn := s.conn
			s.mu.Unlock()
			if flow != nil {
				conn.send(flow)
			}
			return m, nil, true
		}
		if s.done {
			err := s.err
			s.mu.Unlock()
			return Message{}, err, err != nil
		}
		s.mu.Unlock()
		select {
		case <-s.arrived:
		case <-s.ctx.Done():
		case <-ctx.Done():
			return Message{}, ctx.Err(), true
		}
	}
}

// signalLocked leaves a token for whoever waits, if there is something.
func (s *Subscription) signalLocked() {
	if !s.inbox.empty() {
		select {
		case s.arrived <- struct{}{}:
		default:
		}
	}
}

// flowLocked returns the FLOW frame that is due; nil if none is.
func (s *Subscription) flowLocked() []byte {
	if s.sequence == nil || s.stream == nil {
		return nil
	}
	limit := s.received + s.window - min(s.inbox.credit, s.window)
	if limit <= s.limit || limit < s.limit+s.window/2 {
		return nil
	}
	s.limit = limit
	f := codec.Flow{Subscription: s.number, Limit: limit}
	if t := s.sequence.topics[s.topic]; t != nil {
		f.Offset = codec.Some(t.last)
	}
	return codec.AppendFlow(nil, f)
}

// pushLocked queues items. Those that are nothing but credit give it back at once:
// they are counted as received, and never as waiting.
func (s *Subscription) pushLocked(items []item) {
	if s.done {
		return
	}
	for i := range items {
		switch it := &items[i]; {
		case it.message.Gap != nil:
			s.inbox.pushGap(*it.message.Gap)
		case it.message.Topic == "":
		case it.datagram:
			s.inbox.pushLoose(it.message)
		default:
			s.inbox.pushReliable(it.message, it.credit)
		}
	}
	s.signalLocked()
}

// datagram takes a message that came as a datagram; false if its topic is not of
// this subscription.
func (s *Subscription) datagram(m codec.Message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sequence == nil || !s.sequence.knows(m.Topic) {
		return false
	}
	s.pushLocked(s.sequence.datagram(nil, m))
	return true
}

// Close unsubscribes, and waits until the broker has been told or is gone, for at
// most 2 s. What has not been taken is dropped. It is idempotent.
func (s *Subscription) Close() error {
	s.finish(nil)
	s.client.mu.Lock()
	delete(s.client.subs, s)
	s.client.mu.Unlock()
	s.mu.Lock()
	s.inbox.clear()
	serving, stream := s.serving, s.stream
	s.mu.Unlock()
	if serving == nil {
		return nil
	}
	if stream != nil {
		setDeadline(stream, time.Now().Add(closeTimeout))
	}
	<-serving
	return nil
}

// setDeadline bounds what is going on with a stream in both directions.
func setDeadline(stream Stream, t time.Time) {
	_ = stream.SetReadDeadline(t)
	_ = stream.SetWriteDeadline(t)
}

// finish ends the iteration, with err if it is not nil.
func (s *Subscription) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return
	}
	s.done, s.err = true, err
	s.cancel()
}
