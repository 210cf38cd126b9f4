package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/internal/memconn"
)

// fickle is a connection whose datagrams do as a test says.
type fickle struct {
	*memconn.Conn
	send func(b []byte) error

	mu  sync.Mutex
	max int // guarded by mu
}

func (c *fickle) AcceptStream(ctx context.Context) (broker.Stream, error) {
	return c.Conn.AcceptStream(ctx)
}

func (c *fickle) MaxDatagramSize() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.max
}

func (c *fickle) Stats() broker.ConnStats {
	return broker.ConnStats{RTT: 3 * time.Millisecond, PacketsSent: 7, PacketsLost: 2}
}

func (c *fickle) narrow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.max = 10
}

func (c *fickle) SendDatagram(_ context.Context, b []byte) error { return c.send(b) }

func (c *fickle) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

type plainEnd struct{ *memconn.Conn }

func (c plainEnd) OpenStream(ctx context.Context) (client.Stream, error) {
	return c.Conn.OpenStream(ctx)
}
func (plainEnd) SendDatagram(context.Context, []byte) error { return broker.ErrNoDatagrams }
func (plainEnd) ReceiveDatagram(context.Context) ([]byte, error) {
	return nil, broker.ErrNoDatagrams
}

// ficklePeer connects a peer whose datagrams from the broker go to send.
func ficklePeer(t *testing.T, b *broker.Broker, send func(c *fickle, b []byte) error) *peer {
	t.Helper()
	local, remote := memconn.Pair()
	c := &fickle{Conn: remote, max: 1000}
	c.send = func(b []byte) error { return send(c, b) }
	var serving sync.WaitGroup
	serving.Go(func() { _ = b.ServeConn(context.Background(), c) })
	t.Cleanup(func() {
		_ = local.CloseWithError(0, "")
		serving.Wait()
	})
	p := &peer{t: t, conn: plainEnd{local}}
	p.control = p.open()
	p.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version, Capabilities: codec.CapDatagrams}))
	p.control.want(codec.TypeWelcome)
	return p
}

func (p *peer) subscribe(number uint64, pattern string, class codec.Class) *line {
	p.t.Helper()
	l := p.open()
	l.send(codec.AppendSubscribe(nil, codec.Subscribe{Number: number, Pattern: pattern, Class: class, Credit: 1 << 20}))
	l.want(codec.TypeSubscribed)
	return l
}

// A message that no longer fits a datagram goes onto the streams of those that it
// was meant for, and of nobody else.
func TestPathBecomesNarrower(t *testing.T) {
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	hold := make(chan struct{})
	p := ficklePeer(t, b, func(c *fickle, _ []byte) error {
		c.narrow()
		<-hold
		return broker.ErrDatagramTooLarge
	})
	reliable := p.subscribe(1, "x", codec.ClassReliable)
	newest := p.subscribe(2, "x", codec.ClassSequenced)
	if _, err := b.Publish(t.Context(), "x", "one", nil); err != nil {
		t.Fatal(err)
	}
	reliable.want(codec.TypeMessage)
	late := p.subscribe(3, "*", codec.ClassSequenced)
	close(hold)
	m, err := codec.ParseMessage(newest.want(codec.TypeMessage))
	if err != nil || m.Offset != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	if _, err := b.Publish(t.Context(), "x", "two", nil); err != nil {
		t.Fatal(err)
	}
	if m, err := codec.ParseMessage(reliable.want(codec.TypeMessage)); err != nil || m.Offset != 2 {
		t.Errorf("the reliable stream goes on at offset %d, %v", m.Offset, err)
	}
	late.want(codec.TypeTopic)
	if m, err := codec.ParseMessage(late.want(codec.TypeMessage)); err != nil || m.Offset != 2 {
		t.Errorf("the later subscription begins at offset %d, %v", m.Offset, err)
	}
}

// A datagram that the transport does not take is told, by a gap of its topic.
func TestDatagramThatIsNotTaken(t *testing.T) {
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	p := ficklePeer(t, b, func(*fickle, []byte) error { return errors.New("not now") })
	l := p.subscribe(1, "x", codec.ClassSequenced)
	if _, err := b.Publish(t.Context(), "x", "lost", nil); err != nil {
		t.Fatal(err)
	}
	g, err := codec.ParseGap(l.want(codec.TypeGap))
	if err != nil || g.Reason != codec.GapLost || g.From.Value != 0 || g.To.Value != 1 || g.Count.Value != 1 {
		t.Errorf("%+v, %v", g, err)
	}
	if n := b.Stats().Dropped[broker.DropDatagram]; n != 1 {
		t.Errorf("%d drops counted", n)
	}
}

