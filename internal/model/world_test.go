package model

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
}

// world is one run.
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
	log     []string
	started time.Time
	kills   int
	moves   int
}

// person is a client with its endpoint and what it publishes.
type person struct {
	name     string
	endpoint *wttest.Endpoint
	client   *client.Client
	count    map[string]int // messages, by topic
	results  []result
	gone     bool // its network is cut
}

// result is a publish whose answer is awaited.
type result struct {
	topic, data string
	pending     *client.PublishResult
}

// denials are the topics that nobody may subscribe to just now.
type denials struct {
	mu     sync.Mutex
	topics map[string]bool // guarded by mu
}

func (d *denials) set(topic string, denied bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.topics[topic] = denied
}

// Authenticate implements broker.Authenticator.
func (d *denials) Authenticate(context.Context, broker.Credentials) (broker.Principal, error) {
	return anyone{d}, nil
}

// anyone may do everything but subscribe to what is denied.
type anyone struct{ d *denials }

func (anyone) ID() string             { return "anyone" }
func (anyone) Expires() time.Time     { return time.Time{} }
func (anyone) CanPublish(string) bool { return true }
func (a anyone) CanSubscribe(pattern string) bool {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	return !a.d.topics[pattern]
}

const (
	maxQueue   = 4 << 10 // small, so that queues overflow
	maxBytes   = 1 << 20
	maxHistory = 16 << 10 // small, so that the overall bound is met
)

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), truth: newTruth(), started: time.Now(),
		denied: &denials{topics: make(map[string]bool)},
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
	w.say("link %+v", link)
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
	}
	for _, k := range kinds {
		if k.config.Pattern != "" {
			config.Topics = append(config.Topics, k.config)
		}
	}
	b, err := broker.New(config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.broker.Store(b)
}

// join makes a client.
func (w *world) join(name string) {
	p := &person{name: name, endpoint: w.network.NewEndpoint(), count: make(map[string]int)}
	c, err := client.Dial(context.Background(), w.server.URL, client.Config{
		Dial: func(ctx context.Context, url string) (client.Conn, error) {
			s, err := w.server.Dialer(wt.Dialer{PacketConn: p.endpoint}).Dial(ctx, url)
			if err != nil {
				return nil, err
			}
			return client.WebTransport(s), nil
		},
		Backoff: client.Backoff{Min: 100 * time.Millisecond, Max: 2 * time.Second},
	})
	if err != nil {
		w.t.Fatalf("%s cannot connect: %v", name, err)
	}
	p.client = c
	w.people = append(w.people, p)
}

func (w *world) say(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%9.3fs ", time.Since(w.started).Seconds())+fmt.Sprintf(format, args...))
}

// step does one random operation.
func (w *world) step() {
	p := w.people[w.rng.IntN(len(w.people))]
	switch n := w.rng.IntN(100); {
	case n < 62:
		w.publish(p, kinds[w.rng.IntN(len(kinds))], 1+w.rng.IntN(12))
	case n < 72:
		w.subscribe(p)
	case n < 75:
		w.unsubscribe()
	case n < 79:
		w.cut(p)
	case n < 84:
		if d := w.anyDiary(); d != nil {
			w.say("%s pauses", d.name)
			d.pause()
		}
	case n < 89:
		if d := w.anyDiary(); d != nil {
			w.say("%s goes on", d.name)
			d.resume()
		}
	case n < 91:
		if w.kills < 2 {
			w.kill()
		}
	case n < 93:
		w.revoke()
	case n < 95:
		if d := w.anyDiary(); d != nil && !d.isEnded() {
			_ = d.sub.SetPriority(uint8(1 + w.rng.IntN(7)))
		}
	case n < 96:
		if !p.gone {
			w.say("%s moves", p.name)
			w.moves++
			p.endpoint.Move(netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, 0, byte(w.moves)}), 4000))
		}
	default:
		time.Sleep(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
	}
	if w.rng.IntN(3) == 0 {
		time.Sleep(time.Duration(w.rng.IntN(200)) * time.Millisecond)
	}
}

func (w *world) anyDiary() *diary {
	if len(w.diaries) == 0 {
		return nil
	}
	return w.diaries[w.rng.IntN(len(w.diaries))]
}

