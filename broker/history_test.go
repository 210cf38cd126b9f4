package broker_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// fetched is a page as it came.
type fetched struct {
	codec.Page
	items []string // payloads, and gaps
	next  codec.From
	more  bool
}

// fetch reads a page to its end.
func (p *peer) fetch(f codec.Fetch) fetched {
	p.t.Helper()
	l := p.open()
	l.send(codec.AppendFetch(nil, f))
	l.fin()
	page, err := codec.ParsePage(l.want(codec.TypePage))
	if err != nil {
		p.t.Fatal(err)
	}
	got := fetched{Page: page}
	for {
		f, err := l.reader.Next()
		if err != nil {
			p.t.Fatal(err)
		}
		switch f.Type {
		case codec.TypeMessage:
			m, err := codec.ParseMessage(f)
			if err != nil || m.Topic != page.Topic {
				p.t.Fatalf("MESSAGE %+v: %v", m, err)
			}
			got.items = append(got.items, string(m.Payload.Data))
		case codec.TypeGap:
			g, err := codec.ParseGap(f)
			if err != nil || g.Topic != page.Topic || g.Epoch != codec.Some(page.Epoch) {
				p.t.Fatalf("GAP %+v: %v", g, err)
			}
			text := fmt.Sprintf("%s (%d, %d]", g.Reason, g.From.Value, g.To.Value)
			if !g.From.Set {
				text = fmt.Sprintf("%s to %d", g.Reason, g.To.Value)
			}
			if g.Count.Set {
				text += fmt.Sprintf(" %d", g.Count.Value)
			}
			got.items = append(got.items, text)
		case codec.TypeEnd:
			e, err := codec.ParseEnd(f)
			if err != nil || e.Code != codec.CodeOK {
				p.t.Fatalf("END %+v: %v", e, err)
			}
			if got.more = e.Epoch.Set; got.more {
				got.next = codec.From{Kind: codec.FromPosition, Epoch: e.Epoch.Value, Offset: e.Offset.Value}
			}
			return got
		default:
			p.t.Fatalf("%s on a page", f.Type)
		}
	}
}

func (p *peer) wantPage(f codec.Fetch, more bool, want ...string) fetched {
	p.t.Helper()
	got := p.fetch(f)
	if !slices.Equal(got.items, want) || got.more != more {
		p.t.Errorf("%+v: %q, more %v; want %q, %v", f, got.items, got.more, want, more)
	}
	return got
}

