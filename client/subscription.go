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

// The classes. The class in force for a topic is the weaker one of the
// subscription's and of the one that the broker has configured for the topic.
const (
	// Reliable brings every reliable message, in order, and of the lossy ones what
	// arrives.
	Reliable = codec.ClassReliable
	// Latest brings what counts to a slow subscriber: of the messages that wait only
	// the newest of each key.
	Latest = codec.ClassLatest
	// Sequenced is Latest by datagram: what is older than the last one seen, of its
	// key if it has one, is dropped.
	Sequenced = codec.ClassSequenced
	// Unreliable brings what arrives, by datagram, in any order and without gaps.
	Unreliable = codec.ClassUnreliable
)

// The credit of a subscription, and of one in a group, in bytes.
const (
	DefaultCredit      = 256 << 10
	DefaultGroupCredit = 64 << 10
)

// SubscribeOptions change a subscription. nil is the default.
type SubscribeOptions struct {
	// Class is the delivery class. The default is Reliable.
	Class Class
	// Priority is 1 (first) to 7 (last); 0 is 3. SetPriority changes it later.
	Priority uint8
	// Credit bounds the bytes of messages that the broker sends ahead of the
	// application, and so what a slow reader of class Latest may find stale, and what
	// a member of a group keeps from the others. 0 is 256 KiB, in a group 64 KiB; the
	// broker may give less. For large numbers of slow subscriptions less is better.
	Credit int
	// From is where to begin. The default is now: first the last values of the
	// topics, then what is published from now on. After a reconnect a subscription
	// always goes on where it was.
	From From
	// NoEcho leaves out what this client publishes itself.
	NoEcho bool
	// NoRetained leaves out the last values at the beginning.
	NoRetained bool
	// Filter lets through only messages whose headers fit. Lossy messages then come
	// by stream.
	Filter Filter
	// Group, a name of at most 64 bytes, shares the messages out: of all
	// subscriptions with the same group that match a message one gets it, whichever is
	// ready. A message is finished when the loop over Messages asks for the next one, or
	// another loop begins; what a member had not finished when it went away another one
	// gets, so a message may come twice. Nothing is said about order; a gap tells one
	// member of what none had room for. From must be now, and NoEcho must not be set.
	Group string

	presence bool
	marks    bool // the iteration shows marks: see sequencer.caughtUp
}

// SubscriptionState is the state of a subscription.
type SubscriptionState int32

// The states. A subscription goes between the first two with the connection, and
// never leaves StateUnsubscribed.
const (
	StateSubscribing  SubscriptionState = iota // it waits for the broker's answer, or for a connection
	StateSubscribed                            // messages come
	StateUnsubscribed                          // by Close, by the broker, or with the client
)

// String returns the state's name.
func (s SubscriptionState) String() string {
	names := [...]string{"subscribing", "subscribed", "unsubscribed"}
	return names[s]
}

// Subscription is an interest in a pattern that lives until Close, whatever
// becomes of the connection.
type Subscription struct {
	// Static after construction.
	client  *Client
	pattern string
	options SubscribeOptions
	credit  uint64

	established chan struct{} // closed when the broker has answered for the first time
	arrived     chan struct{} // holds one token while the inbox is not empty
	ctx         context.Context
	cancel      context.CancelFunc // with done

	mu       sync.Mutex
	inbox    inbox             // guarded by mu
	taken    positions         // what the application has taken; guarded by mu
	stats    SubscriptionStats // guarded by mu
	sequence *sequencer        // guarded by mu
	priority uint8             // guarded by mu
	done     bool              // no more items come; guarded by mu
	err      error             // why; nil after Close; guarded by mu
	was      bool              // it was established before; guarded by mu
	serving  chan struct{}     // closed when the last serve has returned; nil if none has begun; guarded by mu
	running  bool              // serve runs; guarded by mu
	left     []*handout        // in a group: at which loops were left; guarded by mu

	// Of the stream at hand; guarded by mu.
	conn     *connection
	stream   Stream // nil if there is none
	number   uint64
	begun    bool   // SUBSCRIBED has come
	window   uint64 // the credit, as far as the broker gives it
	received uint64 // bytes of MESSAGE frames
	limit    uint64 // the credit that was told
	told     error  // what STREAM_END said
	// toldPriority is what the broker was told last.
	toldPriority uint8
	handed       []*handout // in a group: what the application works on, in order
	finished     uint64     // in a group: bytes of the messages that it has finished
}

