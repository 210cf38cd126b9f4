package broker_test

import (
	"context"
	"errors"
	"testing"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// subscribing is a call of Subscribe under way.
type subscribing struct {
	sub *client.Subscription
	err error
}

func beginSubscribe(ctx context.Context, c *client.Client, pattern string) <-chan subscribing {
	done := make(chan subscribing, 1)
	go func() {
		sub, err := c.Subscribe(ctx, pattern, nil)
		done <- subscribing{sub, err}
	}()
	return done
}

// refuse takes a SUBSCRIBE and ends its stream with a code.
func (s *scriptedBroker) refuse(code codec.Code) {
	s.t.Helper()
	l := s.accept()
	l.want(codec.TypeSubscribe)
	l.send(codec.AppendEnd(nil, codec.End{Code: code, Retry: codec.Some(1)}))
	l.fin()
}

// subscribed takes a SUBSCRIBE to the exact pattern x and answers it.
func (s *scriptedBroker) subscribed() *line {
	s.t.Helper()
	l := s.accept()
	l.want(codec.TypeSubscribe)
	l.send(codec.AppendSubscribed(nil, codec.Subscribed{Topic: 1, Epoch: 1}))
	return l
}

// That streams came too fast or were held up is no refusal of the subscription,
// neither of the first nor later.
func TestSubscribeAgainAfterStreamFaults(t *testing.T) {
	script := newScriptedBroker(t)
	c := script.dial(codec.Limits{})
	done := beginSubscribe(within(t), c, "x")
	script.refuse(codec.CodeTooManyStreams)
	script.refuse(codec.CodeStreamTimeout)
	l := script.subscribed()
	s := <-done
	if s.err != nil {
		t.Fatal(s.err)
	}
	for _, code := range []codec.Code{codec.CodeStreamTimeout, codec.CodeTooManyStreams, codec.CodeBusUnavailable} {
		l.send(codec.AppendEnd(nil, codec.End{Code: code, Retry: codec.Some(1)}))
		l.fin()
		l = script.subscribed()
	}
	l.send(codec.AppendMessage(nil, codec.Message{Topic: 1, Offset: 1, Previous: 1, Payload: codec.Text("back")}))
	if m := take(t, s.sub, 1)[0]; text(m) != "back" {
		t.Errorf("got %q", text(m))
	}
}

// Other refusals are the caller's to know, and ctx bounds the attempts.
func TestSubscribeRefused(t *testing.T) {
	script := newScriptedBroker(t)
	c := script.dial(codec.Limits{})
	for _, code := range []codec.Code{codec.CodeBusUnavailable, codec.CodeSubscribeDenied} {
		done := beginSubscribe(within(t), c, "x")
		script.refuse(code)
		wantCode(t, (<-done).err, code)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := beginSubscribe(ctx, c, "x")
	script.refuse(codec.CodeTooManyStreams)
	cancel()
	if err := (<-done).err; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Closing a subscription does not wait for a stream that the transport does not
// open.
func TestCloseWhileAStreamIsOpened(t *testing.T) {
	script := newScriptedBroker(t)
	c := script.dial(codec.Limits{})
	done := beginSubscribe(within(t), c, "x")
	l := script.subscribed()
	s := <-done
	if s.err != nil {
		t.Fatal(s.err)
	}
	script.held.Store(true)
	l.send(codec.AppendEnd(nil, codec.End{Code: codec.CodeSlowSubscriber}))
	l.fin()
	if err := s.sub.Close(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done = beginSubscribe(ctx, c, "y")
	cancel()
	if err := (<-done).err; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A message of a topic that came under a new number since cannot be placed: that
// is a gap, and counted, and the stream goes on.
func TestTopicUnderANewNumber(t *testing.T) {
	script := newScriptedBroker(t)
	c := script.dial(codec.Limits{})
	done := beginSubscribe(within(t), c, ">")
	l := script.accept()
	l.want(codec.TypeSubscribe)
	l.send(codec.AppendSubscribed(nil, codec.Subscribed{}))
	s := <-done
	if s.err != nil {
		t.Fatal(s.err)
	}
	message := func(topic uint64, body string) {
		l.send(codec.AppendMessage(nil, codec.Message{Topic: topic, Offset: 1, Previous: 1, Payload: codec.Text(body)}))
	}
	l.send(codec.AppendTopic(nil, codec.Topic{Topic: 1, Name: "x", Epoch: 1}))
	message(1, "first")
	l.send(codec.AppendTopic(nil, codec.Topic{Topic: 2, Name: "x", Epoch: 2}))
	message(1, "of the number before")
	message(2, "last")
	items := take(t, s.sub, 3)
	if text(items[0]) != "first" || items[1].Gap == nil || items[1].Gap.To != nil || text(items[2]) != "last" {
		t.Errorf("got %q, %q, %q", text(items[0]), text(items[1]), text(items[2]))
	}
	if n := s.sub.Stats().UnknownTopic; n != 1 {
		t.Errorf("%d messages of unknown topics were counted", n)
	}
}
