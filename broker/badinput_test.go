package broker_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/internal/memnet"
)

// raw returns a frame with any body.
func raw(body ...byte) []byte { return append([]byte{byte(len(body))}, body...) }

// tooLong is the beginning of a frame of 64 MiB.
var tooLong = []byte{0x84, 0, 0, 0}

// A fault on a stream ends that stream with its code, and nothing else.
func TestBadStreams(t *testing.T) {
	sub := func(s codec.Subscribe) []byte {
		if s.Number == 0 {
			s.Number = 1
		}
		if s.Credit == 0 {
			s.Credit = 1000
		}
		return codec.AppendSubscribe(nil, s)
	}
	pub := codec.AppendPublication(nil, codec.Publication{Topic: "a", First: 1})
	message := func(seq uint64, topic string) []byte {
		return codec.AppendPublish(nil, codec.Publish{Sequence: seq, Topic: topic, Payload: codec.Text("x")})
	}
	cases := []struct {
		name string
		send []byte
		fin  bool
		code codec.Code
	}{
		{"frame over its limit", tooLong, false, codec.CodeFrameTooLarge},
		{"cut frame", sub(codec.Subscribe{Pattern: "a"})[:5], true, codec.CodeMalformedFrame},
		{"nothing but FIN", nil, true, codec.CodeMalformedFrame},
		{"no MessagePack", raw(0xc1), false, codec.CodeMalformedFrame},
		{"unknown frame", raw(0x91, 99), false, codec.CodeUnknownFrame},
		{"frame of the control stream", codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 1}), false, codec.CodeUnexpectedFrame},
		{"frame of the broker", codec.AppendSkip(nil, codec.Skip{Topic: 1, To: 1}), false, codec.CodeUnexpectedFrame},
		{"bytes behind SUBSCRIBE", append(sub(codec.Subscribe{Pattern: "a"}), 1, 2), false, codec.CodeUnexpectedFrame},
		{"bad pattern", sub(codec.Subscribe{Pattern: "a..b"}), false, codec.CodeInvalidPattern},
		{"unknown class", sub(codec.Subscribe{Pattern: "a", Class: 4}), false, codec.CodeUnsupportedClass},
		{"system topic", sub(codec.Subscribe{Pattern: "$SYS.a"}), false, codec.CodeSystemTopic},
		{"system pattern", sub(codec.Subscribe{Pattern: "$JS.API.>"}), false, codec.CodeSystemTopic},
		{"inbox pattern", sub(codec.Subscribe{Pattern: "_INBOX.>"}), false, codec.CodeSystemTopic},
		{"inbox topic", sub(codec.Subscribe{Pattern: "_INBOX.x"}), false, codec.CodeSystemTopic},
		{"publication to a bad topic", codec.AppendPublication(nil, codec.Publication{Topic: "a b", First: 1}), false, codec.CodeInvalidTopic},
		{"publication to a pattern", codec.AppendPublication(nil, codec.Publication{Topic: "a.>", First: 1}), false, codec.CodeInvalidTopic},
		{"publication to the system", codec.AppendPublication(nil, codec.Publication{Topic: "$JS.API.x", First: 1}), false, codec.CodeSystemTopic},
		{"publication to an inbox", codec.AppendPublication(nil, codec.Publication{Topic: "_INBOX.x", First: 1}), false, codec.CodeSystemTopic},
		{"publication of another client", codec.AppendPublication(nil, codec.Publication{Topic: "a", First: 1, Publisher: codec.ID{1}}), false, codec.CodeUnauthorized},
		{"PUBLISH out of sequence", append(bytes.Clone(pub), message(2, "")...), false, codec.CodeUnexpectedFrame},
		{"PUBLISH with a topic on a publication", append(bytes.Clone(pub), message(1, "b")...), false, codec.CodeUnexpectedFrame},
		{"another frame on a publication", append(bytes.Clone(pub), pub...), false, codec.CodeUnexpectedFrame},
		{"unknown frame on a publication", append(bytes.Clone(pub), raw(0x91, 99)...), false, codec.CodeUnknownFrame},
		{"cut frame on a publication", append(bytes.Clone(pub), message(1, "")[:4]...), true, codec.CodeMalformedFrame},
		{"long frame on a publication", append(bytes.Clone(pub), tooLong...), false, codec.CodeFrameTooLarge},
	}
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				p, _ := welcomedPeer(t, n)
				good := p.open()
				good.send(sub(codec.Subscribe{Number: 100, Pattern: "good"}))
				good.want(codec.TypeSubscribed)
				bad := p.open()
				bad.sendBad(c.send)
				if c.fin {
					bad.fin()
				}
				bad.wantEnd(c.code)
				p.wantAlive()
				if _, err := b.Publish(t.Context(), "good", "still here", nil); err != nil {
					t.Fatal(err)
				}
				good.want(codec.TypeMessage)
			})
		}
	})
}

