package client

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/codec"
)

// RequestOptions change a request. nil is the default.
type RequestOptions struct {
	// Timeout is how long to wait for replies, 1 ms to 10 minutes; 0 is 5 s. The broker
	// tells when it is over; where it is not heard the request ends a second later.
	Timeout time.Duration
	// Key and Headers travel with the request as with a published message.
	Key     string
	Headers map[string]string
	// Max is the most replies that RequestMany takes, up to 65,535; 0 is 100. Request
	// takes one.
	Max int
}

// ReplyOptions change a reply. nil is the default.
type ReplyOptions struct {
	Headers map[string]string
}

const (
	defaultTimeout = 5 * time.Second
	defaultReplies = 100
	// maxReplyBytes bounds the replies that wait for the application, in bytes. A
	// request of which more wait ends.
	maxReplyBytes = 4 << 20
	// unheard is how much longer than the timeout the broker's word is awaited that it
	// is over. Replies may be under way until then.
	unheard = time.Second
)

var errUnheard = codec.Errorf(codec.CodeRequestTimeout, "no reply came, and the broker is not heard")

// Request publishes a message to a topic and waits for the first reply to it. The
// error has CodeNoResponders, told at once, if nobody is subscribed to the topic,
// CodeRequestTimeout if no reply came in time, or CodeConnectionLost: a request is
// never sent twice. It waits for a connection, which counts as time.
func (c *Client) Request(ctx context.Context, topic string, value any, opts *RequestOptions) (Message, error) {
	one := RequestOptions{}
	if opts != nil {
		one = *opts
	}
	one.Max = 1
	for m, err := range c.RequestMany(ctx, topic, value, &one) {
		return m, err
	}
	return Message{}, codec.Errorf(codec.CodeProtocolViolation, "a request ended without a reply and without an error")
}

// RequestMany publishes a message to a topic, each time that it is iterated over,
// and yields the replies to it as they come. The iteration ends after Max replies,
// or, without an error, at the timeout if there was a reply; otherwise after
// yielding an error once, as Request returns it. Breaking out of the loop tells the
// broker that no more replies are wanted.
func (c *Client) RequestMany(ctx context.Context, topic string, value any, opts *RequestOptions) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		if err := c.requestMany(ctx, topic, value, opts, yield); err != nil {
			yield(Message{}, err)
		}
	}
}

// requestMany runs one request. The error is to be yielded.
func (c *Client) requestMany(ctx context.Context, topic string, value any, opts *RequestOptions, yield func(Message, error) bool) error {
	if opts == nil {
		opts = &RequestOptions{}
	}
	m, err := outgoingMessage(topic, value, codec.ModeReliable, &PublishOptions{Key: opts.Key, Headers: opts.Headers})
	if err != nil {
		return err
	}
	timeout, most := opts.Timeout, opts.Max
	if timeout == 0 {
		timeout = defaultTimeout
	}
	if most == 0 {
		most = defaultReplies
	}
	if timeout < time.Millisecond || timeout > codec.MaxTimeout*time.Millisecond || most < 1 || most > codec.MaxReplies {
		return codec.Errorf(codec.CodeInvalidOption, "a request waits 1 ms to 10 minutes, for 1 to %d replies", codec.MaxReplies)
	}
	begun := time.Now()
	waiting, stop := context.WithTimeout(ctx, timeout)
	conn, err := c.reach(waiting)
	stop()
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = codec.Errorf(codec.CodeRequestTimeout, "there was no connection to the broker")
		}
		return err
	}
	timeout = max(timeout-time.Since(begun), time.Millisecond)
	if err := conn.checkPayload(m); err != nil {
		return err
	}
	w := &call{arrived: make(chan struct{}, 1), topic: topic}
	number := conn.call(w)
	defer conn.hangUp(number)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout+unheard, errUnheard)
	defer cancel()
	err = conn.sendMessage(ctx, codec.AppendRequest(nil, codec.Request{
		Number:  number,
		Topic:   topic,
		Timeout: uint64(timeout / time.Millisecond),
		Limit:   uint64(most),
		Payload: m.Payload,
		Key:     m.Key,
		Headers: m.Headers,
	}))
	if err != nil {
		return whyOver(ctx, err)
	}
	for n := 0; ; n++ {
		m, err, ok := w.next(ctx, conn)
		if err != nil {
			err = whyOver(ctx, err)
		}
		switch {
		case !ok:
			return nil
		case err != nil && n > 0 && codec.CodeOf(err) == codec.CodeRequestTimeout:
			return nil
		case err != nil:
			return err
		case !yield(m, nil):
			return nil
		}
	}
}

// whyOver returns the error of a request that has failed with err, which is that of ctx
// if ctx ended it.
func whyOver(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && errors.Is(context.Cause(ctx), errUnheard) {
		return errUnheard
	}
	return err
}

// checkPayload reports a payload that the broker does not take.
func (n *connection) checkPayload(m codec.Publish) error {
	if limit := n.welcome.Limits.Payload; uint64(len(m.Payload.Data)) > limit {
		return codec.Errorf(codec.CodePayloadTooLarge, "a payload of %d bytes; the broker takes %d", len(m.Payload.Data), limit)
	}
	return nil
}

