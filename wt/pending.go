package wt

import (
	"time"

	"github.com/quic-go/quic-go"
)

// What arrives before its session waits here: streams and datagrams can
// overtake the CONNECT that they belong to, or its answer
// (draft-ietf-webtrans-http3-16 §4.6).
//
// A waiting stream is held by the goroutine that read its header, so that a
// deadline needs nothing more and the connection's teardown waits for it.
type pending struct {
	// Static.
	maxStreams   int
	maxDatagrams int

	// Guarded by the connection's mu.
	streams   int                          // that wait
	waiters   map[uint64][]chan<- *Session // by session id; each is buffered for one
	datagrams []pendingDatagram            // oldest first
	dropped   uint64                       // datagrams, for want of room
}

type pendingDatagram struct {
	session uint64
	payload []byte
}

// addDatagramLocked keeps a datagram, or drops it for want of room.
func (p *pending) addDatagramLocked(session uint64, payload []byte) {
	if len(p.datagrams) >= p.maxDatagrams {
		p.dropped++
		return
	}
	p.datagrams = append(p.datagrams, pendingDatagram{session, payload})
}

// addStreamLocked registers a stream that waits for a session, or returns nil
// for want of room. The channel yields the session, or nil if there will be none.
func (p *pending) addStreamLocked(session uint64) chan *Session {
	if p.streams >= p.maxStreams {
		return nil
	}
	p.streams++
	if p.waiters == nil {
		p.waiters = make(map[uint64][]chan<- *Session)
	}
	waiter := make(chan *Session, 1)
	p.waiters[session] = append(p.waiters[session], waiter)
	return waiter
}

// removeStreamLocked ends the wait of a stream that no session was found for.
func (p *pending) removeStreamLocked(session uint64, waiter chan<- *Session) {
	waiters := p.waiters[session]
	for i, w := range waiters {
		if w == waiter {
			p.streams--
			p.waiters[session] = append(waiters[:i:i], waiters[i+1:]...)
			break
		}
	}
	if len(p.waiters[session]) == 0 {
		delete(p.waiters, session)
	}
}

// takeLocked takes out all that waits for a session. The caller sends to the
// waiters: the session, or nil if the request was refused.
func (p *pending) takeLocked(session uint64) (waiters []chan<- *Session, datagrams [][]byte) {
	waiters = p.waiters[session]
	delete(p.waiters, session)
	p.streams -= len(waiters)
	kept := p.datagrams[:0]
	for _, d := range p.datagrams {
		if d.session == session {
			datagrams = append(datagrams, d.payload)
		} else {
			kept = append(kept, d)
		}
	}
	clear(p.datagrams[len(kept):])
	p.datagrams = kept
	return waiters, datagrams
}

// awaitSession finds the session of a stream whose header was read, and waits
// for it if it does not exist yet. Where there is none, it returns the code to
// refuse the stream with.
func (c *conn) awaitSession(id uint64) (*Session, quic.StreamErrorCode) {
	c.mu.Lock()
	session, known := c.requests[id]
	switch {
	case session != nil:
		c.mu.Unlock()
		return session, 0
	case !known && id < c.nextRequest:
		c.mu.Unlock()
		return nil, codeSessionGone
	}
	waiter := c.pending.addStreamLocked(id)
	c.mu.Unlock()
	if waiter == nil {
		return nil, codeBufferedStreamRejected
	}
	deadline := time.NewTimer(c.limits.streamHeaderTimeout)
	defer deadline.Stop()
	select {
	case session := <-waiter:
		if session == nil {
			return nil, codeSessionGone
		}
		return session, 0
	case <-deadline.C:
	case <-c.quic.Context().Done():
	}
	c.mu.Lock()
	c.pending.removeStreamLocked(id, waiter)
	c.mu.Unlock()
	select {
	case session := <-waiter: // it came at the last moment
		if session != nil {
			return session, 0
		}
	default:
	}
	return nil, codeBufferedStreamRejected
}