// filled publishes messages whose payloads are their offsets.
func filled(t *testing.T, b *broker.Broker, topic string, first, last int) {
	t.Helper()
	for i := first; i <= last; i++ {
		if _, err := b.Publish(t.Context(), topic, fmt.Sprint(i), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func numbers(first, last int) (list []string) {
	step := 1
	if last < first {
		step = -1
	}
	for i := first; i != last+step; i += step {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

func TestPages(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		p.wantPage(codec.Fetch{Topic: "a", Limit: 10}, false)
		p.wantPage(codec.Fetch{Topic: "a", Limit: 10, Backward: true}, false)
		filled(t, b, "a", 1, 10)

		got := p.wantPage(codec.Fetch{Topic: "a", Limit: 4}, true, numbers(1, 4)...)
		if got.First != 1 || got.Last != 10 || got.next.Offset != 4 || got.next.Epoch != got.Epoch {
			t.Errorf("page %+v", got)
		}
		got = p.wantPage(codec.Fetch{Topic: "a", Limit: 4, From: got.next}, true, numbers(5, 8)...)
		p.wantPage(codec.Fetch{Topic: "a", Limit: 4, From: got.next}, false, numbers(9, 10)...)
		p.wantPage(codec.Fetch{Topic: "a", Limit: 2, From: got.next}, false, numbers(9, 10)...)

		got = p.wantPage(codec.Fetch{Topic: "a", Limit: 4, Backward: true}, true, numbers(10, 7)...)
		got = p.wantPage(codec.Fetch{Topic: "a", Limit: 4, Backward: true, From: got.next}, true, numbers(6, 3)...)
		p.wantPage(codec.Fetch{Topic: "a", Limit: 4, Backward: true, From: got.next}, false, numbers(2, 1)...)
		p.wantPage(codec.Fetch{Topic: "a", Limit: 2, Backward: true, From: got.next}, false, numbers(2, 1)...)

		position := func(epoch, offset uint64) codec.From {
			return codec.From{Kind: codec.FromPosition, Epoch: epoch, Offset: offset}
		}
		p.wantPage(codec.Fetch{Topic: "a", Limit: 9, From: position(got.Epoch, 0), Backward: true}, false)
		p.wantPage(codec.Fetch{Topic: "a", Limit: 9, From: position(got.Epoch, 1), Backward: true}, false)
		p.wantPage(codec.Fetch{Topic: "a", Limit: 9, From: position(got.Epoch, 10)}, false)
		p.wantPage(codec.Fetch{Topic: "a", Limit: 9, From: position(got.Epoch, 5000)}, false)
		p.wantPage(codec.Fetch{Topic: "a", Limit: 2, From: position(got.Epoch, 5000), Backward: true}, true, "10", "9")
		p.wantPage(codec.Fetch{Topic: "a", Limit: 2, From: position(got.Epoch, codec.MaxInteger), Backward: true}, true, "10", "9")
		// Another epoch's positions say nothing here.
		p.wantPage(codec.Fetch{Topic: "a", Limit: 2, From: position(got.Epoch^1, 8)}, true, "1", "2")
		p.wantPage(codec.Fetch{Topic: "a", Limit: 2, From: position(got.Epoch^1, 3), Backward: true}, true, "10", "9")

		p.wantPage(codec.Fetch{Topic: "a", Limit: 2, From: codec.From{Kind: codec.FromLast, N: 3}}, true, "8", "9")
		p.wantPage(codec.Fetch{Topic: "a", Limit: 9, From: codec.From{Kind: codec.FromLast, N: codec.MaxLast}}, true, numbers(1, 9)...)
		p.wantPage(codec.Fetch{Topic: "a", Limit: 2, From: codec.From{Kind: codec.FromBeginning}}, true, "1", "2")
		p.wantPage(codec.Fetch{Topic: "a", Limit: 9, From: codec.From{Kind: codec.FromTime, Time: math.MaxInt32}}, false)

		// Lossy messages are not kept, and leave no gap.
		if _, err := b.PublishLossy(t.Context(), "a", "lossy", nil); err != nil {
			t.Fatal(err)
		}
		filled(t, b, "a", 12, 12)
		if got := p.wantPage(codec.Fetch{Topic: "a", Limit: 9, From: position(got.Epoch, 9)}, false, "10", "12"); got.Last != 12 {
			t.Errorf("the topic stands at %d", got.Last)
		}
	}, broker.Config{})
}

func TestPagesOfWhatIsGone(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		filled(t, b, "few", 1, 2)
		time.Sleep(time.Second)
		gone := uint64(time.Second / time.Millisecond)
		filled(t, b, "few", 3, 9)
		time.Sleep(time.Second)
		filled(t, b, "few", 10, 12)
		got := p.wantPage(codec.Fetch{Topic: "few", Limit: 10}, false, numbers(8, 12)...)
		if got.First != 8 || got.Last != 12 {
			t.Errorf("page %+v", got.Page)
		}
		from := func(offset uint64) codec.From {
			return codec.From{Kind: codec.FromPosition, Epoch: got.Epoch, Offset: offset}
		}
		p.wantPage(codec.Fetch{Topic: "few", Limit: 2, From: from(3)}, true, "history (3, 7]", "8", "9")
		p.wantPage(codec.Fetch{Topic: "few", Limit: 2, From: from(7)}, true, "8", "9")
		p.wantPage(codec.Fetch{Topic: "few", Limit: 2, From: codec.From{Kind: codec.FromTime, Time: gone}}, true, "history to 7", "8", "9")
		p.wantPage(codec.Fetch{Topic: "few", Limit: 9, From: codec.From{Kind: codec.FromTime, Time: gone + 1}}, false, "10", "11", "12")
		p.wantPage(codec.Fetch{Topic: "few", Limit: 9, From: codec.From{Kind: codec.FromLast, N: 100}}, false, numbers(8, 12)...)
		p.wantPage(codec.Fetch{Topic: "few", Limit: 9, Backward: true}, false, numbers(12, 8)...)
		p.wantPage(codec.Fetch{Topic: "few", Limit: 9, Backward: true, From: from(8)}, false, "history to 7")
		p.wantPage(codec.Fetch{Topic: "few", Limit: 9, Backward: true, From: from(5)}, false, "history to 4")
		p.wantPage(codec.Fetch{Topic: "few", Limit: 9, Backward: true, From: from(1)}, false)

		// All of it ages.
		time.Sleep(time.Hour)
		if got := p.wantPage(codec.Fetch{Topic: "few", Limit: 9, From: from(10)}, false, "history (10, 12]"); got.First != 0 || got.Last != 12 {
			t.Errorf("page %+v", got.Page)
		}
		p.wantPage(codec.Fetch{Topic: "few", Limit: 9, From: from(12)}, false)
		p.wantPage(codec.Fetch{Topic: "few", Limit: 9}, false)
		p.wantPage(codec.Fetch{Topic: "few", Limit: 9, Backward: true}, false)
	}, broker.Config{Topics: []broker.TopicConfig{{Pattern: "few", History: broker.Retention{Count: 5}}}})
}

func TestPagesLeaveOutWhatHasExpired(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		for i := 1; i <= 8; i++ {
			opts := &broker.PublishOptions{}
			if i%4 != 0 {
				opts.TTL = time.Second
			}
			if _, err := b.Publish(t.Context(), "a", fmt.Sprint(i), opts); err != nil {
				t.Fatal(err)
			}
		}
		p.wantPage(codec.Fetch{Topic: "a", Limit: 100}, false, numbers(1, 8)...)
		time.Sleep(time.Second)
		p.wantPage(codec.Fetch{Topic: "a", Limit: 100}, false, "expired (0, 3] 3", "4", "expired (4, 7] 3", "8")
		p.wantPage(codec.Fetch{Topic: "a", Limit: 1}, true, "expired (0, 3] 3", "4", "expired (4, 7] 3")
		p.wantPage(codec.Fetch{Topic: "a", Limit: 100, Backward: true}, false, "8", "expired (4, 7] 3", "4", "expired (0, 3] 3")
	}, broker.Config{})
}

