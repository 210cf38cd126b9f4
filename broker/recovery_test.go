package broker_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// transcript is what came on a subscription's stream, as a test writes it.
func (sub *watched) transcript(t *testing.T) string {
	t.Helper()
	time.Sleep(time.Millisecond)
	synctest.Wait()
	sub.mu.Lock()
	defer sub.mu.Unlock()
	var out []string
	for _, f := range sub.frames {
		out = append(out, describe(t, f))
	}
	sub.frames = nil
	return strings.Join(out, ", ")
}

func describe(t *testing.T, f codec.Frame) string {
	t.Helper()
	switch f.Type {
	case codec.TypeSubscribed:
		s, err := codec.ParseSubscribed(f)
		if err != nil {
			t.Fatal(err)
		}
		if s.Topic == 0 {
			return "subscribed"
		}
		return "subscribed" + begins(s.Offset, s.Last, s.Class)
	case codec.TypeTopic:
		a, err := codec.ParseTopic(f)
		if err != nil {
			t.Fatal(err)
		}
		return a.Name + begins(a.Offset, a.Last, a.Class)
	case codec.TypeMessage:
		m, err := codec.ParseMessage(f)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(m.Offset)
	case codec.TypeGap:
		g, err := codec.ParseGap(f)
		if err != nil {
			t.Fatal(err)
		}
		out := "gap " + g.Reason.String()
		if g.From.Set || g.To.Set {
			out += fmt.Sprintf(" %d-%d", g.From.Value, g.To.Value)
		}
		if g.Count.Set {
			out += fmt.Sprintf(" (%d)", g.Count.Value)
		}
		return out
	case codec.TypeSkip:
		s, err := codec.ParseSkip(f)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint("skip ", s.To)
	case codec.TypeEnd:
		e, err := codec.ParseEnd(f)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("end %s at %d", e.Code, e.Offset.Value)
	}
	return f.Type.String()
}

func begins(offset uint64, last, class codec.Optional) string {
	out := fmt.Sprint(" ", offset)
	if last.Set {
		out += fmt.Sprint("/", last.Value)
	}
	if class.Set {
		out += " " + codec.Class(class.Value).String()
	}
	return out
}

// follow subscribes and keeps what comes.
func (p *peer) follow(f codec.Subscribe) *watched {
	p.t.Helper()
	if f.Credit == 0 {
		f.Credit = 1 << 20
	}
	sub := &watched{f: f, line: p.open()}
	_ = sub.line.stream.SetReadDeadline(time.Time{})
	sub.line.send(codec.AppendSubscribe(nil, f))
	go sub.read()
	return sub
}

// stage is a broker and a peer in virtual time.
type stage struct {
	t    *testing.T
	b    *broker.Broker
	peer *peer
}

func onStage(t *testing.T, config broker.Config, play func(t *testing.T, s *stage)) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, config)
		p, _ := welcomedPeer(t, n)
		play(t, &stage{t, b, p})
		_ = p.conn.CloseWithError(0, "")
		synctest.Wait()
	})
}

