package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// ask sends REQUEST.
func (p *peer) ask(r codec.Request) {
	p.t.Helper()
	if r.Timeout == 0 {
		r.Timeout = 10_000
	}
	if r.Limit == 0 {
		r.Limit = 1
	}
	p.control.send(codec.AppendRequest(nil, r))
}

// wantDone reads DONE with a code, which must be the next frame.
func (p *peer) wantDone(number uint64, code codec.Code) {
	p.t.Helper()
	d, err := codec.ParseDone(p.control.want(codec.TypeDone))
	if err != nil || d.Number != number || d.Code != code {
		p.t.Fatalf("DONE %+v, %v; want %d %s", d, err, number, code)
	}
}

// wantResponse reads RESPONSE with a text.
func (p *peer) wantResponse(number uint64, want string) codec.Response {
	p.t.Helper()
	r, err := codec.ParseResponse(p.control.want(codec.TypeResponse))
	if err != nil || r.Number != number || string(r.Payload.Data) != want {
		p.t.Fatalf("RESPONSE %d %q, %v; want %d %q", r.Number, r.Payload.Data, err, number, want)
	}
	return r
}

// listen opens a subscription and reads SUBSCRIBED.
func (p *peer) listen(s codec.Subscribe) *line {
	p.t.Helper()
	if s.Credit == 0 {
		s.Credit = 64 << 10
	}
	if s.Number == 0 {
		s.Number = 1
	}
	l := p.open()
	l.send(codec.AppendSubscribe(nil, s))
	l.want(codec.TypeSubscribed)
	return l
}

// message reads the next MESSAGE; TOPIC may come before it.
func (l *line) message() codec.Message {
	l.t.Helper()
	for {
		f, err := l.reader.Next()
		if err != nil {
			l.t.Fatalf("want MESSAGE, got %v", err)
		}
		if f.Type == codec.TypeTopic {
			continue
		}
		m, err := codec.ParseMessage(f)
		if err != nil {
			l.t.Fatalf("want MESSAGE, got %s: %v", f.Type, err)
		}
		m.Payload.Data = append([]byte(nil), m.Payload.Data...)
		m.Reply = append([]byte(nil), m.Reply...)
		return m
	}
}

func (p *peer) answer(to []byte, text string) {
	p.t.Helper()
	p.control.send(codec.AppendReply(nil, codec.Reply{To: to, Payload: codec.Text(text)}))
}

func TestRequest(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		alice, _ := welcomedPeer(t, n)
		bob, bobs := welcomedPeer(t, n)
		down := bob.listen(codec.Subscribe{Pattern: "sum.*"})

		alice.ask(codec.Request{Number: 7, Topic: "sum.two", Payload: codec.Text("1+1"), Key: "k", Headers: codec.Headers{{Name: "Trace", Value: "t1"}}})
		m := down.message()
		if string(m.Payload.Data) != "1+1" || m.Key != "k" || !m.Expires.Set || m.Lossy() || len(m.Reply) == 0 {
			t.Fatalf("%+v", m)
		}
		if v, _ := m.Headers.Get("Trace"); v != "t1" {
			t.Errorf("headers %v", m.Headers)
		}
		bob.control.send(codec.AppendReply(nil, codec.Reply{To: m.Reply, Payload: codec.Text("2"), Headers: codec.Headers{{Name: "By", Value: "bob"}}}))
		r := alice.wantResponse(7, "2")
		if v, _ := r.Headers.Get("By"); v != "bob" || r.Publisher != bobs.Client {
			t.Errorf("%+v", r)
		}
		alice.wantDone(7, codec.CodeOK)

		// A second reply is too late: nothing comes after DONE.
		bob.answer(m.Reply, "3")
		eventually(t, func() bool { return b.Stats().Dropped[broker.DropReply] == 1 })

		// Several replies, from one and from several, in the order in which they came.
		carol, _ := welcomedPeer(t, n)
		other := carol.listen(codec.Subscribe{Pattern: "sum.many"})
		alice.ask(codec.Request{Number: 7, Topic: "sum.many", Limit: 3})
		m, o := down.message(), other.message()
		bob.answer(m.Reply, "a")
		alice.wantResponse(7, "a")
		carol.answer(o.Reply, "b")
		alice.wantResponse(7, "b")
		bob.answer(m.Reply, "c")
		alice.wantResponse(7, "c")
		alice.wantDone(7, codec.CodeOK)
		alice.wantAlive()
	})
}

