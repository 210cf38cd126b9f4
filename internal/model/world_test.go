package model

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// kind is a topic of the world and how it is configured.
type kind struct {
	topic  string
	class  codec.Class
	config broker.TopicConfig
	keys   int
	live   bool          // a live map: all is retained
	ttl    time.Duration // of every fourth message
}

// kinds are the topics. Each stands for a configuration.
var kinds = []kind{
	{topic: "plain.a"},
	{topic: "plain.b"},
	{topic: "keyed.a", keys: 3},
	{topic: "latest.a", class: codec.ClassLatest, keys: 2, config: broker.TopicConfig{Pattern: "latest.>", Class: codec.ClassLatest}},
	{topic: "sequenced.a", class: codec.ClassSequenced, keys: 2, config: broker.TopicConfig{Pattern: "sequenced.>", Class: codec.ClassSequenced}},
	{topic: "unreliable.a", class: codec.ClassUnreliable, config: broker.TopicConfig{Pattern: "unreliable.>", Class: codec.ClassUnreliable}},
	{topic: "bare.a", config: broker.TopicConfig{Pattern: "bare.>", History: broker.Retention{Count: -1}}},
	{topic: "short.a", config: broker.TopicConfig{Pattern: "short.>", History: broker.Retention{Count: 3}}},
	{topic: "ttl.a", ttl: 150 * time.Millisecond},
	{topic: "ticked.a", config: broker.TopicConfig{Pattern: "ticked.>", Tick: 3 * time.Millisecond}},
	{topic: liveTopic, keys: 3, live: true, ttl: 200 * time.Millisecond},
}

// liveTopic is a topic that is a live map.
const liveTopic = "live.a"

// world is one run. One goroutine decides on what happens.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	truth   *truth
	network *wttest.Network
	server  *wttest.Server
	broker  atomic.Pointer[broker.Broker]
	denied  *denials
	people  []*person
	diaries []*diary
	watches []*watch
	maps    []*liveMap
	pages   []page
	log     []string
	started time.Time
	ids     int // idempotency keys
	storms  int

	// When what happened.
	deaths        []time.Time // of brokers
	moved         map[*person][]time.Time
	revoked       map[string][]time.Time // permissions to subscribe
	deniedAfter   map[string][]span      // while nobody could subscribe
	deniedPublish map[string][]span      // while nobody could publish

	asks   []*ask
	asking sync.WaitGroup

	mu           sync.Mutex
	sent         []reply        // guarded by mu
	acknowledged []acknowledged // guarded by mu
}

const (
	maxQueue   = 4 << 10 // small, so that queues overflow
	maxBytes   = 1 << 20
	maxHistory = 16 << 10 // small, so that the overall bound is met
)

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), truth: newTruth(), started: time.Now(),
		denied: &denials{subscribe: make(map[string]bool), publish: make(map[string]bool)},
		moved:  make(map[*person][]time.Time), revoked: make(map[string][]time.Time),
		deniedAfter: make(map[string][]span), deniedPublish: make(map[string][]span),
	}
	link := wttest.Link{Latency: time.Duration(1+w.rng.IntN(40)) * time.Millisecond}
	if w.rng.IntN(3) > 0 {
		link.Jitter = link.Latency / 2
		link.Loss = 0.05 * w.rng.Float64()
		link.Reorder = 0.05 * w.rng.Float64()
		link.Duplicate = 0.02 * w.rng.Float64()
	}
	if w.rng.IntN(4) == 0 {
		link.Rate = 30_000
	}
	if w.rng.IntN(3) == 0 {
		w.denied.life = time.Duration(4+w.rng.IntN(20)) * time.Second
	}
	w.say("link %+v, tokens live %v", link, w.denied.life)
	w.network = wttest.NewNetwork(t, link, seed)
	w.begin()
	w.server = wttest.Serve(t, w.network, wt.ServerConfig{Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
		if b := w.broker.Load(); b != nil {
			b.ServeWebTransport(ctx, r)
		}
	})})
	for i := range 4 {
		w.join(fmt.Sprintf("p%d", i))
	}
	return w
}

