package broker_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

var (
	deliverySeed  = flag.Uint64("delivery.seed", 0, "the one seed of TestRandomDelivery; 0: several")
	deliverySeeds = flag.Uint64("delivery.seeds", 60, "how many seeds TestRandomDelivery tries")
)

// Random publishing, credit, priorities and interruptions, against a model of what
// each subscription may see: offsets that only increase, nothing twice, and nothing
// missing without a gap or skip that covers it.
func TestRandomDelivery(t *testing.T) {
	first, last := uint64(1), *deliverySeeds
	if *deliverySeed != 0 {
		first, last = *deliverySeed, *deliverySeed
	}
	for seed := first; seed <= last; seed++ {
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newWorld(t, seed).run() })
		}) {
			t.Fatalf("go test -run TestRandomDelivery -delivery.seed=%d", seed)
		}
	}
}

// world is a broker, its one client and all that was published.
type world struct {
	t      *testing.T
	rng    *rand.Rand
	broker *broker.Broker
	peer   *peer
	self   codec.ID
	config broker.TopicConfig
	topics map[string][]published // by topic; the offset is the index + 1
	subs   []*watched
	number uint64
	base   time.Time
	expiry bool // some messages expire
}

// published is a message as it was published.
type published struct {
	key     string
	lossy   bool
	own     bool
	retain  bool
	kind    string // a header
	at      time.Time
	expires time.Time // zero: never
}

// watched is a subscription of the client, and what the model knows of it.
type watched struct {
	w     *world
	f     codec.Subscribe
	line  *line
	limit uint64
	came  uint64 // bytes of messages

	mu     sync.Mutex
	frames []codec.Frame // read and not yet looked at

	// stale is, by topic and key, below which offset a message was stale when credit
	// was last given. Then nothing was under way: it had all been read.
	stale map[string]map[string]uint64
	names map[uint64]string
	seen  map[string]*progress // by topic
	begun bool
}

// progress is how far a subscription has come in a topic.
type progress struct {
	epoch  uint64
	at     uint64
	replay uint64
	live   bool              // what is replayed are last values
	first  uint64            // where it began
	newest map[string]uint64 // delivered, by key
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 77)), topics: make(map[string][]published)}
	pick := func(n ...int) int { return n[w.rng.IntN(len(n))] }
	w.config = broker.TopicConfig{Pattern: ">", History: broker.Retention{Count: pick(-1, 4, 4096)}}
	if w.config.History.Count > 1000 {
		w.config.History.Age, w.config.History.Bytes = -1, -1
	}
	w.config.Class = codec.Class(pick(0, 0, 0, 1))
	w.expiry = w.rng.IntN(2) == 0
	config := broker.Config{
		Topics:          []broker.TopicConfig{w.config},
		MaxQueueBytes:   pick(600, 5000, 1<<20),
		MaxSessionBytes: pick(1500, 8000, 1<<20),
	}
	n := &memNetwork{}
	w.base = time.Now()
	w.broker = newBroker(t, n, config)
	var welcome codec.Welcome
	w.peer, welcome = welcomedPeer(t, n)
	w.self = welcome.Client
	go func() { // ends with the connection
		for {
			f, err := w.peer.control.reader.Next()
			if err != nil {
				return
			}
			if f.Type == codec.TypeNack {
				t.Error("a PUBLISH was refused")
			}
		}
	}()
	return w
}

func (w *world) run() {
	for range 1 + w.rng.IntN(3) {
		w.subscribe(nil)
	}
	for range 150 {
		w.step()
	}
	for _, sub := range w.subs {
		sub.grant(1 << 20)
	}
	w.settle()
	for name := range w.topics {
		w.publish(name, published{at: time.Now()})
	}
	w.settle()
	for _, sub := range w.subs {
		sub.check()
		sub.checkEnd()
	}
	_ = w.peer.conn.CloseWithError(0, "")
	synctest.Wait()
}

func (w *world) settle() {
	time.Sleep(time.Millisecond)
	synctest.Wait()
}

var topicNames = []string{"t.a", "t.b", "t.c"}