func TestRequestNobodyThere(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		start := time.Now()
		p.ask(codec.Request{Number: 1, Topic: "a", Timeout: 600_000})
		p.wantDone(1, codec.CodeNoResponders)
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("told after %v", d)
		}
		// A group that has ended is nobody either.
		l := p.listen(codec.Subscribe{Number: 1, Pattern: "a", Group: "g"})
		l.fin()
		l.wantEnd(codec.CodeOK)
		p.ask(codec.Request{Number: 1, Topic: "a", Timeout: 600_000})
		p.wantDone(1, codec.CodeNoResponders)
	})
}

// Who is subscribed and does not get a request does not count.
func TestRequestNobodyGetsIt(t *testing.T) {
	n := &memNetwork{}
	newBroker(t, n, broker.Config{})
	p, _ := welcomedPeer(t, n)
	q, _ := welcomedPeer(t, n)
	p.listen(codec.Subscribe{Number: 1, Pattern: "a", NoEcho: true})
	filter := codec.Filter{{Name: "Kind", Operator: codec.OpExists}}
	q.listen(codec.Subscribe{Number: 1, Pattern: "a", Filter: filter})
	q.listen(codec.Subscribe{Number: 2, Pattern: "a", Filter: filter, Group: "g"})
	p.ask(codec.Request{Number: 1, Topic: "a", Timeout: 600_000})
	p.wantDone(1, codec.CodeNoResponders)
	// The other session is not withheld its request.
	q.ask(codec.Request{Number: 1, Topic: "a", Timeout: 1})
	q.wantDone(1, codec.CodeRequestTimeout)
}

// The time of a request ends it, with and without replies; what comes later is
// dropped.
func TestRequestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		l := p.listen(codec.Subscribe{Pattern: "a"})
		start := time.Now()
		p.ask(codec.Request{Number: 1, Topic: "a", Timeout: 2000, Limit: 2})
		m := l.message()
		p.answer(m.Reply, "one")
		p.wantResponse(1, "one")
		p.wantDone(1, codec.CodeRequestTimeout)
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("after %v", d)
		}
		p.answer(m.Reply, "two")
		synctest.Wait()
		if n := b.Stats().Dropped[broker.DropReply]; n != 1 {
			t.Errorf("%d replies dropped", n)
		}
		p.wantAlive()
	})
}

func TestRequestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		l := p.listen(codec.Subscribe{Pattern: "a"})
		p.ask(codec.Request{Number: 1, Topic: "a", Timeout: 1000})
		m := l.message()
		p.control.send(codec.AppendCancel(nil, codec.Cancel{Number: 1}))
		p.control.send(codec.AppendCancel(nil, codec.Cancel{Number: 99}))
		p.answer(m.Reply, "late")
		// The number is free at once.
		p.ask(codec.Request{Number: 1, Topic: "a", Timeout: 1000})
		p.answer(l.message().Reply, "new")
		p.wantResponse(1, "new")
		p.wantDone(1, codec.CodeOK)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s := b.Stats(); s.Dropped[broker.DropReply] != 1 || s.QueuedBytes != 0 {
			t.Errorf("%+v", s)
		}
		p.wantAlive()
	})
}

