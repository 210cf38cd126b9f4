package wttest

import (
	"math/rand/v2"
	"time"
)

// Link says what happens to the packets that an endpoint sends, on their way to
// whomever they are for. The zero value is a perfect link: no delay, no loss, no
// bound but the MTU.
type Link struct {
	// Latency delays each packet.
	Latency time.Duration
	// Jitter delays each packet by a random time more, evenly spread below it. A
	// packet whose delay is shorter overtakes those before it.
	Jitter time.Duration
	// Rate is how many bytes a second leave the endpoint. The default, 0, is
	// without bound.
	Rate int
	// Queue bounds the bytes that wait for Rate. A packet that does not fit is
	// dropped, as by a router. The default is 64 KiB.
	Queue int
	// Loss is the share of packets that are lost, 0 to 1.
	Loss float64
	// Duplicate is the share of packets that arrive twice, 0 to 1.
	Duplicate float64
	// Reorder is the share of packets that are held back for ReorderBy, so that
	// later ones overtake them, 0 to 1.
	Reorder float64
	// ReorderBy is how long they are held back. The default is 10 milliseconds.
	ReorderBy time.Duration
	// MTU is the largest UDP payload that gets through, in bytes. The default is
	// 1452, what Ethernet carries over IPv6. Larger packets are dropped. QUIC needs
	// 1200, and quic-go begins with 1280.
	MTU int
}

// Defaults of a Link.
const (
	defaultQueue     = 64 << 10
	defaultReorderBy = 10 * time.Millisecond
	defaultMTU       = 1452
)

func (l Link) withDefaults() Link {
	if l.Queue == 0 {
		l.Queue = defaultQueue
	}
	if l.ReorderBy == 0 {
		l.ReorderBy = defaultReorderBy
	}
	if l.MTU == 0 {
		l.MTU = defaultMTU
	}
	return l
}

// dice are the random decisions on one packet. All are thrown for every packet,
// so that those on the n-th do not depend on the conditions before it.
type dice struct{ loss, duplicate, reorder, jitter, jitter2 float64 }

func throw(r *rand.Rand) dice {
	return dice{r.Float64(), r.Float64(), r.Float64(), r.Float64(), r.Float64()}
}

// delay is how long the first copy of a packet takes, apart from the wait for
// Rate.
func (l Link) delay(d dice) time.Duration {
	total := l.Latency + time.Duration(d.jitter*float64(l.Jitter))
	if d.reorder < l.Reorder {
		total += l.ReorderBy
	}
	return total
}

// sendTime is how long size bytes occupy the link.
func (l Link) sendTime(size int) time.Duration {
	if l.Rate <= 0 {
		return 0
	}
	return time.Duration(float64(size) / float64(l.Rate) * float64(time.Second))
}
