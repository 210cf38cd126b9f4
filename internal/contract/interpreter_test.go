package contract

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// stepTimeout bounds a step. It is never what a scenario measures.
const stepTimeout = 10 * time.Second

// run is one run of a scenario.
type run struct {
	world *World
	ctx   context.Context // ends with the scenario
	wg    sync.WaitGroup  // what runs asynchronously

	mu        sync.Mutex
	clients   map[string]*user
	subs      map[string]*reader
	positions map[string]client.Position
	maps      map[string]patternPositions
	times     map[string]time.Time
	pages     map[string]client.From // where the next page begins
	pending   map[string]chan error  // asynchronous steps
	more      extras
}

// user is a client, and what it has been through.
type user struct {
	*client.Client
	mu      sync.Mutex
	states  []string
	changed chan struct{} // closed and replaced with each state
}

// mismatch is what a step returns where something else came about than it expects;
// no "error" of a step means it.
type mismatch struct{ text string }

func (m mismatch) Error() string { return m.text }

func mismatchf(format string, args ...any) error { return mismatch{fmt.Sprintf(format, args...)} }

type clientStepFunc func(*run, context.Context, []byte) error

// does makes a step of a method: its fields are decoded, and one that is not known
// is an error.
func does[F any](do func(*run, context.Context, F) error) clientStepFunc {
	return func(r *run, ctx context.Context, b []byte) error {
		var fields F
		if err := Decode(b, &fields); err != nil {
			return mismatchf("the fields are wrong: %v", err)
		}
		return do(r, ctx, fields)
	}
}

// runScenario carries out a scenario.
func runScenario(t *testing.T, w *World, s scenario) {
	ctx, cancel := context.WithCancel(t.Context())
	r := &run{
		world:     w,
		ctx:       ctx,
		clients:   make(map[string]*user),
		subs:      make(map[string]*reader),
		positions: make(map[string]client.Position),
		maps:      make(map[string]patternPositions),
		times:     make(map[string]time.Time),
		pages:     make(map[string]client.From),
		pending:   make(map[string]chan error),
		more:      newExtras(),
	}
	begin, err := json.Marshal(beginStep{Together: s.Together != ""})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Do("begin", begin); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		for _, c := range r.clients {
			_ = c.Close()
		}
		r.wg.Wait()
		for _, stop := range r.more.stops {
			stop()
		}
		if _, err := w.Do("end", []byte("{}")); err != nil {
			t.Error(err)
		}
	}()
	for i, step := range s.Steps {
		if err := r.step(t.Context(), step); err != nil {
			t.Fatalf("step %d, %s %s: %v", i+1, step.name, step.fields, err)
		}
	}
	for name := range r.pending {
		t.Errorf("nobody joined %q", name)
	}
}

// step carries out one step, or begins it if it is asynchronous.
func (r *run) step(ctx context.Context, s step) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	if s.Async == "" {
		defer cancel()
		return r.carryOut(ctx, s)
	}
	done := make(chan error, 1)
	r.mu.Lock()
	r.pending[s.Async] = done
	r.mu.Unlock()
	r.wg.Go(func() {
		defer cancel()
		done <- r.carryOut(ctx, s)
	})
	return nil
}

func (r *run) carryOut(ctx context.Context, s step) error {
	var err error
	if do := clientSteps[s.name]; do != nil {
		err = do(r, ctx, s.fields)
	} else {
		_, err = r.world.Do(s.name, s.fields)
	}
	return checkError(err, s.Error)
}

// checkError reports whether err has the code that is wanted; "" is none.
func checkError(err error, want string) error {
	if want == "" {
		return err
	}
	if _, ok := errors.AsType[mismatch](err); ok {
		return err
	}
	e, ok := errors.AsType[*codec.Error](err)
	if !ok {
		return mismatchf("the error is %v; want %s", err, want)
	}
	if !slices.Contains(strings.Split(want, "|"), e.Code.String()) {
		return mismatchf("the error is %s (%v); want %s", e.Code, err, want)
	}
	return nil
}

func (r *run) user(name string) (*user, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u := r.clients[orA(name)]; u != nil {
		return u, nil
	}
	return nil, mismatchf("there is no client %q", orA(name))
}

// orA is the client that is meant where none is named.
func orA(name string) string {
	if name == "" {
		return "a"
	}
	return name
}

func (r *run) reader(name string) (*reader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.subs[orS(name)]; s != nil {
		return s, nil
	}
	return nil, mismatchf("there is no subscription %q", orS(name))
}

// orS is the subscription that is meant where none is named.
func orS(name string) string {
	if name == "" {
		return "s"
	}
	return name
}

func (r *run) position(name string) (client.Position, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.positions[name]
	if !ok {
		return p, mismatchf("there is no position %q", name)
	}
	return p, nil
}

func (r *run) keep(name string, p client.Position) {
	if name == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.positions[name] = p
}

// idOf is the client id of a client; the zero one if there is none.
func (r *run) idOf(name string) uuid.UUID {
	u, err := r.user(name)
	if err != nil {
		return uuid.UUID{}
	}
	return u.ID()
}

// eventually repeats f while it returns a mismatch, and returns the last one if that is
// for ever.
func eventually(ctx context.Context, f func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := f()
		_, again := errors.AsType[mismatch](err)
		switch {
		case again && ctx.Err() == nil:
			last = err
		case ctx.Err() != nil && last != nil:
			return last
		default:
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return last
		}
	}
}