func (w *world) step() {
	switch k := w.rng.IntN(100); {
	case k < 60:
		m := published{at: time.Now(), kind: string("xy"[w.rng.IntN(2)])}
		if w.rng.IntN(2) == 0 {
			m.key = string("klm"[w.rng.IntN(3)])
		}
		m.lossy = w.rng.IntN(4) == 0
		m.own = w.rng.IntN(4) == 0
		m.retain = !m.lossy && w.rng.IntN(4) == 0
		if w.expiry && w.rng.IntN(4) == 0 {
			m.expires = m.at.Add(time.Duration(1+w.rng.IntN(50)) * time.Millisecond)
		}
		for range 1 + w.rng.IntN(8) {
			w.publish(topicNames[w.rng.IntN(len(topicNames))], m)
		}
		w.settle()
	case k < 80:
		sub := w.subs[w.rng.IntN(len(w.subs))]
		sub.grant(uint64(1 + w.rng.IntN(2000)))
		w.settle()
	case k < 85:
		time.Sleep(time.Duration(w.rng.IntN(60)) * time.Millisecond)
	case k < 90:
		sub := w.subs[w.rng.IntN(len(w.subs))]
		w.peer.control.send(codec.AppendPriority(nil, codec.Priority{Subscription: sub.f.Number, Priority: uint8(w.rng.IntN(8))}))
		w.settle()
	default:
		i := w.rng.IntN(len(w.subs))
		old := w.subs[i]
		old.line.fin()
		w.settle()
		old.check()
		w.subs = slices.Delete(w.subs, i, i+1)
		w.subscribe(old)
	}
	for _, sub := range w.subs {
		sub.check()
	}
}

func (w *world) publish(topic string, m published) {
	size := 20 + w.rng.IntN(200)
	body := fmt.Sprintf("%d %s", len(w.topics[topic])+1, strings.Repeat(".", size))
	if m.own {
		f := codec.Publish{Topic: topic, Payload: codec.Text(body), Key: m.key, Retain: m.retain, Headers: codec.Headers{{Name: "kind", Value: m.kind}}}
		if m.lossy {
			f.Mode = codec.ModeLossy
		}
		if !m.expires.IsZero() {
			f.TTL = codec.Some(uint64(m.expires.Sub(m.at) / time.Millisecond))
		}
		w.peer.control.send(codec.AppendPublish(nil, f))
		synctest.Wait()
	} else {
		opts := &broker.PublishOptions{Key: m.key, Retain: m.retain, Headers: map[string]string{"kind": m.kind}}
		if !m.expires.IsZero() {
			opts.TTL = m.expires.Sub(m.at)
		}
		publish := w.broker.Publish
		if m.lossy {
			publish = w.broker.PublishLossy
		}
		pos, err := publish(w.t.Context(), topic, body, opts)
		if err != nil || pos.Offset != uint64(len(w.topics[topic])+1) {
			w.t.Fatalf("position %v, %v", pos, err)
		}
	}
	w.topics[topic] = append(w.topics[topic], m)
}

// subscribe begins a subscription; where another one has left off, if there is one.
func (w *world) subscribe(old *watched) {
	w.number++
	f := codec.Subscribe{Number: w.number, Priority: uint8(w.rng.IntN(8)), Credit: uint64(1 + w.rng.IntN(1000))}
	if old != nil {
		f.Pattern, f.Class, f.NoEcho, f.Filter = old.f.Pattern, old.f.Class, old.f.NoEcho, old.f.Filter
		if f.Pattern == "t.*" {
			f.From = codec.From{Kind: codec.FromPositions, Time: uint64(time.Since(w.base) / time.Millisecond)}
			for name, p := range old.seen {
				f.From.Positions = append(f.From.Positions, codec.TopicPosition{Topic: name, Epoch: p.epoch, Offset: p.at})
			}
		} else {
			p := old.seen[f.Pattern]
			f.From = codec.From{Kind: codec.FromPosition, Epoch: p.epoch, Offset: p.at}
		}
	} else {
		f.Pattern = []string{"t.a", "t.b", "t.*", "t.*"}[w.rng.IntN(4)]
		f.Class = codec.Class(w.rng.IntN(4))
		f.NoEcho = w.rng.IntN(3) == 0
		if w.rng.IntN(3) == 0 {
			f.Filter = codec.Filter{{Name: "kind", Operator: codec.OpIs, Values: []string{"x"}}}
		}
	}
	if old == nil || w.rng.IntN(4) == 0 {
		f.NoRetained = w.rng.IntN(2) == 0
		switch w.rng.IntN(5) {
		case 0:
			f.From = codec.From{Kind: codec.FromLast, N: uint64(1 + w.rng.IntN(20))}
		case 1:
			f.From = codec.From{Kind: codec.FromBeginning}
		case 2:
			f.From = codec.From{Kind: codec.FromTime, Time: uint64(w.rng.IntN(200))}
		case 3:
			f.From = codec.From{}
		}
	}
	sub := &watched{
		w: w, f: f, line: w.peer.open(), limit: f.Credit,
		names: make(map[uint64]string), seen: make(map[string]*progress),
	}
	_ = sub.line.stream.SetReadDeadline(time.Time{})
	sub.line.send(codec.AppendSubscribe(nil, f))
	go sub.read()
	w.subs = append(w.subs, sub)
	w.settle()
	sub.check()
}