// publish publishes a few messages. None of them waits for its answer.
func (w *world) publish(p *person, k kind, n int) {
	w.say("%s publishes %d to %s", p.name, n, k.topic)
	for range n {
		p.count[k.topic]++
		data := body(p.name, p.count[k.topic])
		opts := client.PublishOptions{Headers: map[string]string{"odd": fmt.Sprint(p.count[k.topic] % 2)}}
		if k.keys > 0 {
			opts.Key = fmt.Sprint(w.rng.IntN(k.keys))
			opts.Retain = w.rng.IntN(4) == 0
		}
		if k.ttl > 0 && w.rng.IntN(4) == 0 {
			opts.TTL = k.ttl
		}
		if w.rng.IntN(3) == 0 {
			if p.gone {
				continue // it would wait for a connection
			}
			opts.Retain = false
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = p.client.PublishLossy(ctx, k.topic, data, &opts)
			cancel()
			continue
		}
		p.results = append(p.results, result{k.topic, data, p.client.PublishAsync(k.topic, data, &opts)})
	}
}

// subscribe begins a subscription with random options.
func (w *world) subscribe(p *person) {
	if len(w.diaries) > 24 || p.gone || w.broker.Load() == nil {
		return
	}
	pattern := kinds[w.rng.IntN(len(kinds))].topic
	switch w.rng.IntN(5) {
	case 0:
		pattern = "*.a"
	case 1:
		pattern = "plain.>"
	}
	d := &diary{pattern: pattern, owner: p.name, asked: time.Now()}
	d.opts.Class = []client.Class{client.Reliable, client.Reliable, client.Reliable, client.Latest, client.Sequenced, client.Unreliable}[w.rng.IntN(6)]
	d.opts.NoEcho = w.rng.IntN(4) == 0
	if w.rng.IntN(4) == 0 {
		d.opts.Filter = client.Filter{client.Where("odd").In("1")}
	}
	d.opts.Credit = []int{0, 0, 200, 2000}[w.rng.IntN(4)]
	switch w.rng.IntN(6) {
	case 0:
		d.opts.From, d.replays = client.FromLast(1+w.rng.IntN(20)), true
	case 1:
		d.opts.From, d.replays = client.FromBeginning(), true
	case 2:
		d.opts.From, d.replays = client.FromTime(time.Now().Add(-time.Duration(w.rng.IntN(5000))*time.Millisecond)), true
	case 3:
		d.opts.NoRetained = true
	}
	d.name = fmt.Sprintf("%s/%d %s %s", p.name, len(w.diaries), pattern, d.opts.Class)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	sub, err := p.client.Subscribe(ctx, pattern, &d.opts)
	if err != nil {
		w.say("%s: %v", d.name, err)
		if code := codec.CodeOf(err); code != codec.CodeSubscribeDenied && !errors.Is(err, context.DeadlineExceeded) {
			w.t.Errorf("%s cannot subscribe: %v", d.name, err)
		}
		return
	}
	d.sub, d.granted = sub, time.Now()
	w.say("%s begins: echo %v, filter %v, credit %d, replays %v", d.name, !d.opts.NoEcho, d.opts.Filter != nil, d.opts.Credit, d.replays)
	w.diaries = append(w.diaries, d)
	d.wg.Go(d.read)
}

func (w *world) unsubscribe() {
	d := w.anyDiary()
	if d == nil || d.closed {
		return
	}
	w.say("%s ends", d.name)
	d.resume()
	d.closed = true
	_ = d.sub.Close()
}

// cut takes a client off the network, or brings it back.
func (w *world) cut(p *person) {
	p.gone = !p.gone
	if p.gone {
		w.say("%s is cut off", p.name)
		p.endpoint.Partition()
		return
	}
	w.say("%s is back", p.name)
	p.endpoint.Heal()
}