// begin makes a broker.
func (w *world) begin() {
	config := broker.Config{
		Bus: w.truth.open, Authenticator: w.denied, MaxQueueBytes: maxQueue, MaxBytes: maxBytes, MaxHistoryBytes: maxHistory,
		WriteTimeout: 20 * time.Second, // a network that is cut is no slow subscriber
		TokenGrace:   5 * time.Second,
	}
	for _, k := range kinds {
		if k.config.Pattern != "" {
			config.Topics = append(config.Topics, k.config)
		}
	}
	for _, r := range rooms {
		if r.config.Pattern != "" {
			config.Topics = append(config.Topics, r.config)
		}
	}
	b, err := broker.New(config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.broker.Store(b)
}

func (w *world) say(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%9.3fs ", time.Since(w.started).Seconds())+fmt.Sprintf(format, args...))
}

// step does one random operation.
func (w *world) step() {
	w.observe()
	p := w.people[w.rng.IntN(len(w.people))]
	k := kinds[w.rng.IntN(len(kinds))]
	switch n := w.rng.IntN(125); {
	case n < 58:
		w.publish(p, k, 1+w.rng.IntN(12))
	case n < 61:
		w.publishBatch(p, k, 1+w.rng.IntN(8))
	case n < 65:
		w.publishOnce(p, k)
	case n < 75:
		w.subscribe(p)
	case n < 78:
		w.unsubscribe()
	case n < 82:
		w.cut(p)
	case n < 87:
		if d := w.anyDiary(); d != nil {
			w.say("%s pauses", d.name)
			d.pause()
		}
	case n < 92:
		if d := w.anyDiary(); d != nil {
			w.say("%s goes on", d.name)
			d.resume()
		}
	case n < 94:
		if len(w.deaths) < 2 {
			w.kill()
		}
	case n < 96:
		w.revoke()
	case n < 97:
		if d := w.anyDiary(); d != nil && !d.isEnded() {
			_ = d.sub.SetPriority(uint8(1 + w.rng.IntN(7)))
		}
	case n < 98:
		w.move(p)
	case n < 104:
		w.request(p, []string{"plain.a", "plain.b", "plain.b", "keyed.a", lonely}[w.rng.IntN(5)])
	case n < 109:
		w.enter(p, rooms[w.rng.IntN(len(rooms))], []string{"", "here", "busy", "away"}[w.rng.IntN(4)])
	case n < 111:
		w.watchPresence(p)
	case n < 114:
		w.readHistory(p, k.topic)
	case n < 116:
		w.openMap(p)
	case n < 118:
		w.flap(p)
	case n < 121:
		if w.rng.IntN(2) == 0 {
			k = kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.config.Tick > 0 })]
		}
		w.storm(k)
	default:
		time.Sleep(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
	}
	if w.rng.IntN(3) == 0 {
		time.Sleep(time.Duration(w.rng.IntN(200)) * time.Millisecond)
	}
}

// observe takes note of which subscriptions stand just now, and checks what must hold
// at any time.
func (w *world) observe() {
	now := time.Now()
	for _, d := range w.diaries {
		if n := len(d.stood); n > 0 && now.Sub(d.stood[n-1]) < time.Second {
			continue
		}
		if d.closedAt.IsZero() && d.person.steady() && d.sub.State() == client.StateSubscribed {
			d.stood = append(d.stood, now)
			d.checkCredit(w)
		}
	}
	if b := w.broker.Load(); b != nil {
		if s := b.Stats(); s.HistoryBytes > maxHistory || s.QueuedBytes > maxBytes || s.ValuesEvicted > 0 {
			w.t.Errorf("%d bytes of history, the bound is %d; %d wait, the bound is %d; %d last values gave way", s.HistoryBytes, maxHistory, s.QueuedBytes, maxBytes, s.ValuesEvicted)
		}
	}
}

// ends are the times at which a subscription ended, or its connection did, or may have.
func (w *world) ends(d *diary) []time.Time {
	d.person.mu.Lock()
	ends := append([]time.Time(nil), d.person.downs...)
	d.person.mu.Unlock()
	ends = append(append(ends, w.deaths...), w.revoked[d.pattern]...)
	for _, t := range []time.Time{d.closedAt, d.endedAt} {
		if !t.IsZero() {
			ends = append(ends, t)
		}
	}
	return ends
}

