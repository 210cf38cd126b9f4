package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// gatedStream is a stream whose writes wait for the gate.
type gatedStream struct {
	Stream
	writing chan struct{} // gets a token with each write
	gate    chan struct{}
	closed  atomic.Int32
}

func newGatedStream() *gatedStream {
	return &gatedStream{writing: make(chan struct{}, 16), gate: make(chan struct{})}
}

func (s *gatedStream) Write(b []byte) (int, error) {
	s.writing <- struct{}{}
	<-s.gate
	return len(b), nil
}

func (s *gatedStream) Close() error {
	s.closed.Add(1)
	return nil
}

// gatedLane is a lane that is writing.
func gatedLane(t *testing.T) (*lane, *gatedStream, <-chan struct{}) {
	stream := newGatedStream()
	c := &Client{ctx: t.Context()}
	p := &publisher{client: c, topic: "x", next: 1}
	l := &lane{publisher: p, conn: newConnection(c, nil), stream: stream, writing: true, out: []byte("frame")}
	p.lane = l
	l.idle = time.NewTimer(time.Hour)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.write()
	}()
	<-stream.writing
	return l, stream, done
}

// A lane that closes while it is writing sends FIN behind that, once.
func TestLaneClosesBehindWhatIsWritten(t *testing.T) {
	l, stream, done := gatedLane(t)
	l.retire(0)
	if !l.closing || stream.closed.Load() != 0 {
		t.Fatalf("closing %v, %d times FIN", l.closing, stream.closed.Load())
	}
	l.retire(0)
	close(stream.gate)
	<-done
	if n := stream.closed.Load(); n != 1 {
		t.Errorf("%d times FIN", n)
	}
}

// Nothing closes a lane whose messages have no answer yet, whether or not somebody
// still waits for it, or that is in use.
func TestLaneInUseStaysOpen(t *testing.T) {
	for name, use := range map[string]func(*publisher){
		"unanswered messages": func(p *publisher) { p.queue = []*outgoing{{}} },
		"a message just now":  func(p *publisher) { p.usedLocked() },
	} {
		l, stream, done := gatedLane(t)
		use(l.publisher)
		l.retire(idleAfter)
		close(stream.gate)
		<-done
		if l.closing || stream.closed.Load() != 0 {
			t.Errorf("%s: closing %v, %d times FIN", name, l.closing, stream.closed.Load())
		}
		l.stopTimer()
	}
}

// queued returns a publisher with messages of which the first ones were sent.
func queued(t *testing.T, sent, waiting int) *publisher {
	p := &publisher{client: &Client{ctx: t.Context()}, topic: "x", next: 1, id: codec.ID{1}}
	for i := range sent + waiting {
		o := &outgoing{at: time.Now(), result: PublishResult{done: make(chan struct{})}}
		o.message.Payload = codec.Text(fmt.Sprint(i))
		p.queue = append(p.queue, o)
	}
	for i := range sent {
		p.numberLocked(i)
		p.queue[i].tentative = false
	}
	p.sent = sent
	return p
}

// What becomes of messages when the broker ends their stream.
func TestRefusedMessages(t *testing.T) {
	for _, c := range []struct {
		end           codec.Code
		sent, waiting codec.Code // CodeOK: it goes on
	}{
		{codec.CodeOverloaded, codec.CodeConnectionLost, codec.CodeOverloaded},
		{codec.CodePublishDenied, codec.CodePublishDenied, codec.CodePublishDenied},
		{codec.CodeOK, codec.CodeOK, codec.CodeOK},
		{codec.CodeShuttingDown, codec.CodeOK, codec.CodeOK},
		{codec.CodeConnectionLost, codec.CodeOK, codec.CodeOK},
	} {
		p := queued(t, 1, 1)
		both := slices.Clone(p.queue)
		p.takeBackLocked()
		p.refusedLocked(&Error{Code: c.end})
		for i, want := range []codec.Code{c.sent, c.waiting} {
			got := codec.CodeOK
			select {
			case <-both[i].result.Done():
				got = codec.CodeOf(both[i].result.err)
			default:
			}
			if got != want {
				t.Errorf("END %s: message %d has %s, want %s", c.end, i, got, want)
			}
		}
	}
}

// What was sent goes out again under the same numbers for the same client, and
// fails for another one unless it has an idempotency key.
func TestMessagesOnTheNextConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := queued(t, 3, 2)
		p.takeBackLocked()
		p.adoptLocked(codec.ID{1})
		if len(p.queue) != 5 || p.numbered != 3 || p.queue[2].message.Sequence != 3 {
			t.Fatalf("%d messages, %d with a number", len(p.queue), p.numbered)
		}
		for i, want := range []uint64{1, 2, 3, 4, 5} {
			if got := p.numberLocked(i).Sequence; got != want {
				t.Errorf("message %d has the number %d", i, got)
			}
		}

		p = queued(t, 3, 2)
		p.queue[1].message.ID = "key"
		first := p.queue[0]
		p.takeBackLocked()
		p.adoptLocked(codec.ID{2})
		if len(p.queue) != 3 || p.numbered != 0 || string(p.queue[0].message.Payload.Data) != "1" {
			t.Fatalf("%d messages, %d with a number", len(p.queue), p.numbered)
		}
		if got := p.numberLocked(0).Sequence; got != 4 {
			t.Errorf("the number %d was used before", got)
		}
		if code := codec.CodeOf(first.result.err); code != codec.CodeConnectionLost {
			t.Errorf("%s", code)
		}
	})
}