// call is a request whose replies are awaited.
type call struct {
	topic   string
	arrived chan struct{} // holds one token while there is something to take

	mu      sync.Mutex
	replies []Message // guarded by mu
	bytes   int       // of replies; guarded by mu
	done    bool      // guarded by mu
	err     error     // why; nil if there were enough replies; guarded by mu
}

// call takes note of a request and gives it a number.
func (n *connection) call(w *call) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.request++
	n.calls[n.request] = w
	return n.request
}

// hangUp forgets a request, and tells the broker if it still works on it.
func (n *connection) hangUp(number uint64) {
	n.mu.Lock()
	_, open := n.calls[number]
	delete(n.calls, number)
	n.mu.Unlock()
	if open {
		n.send(codec.AppendCancel(nil, codec.Cancel{Number: number}))
	}
}

// replied takes RESPONSE and DONE. Those of a request that nobody waits for any
// more are ignored (PROTOCOL §7.7).
func (n *connection) replied(f codec.Frame) error {
	if f.Type == codec.TypeDone {
		d, err := codec.ParseDone(f)
		if err != nil {
			return err
		}
		n.mu.Lock()
		w := n.calls[d.Number]
		delete(n.calls, d.Number)
		n.mu.Unlock()
		if w != nil {
			err = nil
			if d.Code != codec.CodeOK {
				err = remote(d.Code, d.Reason, codec.Optional{})
			}
			w.finish(err)
		}
		return nil
	}
	r, err := codec.ParseResponse(f)
	if err != nil {
		return err
	}
	n.mu.Lock()
	w := n.calls[r.Number]
	n.mu.Unlock()
	if w != nil && !w.add(r) {
		n.hangUp(r.Number)
		w.finish(codec.Errorf(codec.CodeQueueFull, "more than %d bytes of replies wait", maxReplyBytes))
	}
	return nil
}

// add takes a reply; false if too much waits.
func (w *call) add(r codec.Response) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bytes += len(r.Payload.Data); w.bytes > maxReplyBytes {
		return false
	}
	r.Payload.Data = bytes.Clone(r.Payload.Data) // it refers to the reader's buffer
	w.replies = append(w.replies, Message{
		Topic:     w.topic,
		Publisher: uuid.UUID(r.Publisher),
		Payload:   r.Payload,
		Headers:   unpackHeaders(r.Headers),
	})
	w.signalLocked()
	return true
}

func (w *call) finish(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done, w.err = true, err
	w.signalLocked()
}

func (w *call) signalLocked() {
	select {
	case w.arrived <- struct{}{}:
	default:
	}
}

// next waits for the next reply; ok is false after the last one.
func (w *call) next(ctx context.Context, n *connection) (m Message, err error, ok bool) {
	for {
		w.mu.Lock()
		switch {
		case len(w.replies) > 0:
			m = w.replies[0]
			w.replies = w.replies[1:]
			w.bytes -= len(m.Payload.Data)
			w.mu.Unlock()
			return m, nil, true
		case w.done:
			err = w.err
			w.mu.Unlock()
			return Message{}, err, err != nil
		case n.ctx.Err() != nil:
			w.mu.Unlock()
			return Message{}, n.interrupted(), true
		}
		w.mu.Unlock()
		select {
		case <-w.arrived:
		case <-ctx.Done():
			return Message{}, ctx.Err(), true
		case <-n.ctx.Done():
		}
	}
}

// Reply answers a request: a message whose Request is set. Several replies may be
// sent, by several members too; the one who asked takes as many as it wants. nil
// means that the reply was handed to the connection; one that comes too late is
// dropped by the broker.
//
// Without a connection it waits for one, since the one who asked may be waiting still:
// until the time of the request is over, and the error has CodeRequestTimeout, or until
// ctx ends. It fails with CodeOffline if Config.Offline refuses to wait, and with
// CodePayloadTooLarge for what the broker does not take.
func (m Message) Reply(ctx context.Context, value any, opts *ReplyOptions) error {
	if !m.Request || m.client == nil {
		return codec.Errorf(codec.CodeInvalidOption, "the message is no request")
	}
	payload, err := codec.Encode(value)
	if err != nil {
		return err
	}
	r := codec.Reply{To: m.reply, Payload: payload}
	if opts != nil {
		r.Headers = packHeaders(opts.Headers)
		if err := codec.CheckHeaders(r.Headers); err != nil {
			return err
		}
	}
	waiting := ctx
	if !m.until.IsZero() {
		var stop context.CancelFunc
		waiting, stop = context.WithDeadline(ctx, m.until)
		defer stop()
	}
	conn, err := m.client.reach(waiting)
	switch {
	case err == nil:
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return codec.Errorf(codec.CodeRequestTimeout, "the request was over before there was a connection to the broker")
	default:
		return err
	}
	if err := conn.checkPayload(codec.Publish{Payload: payload}); err != nil {
		return err
	}
	return conn.sendMessage(ctx, codec.AppendReply(nil, r))
}
