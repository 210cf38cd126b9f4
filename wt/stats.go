package wt

import (
	"time"
)

// SessionStats is a snapshot of what a session has done, and of the connection
// that carries it.
type SessionStats struct {
	// Connection is of the QUIC connection, with all its sessions and requests.
	Connection ConnectionStats
	// Streams is of the session's streams.
	Streams StreamStats
	// Datagrams is of the session's datagrams.
	Datagrams DatagramStats
}

// ConnectionStats is a snapshot of a QUIC connection. Bytes and packets are those
// of QUIC, without the headers of UDP and IP.
type ConnectionStats struct {
	// SmoothedRTT, LatestRTT and MinRTT are estimates of the round trip, of the
	// present path, and RTTVariation is the mean deviation from SmoothedRTT (RFC 9002
	// §5). They are 0 before the first estimate.
	SmoothedRTT, LatestRTT, MinRTT, RTTVariation time.Duration
	// CongestionWindow is how many bytes may be in flight to the peer.
	CongestionWindow uint64
	// BytesSent and PacketsSent include retransmissions and what was lost.
	BytesSent, PacketsSent uint64
	// BytesReceived and PacketsReceived include duplicates.
	BytesReceived, PacketsReceived uint64
	// BytesLost and PacketsLost are what is taken for lost on its way to the peer. They
	// can shrink, when something turns out to have been late.
	BytesLost, PacketsLost uint64
	// PendingDatagramsDropped is how many datagrams came before their session and
	// found [ServerConfig.MaxPendingDatagrams] waiting.
	PendingDatagramsDropped uint64
	// StrayDatagramsDropped is how many datagrams came for no session: for one that
	// was refused or has been over for long, or for another request.
	StrayDatagramsDropped uint64
}

// StreamStats counts the streams of a session, and their bytes without the
// headers that WebTransport puts on a stream.
type StreamStats struct {
	// OpenBidi and OpenUni are the streams of which a direction is not over yet, those
	// that either side opened together.
	OpenBidi, OpenUni int
	// BytesWritten is what the application has written and QUIC has taken.
	BytesWritten uint64
	// BytesRead is what the application has read.
	BytesRead uint64
}

// Stats returns the figures of the session and its connection at this moment. It
// may be called at any time, after the session's end as well, and costs a pass
// over the session's open streams.
func (s *Session) Stats() SessionStats {
	stats := SessionStats{Connection: s.conn.stats(), Datagrams: s.datagramStats()}
	stats.Streams.BytesWritten, stats.Streams.BytesRead = s.written.Load(), s.readBytes.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	for h := range s.streams {
		if h.send != nil && h.receive != nil {
			stats.Streams.OpenBidi++
		} else {
			stats.Streams.OpenUni++
		}
	}
	return stats
}

func (c *conn) stats() ConnectionStats {
	q := c.quic.ConnectionStats()
	c.mu.Lock()
	dropped, strays := c.pending.dropped, c.strays
	c.mu.Unlock()
	return ConnectionStats{
		SmoothedRTT:             q.SmoothedRTT,
		LatestRTT:               q.LatestRTT,
		MinRTT:                  q.MinRTT,
		RTTVariation:            q.MeanDeviation,
		CongestionWindow:        q.CongestionWindow,
		BytesSent:               q.BytesSent,
		PacketsSent:             q.PacketsSent,
		BytesReceived:           q.BytesReceived,
		PacketsReceived:         q.PacketsReceived,
		BytesLost:               q.BytesLost,
		PacketsLost:             q.PacketsLost,
		PendingDatagramsDropped: dropped,
		StrayDatagramsDropped:   strays,
	}
}