// What goes out again tells how long ago it went out first, what goes out for the first
// time does not; and of what the broker may have forgotten the outcome is unknown.
func TestAgeOfMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := queued(t, 1, 1)
		p.takeBackLocked()
		time.Sleep(1500 * time.Millisecond)
		if m := p.numberLocked(0); m.Age != codec.Some(1500) {
			t.Errorf("sent again: %+v", m.Age)
		}
		if m := p.numberLocked(1); m.Age.Set {
			t.Errorf("sent first: %+v", m.Age)
		}
		p.sent = 2
		p.takeBackLocked() // the writer did not take the second one
		if m := p.numberLocked(1); m.Age.Set {
			t.Errorf("taken back unsent: %+v", m.Age)
		}
		p.sent = 1
		o := p.queue[0]
		p.answeredLocked(answer{err: &Error{Code: codec.CodeForgotten, Reason: "long ago", Remote: true}})
		if code := codec.CodeOf(o.result.err); code != codec.CodeConnectionLost {
			t.Errorf("forgotten: %s", code)
		}
	})
}

// A time to live counts from the call on.
func TestTimeToLiveWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := queued(t, 0, 1)
		p.queue[0].message.TTL = codec.Some(1000)
		time.Sleep(400 * time.Millisecond)
		if got := p.numberLocked(0).TTL.Value; got != 600 {
			t.Errorf("%d ms are left", got)
		}
		time.Sleep(time.Minute)
		if got := p.numberLocked(0).TTL.Value; got != 1 {
			t.Errorf("%d ms are left", got)
		}
	})
}

// Of what was sent nobody can say that it has expired unsent: under another client id it
// goes out again, for as good as no time.
func TestSentMessageDoesNotExpireUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := queued(t, 1, 1)
		for _, o := range p.queue {
			o.message.ID, o.message.TTL = "key", codec.Some(1000)
		}
		waiting := p.queue[1]
		p.takeBackLocked()
		time.Sleep(time.Minute)
		p.adoptLocked(codec.ID{2})
		n := &connection{welcome: codec.Welcome{Limits: codec.Limits{Payload: 100}}}
		for i := range 2 {
			p.refuseLocked(n, i)
		}
		if len(p.queue) != 1 || string(p.queue[0].message.Payload.Data) != "0" {
			t.Errorf("%d messages are sent again", len(p.queue))
		}
		if code := codec.CodeOf(waiting.result.err); code != codec.CodeExpired {
			t.Errorf("what was not sent has %s", code)
		}
	})
}

// Publishers that do nothing are forgotten, and no number is used twice.
func TestPublishersAreBounded(t *testing.T) {
	c := &Client{ctx: t.Context()}
	first := c.publisher("t0")
	first.next = 100
	for i := range 10 * maxPublishers {
		p := c.publisher(fmt.Sprint("t", i+1))
		if p.next < 100 && first.gone {
			t.Fatalf("publisher %d begins at %d", i, p.next)
		}
	}
	if n := len(c.publishers.byTopic); n > maxPublishers {
		t.Errorf("%d publishers are kept", n)
	}
	if !first.gone {
		t.Error("the first publisher, of which nothing is left to do, is still kept")
	}
}

// Messages wait for room on a control stream that is not read, at most as long as
// their context; other frames go into the queue at once.
func TestControlStreamNotRead(t *testing.T) {
	c := &Client{ctx: t.Context()}
	n := newConnection(c, nil)
	stream := newGatedStream()
	n.control = stream
	frame := make([]byte, 100<<10)
	if err := n.sendMessage(t.Context(), frame); err != nil {
		t.Fatal(err)
	}
	<-stream.writing // has taken the first one
	for range 3 {
		if err := n.sendMessage(t.Context(), frame); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.sendMessage(ctx, frame); !errors.Is(err, context.Canceled) {
		t.Errorf("above the bound: %v", err)
	}
	for range 1000 {
		n.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 1}))
	}
	waiting := make(chan error)
	go func() { waiting <- n.sendMessage(t.Context(), frame) }()
	close(stream.gate)
	if err := <-waiting; err != nil {
		t.Errorf("when there is room: %v", err)
	}
	if n.ctx.Err() != nil {
		t.Errorf("the connection has ended: %v", context.Cause(n.ctx))
	}
	n.wg.Wait()
}