// publish publishes a few messages: a word each, "+" for a reliable one, "~" for a
// lossy one, "=k" for a last value of the key k, "-k" to clear it.
func (s *stage) publish(topic, words string) {
	s.t.Helper()
	for word := range strings.FieldsSeq(words) {
		var err error
		switch word[0] {
		case '~':
			_, err = s.b.PublishLossy(s.t.Context(), topic, "lossy", nil)
		case '=':
			_, err = s.b.Publish(s.t.Context(), topic, "value", &broker.PublishOptions{Key: word[1:], Retain: true})
		case '-':
			_, err = s.b.Publish(s.t.Context(), topic, []byte{}, &broker.PublishOptions{Key: word[1:], Retain: true})
		default:
			_, err = s.b.Publish(s.t.Context(), topic, "reliable", nil)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *stage) epoch(topic string) uint64 {
	s.t.Helper()
	pos, err := s.b.Publish(s.t.Context(), topic, "for the epoch", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return pos.Epoch
}

// Where a subscription to one topic begins, by what the topic has, what is asked for
// and the class.
func TestBeginnings(t *testing.T) {
	all := []broker.TopicConfig{{Pattern: ">"}}
	two := []broker.TopicConfig{{Pattern: ">", History: broker.Retention{Count: 2}}}
	latest := []broker.TopicConfig{{Pattern: ">", Class: codec.ClassLatest}}
	at := func(offset uint64) codec.From { return codec.From{Kind: codec.FromPosition, Offset: offset} }
	for _, c := range []struct {
		name   string
		topics []broker.TopicConfig
		words  string // of one topic, behind a first message at offset 1
		f      codec.Subscribe
		epoch  uint64 // another one than the topic's, if it is not 0
		want   string
	}{
		{"now", all, "+ + +", codec.Subscribe{}, 0, "subscribed 4"},
		{"last values", all, "=a + =b =a", codec.Subscribe{}, 0, "subscribed 0/5, skip 3, 4, 5"},
		{"last values and more", all, "=a + =b +", codec.Subscribe{}, 0, "subscribed 0/5, skip 1, 2, skip 3, 4, skip 5"},
		{"no last values", all, "=a", codec.Subscribe{NoRetained: true}, 0, "subscribed 2"},
		{"a last value that was cleared", all, "=a -a", codec.Subscribe{}, 0, "subscribed 3"},
		{"last values without a history", noHistory, "=a + =b", codec.Subscribe{}, 0, "subscribed 0/4, skip 1, 2, skip 3, 4"},
		{"a position", all, "+ + +", codec.Subscribe{From: at(2)}, 0, "subscribed 2/4, 3, 4"},
		{"the end", all, "+ + +", codec.Subscribe{From: at(4)}, 0, "subscribed 4"},
		{"before the first message", all, "+", codec.Subscribe{From: at(0)}, 0, "subscribed 0/2, 1, 2"},
		{"beyond the end", all, "+ +", codec.Subscribe{From: at(7)}, 0, "subscribed 0/3, gap history, 1, 2, 3"},
		{"another epoch", all, "+ +", codec.Subscribe{From: at(2)}, 7, "subscribed 0/3, 1, 2, 3"},
		{"another epoch, trimmed", two, "=a + + +", codec.Subscribe{From: at(2)}, 7, "subscribed 0/5, skip 1, 2, skip 3, 4, 5"},
		{"trimmed", two, "+ + + +", codec.Subscribe{From: at(1)}, 0, "subscribed 1/5, gap history 1-3 (2), 4, 5"},
		{"trimmed, with last values", two, "=a =b + + +", codec.Subscribe{From: at(1)}, 0, "subscribed 1/6, 2, 3, gap history 3-4 (1), 5, 6"},
		{"within the last values", all, "=a + =b +", codec.Subscribe{From: codec.From{Kind: codec.FromPosition, Offset: 2, Values: 5}}, 0, "subscribed 2/5, skip 3, 4, skip 5"},
		{"within the last values, and more has come", all, "=a + =b + + +", codec.Subscribe{From: codec.From{Kind: codec.FromPosition, Offset: 2, Values: 5}}, 0, "subscribed 2/7, skip 3, 4, skip 5, 6, 7"},
		{"within the last values, trimmed", two, "=a + =b + + +", codec.Subscribe{From: codec.From{Kind: codec.FromPosition, Offset: 1, Values: 4}}, 0, "subscribed 1/7, 2, skip 3, 4, gap history 4-5 (1), 6, 7"},
		{"within the last values of another epoch", two, "=a + + +", codec.Subscribe{From: codec.From{Kind: codec.FromPosition, Offset: 2, Values: 4}}, 7, "subscribed 0/5, skip 1, 2, skip 3, 4, 5"},
		{"last values up to beyond the end", all, "=a +", codec.Subscribe{From: codec.From{Kind: codec.FromPosition, Offset: 1, Values: 99}}, 0, "subscribed 1/3, 2, skip 3"},
		{"no history", noHistory, "+ + +", codec.Subscribe{From: at(1)}, 0, "subscribed 1/4, gap history 1-4 (3)"},
		{"no history, with a last value", noHistory, "+ =a +", codec.Subscribe{From: at(1)}, 0, "subscribed 1/4, gap history 1-2 (1), 3, gap history 3-4 (1)"},
		{"lossy messages", all, "~ + ~ + ~", codec.Subscribe{From: at(1)}, 0, "subscribed 1/6, gap conflated 1-2 (1), 3, gap conflated 3-4 (1), 5, gap conflated 5-6 (1)"},
		{"the last two", all, "+ + +", codec.Subscribe{From: codec.From{Kind: codec.FromLast, N: 2}}, 0, "subscribed 2/4, 3, 4"},
		{"more than there are", two, "+ + +", codec.Subscribe{From: codec.From{Kind: codec.FromLast, N: 9}}, 0, "subscribed 2/4, 3, 4"},
		{"the beginning", two, "+ + +", codec.Subscribe{From: codec.From{Kind: codec.FromBeginning}}, 0, "subscribed 2/4, 3, 4"},
		{"the beginning of nothing", noHistory, "+ +", codec.Subscribe{From: codec.From{Kind: codec.FromBeginning}}, 0, "subscribed 3"},
		{"since the beginning of time", all, "+", codec.Subscribe{From: codec.From{Kind: codec.FromTime}}, 0, "subscribed 0/2, 1, 2"},
		{"since a time to come", all, "+", codec.Subscribe{From: codec.From{Kind: codec.FromTime, Time: 99_999_999}}, 0, "subscribed 2"},
		{"since a time, trimmed", two, "+ + +", codec.Subscribe{From: codec.From{Kind: codec.FromTime}}, 0, "subscribed 0/4, gap history 0-2, 3, 4"},
		{"latest", all, "+ + +", codec.Subscribe{From: at(1), Class: codec.ClassLatest}, 0, "subscribed 1/4, gap conflated 1-3 (2), 4"},
		{"latest, of the topic", latest, "=a =b =a", codec.Subscribe{From: at(0)}, 0, "subscribed 0/4 latest, 1, gap conflated 1-2 (1), 3, 4"},
		{"latest, trimmed, with last values", two, "=a =b + +", codec.Subscribe{From: at(0), Class: codec.ClassLatest}, 0, "subscribed 0/5, gap history 0-1 (1), 2, 3, gap conflated 3-4 (1), 5"},
		{"unreliable", all, "+ =a", codec.Subscribe{From: at(1), Class: codec.ClassUnreliable}, 0, "subscribed 3"},
		{"filtered", all, "+ +", codec.Subscribe{From: at(0), Filter: codec.Filter{{Name: "x", Operator: codec.OpExists}}}, 0, "subscribed 0/3, skip 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			onStage(t, broker.Config{Topics: c.topics}, func(t *testing.T, s *stage) {
				c.f.From.Epoch = s.epoch("x") + c.epoch
				s.publish("x", c.words)
				c.f.Number, c.f.Pattern = 1, "x"
				sub := s.peer.follow(c.f)
				if got := sub.transcript(t); got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
				// It goes on with what comes, and nothing comes twice.
				s.publish("x", "+")
				if got := sub.transcript(t); c.f.Filter == nil && strings.ContainsAny(got, ", ") {
					t.Errorf("then came %s", got)
				}
			})
		})
	}
}

