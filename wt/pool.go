package wt

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// Defaults of a [Pool].
const (
	defaultPooledSessions = 8
	defaultPooledData     = 1 << 20
	defaultPoolIdle       = 5 * time.Second
)

// maxPoolTries bounds how often a Pool asks another connection for a session that
// one has refused for want of room.
const maxPoolTries = 3

// ErrPoolClosed is returned by [Pool.Dial] after [Pool.Close].
var ErrPoolClosed = errors.New("wt: pool closed")

// Pool opens sessions that share connections: those to the same host and port, as
// many as both sides agree on. Set-up is then one round trip in place of two or
// three, and congestion control learns the path once. A session is as it is alone,
// and ends alone, except that loss of the connection, a broken rule of HTTP/3 and
// [Session.CloseConnection] end all sessions on it.
//
// Sessions share a connection only under flow control, which a Pool always offers
// (draft-ietf-webtrans-http3-16 §5.1): a session that is not read holds up none of
// the others. With a server that has no flow control each session has a connection
// for itself. A connection that the server wants to end, by GOAWAY, gets no further
// session.
//
// The zero value is usable. A Pool must not be changed or copied after the first
// Dial. Its methods are safe for concurrent use.
type Pool struct {
	// Dialer says how to connect and what to ask for; a Pool trusts by its rules
	// alone. Its MaxSessionData is 1 MiB by default here, and QUIC's window for the
	// connection is raised so that all sessions have theirs. MaxIncomingStreams and
	// MaxIncomingUniStreams are shared out among the sessions evenly. PacketConn is
	// an error: several connections take a Transport.
	Dialer Dialer
	// MaxSessionsPerConnection bounds the sessions that share a connection. The
	// default is 8; the server may allow fewer. A negative number is an error.
	MaxSessionsPerConnection int
	// IdleTimeout is how long a connection without a session is kept for the next.
	// The default is 5 seconds, because servers of this package end such connections
	// after 10. A negative number is an error.
	IdleTimeout time.Duration

	// lives are the connections' goroutines.
	lives sync.WaitGroup

	// Guarded by mu.
	mu     sync.Mutex
	closed bool
	hosts  map[string]*poolHost // by host and port; those with a connection
}

// poolHost is what a Pool has for one server. It is guarded by the pool's mu.
type poolHost struct {
	conns []*pooledConn
	// room is how many sessions a connection to it carries, as far as is known. It is
	// learned anew when the last connection has ended.
	room int
}

// pooledConn is a connection of a Pool. Its goroutine connects it, keeps its time,
// and closes it.
type pooledConn struct {
	// Static.
	pool *Pool
	key  string
	stop context.CancelFunc // ends the connection
	// ready is closed when conn or err is set.
	ready chan struct{}
	// changed has a token when used has become 0 or more than that.
	changed chan struct{}

	// Set before ready is closed.
	conn *conn
	err  error

	// Guarded by the pool's mu.
	isReady   bool
	used      int       // places: sessions, from before the request to their end
	waiting   int       // dials without a place that wait for ready
	taken     int       // places that there have been
	room      int       // for so many sessions; a guess until ready
	unusable  bool      // for further sessions
	idleSince time.Time // where used is 0
}

// Dial opens a session as [Dialer.Dial] does, on a connection that the pool has or
// on a new one. A request that the server refuses for want of room, with
// H3_REQUEST_REJECTED or status 429, is sent again on another connection, and the
// pool takes note of how many sessions there is room for. So is one for which a connection
// of earlier sessions turns out to have ended. After Close it returns
// [ErrPoolClosed].
//
// [Session.Close] on the session does not close the connection.
func (p *Pool) Dial(ctx context.Context, rawURL string) (*Session, error) {
	plan, err := p.plan(rawURL)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		place, err := p.acquire(ctx, plan, try > 1)
		if err != nil {
			return nil, err
		}
		session, err := place.conn.open(ctx, plan)
		if err == nil {
			return session, nil
		}
		if !place.refused(err) || try == maxPoolTries {
			return nil, err
		}
	}
}

// plan checks the pool's parameters and those of a dial.
func (p *Pool) plan(rawURL string) (*plan, error) {
	sessions, idle := p.MaxSessionsPerConnection, p.IdleTimeout
	switch {
	case sessions < 0:
		return nil, errors.New("wt: Pool.MaxSessionsPerConnection is negative")
	case idle < 0:
		return nil, errors.New("wt: Pool.IdleTimeout is negative")
	case p.Dialer.PacketConn != nil:
		return nil, errors.New("wt: Pool.Dialer has a PacketConn, which carries one connection; Transport carries several")
	}
	plan, err := p.Dialer.plan(rawURL)
	if err != nil {
		return nil, err
	}
	if sessions == 0 {
		sessions = defaultPooledSessions
	}
	plan.shared, plan.limits.maxSessions = true, sessions
	if plan.limits.maxSessionData == 0 {
		plan.limits.maxSessionData = defaultPooledData
	}
	plan.limits.shareStreams()
	shareWindow(plan.quic, sessions, plan.limits.maxSessionData)
	return plan, nil
}