// A fault on the control stream ends the session with its code, and no other one.
func TestBadControl(t *testing.T) {
	hello := codec.AppendHello(nil, codec.Hello{Version: codec.Version})
	cases := []struct {
		name  string
		hello []byte
		send  []byte
		fin   bool
		code  codec.Code
	}{
		{"another version", codec.AppendHello(nil, codec.Hello{Version: 99}), nil, false, codec.CodeUnsupportedVersion},
		{"HELLO without a field", raw(0x92, 1, 1), nil, false, codec.CodeMalformedFrame},
		{"second HELLO", hello, hello, false, codec.CodeUnexpectedFrame},
		{"unknown frame", hello, raw(0x91, 99), false, codec.CodeUnknownFrame},
		{"frame of the broker", hello, codec.AppendSkip(nil, codec.Skip{}), false, codec.CodeUnexpectedFrame},
		{"frame of a subscription", hello, codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: "a", Credit: 1}), false, codec.CodeUnexpectedFrame},
		{"frame over its limit", hello, tooLong, false, codec.CodeFrameTooLarge},
		{"malformed FLOW", hello, raw(0x92, 7, 1), false, codec.CodeMalformedFrame},
		{"malformed PING", hello, raw(0x91, 9), false, codec.CodeMalformedFrame},
		{"malformed PRESENCE", hello, raw(0x92, 48, 1), false, codec.CodeMalformedFrame},
		{"malformed AUTH", hello, raw(0x92, 3, 1), false, codec.CodeMalformedFrame},
		{"malformed PRIORITY", hello, raw(0x92, 11, 1), false, codec.CodeMalformedFrame},
		{"malformed PUBLISH", hello, raw(0x92, 33, 1), false, codec.CodeMalformedFrame},
		{"malformed REQUEST", hello, raw(0x92, 64, 1), false, codec.CodeMalformedFrame},
		{"malformed REPLY", hello, raw(0x91, 67), false, codec.CodeMalformedFrame},
		{"malformed CANCEL", hello, raw(0x91, 68), false, codec.CodeMalformedFrame},
		{"DONE", hello, codec.AppendDone(nil, codec.Done{Number: 1}), false, codec.CodeUnexpectedFrame},
		{"FETCH on the control stream", hello, codec.AppendFetch(nil, codec.Fetch{Topic: "a", Limit: 1}), false, codec.CodeUnexpectedFrame},
		{"malformed COUNT", hello, raw(0x92, 49, 1), false, codec.CodeMalformedFrame},
		{"COUNTS", hello, codec.AppendCounts(nil, codec.Counts{Number: 1}), false, codec.CodeUnexpectedFrame},
		{"PONG", hello, codec.AppendPong(nil, codec.Pong{Number: 1}), false, codec.CodeUnexpectedFrame},
		{"cut frame", hello, raw(0x93, 7, 1)[:2], true, codec.CodeMalformedFrame},
		{"FIN", hello, nil, true, codec.CodeOK},
	}
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		other, _ := welcomedPeer(t, n)
		t.Run("cases", func(t *testing.T) {
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					p := newPeer(t, n)
					control := p.open()
					control.sendBad(append(bytes.Clone(c.hello), c.send...))
					if c.fin {
						control.fin()
					}
					control.wantEnd(c.code)
					p.wantClosed(c.code)
				})
			}
		})
		other.wantAlive()
	})
}

// A second control stream is an error of the session (PROTOCOL §5).
func TestSecondControlStream(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		p.open().send(codec.AppendHello(nil, codec.Hello{Version: codec.Version}))
		p.control.wantEnd(codec.CodeUnexpectedFrame)
		p.wantClosed(codec.CodeUnexpectedFrame)
	})
}

