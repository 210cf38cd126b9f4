package main

import (
	"math"
	"slices"
)

// interval is a median with its interval of 95 %.
type interval struct {
	median, low, high float64
	n                 int
}

// medianInterval returns the median of values and the interval in which the
// median of what they are drawn from lies with 95 %. It assumes nothing of their
// distribution: the number of values below the true median is binomial with
// probability one half, so the interval lies between two of the ordered values.
// With fewer than six values there is none, and it is infinite.
func medianInterval(values []float64) interval {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	if n == 0 {
		return interval{median: math.NaN(), low: math.Inf(-1), high: math.Inf(1)}
	}
	i := interval{median: (v[(n-1)/2] + v[n/2]) / 2, low: math.Inf(-1), high: math.Inf(1), n: n}
	if k := outside(n); k > 0 {
		i.low, i.high = v[k-1], v[n-k]
	}
	return i
}

// outside returns the largest k for which fewer than k of n coins show heads
// with a probability of at most 2.5 %, 0 if there is none.
func outside(n int) int {
	k, probability, sum := 0, math.Pow(0.5, float64(n)), 0.0
	for {
		sum += probability // of exactly k heads
		if sum > 0.025 {
			return k
		}
		probability *= float64(n-k) / float64(k+1)
		k++
	}
}

// precision is how close to the median the interval must be.
const precision = 0.02

// precise reports whether the interval lies within ±2 % of the median.
func (i interval) precise() bool {
	return i.low >= i.median*(1-precision) && i.high <= i.median*(1+precision)
}

// verdict says whether a ratio is at most target. Where the interval is too wide
// to tell, it says so.
func (i interval) verdict(target float64) string {
	switch {
	case target == 0:
		return ""
	case i.precise() && i.median <= target, i.high <= target:
		return "met"
	case i.precise(), i.low > target:
		return "missed"
	default:
		return "undecided"
	}
}
