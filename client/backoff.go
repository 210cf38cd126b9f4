package client

import (
	"math/rand/v2"
	"time"
)

// Backoff says how long to wait between attempts to connect: a random time up to
// Min, doubled after each failure, at most Max (full jitter, so that the clients
// of a broker that was restarted do not come back together).
type Backoff struct {
	Min time.Duration // 0 is 500 ms
	Max time.Duration // 0 is 20 s
}

// wait returns how long to wait before attempt number n, counted from 0; at least
// least.
func (b Backoff) wait(n int, least time.Duration) time.Duration {
	ceiling := b.Max
	if n < 32 && b.Min<<n < b.Max && b.Min<<n > 0 {
		ceiling = b.Min << n
	}
	return least + rand.N(ceiling)
}