// A page ends at 1 MiB, and little of it waits while its client does not read.
func TestLargePages(t *testing.T) {
	script(t, func(t *testing.T, b *broker.Broker, n *memNetwork) {
		p, _ := welcomedPeer(t, n)
		large := strings.Repeat("x", 100_000)
		for range 30 {
			if _, err := b.Publish(t.Context(), "a", large, nil); err != nil {
				t.Fatal(err)
			}
		}
		f, total, pages := codec.Fetch{Topic: "a", Limit: codec.MaxPage}, 0, 0
		for {
			got := p.fetch(f)
			total += len(got.items)
			pages++
			if n := len(got.items); n > codec.MaxPageBytes/100_000 {
				t.Errorf("a page of %d messages of 100 kB", n)
			}
			if !got.more {
				break
			}
			f.From = got.next
		}
		if total != 30 || pages != 3 {
			t.Errorf("%d messages in %d pages", total, pages)
		}
		if got := p.fetch(codec.Fetch{Topic: "a", Limit: 1, From: codec.From{Kind: codec.FromLast, N: 1}}); len(got.items) != 1 {
			t.Errorf("a page of %d messages", len(got.items))
		}
	}, broker.Config{Topics: []broker.TopicConfig{{Pattern: "a", History: broker.Retention{Bytes: -1}}}})
}