// read keeps what comes until the stream ends.
func (sub *watched) read() {
	var buf []byte
	chunk := make([]byte, 4096)
	for {
		n, err := sub.line.stream.Read(chunk)
		buf = append(buf, chunk[:n]...)
		for {
			_, n, err := codec.NextFrame(buf, codec.DefaultMaxFrame)
			if err != nil {
				break // incomplete
			}
			f, _, _ := codec.NextFrame(slices.Clone(buf[:n]), codec.DefaultMaxFrame)
			buf = buf[n:]
			sub.mu.Lock()
			sub.frames = append(sub.frames, f)
			sub.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

func (sub *watched) grant(n uint64) {
	sub.check()
	sub.limit += n
	sub.stale = make(map[string]map[string]uint64)
	for name, log := range sub.w.topics {
		sub.stale[name] = make(map[string]uint64)
		for i, m := range log {
			if !m.lossy && !sub.withheld(m) {
				sub.stale[name][m.key] = uint64(i + 1)
			}
		}
	}
	sub.w.peer.control.send(codec.AppendFlow(nil, codec.Flow{Subscription: sub.f.Number, Limit: sub.limit}))
}

// withheld reports whether the subscription has not asked for a message.
func (sub *watched) withheld(m published) bool {
	return sub.f.NoEcho && m.own || sub.f.Filter != nil && m.kind != "x"
}

// check looks at what has come.
func (sub *watched) check() {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	for _, f := range sub.frames {
		sub.frame(f)
	}
	sub.frames = nil
}

func (sub *watched) class() codec.Class { return max(sub.f.Class, sub.w.config.Class) }

func (sub *watched) frame(f codec.Frame) {
	t := sub.w.t
	switch f.Type {
	case codec.TypeSubscribed:
		s, err := codec.ParseSubscribed(f)
		if err != nil || sub.begun {
			t.Fatal("SUBSCRIBED: ", err)
		}
		sub.begun = true
		if s.Topic != 0 {
			sub.names[s.Topic] = sub.f.Pattern
			sub.begin(sub.f.Pattern, s.Epoch, s.Offset, s.Last)
		}
	case codec.TypeTopic:
		a, err := codec.ParseTopic(f)
		if err != nil || !codec.Match(sub.f.Pattern, a.Name) {
			t.Fatalf("%+v, %v", a, err)
		}
		sub.names[a.Topic] = a.Name
		sub.begin(a.Name, a.Epoch, a.Offset, a.Last)
	case codec.TypeMessage:
		m, err := codec.ParseMessage(f)
		if err != nil {
			t.Fatal(err)
		}
		if sub.came >= sub.limit {
			t.Fatalf("%d bytes came, with a credit of %d", sub.came, sub.limit)
		}
		sub.came += uint64(f.Size())
		sub.message(m)
	case codec.TypeGap:
		g, err := codec.ParseGap(f)
		if err != nil {
			t.Fatal(err)
		}
		sub.gap(g)
	case codec.TypeSkip:
		s, err := codec.ParseSkip(f)
		if err != nil {
			t.Fatal(err)
		}
		sub.skip(s)
	case codec.TypeEnd:
		e, err := codec.ParseEnd(f)
		if err != nil || e.Code != codec.CodeOK {
			t.Fatalf("%+v, %v", e, err)
		}
		if p := sub.seen[sub.f.Pattern]; p != nil && sub.class() != codec.ClassUnreliable && e.Offset.Value > p.at {
			sub.allWithheld("END", sub.f.Pattern, p.at, e.Offset.Value)
		}
	default:
		t.Fatalf("%s on a subscription", f.Type)
	}
}

func (sub *watched) begin(name string, epoch, offset uint64, last codec.Optional) {
	if p := sub.seen[name]; p != nil {
		return // announced again
	}
	p := &progress{epoch: epoch, at: offset, first: offset, newest: make(map[string]uint64)}
	if last.Set {
		p.replay = last.Value
	}
	p.live = sub.f.From.Kind == codec.FromNow
	sub.seen[name] = p
}

func (sub *watched) progress(num uint64) (string, *progress) {
	name, ok := sub.names[num]
	if !ok {
		sub.w.t.Fatalf("topic number %d was not announced", num)
	}
	return name, sub.seen[name]
}

func (sub *watched) message(m codec.Message) {
	t := sub.w.t
	name, p := sub.progress(m.Topic)
	at := sub.w.topics[name][m.Offset-1]
	switch {
	case sub.withheld(at):
		t.Fatalf("%s %d is withheld, and came", name, m.Offset)
	case m.Key != at.key || m.Lossy() != at.lossy || m.Retain != at.retain:
		t.Fatalf("%s %d is %+v", name, m.Offset, m)
	case !strings.HasPrefix(string(m.Payload.Data), fmt.Sprint(m.Offset, " ")):
		t.Fatalf("%s %d has the payload %q", name, m.Offset, m.Payload.Data)
	}
	if sub.class() == codec.ClassUnreliable {
		return
	}
	if newer := sub.stale[name][at.key]; sub.class() != codec.ClassReliable && m.Offset < newer && !at.retain {
		t.Fatalf("%s: %d came when %d had taken its place", name, m.Offset, newer)
	}
	if m.Offset <= p.at {
		t.Fatalf("%s %d came after %d", name, m.Offset, p.at)
	}
	if m.Offset-m.Previous != p.at {
		t.Fatalf("%s: %d came after %d, and nothing tells of what is between", name, m.Offset, p.at)
	}
	p.at = m.Offset
	p.newest[at.key] = m.Offset
}

// snapshot is up to where only last values were given.
func (p *progress) snapshot() uint64 {
	if p.live {
		return p.replay
	}
	return 0
}

func (sub *watched) gap(g codec.Gap) {
	t := sub.w.t
	name, p := sub.progress(g.Topic)
	if !g.To.Set || g.From.Value > p.at || g.To.Value <= p.at || g.To.Value > uint64(len(sub.w.topics[name])) || sub.class() == codec.ClassUnreliable {
		t.Fatalf("%s: %s at %d: %+v; %+v; %+v; %d", name, g.Reason, p.at, g, sub.f, sub.w.config.History, len(sub.w.topics[name]))
	}
	missing := uint64(0)
	for i := p.at + 1; i <= g.To.Value; i++ {
		m := sub.w.topics[name][i-1]
		if sub.withheld(m) {
			continue
		}
		missing++
		if kept := sub.w.config.History.Count > 1000 && sub.class() == codec.ClassReliable && !(p.live && i <= p.replay); kept && !m.lossy && m.expires.IsZero() {
			t.Fatalf("%s: a gap for %s at %d up to %d, and the history has %d", name, g.Reason, p.at, g.To.Value, i)
		}
	}
	exact := g.Count.Value == missing && g.From.Value == p.at
	if g.From.Value < p.replay {
		exact = g.Count.Value <= missing // what a snapshot skips may have become a part of it
	}
	if g.Count.Set && !exact {
		t.Fatalf("%s: %s at %d: %+v, %d are missing", name, g.Reason, p.at, g, missing)
	}
	p.at = g.To.Value
}

func (sub *watched) skip(s codec.Skip) {
	name, p := sub.progress(s.Topic)
	if s.To <= p.at {
		sub.w.t.Fatalf("%s: SKIP to %d at %d", name, s.To, p.at)
	}
	if s.To > p.replay {
		sub.allWithheld("SKIP", name, max(p.at, p.replay), s.To)
	}
	p.at = s.To
}

func (sub *watched) allWithheld(what, name string, from, to uint64) {
	for i := from + 1; i <= to; i++ {
		if !sub.withheld(sub.w.topics[name][i-1]) {
			sub.w.t.Fatalf("%s of %s from %d to %d: %d is not withheld: %+v %+v %+v", what, name, from, to, i, sub.f, sub.w.config, sub.seen[name])
		}
	}
}

// checkEnd checks that all has come, once there was credit.
func (sub *watched) checkEnd() {
	w := sub.w
	for _, name := range topicNames {
		log := w.topics[name]
		if len(log) == 0 || !codec.Match(sub.f.Pattern, name) || sub.class() == codec.ClassUnreliable {
			continue
		}
		p := sub.seen[name]
		if p == nil {
			if sub.f.Filter != nil {
				continue // the last message, which all others get, is withheld
			}
			w.t.Fatalf("nothing came of %s; %d", name, len(log))
		}
		sub.allWithheld("the end", name, p.at, uint64(len(log)))
		if w.config.History.Count > 1000 && sub.class() != codec.ClassReliable {
			newest := make(map[string]int)
			for i, m := range log {
				if !sub.withheld(m) {
					newest[m.key] = i
				}
			}
			for key, i := range newest {
				if m := log[i]; m.lossy || !m.expires.IsZero() || uint64(i) < max(p.first, p.snapshot()) {
					continue
				}
				if p.newest[key] <= uint64(i) {
					w.t.Fatalf("%s: %d is the newest of key %q, and the last one that came is %d: %+v", name, i+1, key, p.newest[key], sub.f)
				}
			}
		}
	}
}