// More topics than the slot has room for: the oldest values give way, and each is
// told.
func TestSlotOverflow(t *testing.T) {
	const topics, room = 300, 256
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	entered, hold := make(chan struct{}, topics), make(chan struct{})
	p := ficklePeer(t, b, func(*fickle, []byte) error {
		entered <- struct{}{}
		<-hold
		return nil
	})
	l := p.subscribe(1, ">", codec.ClassSequenced)
	for i := range topics {
		if _, err := b.Publish(t.Context(), fmt.Sprint("t.", i), "v", nil); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			<-entered // the sender holds the first message
		}
	}
	want := topics - 1 - room
	announced, gaps := 0, 0
	for announced < topics || gaps < want {
		f, err := l.reader.Next()
		if err != nil {
			t.Fatalf("after %d topics and %d gaps of %d: %v", announced, gaps, want, err)
		}
		switch f.Type {
		case codec.TypeTopic:
			announced++
		case codec.TypeGap:
			if g, err := codec.ParseGap(f); err != nil || g.Reason != codec.GapOverflow {
				t.Fatalf("%+v, %v", g, err)
			}
			gaps++
		default:
			t.Fatalf("%s on the stream", f.Type)
		}
	}
	close(hold)
	if n := b.Stats().Dropped[broker.DropOverflow]; n != uint64(want) {
		t.Errorf("%d drops counted, want %d", n, want)
	}
}

// heldPeer connects a peer whose first datagram is held until release is called. What
// was sent is in sent, as offsets.
func heldPeer(t *testing.T, b *broker.Broker) (p *peer, sent func() []uint64, release func()) {
	t.Helper()
	var mu sync.Mutex
	var offsets []uint64
	hold := make(chan struct{})
	p = ficklePeer(t, b, func(_ *fickle, d []byte) error {
		f, err := codec.ParseDatagram(d)
		if err != nil {
			return err
		}
		m, err := codec.ParseMessage(f)
		mu.Lock()
		offsets = append(offsets, m.Offset)
		mu.Unlock()
		<-hold
		return err
	})
	sent = func() []uint64 {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(offsets)
	}
	return p, sent, sync.OnceFunc(func() { close(hold) })
}

// Of what waits to go out as a datagram only the newest of each key is kept, in class
// sequenced; in class unreliable everything, each once, and the oldest gives way.
func TestSlotByClass(t *testing.T) {
	for _, c := range []struct {
		name    string
		classes []codec.Class
		keys    string // of the messages, behind one that is held
		want    []uint64
	}{
		{"sequenced", []codec.Class{codec.ClassSequenced}, "abaacc", []uint64{1, 5, 3, 7}},
		{"reliable, lossy messages", []codec.Class{codec.ClassReliable}, "abab", []uint64{1, 4, 5}},
		{"unreliable", []codec.Class{codec.ClassUnreliable}, "aabb", []uint64{1, 2, 3, 4, 5}},
		{"both", []codec.Class{codec.ClassSequenced, codec.ClassUnreliable}, "aab", []uint64{1, 2, 3, 4}},
		{"both, the other way around", []codec.Class{codec.ClassUnreliable, codec.ClassSequenced}, "aab", []uint64{1, 2, 3, 4}},
		{"latest", []codec.Class{codec.ClassLatest}, "ab", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker(t, &memNetwork{}, broker.Config{})
				p, sent, release := heldPeer(t, b)
				defer release()
				for i, class := range c.classes {
					p.subscribe(uint64(i+1), "x", class)
				}
				for _, key := range "z" + c.keys {
					if _, err := b.PublishLossy(t.Context(), "x", "v", &broker.PublishOptions{Key: string(key)}); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				release()
				synctest.Wait()
				if got := sent(); !slices.Equal(got, c.want) {
					t.Errorf("sent %v, want %v", got, c.want)
				}
				_ = p.conn.CloseWithError(0, "")
				synctest.Wait()
			})
		})
	}
}

// The slot is bounded in class unreliable too, and nobody is told of what it drops.
func TestUnreliableSlotOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, &memNetwork{}, broker.Config{})
		p, sent, release := heldPeer(t, b)
		defer release()
		sub := p.follow(codec.Subscribe{Number: 1, Pattern: "x", Class: codec.ClassUnreliable})
		synctest.Wait()
		for range 300 {
			if _, err := b.Publish(t.Context(), "x", "v", nil); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		release()
		if got := sub.transcript(t); got != "subscribed 0" {
			t.Errorf("on the stream came %s", got)
		}
		if got := sent(); len(got) != 257 || got[0] != 1 || got[1] != 45 || got[256] != 300 {
			t.Errorf("%d sent: %v", len(got), got)
		}
		if n := b.Stats().Dropped[broker.DropOverflow]; n != 43 {
			t.Errorf("%d drops counted", n)
		}
		_ = p.conn.CloseWithError(0, "")
		synctest.Wait()
	})
}

