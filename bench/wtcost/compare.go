package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// comparison is what the pairs of a plan have shown of one measure.
type comparison struct {
	measure
	a, b  string
	as    []float64
	bs    []float64
	ratio interval
}

// said is the verdict.
func (c comparison) said() string {
	if c.limit > 0 {
		if medianInterval(c.as).median <= c.limit+0.05 { // what the process has besides is shared out
			return "met"
		}
		return "missed"
	}
	return c.ratio.verdict(c.target)
}

// compare runs pairs until every measure is precise, at least o.fewest and at
// most o.most.
func compare(ctx context.Context, o options, p plan) ([]comparison, error) {
	results := make([]comparison, len(p.measures))
	for i, m := range p.measures {
		results[i] = comparison{measure: m, a: p.a, b: p.b}
	}
	ratios := make([][]float64, len(p.measures))
	for pair := range o.most {
		// Each library begins every second pair, so that what drifts in a pair
		// favours neither.
		order := []string{p.a, p.b}
		if pair%2 == 1 {
			order = []string{p.b, p.a}
		}
		outcomes := make(map[string]outcome)
		for _, library := range order {
			result, err := measureOnce(ctx, o, p, library)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", library, err)
			}
			outcomes[library] = result
		}
		done := pair+1 >= o.fewest
		for i := range results {
			r := &results[i]
			a, b := r.of(outcomes[p.a]), r.of(outcomes[p.b])
			r.as, r.bs = append(r.as, a), append(r.bs, b)
			ratios[i] = append(ratios[i], a/b)
			r.ratio = medianInterval(ratios[i])
			done = done && (r.rough || r.ratio.precise())
		}
		if done {
			break
		}
	}
	return results, nil
}

// runTimeout bounds one run.
const runTimeout = 3 * time.Minute

// quiet is how long nothing arrives before all has arrived that will.
const quiet = 50 * time.Millisecond

// measureOnce runs a plan's work with one library, in fresh processes.
func measureOnce(ctx context.Context, o options, p plan, library string) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	profile := func(side string) string {
		if o.profiles == "" {
			return ""
		}
		return filepath.Join(o.profiles, fmt.Sprintf("%s-%s-%s", p.name, library, side))
	}
	program := o.self
	if library == libWebTransport {
		program = o.webTransportGo
	}
	server, err := startSide(ctx, program, task{Library: library, Server: true, Work: p.work, Profile: profile("server")})
	if err != nil {
		return outcome{}, err
	}
	defer server.stop()
	var place struct{ Addr, Hash string }
	if err := server.receive(&place); err != nil {
		return outcome{}, fmt.Errorf("the server did not start: %w", err)
	}
	client, err := startSide(ctx, o.self, task{Library: library, Work: p.work, Addr: place.Addr, Hash: place.Hash, Profile: profile("client")})
	if err != nil {
		return outcome{}, err
	}
	defer client.stop()
	switch p.work.Kind {
	case kindStream, kindDatagram:
		return measureTransfer(ctx, p.work, server, client)
	case kindSetUp:
		return measureSetUp(ctx, p.work, server, client)
	case kindIdle:
		return measureIdle(ctx, p.work, server, client)
	default:
		return outcome{}, fmt.Errorf("no work %q", p.work.Kind)
	}
}

// measureTransfer has one side send and the other receive: first what warms up,
// with the path's MTU found and the window grown, then what is measured.
func measureTransfer(ctx context.Context, w work, server, client *side) (outcome, error) {
	sender, receiver := client, server
	if w.Down {
		sender, receiver = server, client
	}
	transfer := func(count int) error {
		received := make(chan error, 1)
		if w.Kind == kindStream {
			go func() { received <- receiver.do("receive", count) }()
		}
		if err := sender.do("send", count); err != nil {
			return fmt.Errorf("sender: %w", err)
		}
		if w.Kind == kindStream {
			if err := <-received; err != nil {
				return fmt.Errorf("receiver: %w", err)
			}
			return nil
		}
		return receiver.awaitQuiet(ctx)
	}
	warm := w.Count / 5
	if w.Rate > 0 {
		warm = w.Rate / 4
	}
	if err := transfer(warm); err != nil {
		return outcome{}, err
	}
	result, err := between(server, client, func() error { return transfer(w.Count) })
	received := result.server.Count
	if w.Down {
		received = result.client.Count
	}
	result.received = float64(received) / float64(w.Count)
	// Both sides have had the work of all that was sent. QUIC drops what the
	// application does not take fast enough only after it has processed it.
	result.server.Count, result.client.Count = w.Count, w.Count
	return result, err
}

// measureSetUp has the client open sessions, a few at a time.
func measureSetUp(ctx context.Context, w work, server, client *side) (outcome, error) {
	command := "open"
	if w.Close {
		command = "open and close"
	}
	open := func(count int) error {
		if err := client.do(command, count); err != nil {
			return err
		}
		return server.awaitQuiet(ctx)
	}
	if err := open(20); err != nil {
		return outcome{}, err
	}
	return between(server, client, func() error { return open(w.Count) })
}

// idleTime is how long sessions idle before memory is looked at: until the
// timers of handshakes and of the discovery of the MTU have run out.
const idleTime = 5 * time.Second

// measureIdle has the client open sessions and keep them.
func measureIdle(ctx context.Context, w work, server, client *side) (outcome, error) {
	// The first sessions pay for what all share.
	if err := client.do("open", 20); err != nil {
		return outcome{}, err
	}
	if err := wait(ctx, time.Second); err != nil {
		return outcome{}, err
	}
	if err := server.do("settle", 0); err != nil {
		return outcome{}, err
	}
	return between(server, client, func() error {
		if err := client.do("open", w.Count); err != nil {
			return err
		}
		if err := wait(ctx, idleTime); err != nil {
			return err
		}
		return server.do("settle", 0)
	})
}

// between measures both sides while f runs.
func between(server, client *side, f func() error) (outcome, error) {
	var before, after outcome
	look := func(o *outcome) error {
		var err error
		if o.server, err = server.look(); err != nil {
			return err
		}
		o.client, err = client.look()
		return err
	}
	if err := look(&before); err != nil {
		return outcome{}, err
	}
	if err := f(); err != nil {
		return outcome{}, err
	}
	if err := look(&after); err != nil {
		return outcome{}, err
	}
	return outcome{server: after.server.since(before.server), client: after.client.since(before.client)}, nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
