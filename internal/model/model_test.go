package model

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	firstSeed = flag.Uint64("seed", 1, "the first seed")
	seeds     = flag.Int("seeds", 20, "how many seeds to run")
	steps     = flag.Int("steps", 250, "operations of a seed")
)

func TestModel(t *testing.T) {
	// On one processor a seed schedules its goroutines in nearly the same order each
	// time; a few random bytes of QUIC and TLS remain.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	began := time.Now()
	for i := range *seeds {
		seed := *firstSeed + uint64(i)
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { run(t, seed) })
		}) {
			t.Errorf("seed %d fails; go test ./internal/model -run TestModel -seed %d -seeds 1 -v", seed, seed)
		}
		if (i+1)%100 == 0 {
			t.Logf("%d seeds in %v", i+1, time.Since(began).Round(time.Second))
		}
	}
}

func run(t *testing.T, seed uint64) {
	w := newWorld(t, seed)
	for range *steps {
		w.step()
		if t.Failed() {
			break
		}
	}
	w.settle()
	w.judge()
	if t.Failed() || testing.Verbose() {
		t.Log("\n" + strings.Join(w.log, "\n"))
	}
}

// TestModelAgain runs seeds that have found something: the first two as the operations
// are drawn now, the others as they were drawn then.
func TestModelAgain(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, seed := range []uint64{58, 300116, 1073, 2044, 2059, 2090} {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { run(t, seed) })
		})
	}
}