func (p *Pool) idleTimeout() time.Duration {
	if p.IdleTimeout == 0 {
		return defaultPoolIdle
	}
	return p.IdleTimeout
}

// place is a place for a session on a connection.
type place struct {
	conn *pooledConn
	// alone says that there was no other session when it was taken. number counts
	// the places that have been taken on the connection, from 1.
	alone  bool
	number int
}

// acquire returns a connection on which a place for a session has been taken. With
// fresh it is a new one.
func (p *Pool) acquire(ctx context.Context, plan *plan, fresh bool) (place, error) {
	key := strings.ToLower(fmt.Sprintf("%s:%d", plan.race.host, plan.race.port))
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return place{}, ErrPoolClosed
		}
		var c *pooledConn
		if !fresh {
			c = p.findLocked(key)
		}
		made := c == nil
		if made {
			c = p.connectLocked(key, plan)
		}
		if c.isReady || made {
			// Whoever makes a connection has the first place on it.
			c.taken++
			taken := place{conn: c, alone: c.used == 0, number: c.taken}
			c.used++
			p.mu.Unlock()
			if err := c.await(ctx, plan); err != nil {
				c.giveBack()
				return place{}, err
			}
			return taken, nil
		}
		c.waiting++
		p.mu.Unlock()
		err := c.await(ctx, plan)
		p.mu.Lock()
		c.waiting--
		c.stopUnwantedLocked()
		p.mu.Unlock()
		if err != nil {
			return place{}, err
		}
		// It is ready, and may have less room than was thought.
	}
}

// findLocked returns a connection with room, or nil. One that is ready comes
// first, of these the oldest, so that the others may fall idle.
func (p *Pool) findLocked(key string) *pooledConn {
	host := p.hosts[key]
	if host == nil {
		return nil
	}
	var connecting *pooledConn
	for _, c := range host.conns {
		switch {
		case c.unusable:
		case !c.isReady:
			if connecting == nil && c.used+c.waiting < c.room {
				connecting = c
			}
		case c.isOver():
			c.unusable = true
			c.signal()
		case c.used < c.room:
			return c
		}
	}
	return connecting
}

// connectLocked begins a connection.
func (p *Pool) connectLocked(key string, plan *plan) *pooledConn {
	host := p.hosts[key]
	if host == nil {
		host = &poolHost{room: plan.limits.maxSessions}
		if p.hosts == nil {
			p.hosts = make(map[string]*poolHost)
		}
		p.hosts[key] = host
	}
	// The connection is everybody's who waits for it, so it has a context of its own.
	ctx, stop := context.WithCancel(context.Background())
	c := &pooledConn{
		pool:    p,
		key:     key,
		stop:    stop,
		ready:   make(chan struct{}),
		changed: make(chan struct{}, 1),
		room:    host.room,
	}
	host.conns = append(host.conns, c)
	p.lives.Go(func() { c.live(ctx, plan) })
	return c
}

// removeLocked forgets a connection that is over.
func (p *Pool) removeLocked(c *pooledConn) {
	c.unusable = true
	host := p.hosts[c.key]
	host.conns = slices.DeleteFunc(host.conns, func(other *pooledConn) bool { return other == c })
	if len(host.conns) == 0 {
		delete(p.hosts, c.key)
	}
}

// await waits until the connection is ready.
func (c *pooledConn) await(ctx context.Context, plan *plan) error {
	select {
	case <-c.ready:
		return c.err
	case <-ctx.Done():
		return &DialError{Step: StepConnect, Server: plan.server, Err: context.Cause(ctx)}
	}
}

// stopUnwantedLocked gives up a connection that is not ready when nobody waits for
// it any more.
func (c *pooledConn) stopUnwantedLocked() {
	if !c.isReady && c.used == 0 && c.waiting == 0 {
		c.unusable = true
		c.stop()
	}
}

// live is the connection's goroutine.
func (c *pooledConn) live(ctx context.Context, plan *plan) {
	defer c.stop()
	conn, released, err := c.connect(ctx, plan)
	p := c.pool
	p.mu.Lock()
	c.conn, c.err = conn, err
	if err == nil {
		c.isReady, c.idleSince = true, time.Now()
		host := p.hosts[c.key]
		host.room = min(host.room, conn.sessionRoom())
		c.room = host.room
	} else {
		p.removeLocked(c)
		if p.closed {
			c.err = ErrPoolClosed
		}
	}
	p.mu.Unlock()
	close(c.ready)
	if err != nil {
		return
	}
	if c.keep(ctx, released) {
		conn.linger(ctx)
	}
	_ = conn.quic.CloseWithError(codeNoError, "")
	<-released
	p.mu.Lock()
	p.removeLocked(c)
	p.mu.Unlock()
}