// A publication answers a fault within its frames, and goes on.
func TestRefusedMessages(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{Limits: codec.Limits{Payload: 100}})
		p, _ := welcomedPeer(t, n)
		l := p.open()
		l.send(codec.AppendPublication(nil, codec.Publication{Topic: "a", First: 10}))
		for i, size := range []int{100, 101, 5} {
			l.send(codec.AppendPublish(nil, codec.Publish{Sequence: uint64(10 + i), Payload: codec.Bytes(make([]byte, size))}))
		}
		l.send(raw(0x92, byte(codec.TypePublish), 13)) // fields are missing, the frame is whole
		l.send(codec.AppendPublish(nil, codec.Publish{Sequence: 14, Payload: codec.Text("after")}))
		l.fin()
		acked, refused := make(map[uint64]uint64), make(map[uint64]codec.Code)
		for len(acked)+len(refused) < 5 {
			f, err := l.reader.Next()
			if err != nil {
				t.Fatal(err)
			}
			switch f.Type {
			case codec.TypeAck:
				a, err := codec.ParseAck(f)
				if err != nil {
					t.Fatal(err)
				}
				for i, offset := range a.Offsets {
					acked[a.Sequence+uint64(i)] = offset
				}
			case codec.TypeNack:
				a, err := codec.ParseNack(f)
				if err != nil {
					t.Fatal(err)
				}
				refused[a.Sequence] = a.Code
			}
		}
		if acked[10] != 1 || acked[12] != 2 || acked[14] != 3 || refused[11] != codec.CodePayloadTooLarge || refused[13] != codec.CodeMalformedFrame {
			t.Errorf("acknowledged %v, refused %v", acked, refused)
		}
		l.wantEnd(codec.CodeOK)
	})
}

// Sequence 0 asks for no answer, whether the message is taken or refused.
func TestPublishWithoutAnAnswer(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		b := newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		for _, topic := range []string{"a", "$SYS.a", "b"} {
			p.control.send(codec.AppendPublish(nil, codec.Publish{Topic: topic, Payload: codec.Text("x")}))
		}
		p.control.send(codec.AppendPublish(nil, codec.Publish{Sequence: 5, Topic: "c", Payload: codec.Text("x")}))
		a, err := codec.ParseAck(p.control.want(codec.TypeAck))
		if err != nil || a.Sequence != 5 {
			t.Errorf("the first answer is %+v, %v", a, err)
		}
		if s := b.Stats(); s.Published != 3 || s.Rejected != 1 {
			t.Errorf("%d published, %d rejected", s.Published, s.Rejected)
		}
	})
}

// PUBLISH on the control stream is refused by NACK, one by one.
func TestRefusedSingleMessages(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		p, _ := welcomedPeer(t, n)
		for topic, code := range map[string]codec.Code{
			"":                       codec.CodeInvalidTopic,
			"a b":                    codec.CodeInvalidTopic,
			"a.*":                    codec.CodeInvalidTopic,
			strings.Repeat("a", 256): codec.CodeInvalidTopic,
			"$JS.API.INFO":           codec.CodeSystemTopic,
			"_INBOX.x":               codec.CodeSystemTopic,
		} {
			p.control.send(codec.AppendPublish(nil, codec.Publish{Sequence: 1, Topic: topic, Payload: codec.Text("x")}))
			a, err := codec.ParseNack(p.control.want(codec.TypeNack))
			if err != nil || a.Code != code || a.Sequence != 1 {
				t.Errorf("topic %q: %+v, %v; want %s", topic, a, err, code)
			}
		}
		p.wantAlive()
	})
}

// A client that says nothing is let go, and a stream that says nothing too.
func TestSilence(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{HelloTimeout: 50 * time.Millisecond, StreamTimeout: 50 * time.Millisecond})
		silent := newPeer(t, n)
		silent.wantClosed(codec.CodeHelloTimeout)

		p, _ := welcomedPeer(t, n)
		half := p.open()
		half.send([]byte{10, 0x96}) // the beginning of a frame
		half.wantEnd(codec.CodeStreamTimeout)
		p.wantAlive()
	})
}

// Before WELCOME a client gets no more than the bounds of PROTOCOL §10.
func TestStreamsBeforeWelcome(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		p := newPeer(t, n)
		// One of the bound could have been the control stream. Which stream is one too
		// many is not known: they may arrive in any order.
		ends := make(chan codec.End)
		var reading sync.WaitGroup
		for i := range codec.MaxEarlyStreams + 2 {
			l := p.open()
			l.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: uint64(i + 1), Pattern: "a", Credit: 1}))
			reading.Go(func() {
				if f, err := l.reader.Next(); err == nil {
					e, _ := codec.ParseEnd(f)
					ends <- e
				}
			})
		}
		select {
		case e := <-ends:
			if e.Code != codec.CodeTooManyStreams {
				t.Errorf("%+v, want %s", e, codec.CodeTooManyStreams)
			}
		case <-within(t).Done():
			t.Error("no stream was refused")
		}
		_ = p.conn.CloseWithError(0, "")
		go func() { reading.Wait(); close(ends) }()
		for e := range ends {
			t.Errorf("another stream was refused: %+v", e)
		}
	})
}

