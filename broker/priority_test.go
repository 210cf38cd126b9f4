package broker_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/internal/memconn"
)

// When the bound of a session is reached the subscription of the lowest priority gives
// up its room, is told why, and goes on from the history where there is one.
func TestPriorityTakesRoom(t *testing.T) {
	for _, c := range []struct {
		name   string
		topics []broker.TopicConfig
		low    string // what the lower one gets in the end, behind its first message
	}{
		{"without a history", noHistory, "gap overflow 1-20 (19), 21"},
		{"with a history", nil, "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21"},
	} {
		t.Run(c.name, func(t *testing.T) {
			onStage(t, broker.Config{MaxSessionBytes: 200, Topics: c.topics}, func(t *testing.T, s *stage) {
				low := s.peer.follow(codec.Subscribe{Number: 1, Pattern: "low", Priority: 5, Credit: 1})
				high := s.peer.follow(codec.Subscribe{Number: 2, Pattern: "high", Priority: 2, Credit: 1})
				synctest.Wait()
				s.publish("low", "+")
				synctest.Wait()
				s.publish("low", strings.Repeat("+ ", 19))
				s.publish("high", strings.Repeat("+ ", 5))
				for _, number := range []uint64{2, 1} {
					s.peer.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: number, Limit: 1 << 20}))
					synctest.Wait()
				}
				if got := high.transcript(t); got != "subscribed 0, 1, 2, 3, 4, 5" {
					t.Errorf("of high priority came %s", got)
				}
				s.publish("low", "+")
				got := low.transcript(t)
				if want := "subscribed 0, 1, " + c.low; got != want {
					t.Errorf("of low priority came %s", got)
				}
				if n := s.b.Stats().Dropped[broker.DropPriority]; (n > 0) != (c.topics != nil) {
					t.Errorf("%d messages were dropped for priority", n)
				}
			})
		})
	}
}

// A priority that is changed counts from the next message on: it decides who gives up
// room.
func TestPriorityIsChanged(t *testing.T) {
	onStage(t, broker.Config{MaxSessionBytes: 200, Topics: noHistory}, func(t *testing.T, s *stage) {
		first := s.peer.follow(codec.Subscribe{Number: 1, Pattern: "a", Priority: 2, Credit: 1})
		second := s.peer.follow(codec.Subscribe{Number: 2, Pattern: "b", Priority: 5, Credit: 1})
		synctest.Wait()
		s.peer.control.send(codec.AppendPriority(nil, codec.Priority{Subscription: 1, Priority: 7}))
		s.peer.control.send(codec.AppendPriority(nil, codec.Priority{Subscription: 9, Priority: 1})) // unknown: ignored
		synctest.Wait()
		s.publish("a", "+")
		synctest.Wait()
		s.publish("a", strings.Repeat("+ ", 19))
		s.publish("b", strings.Repeat("+ ", 5))
		for _, number := range []uint64{2, 1} {
			s.peer.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: number, Limit: 1 << 20}))
			synctest.Wait()
		}
		if got := second.transcript(t); got != "subscribed 0, 1, 2, 3, 4, 5" {
			t.Errorf("of the second came %s", got)
		}
		if got := first.transcript(t); !strings.HasPrefix(got, "subscribed 0, 1, gap ") {
			t.Errorf("of the first came %s", got)
		}
	})
}