// held reports whether the broker has certainly known a subscription from one moment
// to another.
func (w *world) held(d *diary, from, to time.Time) bool {
	for _, since := range d.stood {
		if !since.After(from) && !within(w.ends(d), since, to) && !d.person.lost(since, to) && !within(w.moved[d.person], since, to) {
			return true
		}
	}
	return false
}

func (w *world) anyDiary() *diary {
	if len(w.diaries) == 0 {
		return nil
	}
	return w.diaries[w.rng.IntN(len(w.diaries))]
}

// cut takes a client off the network, or brings it back.
func (w *world) cut(p *person) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = !p.gone
	p.trouble = time.Now()
	if p.gone {
		w.say("%s is cut off", p.name)
		p.cuts = append(p.cuts, span{from: p.trouble})
		p.endpoint.Partition()
		return
	}
	w.say("%s is back", p.name)
	p.cuts[len(p.cuts)-1].to = p.trouble
	p.endpoint.Heal()
}

// flap ends a client's connection without a word to the client. It comes back at once.
func (w *world) flap(p *person) {
	p.mu.Lock()
	p.trouble = time.Now()
	if !p.gone {
		p.cuts = append(p.cuts, span{p.trouble, p.trouble})
	}
	conn := p.conn
	p.mu.Unlock()
	w.say("%s loses its connection", p.name)
	_ = conn.CloseWithError(7, "")
}

// move gives a client another address.
func (w *world) move(p *person) {
	if p.gone {
		return
	}
	n := 0
	for _, times := range w.moved {
		n += len(times)
	}
	w.say("%s moves", p.name)
	p.mu.Lock()
	p.trouble = time.Now()
	p.mu.Unlock()
	w.moved[p] = append(w.moved[p], time.Now())
	p.endpoint.Move(netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, 0, byte(n + 1)}), 4000))
}

// kill ends the broker without a word, or with one, and begins another one.
func (w *world) kill() {
	w.deaths = append(w.deaths, time.Now())
	b := w.broker.Swap(nil)
	down := time.Duration(w.rng.IntN(3000)) * time.Millisecond
	if w.rng.IntN(3) == 0 {
		w.say("the broker shuts down")
		ctx, cancel := context.WithTimeout(context.Background(), down)
		_ = b.Shutdown(ctx)
		cancel()
	} else {
		w.say("the broker dies")
		w.server.Endpoint.Partition()
		_ = b.Close()
		time.Sleep(down)
	}
	w.begin()
	w.server.Endpoint.Heal()
	for _, p := range w.people {
		p.mu.Lock()
		p.trouble = time.Now()
		p.mu.Unlock()
	}
	w.say("a broker begins")
}

// revoke takes away the permission for a topic, or gives it back.
func (w *world) revoke() {
	topic := kinds[w.rng.IntN(len(kinds))].topic
	which, spans, what := w.denied.subscribe, w.deniedAfter, "subscribing to"
	switch w.rng.IntN(4) {
	case 0:
		which, spans, what = w.denied.publish, w.deniedPublish, "publishing to"
	case 1:
		topic = rooms[w.rng.IntN(len(rooms))].topic
	}
	denied := w.rng.IntN(2) == 0
	w.say("%s %s is denied: %v", what, topic, denied)
	w.deny(which, spans, topic, denied)
}

func (w *world) deny(which map[string]bool, spans map[string][]span, topic string, denied bool) {
	n := len(spans[topic])
	was := n > 0 && spans[topic][n-1].to.IsZero()
	if was == denied {
		return
	}
	if was {
		spans[topic][n-1].to = time.Now()
	}
	w.denied.set(which, topic, denied)
	if b := w.broker.Load(); b != nil {
		b.Recheck("anyone")
	}
	if denied {
		now := time.Now()
		spans[topic] = append(spans[topic], span{from: now})
		if spans := w.deniedAfter[topic]; len(spans) > 0 && spans[len(spans)-1].from.Equal(now) {
			w.revoked[topic] = append(w.revoked[topic], now)
		}
	}
}
