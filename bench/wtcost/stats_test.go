package main

import (
	"math"
	"math/rand/v2"
	"testing"
)

// The ranks are those of the tables of the sign test.
func TestOutside(t *testing.T) {
	for n, want := range map[int]int{1: 0, 5: 0, 6: 1, 8: 1, 9: 2, 10: 2, 20: 6, 40: 14} {
		if got := outside(n); got != want {
			t.Errorf("of %d values %d lie outside on each side, want %d", n, got, want)
		}
	}
}

func TestMedianInterval(t *testing.T) {
	got := medianInterval([]float64{3, 1, 2, 6, 5, 4})
	if got != (interval{median: 3.5, low: 1, high: 6, n: 6}) {
		t.Errorf("got %+v", got)
	}
	if few := medianInterval([]float64{1, 1, 1}); few.precise() || !math.IsInf(few.high, 1) {
		t.Errorf("three values give %+v", few)
	}
}

// The interval holds the true median at least as often as it says.
func TestIntervalCovers(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const rounds = 4000
	covered := 0
	for range rounds {
		values := make([]float64, 17)
		for i := range values {
			values[i] = math.Exp(random.NormFloat64()) // its median is 1
		}
		if i := medianInterval(values); i.low <= 1 && 1 <= i.high {
			covered++
		}
	}
	if covered < rounds*95/100 {
		t.Errorf("the interval covers the median in %d of %d rounds", covered, rounds)
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		interval interval
		want     string
	}{
		{interval{median: 1.04, low: 1.03, high: 1.055}, "met"},
		{interval{median: 1.06, low: 1.045, high: 1.07}, "missed"},
		{interval{median: 1.00, low: 0.90, high: 1.04}, "met"},
		{interval{median: 1.20, low: 1.06, high: 1.40}, "missed"},
		{interval{median: 1.04, low: 1.00, high: 1.10}, "undecided"},
	} {
		if got := c.interval.verdict(1.05); got != c.want {
			t.Errorf("%+v is %s, want %s", c.interval, got, c.want)
		}
	}
}