// Where a subscription to many topics begins.
func TestPatternBeginnings(t *testing.T) {
	for _, c := range []struct {
		name string
		from func(s *stage) codec.From
		want string // of topic t.a, and of topic t.b
	}{
		{"now", func(*stage) codec.From { return codec.From{} }, "t.a 0/3, skip 1, 2, skip 3"},
		{"positions", func(s *stage) codec.From {
			return codec.From{Kind: codec.FromPositions, Time: 99_999_999, Positions: []codec.TopicPosition{
				{Topic: "t.a", Epoch: s.epoch("t.a"), Offset: 2}, {Topic: "other", Epoch: 1, Offset: 1},
			}}
		}, "t.a 2/4, 3, 4"},
		{"positions twice", func(s *stage) codec.From {
			e := s.epoch("t.a")
			return codec.From{Kind: codec.FromPositions, Time: 99_999_999, Positions: []codec.TopicPosition{
				{Topic: "t.a", Epoch: e, Offset: 3}, {Topic: "t.a", Epoch: e, Offset: 1},
			}}
		}, "t.a 3/4, 4"},
		{"a topic that is gone", func(*stage) codec.From {
			return codec.From{Kind: codec.FromPositions, Time: 99_999_999, Positions: []codec.TopicPosition{{Topic: "t.z", Epoch: 5, Offset: 7}}}
		}, "t.z 0"},
		{"beyond the end", func(s *stage) codec.From {
			return codec.From{Kind: codec.FromPositions, Time: 99_999_999, Positions: []codec.TopicPosition{{Topic: "t.a", Epoch: s.epoch("t.a"), Offset: 9}}}
		}, "t.a 0/4, gap history, 1, 2, 3, 4"},
		{"the last one of each", func(*stage) codec.From { return codec.From{Kind: codec.FromLast, N: 1} }, "t.a 2/3, 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			onStage(t, broker.Config{}, func(t *testing.T, s *stage) {
				s.publish("t.a", "+ =k +")
				sub := s.peer.follow(codec.Subscribe{Number: 1, Pattern: "t.*", From: c.from(s)})
				if got := sub.transcript(t); got != "subscribed, "+c.want {
					t.Errorf("got  %s\nwant subscribed, %s", got, c.want)
				}
				s.publish("t.new", "+")
				if got := sub.transcript(t); got != "t.new 0, 1" {
					t.Errorf("of a new topic came %s", got)
				}
			})
		})
	}
}