// kill ends the broker without a word, and begins another one.
func (w *world) kill() {
	w.kills++
	w.say("the broker dies")
	w.server.Endpoint.Partition()
	_ = w.broker.Swap(nil).Close()
	time.Sleep(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
	w.begin()
	w.server.Endpoint.Heal()
	w.say("a broker begins")
}

// revoke takes away the permission for a topic, or gives it back.
func (w *world) revoke() {
	topic := kinds[w.rng.IntN(len(kinds))].topic
	denied := w.rng.IntN(2) == 0
	w.denied.set(topic, denied)
	w.say("%s is denied: %v", topic, denied)
	if b := w.broker.Load(); b != nil {
		b.Recheck("anyone")
	}
}

// settle heals everything, and waits until nothing moves any more.
func (w *world) settle() {
	w.say("everything heals")
	for _, k := range kinds {
		w.denied.set(k.topic, false)
	}
	w.network.SetLink(wttest.Link{Latency: 5 * time.Millisecond})
	for _, p := range w.people {
		if p.gone {
			w.cut(p)
		}
	}
	for _, d := range w.diaries {
		d.resume()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	for _, p := range w.people {
		for _, r := range p.results {
			pos, err := r.pending.Wait(ctx)
			w.answered(r, pos, err)
		}
	}
	// Who has moved and not spoken since is not found by a datagram.
	for _, p := range w.people {
		for {
			_, err := p.client.Health(ctx)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				w.t.Fatalf("%s does not come back: %v", p.name, err)
			}
		}
	}
	// A last word on each topic, so that what was lost before it is noticed.
	for _, k := range kinds {
		for i := range 4 {
			p := w.people[i%2] // nobody leaves out both
			p.count[k.topic]++
			data := body(p.name, p.count[k.topic])
			pos, err := p.client.Publish(ctx, k.topic, data, nil)
			w.answered(result{topic: k.topic, data: data}, pos, err)
			time.Sleep(100 * time.Millisecond)
		}
	}
	time.Sleep(30 * time.Second)
	synctest.Wait()
}

// answered checks an acknowledgement beside the truth.
func (w *world) answered(r result, pos client.Position, err error) {
	if err != nil {
		if !codec.CodeOf(err).Temporary() && !errors.Is(err, &client.Error{Code: codec.CodeQueueFull}) {
			w.t.Errorf("publishing %s to %s: %v", r.data, r.topic, err)
		}
		return
	}
	if pos == (client.Position{}) {
		return // published before, and its position is forgotten
	}
	w.truth.mu.Lock()
	defer w.truth.mu.Unlock()
	for _, f := range w.truth.topics[r.topic].facts {
		if f.data == r.data {
			if h := w.truth.topics[r.topic]; f.offset != pos.Offset || h.epochs[f.epoch] != pos.Epoch {
				w.t.Errorf("%s on %s was acknowledged at %v, and sequenced at offset %d", r.data, r.topic, pos, f.offset)
			}
			return
		}
	}
	w.t.Errorf("%s on %s was acknowledged and never sequenced", r.data, r.topic)
}

// judge ends the world and reads everything beside the truth.
func (w *world) judge() {
	b := w.broker.Load()
	if s := b.Stats(); s.HistoryBytes > maxHistory || s.QueuedBytes > maxBytes {
		w.t.Errorf("%d bytes of history, the bound is %d; %d wait, the bound is %d", s.HistoryBytes, maxHistory, s.QueuedBytes, maxBytes)
	}
	alive := make(map[*diary]bool)
	for _, d := range w.diaries {
		alive[d] = !d.isEnded()
	}
	w.say("the broker dropped %v", b.Stats().Dropped)
	for _, p := range w.people {
		w.say("%s: state %v, %+v", p.name, p.client.State(), p.client.Stats())
		_ = p.client.Close()
	}
	for _, d := range w.diaries {
		d.wg.Wait()
	}
	time.Sleep(time.Second)
	if n := b.Stats().QueuedBytes; n != 0 {
		w.t.Errorf("%d bytes still wait when everybody has left", n)
	}
	_ = b.Close()
	for _, f := range w.truth.check() {
		w.t.Error(f)
	}
	for _, d := range w.diaries {
		bad := ""
		for _, k := range kinds {
			if !codec.Match(d.pattern, k.topic) {
				continue
			}
			for _, f := range d.check(w.truth.of(k.topic), k.topic, max(d.opts.Class, k.class), alive[d]) {
				w.t.Error(f)
				bad = k.topic
			}
		}
		if bad != "" {
			w.say("%s had, of %s, at the end:\n%s", d.name, bad, d.tail(bad, 200))
		}
		switch code := codec.CodeOf(d.err); code {
		case codec.CodeOK, codec.CodeClosed, codec.CodePermissionRevoked, codec.CodeSubscribeDenied:
		default:
			w.t.Errorf("%s ended with %v", d.name, d.err)
		}
	}
}