// handout is a message of a group that was handed to the application.
type handout struct {
	credit   int
	finished bool
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
	if err := checkPattern(pattern); err != nil {
		return nil, err
	}
	if err := opts.check(codec.IsExact(pattern)); err != nil {
		return nil, err
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
		s.closeWithin(ctx)
		return nil, ctx.Err()
	}
	s.mu.Lock()
	err, done := s.err, s.done
	s.mu.Unlock()
	switch {
	case done && err == nil:
		return nil, &Error{Code: codec.CodeClosed, Reason: "the broker has ended the subscription"}
	case done:
		return nil, err
	}
	return s, nil
}

// check reports options that cannot be, with CodeInvalidOption.
func (o *SubscribeOptions) check(exact bool) error {
	bad := ""
	switch {
	case o.Priority > codec.MaxPriority:
		bad = "the priority is above 7"
	case o.Credit < 0:
		bad = "the credit is negative"
	case o.Class > Unreliable:
		return codec.Errorf(codec.CodeUnsupportedClass, "class %d is not known", o.Class)
	case len(o.Group) > codec.MaxGroup:
		bad = "the group's name is longer than 64 bytes"
	case o.Group != "" && o.From.kind != codec.FromNow:
		bad = "a subscription in a group begins now"
	case o.Group != "" && o.NoEcho:
		bad = "a subscription in a group has its own messages too"
	case o.From.kind == codec.FromPosition && !exact:
		bad = "From is a position, and the pattern has many"
	case o.From.kind == codec.FromPositions && exact:
		bad = "From is a list of positions, and the pattern is one topic"
	}
	if bad != "" {
		return codec.Errorf(codec.CodeInvalidOption, "%s", bad)
	}
	if err := codec.CheckFilter(o.Filter); err != nil {
		return err
	}
	return o.From.check()
}

func newSubscription(c *Client, pattern string, opts SubscribeOptions) *Subscription {
	s := &Subscription{
		client:      c,
		pattern:     pattern,
		options:     opts,
		priority:    opts.Priority,
		credit:      uint64(opts.Credit),
		established: make(chan struct{}),
		arrived:     make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.inbox = newInbox(&s.stats)
	s.sequence = newSequencer(opts.Class, &s.stats)
	q := s.sequence
	q.client, q.exact, q.noEcho = c, codec.IsExact(pattern), opts.NoEcho
	q.ordered, q.streams = opts.Group == "", opts.Group != "" || len(opts.Filter) > 0
	switch opts.From.kind {
	case codec.FromPosition:
		q.resume(s.topicName(), opts.From.position)
		s.taken.take(Message{Topic: s.topicName(), Position: opts.From.position})
	case codec.FromPositions:
		for topic, p := range opts.From.positions {
			q.resume(topic, p)
			s.taken.take(Message{Topic: topic, Position: p})
		}
		q.since = opts.From.since
	case codec.FromTime:
		q.since = opts.From.since
	}
	s.taken.since = q.since
	if s.priority == 0 {
		s.priority = codec.DefaultPriority
	}
	switch {
	case s.credit != 0:
	case opts.Group != "":
		s.credit = DefaultGroupCredit
	default:
		s.credit = DefaultCredit
	}
	return s
}

// Pattern returns the pattern.
func (s *Subscription) Pattern() string { return s.pattern }

// topicName is the name of an exact pattern's topic.
func (s *Subscription) topicName() string {
	if s.options.presence {
		return presencePrefix + s.pattern
	}
	return s.pattern
}

// State returns the state of this moment.
func (s *Subscription) State() SubscriptionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.done:
		return StateUnsubscribed
	case s.begun:
		return StateSubscribed
	}
	return StateSubscribing
}

// SetPriority changes the priority, 1 (first) to 7 (last), from the next message
// on. It does not wait for the broker, and survives reconnects.
func (s *Subscription) SetPriority(priority uint8) error {
	if priority < 1 || priority > codec.MaxPriority {
		return codec.Errorf(codec.CodeInvalidOption, "a priority is 1 to %d", codec.MaxPriority)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.priority = priority
	s.tellPriorityLocked()
	return nil
}

// tellPriorityLocked queues PRIORITY if it is another one than the broker was told. The
// broker ignores that of a subscription that it does not know yet. It is queued under the
// lock, so that the newest goes last.
func (s *Subscription) tellPriorityLocked() {
	if s.begun && s.toldPriority != s.priority {
		s.toldPriority = s.priority
		s.conn.send(codec.AppendPriority(nil, codec.Priority{Subscription: s.number, Priority: s.priority}))
	}
}

// Messages iterates over what comes: messages, and gaps as items whose Gap is
// set. It ends after yielding an error once: ctx's, the broker's coded refusal, or
// ErrClosed; it ends without one after Close.
//
// Breaking out of the loop does not unsubscribe: what comes meanwhile waits,
// within the credit, for the next iteration. In a group the message at which the loop
// was left is finished when another iteration begins, and goes to another member if
// none does before the subscription ends. Concurrent iterations share the messages.
func (s *Subscription) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		s.finishLeft()
		var h *handout
		defer func() { s.leave(h) }() // also where the loop panics
		for {
			m, next, err, ok := s.next(ctx)
			if h = next; !ok || !yield(m, err) || err != nil {
				return
			}
			s.finishMessage(h)
		}
	}
}