// A subscription that recovers, again and again, gets each message once, with nothing
// new in between and with much.
func TestRecoverAgain(t *testing.T) {
	onStage(t, broker.Config{}, func(t *testing.T, s *stage) {
		from := codec.From{Kind: codec.FromPosition, Epoch: s.epoch("x"), Offset: 0}
		want := []string{"1", "", "", "2, 3", "", "4"}
		for i, words := range []string{"", "", "", "+ +", "", "+"} {
			s.publish("x", words)
			sub := s.peer.follow(codec.Subscribe{Number: uint64(i + 1), Pattern: "x", From: from})
			_, got, _ := strings.Cut(sub.transcript(t), ", ")
			if got != want[i] {
				t.Errorf("round %d: %s, want %s", i, got, want[i])
			}
			sub.line.fin()
			var end uint64
			if _, err := fmt.Sscanf(sub.transcript(t), "end ok at %d", &end); err != nil {
				t.Fatal(err)
			}
			from.Offset = end
		}
	})
}

// Of the classes that get only the newest of each key, one whose newest has expired is
// told as such: it has no value, and not the one before it.
func TestTheNewestHasExpired(t *testing.T) {
	onStage(t, broker.Config{}, func(t *testing.T, s *stage) {
		s.publish("x", "=a =b")
		if _, err := s.b.Publish(t.Context(), "x", "short", &broker.PublishOptions{Key: "a", Retain: true, TTL: time.Second}); err != nil {
			t.Fatal(err)
		}
		s.publish("x", "=b =c")
		time.Sleep(2 * time.Second)
		sub := s.peer.follow(codec.Subscribe{Number: 1, Pattern: "x", Class: codec.ClassLatest, From: codec.From{Kind: codec.FromBeginning}})
		want := "subscribed 0/5, gap expired 0-3 (3), 4, 5"
		if got := sub.transcript(t); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// A subscription that comes back to topics of new epochs has a gap that tells of all that
// was before it. It does not tell of what came afterwards, was owed, and has been trimmed
// before there was room.
func TestOwedToNewEpochsIsTrimmed(t *testing.T) {
	config := broker.Config{MaxQueueBytes: 60, Topics: []broker.TopicConfig{{Pattern: ">", History: broker.Retention{Count: 3}}}}
	onStage(t, config, func(t *testing.T, s *stage) {
		s.publish("a", "+ + +")
		s.publish("x", "+ +")
		slow := s.peer.follow(codec.Subscribe{Number: 1, Pattern: "*", Credit: 1, From: codec.From{Kind: codec.FromPositions, Positions: []codec.TopicPosition{
			{Topic: "a", Epoch: s.epoch("a") ^ 1, Offset: 7}, {Topic: "x", Epoch: s.epoch("x") ^ 1, Offset: 7},
		}}})
		synctest.Wait()
		s.publish("x", strings.Repeat("+ ", 40))
		synctest.Wait()
		s.peer.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 1 << 20}))
		got := slow.transcript(t)
		if want := "skip 3, gap history 3-40 (37), 41, 42, 43"; !strings.HasSuffix(got, want) {
			t.Errorf("got %s, want %s at the end", got, want)
		}
	})
}

