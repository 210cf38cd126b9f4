package main

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// loader is a client of one peer, as lean as it can be: it is the server that is
// measured.
type loader interface {
	// subscribe calls got with each payload, until the connection ends; it returns
	// when the server has confirmed.
	subscribe(ctx context.Context, topic string, got func(payload []byte)) error
	// publish sends a message and does not wait for an answer.
	publish(payload []byte) error
	// publisher prepares for publishing to a topic.
	publisher(ctx context.Context, topic string) error
	close()
}

// result is what one run has shown.
type result struct {
	cpu       float64 // server CPU-seconds per million deliveries
	perSecond float64 // deliveries
	p50, p99  float64 // latency in ms
	rss       float64 // KiB a session
	setup     float64 // server CPU-ms a session
}

func dialPeer(ctx context.Context, peer string, s *process) (loader, error) {
	switch peer {
	case "tidewire":
		return dialTidewire(ctx, s)
	case "quichub":
		return dialHub(ctx, s)
	default:
		return dialNATS(s)
	}
}

// measure runs one plan against one peer.
func measure(peer string, p plan) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s, err := startServer(ctx, peer)
	if err != nil {
		return result{}, err
	}
	defer s.stop()

	var delivered atomic.Int64
	var latencies sync.Mutex
	var samples []float64
	var measuring atomic.Bool
	arrived := make(chan struct{}, 1)
	got := func(payload []byte) {
		n := delivered.Add(1)
		if n%16 == 0 {
			select {
			case arrived <- struct{}{}:
			default:
			}
		}
		if measuring.Load() && n%8 == 0 {
			sent := time.Unix(0, int64(binary.BigEndian.Uint64(payload)))
			ms := float64(time.Since(sent).Microseconds()) / 1000
			latencies.Lock()
			samples = append(samples, ms)
			latencies.Unlock()
		}
	}

	before, cpuBefore := s.rss(), s.cpu()
	loaders := make([]loader, p.subscribers)
	errs := make([]error, p.subscribers)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range loaders {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			topic := "topic"
			if p.idle {
				topic = "topic." + string(rune('a'+i%26)) + time.Duration(i).String()
			}
			l, err := dialPeer(ctx, peer, s)
			if err == nil {
				loaders[i] = l
				err = l.subscribe(ctx, topic, got)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	defer func() {
		for _, l := range loaders {
			if l != nil {
				wg.Go(l.close)
			}
		}
		wg.Wait()
	}()
	if err := errors.Join(errs...); err != nil {
		return result{}, err
	}
	n := float64(p.subscribers)
	if p.idle {
		setup := (s.cpu() - cpuBefore) * 1000 / n
		time.Sleep(p.run) // handshakes and timers settle
		return result{rss: (s.rss() - before) / n, setup: setup}, nil
	}

	pub, err := dialPeer(ctx, peer, s)
	if err != nil {
		return result{}, err
	}
	defer pub.close()
	if err := pub.publisher(ctx, "topic"); err != nil {
		return result{}, err
	}
	stop := make(chan struct{})
	failed := make(chan error, 1)
	wg.Go(func() { failed <- flood(pub, p, &delivered, arrived, stop) })
	time.Sleep(p.warm)
	measuring.Store(true)
	cpu, count, start := s.cpu(), delivered.Load(), time.Now()
	time.Sleep(p.run)
	measuring.Store(false)
	deliveries, seconds := float64(delivered.Load()-count), time.Since(start).Seconds()
	used := s.cpu() - cpu
	close(stop)
	if err := <-failed; err != nil {
		return result{}, err
	}
	if deliveries == 0 {
		return result{}, errors.New("nothing was delivered")
	}
	if want := float64(p.rate) * n * seconds; p.rate > 0 && deliveries < 0.98*want {
		return result{}, errors.New("the offered load was not delivered")
	}
	latencies.Lock()
	defer latencies.Unlock()
	slices.Sort(samples)
	return result{
		cpu:       used / deliveries * 1e6,
		perSecond: deliveries / seconds,
		p50:       samples[len(samples)/2],
		p99:       samples[len(samples)*99/100],
	}, nil
}

// flood publishes until stop, at the plan's rate or as its window allows.
func flood(pub loader, p plan, delivered *atomic.Int64, arrived, stop chan struct{}) error {
	payload := make([]byte, p.size)
	start := time.Now()
	for sent := int64(0); ; sent++ {
		for p.rate == 0 && sent*int64(p.subscribers)-delivered.Load() > int64(p.window*p.subscribers) {
			select {
			case <-arrived:
			case <-stop:
				return nil
			case <-time.After(5 * time.Second):
				return errors.New("messages were lost")
			}
		}
		if p.rate > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(sent) * time.Second / time.Duration(p.rate))))
		}
		select {
		case <-stop:
			return nil
		default:
		}
		binary.BigEndian.PutUint64(payload, uint64(time.Now().UnixNano()))
		if err := pub.publish(payload); err != nil {
			return err
		}
	}
}

// coalescer writes what was appended while the write before was under way.
type coalescer struct {
	write func([]byte) error

	mu      sync.Mutex
	buf     []byte
	writing bool
	err     error
	room    *sync.Cond
}

func newCoalescer(write func([]byte) error) *coalescer {
	c := &coalescer{write: write}
	c.room = sync.NewCond(&c.mu)
	return c
}

// add appends a frame by the function, which is given the buffer.
func (c *coalescer) add(appendTo func([]byte) []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.buf) > 256<<10 && c.err == nil {
		c.room.Wait()
	}
	if c.err != nil {
		return c.err
	}
	c.buf = appendTo(c.buf)
	if !c.writing {
		c.writing = true
		go c.flush() // ends when nothing waits, or with the connection
	}
	return nil
}

func (c *coalescer) flush() {
	var spare []byte
	for {
		c.mu.Lock()
		b := c.buf
		if len(b) == 0 || c.err != nil {
			c.writing = false
			c.mu.Unlock()
			return
		}
		c.buf = spare[:0]
		c.room.Broadcast()
		c.mu.Unlock()
		if err := c.write(b); err != nil {
			c.mu.Lock()
			c.err = err
			c.room.Broadcast()
			c.mu.Unlock()
		}
		spare = b
	}
}