func TestBadFetches(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n network) {
		auth := tokens{"": {publish: []string{">"}, subscribe: []string{"mine.>", "alive", "none"}}}
		newBroker(t, n, broker.Config{Authenticator: auth, Topics: []broker.TopicConfig{
			{Pattern: "none", History: broker.Retention{Count: -1}}, {Pattern: "mine.closed", Subscribe: broker.AccessClosed},
		}})
		p, _ := welcomedPeer(t, n)
		good := codec.Fetch{Topic: "mine.a", Limit: 5}
		change := func(f func(*codec.Fetch)) []byte {
			bad := good
			f(&bad)
			return codec.AppendFetch(nil, bad)
		}
		for name, test := range map[string]struct {
			frames []byte
			want   codec.Code
		}{
			"another's topic":     {change(func(f *codec.Fetch) { f.Topic = "other" }), codec.CodeSubscribeDenied},
			"a closed topic":      {change(func(f *codec.Fetch) { f.Topic = "mine.closed" }), codec.CodeSubscribeDenied},
			"a system topic":      {change(func(f *codec.Fetch) { f.Topic = "$presence.a" }), codec.CodeSystemTopic},
			"a pattern":           {change(func(f *codec.Fetch) { f.Topic = "mine.>" }), codec.CodeInvalidTopic},
			"no topic":            {change(func(f *codec.Fetch) { f.Topic = "" }), codec.CodeInvalidTopic},
			"nothing kept":        {change(func(f *codec.Fetch) { f.Topic = "none" }), codec.CodeNotOffered},
			"no messages":         {change(func(f *codec.Fetch) { f.Limit = 0 }), codec.CodeInvalidOption},
			"too many messages":   {change(func(f *codec.Fetch) { f.Limit = codec.MaxPage + 1 }), codec.CodeInvalidOption},
			"positions":           {change(func(f *codec.Fetch) { f.From = codec.From{Kind: codec.FromPositions} }), codec.CodeInvalidOption},
			"backward since":      {change(func(f *codec.Fetch) { f.Backward, f.From = true, codec.From{Kind: codec.FromTime, Time: 1} }), codec.CodeInvalidOption},
			"backward from start": {change(func(f *codec.Fetch) { f.Backward, f.From = true, codec.From{Kind: codec.FromBeginning} }), codec.CodeInvalidOption},
			"last none":           {change(func(f *codec.Fetch) { f.From = codec.From{Kind: codec.FromLast} }), codec.CodeInvalidOption},
			"cut":                 {change(func(*codec.Fetch) {})[:4], codec.CodeMalformedFrame},
			"two":                 {append(codec.AppendFetch(nil, good), codec.AppendFetch(nil, good)...), codec.CodeUnexpectedFrame},
			"PAGE":                {codec.AppendPage(nil, codec.Page{Topic: 1, Epoch: 1, First: 1, Last: 1}), codec.CodeUnexpectedFrame},
		} {
			t.Run(name, func(t *testing.T) {
				l := p.open()
				l.t = t
				l.sendBad(test.frames)
				l.fin()
				l.wantEnd(test.want)
			})
		}
		p.wantAlive()
		p.wantPage(good, false)
	})
}

// The pages of a session at a time are bounded; one whose client does not read gives
// its place back at the writer's deadline.
func TestPagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{})
		filled(t, b, "a", 1, 3)
		p, _ := welcomedPeer(t, n)
		n.Gate = make(chan struct{})
		n.Shut.Store(true)
		fetch := codec.AppendFetch(nil, codec.Fetch{Topic: "a", Limit: 5})
		var lines []*line
		for range codec.MaxPages + 2 {
			l := p.open()
			l.send(fetch)
			synctest.Wait()
			lines = append(lines, l)
		}
		n.Shut.Store(false)
		close(n.Gate)
		for i, l := range lines {
			want := codec.CodeOK
			if i >= codec.MaxPages {
				want = codec.CodeTooManyRequests
			}
			l.wantEnd(want)
		}
		synctest.Wait()
		p.wantPage(codec.Fetch{Topic: "a", Limit: 5}, false, numbers(1, 3)...)
	})
}

// A client that goes away in the middle of a page, or revokes it, leaves nothing
// behind.
func TestPageThatNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{}
		b := newBroker(t, n, broker.Config{Topics: []broker.TopicConfig{{Pattern: "a", History: broker.Retention{Bytes: -1}}}})
		for range 20 {
			if _, err := b.Publish(t.Context(), "a", strings.Repeat("x", 50_000), nil); err != nil {
				t.Fatal(err)
			}
		}
		p, _ := welcomedPeer(t, n)
		n.Gate = make(chan struct{})
		n.Shut.Store(true)
		for range 3 {
			l := p.open()
			l.send(codec.AppendFetch(nil, codec.Fetch{Topic: "a", Limit: 20}))
		}
		synctest.Wait()
		_ = p.conn.CloseWithError(0, "")
		synctest.Wait()
		n.Shut.Store(false)
		close(n.Gate)
		synctest.Wait()
		if s := b.Stats(); s.Sessions != 0 {
			t.Errorf("%d sessions", s.Sessions)
		}
	})
}
