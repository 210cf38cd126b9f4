package broker_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
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

// A subscription that the broker has ended for a while goes on behind what has
// come, whether or not the application has taken it; one of a group begins anew,
// with the whole credit.
func TestSubscribeAgainFromThePosition(t *testing.T) {
	for _, group := range []string{"", "g"} {
		script := newScriptedBroker(t)
		c := script.dial(codec.Limits{})
		done := make(chan *client.Subscription, 1)
		go func() {
			sub, err := c.Subscribe(within(t), "x", &client.SubscribeOptions{Group: group, Credit: 1000})
			if err != nil {
				t.Error(err)
			}
			done <- sub
		}()
		l := script.subscribed()
		sub := <-done
		frame := codec.AppendMessage(nil, codec.Message{Topic: 1, Offset: 7, Previous: 7, Payload: codec.Text("seven")})
		l.send(frame)
		eventually(t, func() bool { return sub.Stats().Waiting == 1 })
		l.send(codec.AppendEnd(nil, codec.End{Code: codec.CodeSlowSubscriber, Retry: codec.Some(1)}))
		l.fin()
		l = script.accept()
		s, err := codec.ParseSubscribe(l.want(codec.TypeSubscribe))
		if err != nil {
			t.Fatal(err)
		}
		want := codec.From{Kind: codec.FromPosition, Epoch: 1, Offset: 7}
		credit := uint64(1000 - len(frame))
		if group != "" {
			want, credit = codec.From{}, 1000
		}
		if !reflect.DeepEqual(s.From, want) || s.Credit != credit {
			t.Errorf("group %q: from %+v with credit %d", group, s.From, s.Credit)
		}
		l.send(codec.AppendSubscribed(nil, codec.Subscribed{Topic: 1, Epoch: 1, Offset: 7}))
		if m := take(t, sub, 1)[0]; text(m) != "seven" {
			t.Errorf("group %q: got %q", group, text(m))
		}
	}
}

// In a group the broker learns of each message that the application has finished,
// in the order in which they came (PROTOCOL §5.5).
func TestGroupTellsWhatIsFinished(t *testing.T) {
	script := newScriptedBroker(t)
	c := script.dial(codec.Limits{})
	done := make(chan *client.Subscription, 1)
	go func() {
		sub, err := c.Subscribe(within(t), "x", &client.SubscribeOptions{Group: "g", Credit: 1000})
		if err != nil {
			t.Error(err)
		}
		done <- sub
	}()
	l := script.subscribed()
	sub := <-done
	size := uint64(0)
	for i := range uint64(3) {
		frame := codec.AppendMessage(nil, codec.Message{Topic: 1, Offset: i + 1, Previous: 1, Payload: codec.Text("job")})
		size = uint64(len(frame))
		l.send(frame)
	}
	next, stop := iter.Pull2(sub.Messages(within(t)))
	defer stop()
	for i := range uint64(3) {
		if _, err, ok := next(); err != nil || !ok {
			t.Fatal(err)
		}
		if i == 0 {
			continue // nothing is finished
		}
		flow, err := codec.ParseFlow(script.control.want(codec.TypeFlow))
		if err != nil || flow.Limit != 1000+i*size {
			t.Errorf("FLOW to %d, %v; want %d", flow.Limit, err, 1000+i*size)
		}
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

// A stream that ends before all topics were announced that have something for it from its
// beginning is followed by a gap in every topic, once.
func TestPatternCutOffBeforeItsTopicsAreKnown(t *testing.T) {
	for name, announced := range map[string]uint64{"one is not known": 1, "all are known": 2} {
		t.Run(name, func(t *testing.T) {
			script := newScriptedBroker(t)
			c := script.dial(codec.Limits{})
			done := beginSubscribe(within(t), c, ">")
			l := script.accept()
			l.want(codec.TypeSubscribe)
			l.send(codec.AppendSubscribed(nil, codec.Subscribed{Topics: codec.Some(2), Time: codec.Some(5)}))
			s := <-done
			if s.err != nil {
				t.Fatal(s.err)
			}
			for i := range announced {
				f := codec.Topic{Topic: i + 1, Name: fmt.Sprint("t", i), Epoch: 1, Last: codec.Some(1)}
				l.send(codec.AppendTopic(nil, f))
				l.send(codec.AppendTopic(nil, f)) // again
			}
			for range 2 {
				l.send(codec.AppendTopic(nil, codec.Topic{Topic: 9, Name: "live", Epoch: 1}))
				l.send(codec.AppendEnd(nil, codec.End{Code: codec.CodeSlowSubscriber, Retry: codec.Some(1)}))
				l.fin()
				l = script.accept()
				l.want(codec.TypeSubscribe)
				l.send(codec.AppendSubscribed(nil, codec.Subscribed{Time: codec.Some(9)}))
			}
			l.send(codec.AppendTopic(nil, codec.Topic{Topic: 1, Name: "t0", Epoch: 1}))
			l.send(codec.AppendMessage(nil, codec.Message{Topic: 1, Offset: 1, Previous: 1, Payload: codec.Text("x")}))
			if announced == 1 {
				gap := take(t, s.sub, 1)[0].Gap
				if gap == nil || gap.Topic != "" || gap.Reason != codec.GapReconnect {
					t.Errorf("%v", gap)
				}
			}
			if m := take(t, s.sub, 1)[0]; text(m) != "x" {
				t.Errorf("%+v", m)
			}
		})
	}
}
