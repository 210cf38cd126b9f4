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
