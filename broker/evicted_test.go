package broker_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// Who asks for the messages since a time, or comes back with a pattern, learns that
// topics were given up that had some; who asks for others does not.
func TestEvictedTopicsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{MaxTopics: 4})
		time.Sleep(time.Second)
		post(t, b, "a.old", "gone")
		time.Sleep(time.Second)
		for i := range 10 {
			post(t, b, fmt.Sprint("b.", i), "x")
			time.Sleep(time.Millisecond)
		}
		since := func(ms uint64) codec.From { return codec.From{Kind: codec.FromTime, Time: ms} }
		back := func(ms uint64, names ...string) codec.From {
			f := codec.From{Kind: codec.FromPositions, Time: ms}
			for _, name := range names {
				f.Positions = append(f.Positions, codec.TopicPosition{Topic: name, Epoch: 1, Offset: 1})
			}
			return f
		}
		for i, c := range []struct {
			pattern string
			from    codec.From
			told    bool
		}{
			{"a.old", since(500), true},
			{"a.*", since(500), true},
			{"a.*", back(500), true},
			{"a.*", back(500, "a.old"), false}, // its epoch tells
			{"a.*", since(1500), false},
			{"c.*", since(500), false},
			{"a.*", codec.From{Kind: codec.FromLast, N: 10}, false},
		} {
			p, _ := welcomedPeer(t, n)
			l := p.listen(codec.Subscribe{Pattern: c.pattern, From: c.from})
			time.Sleep(time.Second)
			p.control.send(codec.AppendPublish(nil, codec.Publish{Topic: c.pattern[:1] + ".old", Payload: codec.Text("new")}))
			told := false
			for {
				f, err := l.reader.Next()
				if err != nil {
					t.Fatal(err)
				}
				if f.Type == codec.TypeMessage {
					break
				}
				if g, err := codec.ParseGap(f); f.Type == codec.TypeGap && err == nil {
					told = told || g.Topic == 0 && g.Reason == codec.GapHistory
				}
			}
			if told != c.told {
				t.Errorf("case %d: %s from %+v: told is %v", i, c.pattern, c.from, told)
			}
			_ = p.conn.CloseWithError(0, "")
		}
	})
}

// To begin with a topic that was given up may give up another one, which is told too.
func TestTopicEvictedByTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{MaxTopics: 1})
		post(t, b, "a.old", "had")
		time.Sleep(time.Second)
		post(t, b, "a.new", "missed")
		p, _ := welcomedPeer(t, n)
		l := p.listen(codec.Subscribe{Pattern: "a.*", From: codec.From{
			Kind: codec.FromPositions, Time: 500,
			Positions: []codec.TopicPosition{{Topic: "a.old", Epoch: 1, Offset: 1}},
		}})
		g, err := codec.ParseGap(l.want(codec.TypeGap))
		if err != nil || g.Topic != 0 || g.Reason != codec.GapHistory {
			t.Errorf("%+v, %v", g, err)
		}
	})
}