// What is withheld is told before the next message, and not at once; a filter and no
// echo hold for what is replayed too.
func TestWithheldIsTold(t *testing.T) {
	onStage(t, broker.Config{}, func(t *testing.T, s *stage) {
		own := func(n int) {
			for range n {
				s.peer.control.send(codec.AppendPublish(nil, codec.Publish{Topic: "x", Payload: codec.Text("own")}))
			}
			synctest.Wait()
		}
		epoch := s.epoch("x")
		exact := s.peer.follow(codec.Subscribe{Number: 1, Pattern: "x", NoEcho: true})
		many := s.peer.follow(codec.Subscribe{Number: 2, Pattern: "*", NoEcho: true})
		synctest.Wait()
		own(3)
		if got := exact.transcript(t); got != "subscribed 1" {
			t.Errorf("at once came %s", got)
		}
		s.publish("x", "+")
		own(2)
		if got := exact.transcript(t); got != "skip 4, 5" {
			t.Errorf("then came %s", got)
		}
		if got := many.transcript(t); got != "subscribed, x 4, 5" {
			t.Errorf("of the pattern came %s", got)
		}
		exact.line.fin()
		if got := exact.transcript(t); !strings.HasSuffix(got, "end ok at 5") {
			t.Errorf("in the end came %s", got)
		}
		again := s.peer.follow(codec.Subscribe{Number: 3, Pattern: "x", NoEcho: true, From: codec.From{Kind: codec.FromPosition, Epoch: epoch, Offset: 1}})
		if got := again.transcript(t); got != "subscribed 1/7, skip 4, 5, skip 7" {
			t.Errorf("replayed was %s", got)
		}
	})
}

// A client that knows a topic of a pattern learns that what came since was withheld:
// it would take a later beginning for a gap.
func TestWithheldBeforeATopicIsAnnounced(t *testing.T) {
	onStage(t, broker.Config{}, func(t *testing.T, s *stage) {
		s.publish("x", "+ + +")
		epoch := s.epoch("x")
		own := func(sequence uint64) {
			s.peer.control.send(codec.AppendPublish(nil, codec.Publish{Sequence: sequence, Topic: "x", Payload: codec.Text("own")}))
			s.peer.control.want(codec.TypeAck)
		}
		from := codec.From{Kind: codec.FromPositions, Time: 1, Positions: []codec.TopicPosition{{Topic: "x", Epoch: epoch, Offset: 4}}}
		many := s.peer.follow(codec.Subscribe{Number: 1, Pattern: "*", NoEcho: true, From: from})
		none := s.peer.follow(codec.Subscribe{Number: 2, Pattern: "*", NoEcho: true, From: from})
		synctest.Wait()
		own(1)
		none.line.fin()
		if got := none.transcript(t); got != "subscribed, end ok at 0" {
			t.Errorf("before anything else came %s", got)
		}
		own(2)
		s.publish("x", "+")
		if got := many.transcript(t); got != "subscribed, x 4, skip 6, 7" {
			t.Errorf("came %s", got)
		}
	})
}

// observed is a connection that records the urgencies that the broker gives its streams.
type observed struct {
	*fickle
	urgencies []int8 // in the order of the calls; read when the session has ended
}

type observedStream struct {
	broker.Stream
	conn *observed
}

func (c *observed) AcceptStream(ctx context.Context) (broker.Stream, error) {
	stream, err := c.fickle.AcceptStream(ctx)
	return observedStream{stream, c}, err
}

func (s observedStream) SetPriority(urgency int8, incremental bool) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.conn.urgencies = append(s.conn.urgencies, urgency)
	s.Stream.SetPriority(urgency, incremental)
}

// Answers and credit go before every message in QUIC too, whichever stream they are on,
// and a priority that is changed is QUIC's too.
func TestUrgencies(t *testing.T) {
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	local, remote := memconn.Pair()
	c := &observed{fickle: &fickle{Conn: remote}}
	var serving sync.WaitGroup
	serving.Go(func() { _ = b.ServeConn(context.Background(), c) })
	p := &peer{t: t, conn: plainEnd{local}}
	p.control = p.open()
	p.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version}))
	p.control.want(codec.TypeWelcome)
	p.listen(codec.Subscribe{Number: 1, Pattern: "x", Priority: 4})
	l := p.publication("x", 1)
	l.publishes(1, 1)
	l.wantAnswers(1, 0)
	p.control.send(codec.AppendPriority(nil, codec.Priority{Subscription: 1, Priority: 6}))
	p.wantAlive()
	_ = local.CloseWithError(0, "")
	serving.Wait()
	if want := []int8{0, 4, 0, 6}; !slices.Equal(c.urgencies, want) {
		t.Errorf("urgencies %v, want %v: control, subscription, publication, the subscription again", c.urgencies, want)
	}
}
