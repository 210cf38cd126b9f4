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

// TestModel runs the seeds on one processor: so a seed schedules its goroutines in nearly
// the same order each time. A few random bytes of QUIC and TLS remain.
func TestModel(t *testing.T) { runSeeds(t, 1, *seeds) }

// TestModelInParallel runs a few on several processors, for what only goroutines that run
// at once meet. A failure may need some tries to come again.
func TestModelInParallel(t *testing.T) { runSeeds(t, 4, (*seeds+3)/4) }

func runSeeds(t *testing.T, processors, seeds int) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(processors))
	began := time.Now()
	for i := range seeds {
		seed := *firstSeed + uint64(i)
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { run(t, seed) })
		}) {
			t.Errorf("seed %d fails; go test ./internal/model -run '%s$' -seed %d -seeds 1 -v", seed, t.Name(), seed)
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