// What expires while it waits to go out as a datagram does not, and is told.
func TestExpiredInTheSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, &memNetwork{}, broker.Config{})
		p, sent, release := heldPeer(t, b)
		defer release()
		sub := p.follow(codec.Subscribe{Number: 1, Pattern: "x", Class: codec.ClassSequenced})
		synctest.Wait()
		for _, opts := range []*broker.PublishOptions{nil, {Key: "k", TTL: time.Second}, {Key: "l", TTL: time.Minute}} {
			if _, err := b.Publish(t.Context(), "x", "v", opts); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		time.Sleep(2 * time.Second)
		release()
		if got := sub.transcript(t); got != "subscribed 0, gap expired 1-2 (1)" {
			t.Errorf("on the stream came %s", got)
		}
		if got := sent(); !slices.Equal(got, []uint64{1, 3}) {
			t.Errorf("sent %v", got)
		}
		_ = p.conn.CloseWithError(0, "")
		synctest.Wait()
	})
}

// untilMessage reads GAP, SKIP and MESSAGE frames up to the message with an offset, and
// fails if something tells of an offset that is to come later.
func (l *line) untilMessage(offset uint64) {
	l.t.Helper()
	told := uint64(0)
	for {
		f, err := l.reader.Next()
		if err != nil {
			l.t.Fatal(err)
		}
		switch f.Type {
		case codec.TypeGap:
			g, err := codec.ParseGap(f)
			if err != nil {
				l.t.Fatal(err)
			}
			told = max(told, g.To.Value)
		case codec.TypeMessage:
			m, err := codec.ParseMessage(f)
			if err != nil {
				l.t.Fatal(err)
			}
			if m.Offset <= told {
				l.t.Fatalf("MESSAGE %d came behind a gap up to %d", m.Offset, told)
			}
			if m.Offset >= offset {
				return
			}
		}
	}
}

// The gap of a datagram that there was no room for does not overtake the messages before
// it, which another subscription of the session has yet to be given.
func TestGapOfADatagramOvertakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := broker.New(broker.Config{Topics: []broker.TopicConfig{{Pattern: ">", Tick: 20 * time.Millisecond}}})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		hold := make(chan struct{})
		p := ficklePeer(t, b, func(*fickle, []byte) error { <-hold; return nil })
		defer close(hold)
		lines := []*line{p.listen(codec.Subscribe{Number: 1, Pattern: ">"}), p.listen(codec.Subscribe{Number: 2, Pattern: "t"}), p.listen(codec.Subscribe{Number: 3, Pattern: "*"})}
		post(t, b, "t", "reliable")
		for i := range 300 { // more than have room
			if _, err := b.PublishLossy(t.Context(), "t", "lossy", &broker.PublishOptions{Key: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
		post(t, b, "t", "reliable")
		for _, l := range lines {
			l.untilMessage(302)
		}
	})
}

// Nor does that of one that could not be sent, when the messages before it give up their
// room and are owed.
func TestGapOfADatagramStaysBehindADebt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := broker.New(broker.Config{MaxSessionBytes: 4000})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		p := ficklePeer(t, b, func(*fickle, []byte) error { return errors.New("no") })
		low := p.listen(codec.Subscribe{Number: 1, Pattern: "low", Priority: 7, Credit: 1})
		high := p.listen(codec.Subscribe{Number: 2, Pattern: "high", Credit: 1})
		postBig(t, b, "low", 3) // the first goes out
		if _, err := b.PublishLossy(t.Context(), "low", "lossy", nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := b.Stats().Dropped[broker.DropDatagram]; n != 1 {
			t.Fatalf("%d datagrams were dropped", n)
		}
		postBig(t, b, "high", 4)
		high.want(codec.TypeMessage)
		p.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 64 << 10}))
		low.untilMessage(3)
		post(t, b, "low", "the last")
		low.untilMessage(5)
	})
}

// One that expires late, when newer messages were sent already, does not have the stream
// begin again there.
func TestGapOfALateDatagram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := broker.New(broker.Config{MaxSessionBytes: 4000})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		hold := make(chan struct{})
		p := ficklePeer(t, b, func(*fickle, []byte) error { <-hold; return nil })
		low := p.listen(codec.Subscribe{Number: 1, Pattern: "low", Priority: 7, Credit: 1})
		high := p.listen(codec.Subscribe{Number: 2, Pattern: "high", Credit: 1})
		for _, key := range []string{"is sent", "expires"} {
			if _, err := b.PublishLossy(t.Context(), "low", "lossy", &broker.PublishOptions{Key: key, TTL: 10 * time.Millisecond}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		postBig(t, b, "low", 3)
		low.untilMessage(3) // the others wait for credit
		time.Sleep(20 * time.Millisecond)
		close(hold)
		synctest.Wait()
		postBig(t, b, "high", 4) // takes their room
		high.want(codec.TypeMessage)
		p.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 64 << 10}))
		for offset := uint64(3); offset < 5; {
			f, err := low.reader.Next()
			if err != nil {
				t.Fatal(err)
			}
			if f.Type != codec.TypeMessage {
				continue
			}
			m, err := codec.ParseMessage(f)
			if err != nil || m.Offset <= offset {
				t.Fatalf("offset %d came behind %d, %v", m.Offset, offset, err)
			}
			offset = m.Offset
		}
	})
}