// What is wrong with a request ends it alone, with its code.
func TestRequestRefused(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{Limits: codec.Limits{Payload: 1000}})
		p, _ := welcomedPeer(t, n)
		for i, test := range []struct {
			request codec.Request
			code    codec.Code
		}{
			{codec.Request{Topic: "a..b", Timeout: 60_000, Limit: 1}, codec.CodeInvalidTopic},
			{codec.Request{Topic: "a.*", Timeout: 60_000, Limit: 1}, codec.CodeInvalidTopic},
			{codec.Request{Topic: "$a", Timeout: 60_000, Limit: 1}, codec.CodeSystemTopic},
			{codec.Request{Topic: "a", Timeout: 0, Limit: 1}, codec.CodeInvalidOption},
			{codec.Request{Topic: "a", Timeout: codec.MaxTimeout + 1, Limit: 1}, codec.CodeInvalidOption},
			{codec.Request{Topic: "a", Timeout: 60_000, Limit: 0}, codec.CodeInvalidOption},
			{codec.Request{Topic: "a", Timeout: 60_000, Limit: codec.MaxReplies + 1}, codec.CodeInvalidOption},
			{codec.Request{Topic: "a", Timeout: 60_000, Limit: 1, Headers: codec.Headers{{Name: "a b"}}}, codec.CodeInvalidOption},
			{codec.Request{Topic: "a", Timeout: 60_000, Limit: 1, Payload: codec.Bytes(make([]byte, 1001))}, codec.CodePayloadTooLarge},
		} {
			test.request.Number = uint64(i)
			p.control.send(codec.AppendRequest(nil, test.request))
			p.wantDone(uint64(i), test.code)
		}
		p.wantAlive()
	})
}

func TestRequestDenied(t *testing.T) {
	n := &memNetwork{}
	newBroker(t, n, broker.Config{Topics: []broker.TopicConfig{{Pattern: "closed", Publish: broker.AccessClosed}}})
	p, _ := welcomedPeer(t, n)
	p.ask(codec.Request{Number: 1, Topic: "closed"})
	p.wantDone(1, codec.CodePublishDenied)
	p.wantAlive()
}

// A number that is open cannot be answered by DONE, and a frame that is no request
// has none: both are faults of the control stream.
func TestRequestFaults(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		for name, test := range map[string]struct {
			frames []byte
			code   codec.Code
		}{
			"open number": {codec.AppendRequest(codec.AppendRequest(nil, codec.Request{Number: 1, Topic: "here", Timeout: 60_000, Limit: 1}),
				codec.Request{Number: 1, Topic: "here", Timeout: 60_000, Limit: 1}), codec.CodeDuplicateNumber},
			"REQUEST of nothing": {[]byte{2, 0x91, 64}, codec.CodeMalformedFrame},
			"REPLY of nothing":   {[]byte{2, 0x91, 67}, codec.CodeMalformedFrame},
			"CANCEL of nothing":  {[]byte{2, 0x91, 68}, codec.CodeMalformedFrame},
			"RESPONSE":           {codec.AppendResponse(nil, codec.Response{Number: 1}), codec.CodeUnexpectedFrame},
			"DONE":               {codec.AppendDone(nil, codec.Done{Number: 1}), codec.CodeUnexpectedFrame},
		} {
			t.Run(name, func(t *testing.T) {
				p, _ := welcomedPeer(t, n)
				p.listen(codec.Subscribe{Pattern: "here"})
				p.control.sendBad(test.frames)
				p.control.wantEnd(test.code)
				p.wantClosed(test.code)
			})
		}
	})
}

func TestTooManyRequests(t *testing.T) {
	n := &memNetwork{}
	newBroker(t, n, broker.Config{})
	p, _ := welcomedPeer(t, n)
	q, _ := welcomedPeer(t, n)
	l := q.listen(codec.Subscribe{Pattern: "a"})
	for i := range uint64(codec.MaxRequests) {
		p.ask(codec.Request{Number: i, Topic: "a"})
	}
	p.ask(codec.Request{Number: 1000, Topic: "a"})
	p.wantDone(1000, codec.CodeTooManyRequests)
	q.answer(l.message().Reply, "x")
	p.wantResponse(0, "x")
	p.wantDone(0, codec.CodeOK)
	p.ask(codec.Request{Number: 1000, Topic: "nobody"})
	p.wantDone(1000, codec.CodeNoResponders)
}

