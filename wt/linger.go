package wt

import (
	"context"
	"time"

	"github.com/quic-go/quic-go"
)

// maxAckDelay is how long a peer may keep an acknowledgement to itself
// (RFC 9000 §18.2).
const maxAckDelay = 25 * time.Millisecond

// closeAfter closes the connection, which its last session has left; session is
// nil if the last request never became one.
//
// QUIC's close discards what is queued: the end of the CONNECT stream, with the
// code of a rule that was broken, and the end of the session's streams. Unless the
// peer has answered our own close, it is therefore given the time to arrive, with
// room for a loss, or until the peer closes the connection.
func (c *conn) closeAfter(session *Session) {
	if session == nil || session.closedByUs() {
		_ = c.quic.CloseWithError(codeNoError, "")
		return
	}
	c.spawn(func() {
		c.linger(context.Background())
		_ = c.quic.CloseWithError(codeNoError, "")
	})
}

// linger waits until what is queued has had the time to arrive, the connection
// has ended, or ctx ends.
func (c *conn) linger(ctx context.Context) {
	timer := time.NewTimer(min(3*probeTimeout(c.quic), c.limits.closeTimeout))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.quic.Context().Done():
	case <-ctx.Done():
	}
}

// probeTimeout is the time after which QUIC takes it that a packet was lost
// (RFC 9002 §6.2.1).
func probeTimeout(q *quic.Conn) time.Duration {
	stats := q.ConnectionStats()
	return stats.SmoothedRTT + max(4*stats.MeanDeviation, time.Millisecond) + maxAckDelay
}

// closedByUs reports whether this side ended the session with a close, and has
// waited for the peer to take note.
func (s *Session) closedByUs() bool {
	ended := s.ended.Load()
	return ended != nil && ended.By == Us && (ended.Via == ViaCapsule || ended.Via == ViaFIN)
}
