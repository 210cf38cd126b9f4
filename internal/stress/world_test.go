package stress

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// world is a broker, its clients, and the goroutines that use them. A test builds it,
// lets it run, and has it end; what was wrong is told by fault.
type world struct {
	// Static after construction.
	t       *testing.T
	broker  *broker.Broker
	network network
	ledger  *ledger
	config  broker.Config
	seed    uint64
	stop    func() // of the broker
	// Static when it runs: what is lossy may travel by datagram; when a guarded
	// principal was permitted nothing, nil if there is none.
	datagrams bool
	denials   *denials

	load, watch context.Context // while there is load; while somebody follows
	unload, off context.CancelFunc
	workers     sync.WaitGroup // who makes the load
	readers     sync.WaitGroup // who follows

	dice    uint64       // how many were given out; owned by the test's goroutine
	persons []*person    // owned by the test's goroutine, until it runs
	faults  atomic.Int64 // how many there were

	mu        sync.Mutex
	followers []*follower // guarded by mu
}

// person is a client and its line.
type person struct {
	*client.Client
	line *line
}

func newWorld(t *testing.T, n network, config broker.Config) *world {
	t.Helper()
	w := &world{t: t, network: n, ledger: newLedger(), seed: *seedFlag}
	if w.seed == 0 {
		w.seed = rand.Uint64()
	}
	config.Bus = w.ledger.openBus
	b, err := broker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	w.broker, w.config = b, config
	w.stop = n.serve(t, b)
	w.load, w.unload = context.WithCancel(context.Background())
	w.watch, w.off = context.WithCancel(context.Background())
	t.Cleanup(func() {
		w.unload()
		w.off()
		w.stop()
		for _, p := range w.persons {
			_ = p.Close()
		}
		if t.Failed() {
			t.Logf("%d faults; go test -race ./internal/stress -run '^%s$' -stress.for %v -stress.seed %d", w.faults.Load(), t.Name(), *stressFor, w.seed)
		}
	})
	return w
}

// fault tells that something is wrong, a few times.
func (w *world) fault(format string, args ...any) {
	if w.faults.Add(1) <= 10 {
		w.t.Errorf(format, args...)
	}
}

// throw returns dice of their own for a goroutine.
func (w *world) throw() dice {
	w.dice++
	return dice{rand.New(rand.NewPCG(w.seed, w.dice))}
}

// work starts a goroutine that makes load until the load ends.
func (w *world) work(f func(d dice)) {
	d := w.throw()
	w.workers.Go(func() { f(d) })
}

// read starts a goroutine that follows until the watch ends.
func (w *world) read(f func(d dice)) {
	d := w.throw()
	w.readers.Go(func() { f(d) })
}

// loading reports whether the load goes on.
func (w *world) loading() bool { return w.load.Err() == nil }

// join makes a client, which comes back at once when its line was cut.
func (w *world) join(config client.Config) *person {
	w.t.Helper()
	l := &line{network: w.network}
	config.Dial = l.dial
	config.Backoff = client.Backoff{Min: time.Millisecond, Max: 5 * time.Millisecond}
	config.OnState = func(s client.State, err error) {
		if s == client.StateClosed && err != nil && !errors.Is(err, client.ErrClosed) {
			w.fault("a client is closed: %v", err)
		}
	}
	config.OnPresenceLost = func(topic string, err error) { w.fault("a presence in %s is lost: %v", topic, err) }
	c, err := client.Dial(context.Background(), "memory", config)
	if err != nil {
		w.t.Fatal(err)
	}
	p := &person{c, l}
	w.persons = append(w.persons, p)
	return p
}

// cutting cuts the lines of persons, one after the other, with up to pause in between.
func (w *world) cutting(persons []*person, pause time.Duration) {
	w.work(func(d dice) {
		for w.loading() {
			rest(w.load, pause/5+d.upTo(pause))
			pick(d, persons).line.cut()
		}
	})
}

// run lets the load last, and waits until it has ended.
func (w *world) run() {
	rest(context.Background(), *stressFor)
	w.unload()
	w.workers.Wait()
}

// end ends the watch and the clients, and judges.
func (w *world) end() {
	w.off()
	w.readers.Wait()
	for _, p := range w.persons {
		_ = p.Close()
	}
	w.ledger.judge(w)
	for _, f := range w.followers {
		f.judge()
	}
	w.checkBooks()
}

// eventually waits until holds returns "".
func (w *world) eventually(what string, holds func() string) {
	w.t.Helper()
	var why string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if why = holds(); why == "" {
			return
		}
	}
	w.fault("%s: %s", what, why)
}

// rest waits for a time, or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// oneOf reports whether an error has one of the codes.
func oneOf(err error, codes ...codec.Code) bool {
	for _, c := range codes {
		if codec.CodeOf(err) == c {
			return true
		}
	}
	return false
}