// A queue that overflows goes on from the history, without a gap; when the broker
// drains meanwhile the position of END is what was written, so that nothing is missing
// after the next subscribe.
func TestOverflowIsPaid(t *testing.T) {
	const messages = 200
	config := broker.Config{MaxQueueBytes: 500, Topics: []broker.TopicConfig{{Pattern: ">", History: broker.Retention{Count: 1000}}}}
	onStage(t, config, func(t *testing.T, s *stage) {
		slow := s.peer.follow(codec.Subscribe{Number: 1, Pattern: "x", Credit: 1})
		many := s.peer.follow(codec.Subscribe{Number: 2, Pattern: "*", Credit: 1})
		synctest.Wait()
		s.publish("x", strings.Repeat("+ ", messages))
		if got := slow.transcript(t); got != "subscribed 0, 1" {
			t.Fatalf("without credit came %s", got)
		}
		for _, number := range []uint64{1, 2} {
			s.peer.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: number, Limit: 1 << 20}))
		}
		var want strings.Builder
		want.WriteString("2")
		for i := 3; i <= messages; i++ {
			fmt.Fprint(&want, ", ", i)
		}
		if got := slow.transcript(t); got != want.String() {
			t.Errorf("with credit came %s", got)
		}
		if got := many.transcript(t); got != "subscribed, x 0, 1, "+want.String() {
			t.Errorf("of the pattern came %s", got)
		}
		if n := s.b.Stats().Dropped[broker.DropOverflow]; n != 0 {
			t.Errorf("%d messages were counted as dropped", n)
		}
	})
	onStage(t, config, func(t *testing.T, s *stage) {
		slow := s.peer.follow(codec.Subscribe{Number: 1, Pattern: "x", Credit: 1})
		synctest.Wait()
		s.publish("x", strings.Repeat("+ ", messages))
		slow.transcript(t)
		go func() { _ = s.b.Shutdown(t.Context()) }() // ends with the connection
		s.peer.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 1 << 20}))
		got := slow.transcript(t)
		last := strings.LastIndex(got, ", ")
		var before, end int
		_, _ = fmt.Sscan(got[strings.LastIndex(got[:last], " ")+1:last], &before)
		_, _ = fmt.Sscanf(got[last:], ", end shutting_down at %d", &end)
		if before == 0 || end != before || end == messages || strings.Contains(got, "gap") {
			t.Errorf("got %s", got)
		}
	})
}