// A client answers what it was asked and nothing else.
func TestReplyAddress(t *testing.T) {
	n := &memNetwork{}
	b := newBroker(t, n, broker.Config{})
	p, _ := welcomedPeer(t, n)
	l := p.listen(codec.Subscribe{Pattern: "a"})
	p.ask(codec.Request{Number: 1, Topic: "a"})
	m := l.message()
	dropped := uint64(0)
	for i := range m.Reply {
		forged := append([]byte(nil), m.Reply...)
		forged[i] ^= 1
		p.answer(forged, "forged")
		dropped++
	}
	for _, to := range [][]byte{nil, m.Reply[:len(m.Reply)-1], append(m.Reply[:len(m.Reply):len(m.Reply)], 0), make([]byte, 255)} {
		p.answer(to, "forged")
		dropped++
	}
	p.wantAlive()
	if n := b.Stats().Dropped[broker.DropReply]; n != dropped {
		t.Errorf("%d replies dropped, want %d", n, dropped)
	}
	// A bad reply is not carried out, and costs nobody the session.
	p.control.send(codec.AppendReply(nil, codec.Reply{To: m.Reply, Headers: codec.Headers{{Name: ""}}}))
	p.control.send(codec.AppendReply(nil, codec.Reply{To: m.Reply, Payload: codec.Bytes(make([]byte, codec.DefaultMaxPayload+1))}))
	p.answer(m.Reply, "right")
	p.wantResponse(1, "right")
	p.wantDone(1, codec.CodeOK)
	p.wantAlive()
}

// Replies that are not read end the request, not the session; what waits is bounded.
func TestResponsesAreBounded(t *testing.T) {
	n := &memNetwork{}
	b := newBroker(t, n, broker.Config{MaxQueueBytes: 64 << 10})
	p, _ := welcomedPeer(t, n)
	q, _ := welcomedPeer(t, n)
	l := q.listen(codec.Subscribe{Pattern: "a"})
	p.ask(codec.Request{Number: 1, Topic: "a", Limit: codec.MaxReplies})
	m := l.message()
	n.Gate = make(chan struct{})
	n.Shut.Store(true)
	for range 100 {
		q.control.send(codec.AppendReply(nil, codec.Reply{To: m.Reply, Payload: codec.Bytes(make([]byte, 4<<10))}))
	}
	eventually(t, func() bool { return b.Stats().Dropped[broker.DropReply] > 0 })
	if got := b.Stats().QueuedBytes; got > 80<<10 {
		t.Errorf("%d bytes wait", got)
	}
	n.Shut.Store(false)
	close(n.Gate)
	for {
		f, err := p.control.reader.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Type == codec.TypeDone {
			if d, err := codec.ParseDone(f); err != nil || d.Code != codec.CodeOverloaded {
				t.Fatalf("%+v, %v", d, err)
			}
			break
		}
	}
	p.wantAlive()
	eventually(t, func() bool { return b.Stats().QueuedBytes == 0 })
}

// A session that ends leaves no request, and no byte.
func TestSessionEndsWithRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		q, _ := welcomedPeer(t, n)
		l := q.listen(codec.Subscribe{Pattern: "a"})
		p.ask(codec.Request{Number: 1, Topic: "a"})
		m := l.message()
		_ = p.conn.CloseWithError(0, "")
		synctest.Wait()
		q.answer(m.Reply, "x")
		q.wantAlive()
		if s := b.Stats(); s.Dropped[broker.DropReply] != 1 || s.QueuedBytes != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A reply that comes while the session of who asked says farewell is dropped, and takes