// connect connects and waits for the server's SETTINGS, which say how many
// sessions there is room for.
func (c *pooledConn) connect(ctx context.Context, plan *plan) (*conn, <-chan struct{}, error) {
	ctx, cancel := plan.handshakeContext(ctx)
	defer cancel()
	conn, released, err := plan.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	if _, err := conn.awaitDraft(ctx, plan.server); err != nil {
		conn.closeFor(err)
		<-released
		return nil, nil, err
	}
	return conn, released, nil
}

// keep returns when the connection has ended, is to end, or has had no session for
// long enough. It reports whether the last session may have ended just now.
func (c *pooledConn) keep(ctx context.Context, released <-chan struct{}) bool {
	timeout := c.pool.idleTimeout()
	idle := time.NewTimer(timeout)
	defer idle.Stop()
	goneAway := c.conn.goneAway
	for {
		select {
		case <-c.changed:
		case <-goneAway:
			goneAway = nil
		case <-idle.C:
		case <-released:
			return false
		case <-ctx.Done():
			return false
		}
		c.pool.mu.Lock()
		unused, rest := c.used == 0, timeout-time.Since(c.idleSince)
		if unused && (rest <= 0 || c.unusable || c.isOver()) {
			c.unusable = true
			c.pool.mu.Unlock()
			return rest > 0
		}
		c.pool.mu.Unlock()
		if unused {
			idle.Reset(rest)
		} else {
			idle.Stop()
		}
	}
}

// open asks for a session, for which a place has been taken.
func (c *pooledConn) open(ctx context.Context, plan *plan) (*Session, error) {
	handshake, cancel := plan.handshakeContext(ctx)
	defer cancel()
	session, err := c.conn.request(handshake, clientRequest{
		head:    plan.head,
		offered: plan.subprotocols,
		over:    c.giveBack,
	})
	if err != nil {
		c.giveBack()
		return nil, err
	}
	if err := session.awaitReady(ctx); err != nil {
		return nil, err
	}
	return session, nil
}

// giveBack gives the place of a session back that is over. It is called once for
// each.
func (c *pooledConn) giveBack() {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	c.used--
	if c.used == 0 {
		c.idleSince = time.Now()
		c.signal()
		c.stopUnwantedLocked()
	}
}

// signal has keep look at what has changed.
func (c *pooledConn) signal() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// isOver reports whether a connection that is ready gets no further session.
func (c *pooledConn) isOver() bool {
	select {
	case <-c.conn.goneAway:
		return true
	case <-c.conn.quic.Context().Done():
		return true
	default:
		return c.conn.endCause() != nil
	}
}

// refused reports whether a session that was not opened may be asked for on
// another connection, and learns from it.
func (t place) refused(err error) bool {
	c := t.conn
	var reset *StreamError
	var rejected *RejectedError
	var closed *quic.ApplicationError
	var unsent *unsentError
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	switch {
	case errors.As(err, &reset) && reset.Remote && reset.HTTPCode == codeRequestRejected,
		errors.As(err, &rejected) && rejected.Status == http.StatusTooManyRequests:
		if c.isOver() {
			c.unusable = true
			return true
		}
		if t.alone && t.number == c.taken {
			return false // nor was there another since
		}
		// Each refusal comes after the place was given back, so the last one leaves
		// the number of those that were accepted.
		c.room = max(1, min(c.room, c.used))
		if host := c.pool.hosts[c.key]; host != nil {
			host.room = min(host.room, c.room)
		}
		return true
	case errors.As(err, &closed) && closed.Remote && closed.ErrorCode == codeNoError && t.number > 1:
		// The server took the connection for idle while the request was on its way.
		c.unusable = true
		return true
	case errors.As(err, &unsent) && t.number > 1:
		// It had ended already: whoever has lost a session on it may dial sooner than the
		// connection knows.
		c.unusable = true
		return true
	default:
		return false
	}
}

// Close ends the pool: it closes all sessions with code 0, as [Session.Close]
// does, gives up dials that are under way, closes the connections, and waits until
// nothing is left of them. It returns nil. Further calls wait likewise.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	var all, ready []*pooledConn
	for _, host := range p.hosts {
		for _, c := range host.conns {
			all = append(all, c)
			if c.isReady {
				ready = append(ready, c)
			}
		}
	}
	p.mu.Unlock()
	var closing sync.WaitGroup
	for _, c := range ready {
		sessions, asking := c.conn.allSessions()
		for _, s := range sessions {
			closing.Go(func() { _ = s.Close() })
		}
		for _, s := range asking {
			closing.Go(func() { s.forget(ErrPoolClosed) })
		}
	}
	closing.Wait()
	for _, c := range all {
		c.stop()
	}
	p.lives.Wait()
	return nil
}
