package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/tidewire/tidewire/codec"
)

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
		opened := time.Now()
		begun, err := s.attempt(n)
		if begun && time.Since(opened) >= stable {
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
	stream, err := n.openStream(opening)
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
	s.begun, s.received, s.finished, s.handed = false, 0, 0, nil
	s.window = s.credit
	if s.options.Group != "" {
		// What waits or is being worked on is given to another member: it is not
		// counted on this stream.
		s.inbox.forgetCredit(int(s.credit))
	}
	s.limit = max(1, s.credit-min(s.inbox.credit, s.credit)) // what waits still counts
	hello := codec.Subscribe{
		Number:     number,
		Pattern:    s.pattern,
		Class:      s.options.Class,
		Priority:   s.priority,
		Credit:     s.limit,
		NoEcho:     s.options.NoEcho,
		NoRetained: s.options.NoRetained,
		Presence:   s.options.presence,
		Filter:     s.options.Filter,
		Group:      s.options.Group,
	}
	s.toldPriority = s.priority
	from := s.fromLocked()
	s.mu.Unlock()
	n.mu.Lock()
	n.subs[number] = s
	n.mu.Unlock()

	// FIN must follow as soon as the application has unsubscribed; only this
	// goroutine and then the function below use the sending side.
	var sending sync.WaitGroup
	if err = s.welcomed(n, from.timed()); err == nil {
		var base time.Time // not there before WELCOME
		if from.timed() {
			base = n.base
		}
		hello.From = from.wire(base)
		_, err = stream.Write(codec.AppendSubscribe(nil, hello))
	}
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
	begun = s.begun
	s.stream, s.begun = nil, false
	if s.told != nil {
		err = s.told
	}
	return begun, err
}

// fromLocked is where a stream that begins now is to begin.
func (s *Subscription) fromLocked() From {
	switch {
	case s.options.Group != "":
		return From{}
	case !s.was:
		return s.options.From
	case !s.sequence.exact:
		return s.sequence.from()
	}
	t := s.sequence.byName[s.topicName()]
	if t == nil {
		return s.options.From
	}
	from := FromPosition(*t.position())
	from.values = t.values
	return from
}

// welcomed waits for WELCOME, which tells the limits and the clock, if it is
// needed.
func (s *Subscription) welcomed(n *connection, needed bool) error {
	if !needed {
		return nil
	}
	select {
	case <-n.welcomed:
		return nil
	case <-n.ctx.Done():
		return context.Cause(n.ctx)
	case <-s.ctx.Done():
		return context.Cause(s.ctx) // FIN tells the broker
	}
}

// read reads the stream to its end.
func (s *Subscription) read(n *connection, stream Stream) error {
	if err := s.welcomed(n, true); err != nil {
		return err
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
	m.Reply = bytes.Clone(m.Reply)
	s.mu.Lock()
	if !s.begun {
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
	if s.begun {
		s.mu.Unlock()
		return codec.Errorf(codec.CodeUnexpectedFrame, "a second SUBSCRIBED")
	}
	q := s.sequence
	if q.exact != (a.Topic != 0) {
		s.mu.Unlock()
		return codec.Errorf(codec.CodeProtocolViolation, "SUBSCRIBED with a topic, and a pattern that is none, or without")
	}
	s.begun = true
	s.tellPriorityLocked()
	before := q.self // of the stream before; a connection between may have got no further than WELCOME
	q.begin(n.base, n.welcome.Client)
	q.snapshots = !s.was && s.options.From.kind == codec.FromNow
	if a.Time.Set {
		q.behind = time.Since(q.at(a.Time.Value))
	}
	if most := n.welcome.Limits.SubscriptionCredit; most > 0 {
		// The broker uses the lower value (PROTOCOL §10).
		s.window, s.limit = min(s.window, most), min(s.limit, most)
	}
	var items []item
	switch {
	case q.exact:
		items = q.announce(nil, announcement{a.Topic, s.topicName(), a.Epoch, a.Offset, a.Last, a.Class})
	case s.was && q.class != Unreliable && q.ordered && (before != n.welcome.Client || q.owing > 0 || q.unnamed):
		// Another session, or the stream before was cut off in its beginning: what is not
		// known cannot be asked for.
		items = append(items, gapItem(Gap{Reason: codec.GapReconnect}))
		q.toldAll, q.owing = true, 0
	}
	s.pushLocked(items)
	if !s.was {
		s.was = true
		s.beganLocked(a)
		close(s.established)
	}
	s.mu.Unlock()
	if a.Topic != 0 {
		n.announced(s, a.Topic)
	}
	return nil
}

// beganLocked takes note of since when the topics of a pattern are subscribed to.
func (s *Subscription) beganLocked(a codec.Subscribed) {
	q := s.sequence
	if k := s.options.From.kind; k != codec.FromNow && k != codec.FromLast {
		return
	}
	q.owing = a.Topics.Value
	q.since = time.Now()
	if a.Time.Set {
		q.since = q.at(a.Time.Value)
	}
	s.taken.since = q.since
}

func (s *Subscription) announced(n *connection, f codec.Frame) error {
	t, err := codec.ParseTopic(f)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if !s.begun || s.sequence.exact {
		s.mu.Unlock()
		return codec.Errorf(codec.CodeUnexpectedFrame, "TOPIC where it must not be")
	}
	s.pushLocked(s.sequence.announce(nil, announcement{t.Topic, t.Name, t.Epoch, t.Offset, t.Last, t.Class}))
	s.mu.Unlock()
	n.announced(s, t.Topic)
	return nil
}

// missing takes GAP and SKIP.
func (s *Subscription) missing(f codec.Frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun {
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