// Streams that come before HELLO are served after WELCOME, and never if HELLO
// fails.
func TestEarlyStreams(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{})
		for _, version := range []uint64{codec.Version, 99} {
			p := newPeer(t, n)
			early := p.open()
			early.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: "a", Credit: 1000}))
			p.control = p.open()
			p.control.send(codec.AppendHello(nil, codec.Hello{Version: version}))
			if version == codec.Version {
				p.control.want(codec.TypeWelcome)
				early.want(codec.TypeSubscribed)
				continue
			}
			p.control.wantEnd(codec.CodeUnsupportedVersion)
			if f, err := early.reader.Next(); err == nil {
				t.Errorf("%s although HELLO failed", f.Type)
			}
		}
	})
}

// A client that floods is held to its limits, and to its rate.
func TestFlood(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		newBroker(t, n, broker.Config{
			Limits:      codec.Limits{Subscriptions: 3, Publications: 3},
			PublishRate: 50,
		})
		p, _ := welcomedPeer(t, n)
		for i := range 5 {
			sub, pub := p.open(), p.open()
			sub.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: uint64(i + 1), Pattern: "x", Credit: 1000}))
			pub.send(codec.AppendPublication(nil, codec.Publication{Topic: "t" + string(rune('a'+i)), First: 1}))
			if i < 3 {
				sub.want(codec.TypeSubscribed)
				pub.send(codec.AppendPublish(nil, codec.Publish{Sequence: 1, Payload: codec.Text("x")}))
				pub.want(codec.TypeAck)
				continue
			}
			sub.wantEnd(codec.CodeTooManySubscriptions)
			pub.wantEnd(codec.CodeTooManyPublications)
		}
		same := p.open()
		same.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: "x", Credit: 1000}))
		same.wantEnd(codec.CodeDuplicateNumber)

		// Messages above the rate are refused one by one; the session lives.
		refused := 0
		for i := range 200 {
			p.control.send(codec.AppendPublish(nil, codec.Publish{Sequence: uint64(i + 1), Topic: "flood", Payload: codec.Text("x")}))
		}
		for range 200 {
			f, err := p.control.reader.Next()
			if err != nil {
				t.Fatal(err)
			}
			if f.Type == codec.TypeNack {
				a, err := codec.ParseNack(f)
				if err != nil || a.Code != codec.CodeRateLimited || !a.Retry.Set {
					t.Fatalf("%+v, %v", a, err)
				}
				refused++
			}
		}
		if refused == 0 || refused == 200 {
			t.Errorf("%d of 200 messages were refused", refused)
		}
		p.wantAnswer()

	})
}

// A client that sends beyond the credit that it was told loses the publication,
// and nothing else.
func TestPublicationCredit(t *testing.T) {
	n := &memNetwork{memnet.Network{Gate: make(chan struct{})}}
	broke := newBroker(t, n, broker.Config{Limits: codec.Limits{PublicationCredit: 100}})
	p, _ := welcomedPeer(t, n)
	l := p.open()
	l.send(codec.AppendPublication(nil, codec.Publication{Topic: "greedy", First: 1}))
	n.Shut.Store(true) // from here on the broker can tell nothing
	var b []byte
	for i := range 8 {
		b = codec.AppendPublish(b, codec.Publish{Sequence: uint64(i + 1), Payload: codec.Bytes(make([]byte, 80))})
	}
	l.send(b)
	// One ACK may have been made before the gate stopped it. Whatever it grants
	// comes to less than what was sent.
	eventually(t, func() bool { return broke.Stats().StreamsRefused == 1 })
	close(n.Gate)
	l.wantEnd(codec.CodeCreditExceeded)
	p.wantAlive()
}

// wantAnswer is wantAlive for a session whose rate is used up.
func (p *peer) wantAnswer() {
	p.t.Helper()
	p.control.send(codec.AppendPublish(nil, codec.Publish{Sequence: 4712, Topic: "a b", Payload: codec.Text("?")}))
	for {
		f, err := p.control.reader.Next()
		if err != nil {
			p.t.Fatalf("the session has ended: %v", err)
		}
		if f.Type == codec.TypeNack {
			return
		}
	}
}
