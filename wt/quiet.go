package wt

import (
	"context"
	"sync"
	"time"
)

// Most connections of a large server are idle most of the time, and what an idle
// one costs is the goroutines that wait on it. Two have to wait at all times: the
// one that accepts bidirectional streams, and the one that reads the session's
// CONNECT stream. The others, of which the critical streams, unidirectional
// streams and unclaimed datagrams have one each, are the connection's watchers. A
// server's connection that has been quiet for a while sleeps without them. When
// packets have come in a period, it is scouted: what has arrived is taken in, and
// that is all if it was an acknowledgement or a keep-alive. If there are more in
// the next period it wakes, and has its watchers until it is quiet again. A
// client's connection is always awake.
//
// An application that waits for unidirectional streams or datagrams keeps their
// watcher, or is it, so to it sleep makes no difference. Everything else that a
// peer sends to a sleeping connection is noticed a period later at most.

const (
	// rousePeriod is how often a server looks which connections got packets.
	rousePeriod = 250 * time.Millisecond
	// scoutTime is how long each look for something waits, which is for QUIC to say
	// that there is nothing.
	scoutTime = 100 * time.Microsecond
	// quietPeriods is how many periods without packets put a connection to sleep.
	quietPeriods = 2
)

// watchers are the goroutines that a connection has while it is awake.
type watchers struct {
	// Guarded by the connection's mu.
	awake      context.Context // nil while the connection sleeps
	sleep      context.CancelFunc
	critical   []*criticalStream
	uniRunning bool // somebody accepts unidirectional streams
	uniWanted  bool // an application does, so the connection's sleep leaves them
	scouting   bool
}

// wake brings the watchers back. It does nothing while the connection is awake.
func (c *conn) wake() {
	c.mu.Lock()
	if c.ended || c.watchers.awake != nil {
		c.mu.Unlock()
		return
	}
	c.watchers.awake, c.watchers.sleep = context.WithCancel(context.Background())
	c.acceptUniLocked()
	critical := c.watchers.critical
	c.mu.Unlock()
	for _, stream := range critical {
		stream.start()
	}
}

// sleep sends the watchers away, except those that are in the middle of
// something.
func (c *conn) sleep() {
	c.mu.Lock()
	if c.watchers.awake == nil {
		c.mu.Unlock()
		return
	}
	c.watchers.sleep()
	c.watchers.awake, c.watchers.sleep = nil, nil
	critical := c.watchers.critical
	c.mu.Unlock()
	for _, stream := range critical {
		stream.stop()
	}
}

// acceptUniLocked has unidirectional streams accepted, as long as the connection
// is awake or an application waits for them.
func (c *conn) acceptUniLocked() {
	if c.ended || c.quic.Context().Err() != nil || c.watchers.uniRunning || c.watchers.awake == nil && !c.watchers.uniWanted {
		return
	}
	c.watchers.uniRunning = true
	ctx := c.watchers.awake
	if c.watchers.uniWanted {
		ctx = context.Background()
	}
	c.goroutines.Go(func() { c.acceptUniStream(ctx) })
}

// wantUni keeps unidirectional streams accepted from now on.
func (c *conn) wantUni() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers.uniWanted = true
	c.acceptUniLocked()
}

// scout looks once for what has come to a connection that sleeps, in case it was
// no more than an acknowledgement.
func (c *conn) scout() {
	c.mu.Lock()
	if c.ended || c.watchers.scouting || c.watchers.awake != nil {
		c.mu.Unlock()
		return
	}
	c.watchers.scouting = true
	critical := c.watchers.critical
	c.goroutines.Go(func() {
		for _, stream := range critical {
			stream.poll()
		}
		ctx, cancel := context.WithTimeout(context.Background(), scoutTime)
		defer cancel()
		for {
			stream, err := c.quic.AcceptUniStream(ctx)
			if err != nil {
				break
			}
			c.goroutines.Go(func() { c.readUniStreamHeader(stream) })
		}
		again, cancelAgain := context.WithTimeout(context.Background(), scoutTime)
		defer cancelAgain()
		c.receiver.pump(again)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.watchers.scouting = false
	})
	c.mu.Unlock()
}

// startPump has datagrams taken from QUIC while no application does, if the
// connection is awake.
func (c *conn) startPump() {
	if c.receiver.leading.Load() {
		return
	}
	c.mu.Lock()
	ctx := c.watchers.awake
	c.mu.Unlock()
	if ctx != nil {
		c.spawn(func() { c.receiver.pump(ctx) })
	}
}

// lookForStops ends the sessions of which the peer has stopped the CONNECT stream.
// A server's sessions do not watch for that themselves, which would cost each some
// memory all the time.
func (c *conn) lookForStops() {
	c.mu.Lock()
	var stopped []*Session
	for _, session := range c.requests {
		if session != nil && !session.over && session.stream.Context().Err() != nil {
			session.over = true
			stopped = append(stopped, session)
		}
	}
	c.mu.Unlock()
	for _, session := range stopped {
		session.stopped()
	}
}

// rouser puts the quiet ones of a server's connections to sleep and wakes those
// that got packets. One goroutine does it for all.
type rouser struct {
	done  chan struct{}
	first chan struct{} // a token when there is a connection again after there was none

	// Guarded by mu.
	mu    sync.Mutex
	conns map[*conn]*heartbeat
}

// heartbeat is what the rouser knows of a connection.
type heartbeat struct {
	packets uint64 // received
	moved   bool   // there were some in the last period
	quiet   int    // periods without a packet
}

func newRouser() *rouser {
	return &rouser{
		done:  make(chan struct{}),
		first: make(chan struct{}, 1),
		conns: make(map[*conn]*heartbeat),
	}
}

func (r *rouser) add(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns[c] = &heartbeat{}
	select {
	case r.first <- struct{}{}:
	default:
	}
}

func (r *rouser) remove(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

// stop lets run return.
func (r *rouser) stop() { close(r.done) }

// run looks after the connections until stop. While there are none it does
// nothing at all.
func (r *rouser) run() {
	ticker := time.NewTicker(rousePeriod)
	defer ticker.Stop()
	for {
		select {
		case <-r.done:
			return
		case <-ticker.C:
		}
		if r.look() > 0 {
			continue
		}
		ticker.Stop()
		select {
		case <-r.done:
			return
		case <-r.first:
		}
		ticker.Reset(rousePeriod)
	}
}

// look is one period's work. It returns how many connections there are.
func (r *rouser) look() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, h := range r.conns {
		packets := c.quic.ConnectionStats().PacketsReceived
		came, moved := packets != h.packets, h.moved
		h.packets, h.moved = packets, came
		switch {
		case came && moved:
			c.wake()
		case came || moved: // QUIC counts a packet before it has handled it
			c.scout()
		}
		if came || moved {
			c.startPump()
			c.lookForStops()
		}
		if came {
			h.quiet = 0
			continue
		}
		if h.quiet++; h.quiet == quietPeriods {
			c.sleep()
		}
	}
	return len(r.conns)
}