// no room for ever.
func TestReplyToASessionThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{})
		alice, wa := welcomedPeer(t, n)
		bob, _ := welcomedPeer(t, n)
		down := bob.listen(codec.Subscribe{Pattern: "sum"})
		alice.ask(codec.Request{Number: 1, Topic: "sum"})
		m := down.message()
		if !b.DisconnectClient(wa.Client, "enough") {
			t.Fatal("there is no such client")
		}
		synctest.Wait() // now it waits until alice has read END, which she does not
		if s := b.Stats(); s.Requests != 1 {
			t.Fatalf("%d requests are open", s.Requests)
		}
		bob.answer(m.Reply, "2")
		synctest.Wait()
		time.Sleep(time.Minute)
		if s := b.Stats(); s.QueuedBytes != 0 || s.Requests != 0 || s.Dropped[broker.DropReply] != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// The process asks like a client does.
func TestRequestOfTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{})
		ctx := t.Context()
		_, err := b.Request(ctx, "a", "?", nil)
		wantCode(t, err, codec.CodeNoResponders)
		_, err = b.Request(ctx, "a.*", "?", nil)
		wantCode(t, err, codec.CodeInvalidTopic)
		for _, o := range []broker.RequestOptions{{Timeout: -1}, {Timeout: time.Hour}, {Headers: map[string]string{"": ""}}} {
			_, err = b.Request(ctx, "a", "?", &o)
			wantCode(t, err, codec.CodeInvalidOption)
		}
		for m, err := range b.RequestMany(ctx, "a", "?", &broker.RequestOptions{Max: -1}) {
			wantCode(t, err, codec.CodeInvalidOption)
			_ = m
		}

		p, w := welcomedPeer(t, n)
		l := p.listen(codec.Subscribe{Pattern: "a"})
		type result struct {
			m   broker.Message
			err error
		}
		results := make(chan result, 1)
		go func() {
			m, err := b.Request(ctx, "a", "?", nil)
			results <- result{m, err}
		}()
		p.answer(l.message().Reply, "!")
		if r := <-results; r.err != nil || string(r.m.Payload.Data) != "!" || r.m.Publisher != w.Client {
			t.Fatalf("%+v", r)
		}

		var got []string
		done := make(chan error, 1)
		go func() {
			for m, err := range b.RequestMany(ctx, "a", "?", &broker.RequestOptions{Timeout: time.Second}) {
				if err != nil {
					done <- err
					return
				}
				got = append(got, string(m.Payload.Data))
			}
			done <- nil
		}()
		m := l.message()
		for i := range 3 {
			p.answer(m.Reply, fmt.Sprint(i))
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got) != "[0 1 2]" {
			t.Error(got)
		}

		_, err = b.Request(ctx, "a", "?", &broker.RequestOptions{Timeout: time.Second})
		wantCode(t, err, codec.CodeRequestTimeout)
		l.message()

		// Whoever waits no longer is told so.
		soon, cancel := context.WithCancel(ctx)
		go func() {
			_, err := b.Request(soon, "a", "?", nil)
			done <- err
		}()
		l.message()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		go func() {
			_, err := b.Request(ctx, "a", "?", nil)
			done <- err
		}()
		l.message()
		_ = b.Close()
		wantCode(t, <-done, codec.CodeShuttingDown)
		if _, err := b.Request(ctx, "a", "?", nil); !errors.Is(err, broker.ErrClosed) {
			t.Error(err)
		}
	})
}

// A request is no last value, although the topic retains all that is published.
func TestRequestIsNoLastValue(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{Topics: []broker.TopicConfig{{Pattern: "a", Retain: broker.RetainAll}}})
		c := dial(t, n)
		publish(t, c, "a", "value")
		if _, err := c.Request(within(t), "a", "question", nil); codec.CodeOf(err) != codec.CodeNoResponders {
			t.Fatal(err)
		}
		if m := take(t, subscribe(t, c, "a", nil), 1)[0]; text(m) != "value" {
			t.Errorf("the last value is %q", text(m))
		}
	})
}
