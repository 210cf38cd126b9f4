package wt

import "github.com/quic-go/quic-go"

// defaultConnectionWindow is the largest window that QUIC opens by default, in
// bytes.
const defaultConnectionWindow = 15 << 20

// What a connection has is shared out among the sessions that it may carry, so that
// one whose application neither reads nor accepts stops none of the others. One
// session has all for itself.

// shareStreams gives each session the same part of the streams that the peer may
// have open on the connection.
func (l *limits) shareStreams() {
	n := int64(l.maxSessions)
	if n <= 1 || l.maxSessionData == 0 {
		return
	}
	// The requests of a client, and the critical streams of either side, are not
	// the sessions' (RFC 9114 §6).
	l.maxStreams = max(1, (l.maxStreams-n)/n)
	l.maxUniStreams = max(1, (l.maxUniStreams-minIncomingUniStreams)/n)
}

// shareWindow makes QUIC's window for all data so wide that it is open when every
// session has as much unread data as it may.
func shareWindow(config *quic.Config, sessions int, sessionData int64) {
	if sessions <= 1 || sessionData == 0 {
		return
	}
	// A window does not grow while nobody reads, so it begins in full size.
	window := uint64(sessions+1) * uint64(sessionData)
	config.InitialConnectionReceiveWindow = max(config.InitialConnectionReceiveWindow, window)
	config.MaxConnectionReceiveWindow = max(config.MaxConnectionReceiveWindow, defaultConnectionWindow, window)
}

// sessionRoom is how many sessions a client's connection has room for. The
// server's SETTINGS have arrived.
func (c *conn) sessionRoom() int {
	draft, err := c.serverDraft()
	if err != nil || !flowControlled(draft, c.localSettings(), c.peer, true) {
		return 1
	}
	room := uint64(c.limits.maxSessions)
	switch draft {
	case Draft07:
		room = min(room, c.peer.maxSessionsDraft7)
	case Draft14:
		room = min(room, c.peer.maxSessions)
	}
	return int(room)
}

// allSessions returns the sessions of the connection, and those of a client that
// wait for their answer.
func (c *conn) allSessions() (sessions, asking []*Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.requests {
		if s != nil {
			sessions = append(sessions, s)
		}
	}
	for _, s := range c.asking {
		asking = append(asking, s)
	}
	return sessions, asking
}