// leave takes note of a message at which a loop was left; h may be nil.
func (s *Subscription) leave(h *handout) {
	if h == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = append(s.left, h)
}

// finishLeft finishes the messages at which loops were left.
func (s *Subscription) finishLeft() {
	s.mu.Lock()
	left := s.left
	s.left = nil
	s.mu.Unlock()
	for _, h := range left {
		s.finishMessage(h)
	}
}

// next waits for the next item; ok is false after Close. In a group, the handout
// is to be given to finishMessage or leave.
func (s *Subscription) next(ctx context.Context) (m Message, h *handout, err error, ok bool) {
	for {
		s.mu.Lock()
		if !s.inbox.empty() {
			m, credit := s.inbox.pop()
			s.signalLocked()
			s.taken.take(m)
			var flow []byte
			switch {
			case credit == 0:
			case s.options.Group != "":
				h = &handout{credit: credit}
				s.handed = append(s.handed, h)
			default:
				flow = s.flowLocked()
			}
			conn := s.conn
			s.mu.Unlock()
			if flow != nil {
				conn.send(flow)
			}
			return m, h, nil, true
		}
		if s.done {
			err := s.err
			s.mu.Unlock()
			return Message{}, nil, err, err != nil
		}
		s.mu.Unlock()
		select {
		case <-s.arrived:
		case <-s.ctx.Done():
		case <-ctx.Done():
			return Message{}, nil, ctx.Err(), true
		}
	}
}

// finishMessage tells the broker that the application has finished a message of a
// group; h may be nil. What is told counts in the order in which the messages came
// (PROTOCOL §5.5).
func (s *Subscription) finishMessage(h *handout) {
	if h == nil {
		return
	}
	s.mu.Lock()
	h.finished = true
	for len(s.handed) > 0 && s.handed[0].finished {
		s.finished += uint64(s.handed[0].credit)
		s.handed = s.handed[1:]
	}
	flow, conn := s.flowLocked(), s.conn
	s.mu.Unlock()
	if flow != nil {
		conn.send(flow)
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
	if !s.begun || s.stream == nil {
		return nil
	}
	f := codec.Flow{Subscription: s.number}
	if s.options.Group != "" {
		f.Limit = s.window + s.finished
		if f.Limit <= s.limit {
			return nil
		}
	} else {
		f.Limit = s.received + s.window - min(s.inbox.credit, s.window)
		if f.Limit <= s.limit || f.Limit < s.limit+s.window/2 {
			return nil
		}
		if t := s.sequence.byName[s.topicName()]; t != nil {
			if p, ok := s.taken.of(t.name); ok && p.Epoch == t.epoch {
				f.Offset = codec.Some(p.Offset)
			}
		}
	}
	s.limit = f.Limit
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
		case it.message.mark && !s.options.marks:
		case it.message.Gap != nil:
			s.inbox.pushGap(*it.message.Gap)
		case it.message.Topic == "":
			s.finished += uint64(it.credit)
		case it.datagram && it.unreliable:
			s.inbox.pushUnreliable(it.message)
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
	if !s.begun || !s.sequence.knows(m.Topic) {
		return false
	}
	s.pushLocked(s.sequence.datagram(nil, m))
	return true
}

// Close unsubscribes, and waits until the broker has been told or is gone, for at
// most 2 s. What has not been taken is dropped. It is idempotent.
func (s *Subscription) Close() error {
	s.closeWithin(context.Background())
	return nil
}

// closeWithin is Close, for calls that return when ctx ends. What is still under way then
// ends with its deadline, and at the latest with the connection, which waits for it.
func (s *Subscription) closeWithin(ctx context.Context) {
	s.finish(nil)
	s.client.mu.Lock()
	delete(s.client.subs, s)
	s.client.mu.Unlock()
	s.mu.Lock()
	s.inbox.clear()
	serving, stream := s.serving, s.stream
	s.mu.Unlock()
	if serving == nil {
		return
	}
	if stream != nil {
		setDeadline(stream, time.Now().Add(closeTimeout))
	}
	select {
	case <-serving:
	case <-ctx.Done():
	}
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
	if p, ok := s.positionLocked(); ok {
		s.taken.take(Message{Topic: s.topicName(), Position: p})
	}
	s.done, s.err = true, err
	s.cancel()
}
