package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
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

// streamEnded takes STREAM_END: END could not come on the stream itself.
func (s *Subscription) streamEnded(number uint64, err *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number == number && s.stream != nil {
		s.told = err
		s.stream.CancelRead(uint32(codec.CodeOK))
	}
}

// serve keeps the subscription open on a connection.
func (s *Subscription) serve(n *connection) {
	serving := make(chan struct{})
	s.mu.Lock()
	if s.done || s.running {
		s.mu.Unlock()
		return
	}
	s.serving, s.running = serving, true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running = false
		s.mu.Unlock()
		close(serving)
	}()
	for attempt := 0; ; attempt++ {
		begun, err := s.attempt(n)
		if begun {
			attempt = 0
		}
		s.mu.Lock()
		done, was := s.done, s.was
		s.mu.Unlock()
		if done || n.ctx.Err() != nil {
			return // the client begins it again on the next connection
		}
		e, coded := errors.AsType[*Error](err)
		switch {
		case coded && e.Code == codec.CodeOK:
			s.drop(nil)
			return
		case coded && e.Code == codec.CodeShuttingDown:
			return // the session ends next
		case coded && !again(e.Code, was):
			s.drop(e)
			return
		}
		s.client.log.Debug("subscribing again", slog.String("pattern", s.pattern), slog.Any("error", err))
		var least time.Duration
		if coded {
			least = e.Retry
		}
		select {
		case <-time.After(s.client.config.Backoff.wait(attempt, least)):
		case <-n.ctx.Done():
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// again reports whether to subscribe again after a refusal. What only tells that
// streams came too fast, or were held up, says nothing about the subscription. The
// other temporary ones are for the caller of Subscribe to know; a subscription
// that was established survives them.
func again(code codec.Code, established bool) bool {
	switch code {
	case codec.CodeTooManyStreams, codec.CodeStreamTimeout:
		return true
	}
	return established && code.Temporary()
}

// drop ends a subscription for good.
func (s *Subscription) drop(err error) {
	s.finish(err)
	s.client.mu.Lock()
	delete(s.client.subs, s)
	s.client.mu.Unlock()
}

// attempt subscribes on a stream and reads it to its end. begun tells whether the
// broker took the subscription. The error is never nil: the broker's END, or what
// went wrong.
func (s *Subscription) attempt(n *connection) (begun bool, err error) {
	opening, cancel := context.WithCancel(n.ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	stream, err := n.conn.OpenStream(opening)
	stop()
	cancel()
	if err != nil {
		return false, err
	}
	number := s.client.numbers.Add(1)
	s.mu.Lock()
	if s.done {
		// Close did not see this stream, so it has no deadline.
		setDeadline(stream, time.Now().Add(closeTimeout))
	}
	s.conn, s.stream, s.number, s.told = n, stream, number, nil
	s.sequence, s.topic, s.received = nil, 0, 0
	s.window = s.credit
	s.limit = max(1, s.credit-min(s.inbox.credit, s.credit)) // what waits still counts
	hello := codec.Subscribe{Number: number, Pattern: s.pattern, Class: s.class, Priority: s.priority, Credit: s.limit}
	s.mu.Unlock()
	n.mu.Lock()
	n.subs[number] = s
	n.mu.Unlock()

	// FIN must follow as soon as the application has unsubscribed; only this
	// goroutine and then the function below use the sending side.
	var sending sync.WaitGroup
	_, err = stream.Write(codec.AppendSubscribe(nil, hello))
	ended := make(chan struct{})
	sending.Go(func() {
		select {
		case <-s.ctx.Done():
		case <-ended:
		}
		_ = stream.Close()
	})
	if err == nil {
		err = s.read(n, stream)
	}
	close(ended)
	sending.Wait()
	stream.CancelRead(uint32(codec.CodeOK))

	n.mu.Lock()
	delete(n.subs, number)
	n.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	begun = s.sequence != nil
	if begun {
		s.last = nil
		if t := s.sequence.topics[s.topic]; t != nil {
			s.last = &Position{t.epoch, t.last}
		}
	}
	s.stream = nil
	s.sequence = nil
	if s.told != nil {
		err = s.told
	}
	return begun, err
}

// read reads the stream to its end.
func (s *Subscription) read(n *connection, stream Stream) error {
	select {
	case <-n.welcomed: // it tells the limits and the clock
	case <-n.ctx.Done():
		return context.Cause(n.ctx)
	case <-s.ctx.Done():
		return context.Cause(s.ctx) // FIN tells the broker
	}
	r := codec.NewReader(stream, int(n.welcome.Limits.Payload)+codec.FrameOverhead)
	var items []item
	for {
		f, err := r.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return codec.Errorf(codec.CodeProtocolViolation, "the stream ended without END")
			}
			return err
		}
		switch f.Type {
		case codec.TypeMessage:
			items, err = s.message(items[:0], f)
		case codec.TypeSubscribed:
			err = s.subscribed(n, f)
		case codec.TypeTopic:
			err = s.announced(n, f)
		case codec.TypeGap, codec.TypeSkip:
			err = s.missing(f)
		case codec.TypeEnd:
			e, err := codec.ParseEnd(f)
			if err != nil {
				return err
			}
			return remote(e.Code, e.Reason, e.Retry)
		default:
			err = codec.Errorf(codec.CodeUnexpectedFrame, "%s on a subscription", f.Type)
		}
		if err != nil {
			return err
		}
	}
}

// message takes a MESSAGE frame. items is scratch.
func (s *Subscription) message(items []item, f codec.Frame) ([]item, error) {
	m, err := codec.ParseMessage(f)
	if err != nil {
		return items, err
	}
	m.Payload.Data = bytes.Clone(m.Payload.Data) // it refers to the reader's buffer
	s.mu.Lock()
	if s.sequence == nil {
		s.mu.Unlock()
		return items, codec.Errorf(codec.CodeUnexpectedFrame, "a message before SUBSCRIBED")
	}
	if s.received >= s.limit {
		s.mu.Unlock()
		return items, codec.Errorf(codec.CodeCreditExceeded, "the broker sent more than the credit of %d bytes", s.limit)
	}
	s.received += uint64(f.Size())
	items, err = s.sequence.stream(items, m, f.Size())
	s.pushLocked(items)
	flow, conn := s.flowLocked(), s.conn
	s.mu.Unlock()
	if flow != nil {
		conn.send(flow)
	}
	clear(items)
	return items, err
}

// subscribed takes the broker's answer, and tells of what may have been missed
// since the stream before.
func (s *Subscription) subscribed(n *connection, f codec.Frame) error {
	a, err := codec.ParseSubscribed(f)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.sequence != nil {
		s.mu.Unlock()
		return codec.Errorf(codec.CodeUnexpectedFrame, "a second SUBSCRIBED")
	}
	s.sequence = newSequencer(s.class, n.base, &s.stats)
	if most := n.welcome.Limits.SubscriptionCredit; most > 0 {
		// The broker uses the lower value (PROTOCOL §10).
		s.window, s.limit = min(s.window, most), min(s.limit, most)
	}
	s.topic = a.Topic
	if a.Topic != 0 {
		s.sequence.announce(a.Topic, s.pattern, a.Epoch, a.Offset)
	}
	if s.was {
		s.missedLocked(a)
	} else {
		s.was = true
		close(s.established)
	}
	s.mu.Unlock()
	if a.Topic != 0 {
		n.announced(s, a.Topic)
	}
	return nil
}

// missedLocked queues the gap between the stream before and the one that begins
// with a. Only an unchanged position proves that there is none.
func (s *Subscription) missedLocked(a codec.Subscribed) {
	gap := Gap{Reason: codec.GapReconnect}
	if a.Topic != 0 {
		gap.Topic = s.pattern
		to := Position{a.Epoch, a.Offset}
		if s.last != nil && *s.last == to {
			return
		}
		gap.From, gap.To = s.last, &to
		if s.last != nil && s.last.Epoch == to.Epoch && to.Offset > s.last.Offset {
			gap.Count = to.Offset - s.last.Offset
		}
	}
	s.pushLocked([]item{gapItem(gap)})
}

func (s *Subscription) announced(n *connection, f codec.Frame) error {
	t, err := codec.ParseTopic(f)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.sequence == nil || s.topic != 0 {
		s.mu.Unlock()
		return codec.Errorf(codec.CodeUnexpectedFrame, "TOPIC where it must not be")
	}
	s.sequence.announce(t.Topic, t.Name, t.Epoch, t.Offset)
	s.mu.Unlock()
	n.announced(s, t.Topic)
	return nil
}

// missing takes GAP and SKIP.
func (s *Subscription) missing(f codec.Frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sequence == nil {
		return codec.Errorf(codec.CodeUnexpectedFrame, "%s before SUBSCRIBED", f.Type)
	}
	if f.Type == codec.TypeSkip {
		skip, err := codec.ParseSkip(f)
		if err == nil {
			s.pushLocked(s.sequence.skip(nil, skip))
		}
		return err
	}
	g, err := codec.ParseGap(f)
	if err == nil {
		s.pushLocked(s.sequence.gap(nil, g))
	}
	return err
}
