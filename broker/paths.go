package broker

import (
	"slices"
	"time"
)

// PathStats are how the ways to the clients are just now, of a sample of the sessions.
type PathStats struct {
	// Sessions is how many sessions were looked at: at most 1,000, of those whose
	// transport knows.
	Sessions int
	// RTT50 and RTT99 are round trips that half of them, and 99 of 100, are not above.
	RTT50, RTT99 time.Duration
	// Loss is the share of the packets sent that were lost, since each session's
	// connection began.
	Loss float64
}

// maxPaths bounds the sessions that Paths looks at.
const maxPaths = 1000

// Paths returns how the ways to the clients are. It looks at the connections of up to
// 1,000 sessions, chosen at random, so it costs some microseconds for each of them.
func (b *Broker) Paths() PathStats {
	b.mu.Lock()
	conns := make([]Conn, 0, min(len(b.byClient), maxPaths))
	for _, s := range b.byClient { // in random order
		if len(conns) == maxPaths {
			break
		}
		conns = append(conns, s.conn)
	}
	b.mu.Unlock()
	var p PathStats
	var rtts []time.Duration
	var sent, lost uint64
	for _, conn := range conns {
		stats := conn.Stats()
		if stats.PacketsSent == 0 {
			continue
		}
		p.Sessions++
		sent += stats.PacketsSent
		lost += stats.PacketsLost
		if stats.RTT > 0 {
			rtts = append(rtts, stats.RTT)
		}
	}
	if sent > 0 {
		p.Loss = float64(lost) / float64(sent)
	}
	if n := len(rtts); n > 0 {
		slices.Sort(rtts)
		p.RTT50, p.RTT99 = rtts[n/2], rtts[n*99/100]
	}
	return p
}
