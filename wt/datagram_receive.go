package wt

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/quicvarint"
)

// incoming are the datagrams that arrived for a session and nobody took yet.
type incoming struct {
	queue queue[incomingDatagram]

	ended atomic.Bool // nobody takes any more

	// Counters, see DatagramStats.
	received, overflowed, expired, abandoned atomic.Uint64
}

type incomingDatagram struct {
	payload  []byte
	received time.Time // zero where there is no maximum age
}

// add queues a datagram, and drops the oldest for want of room.
func (i *incoming) add(payload []byte, l *limits) {
	d := incomingDatagram{payload: payload}
	if l.maxDatagramAge > 0 {
		d.received = time.Now()
	}
	i.received.Add(1)
	i.overflowed.Add(uint64(i.queue.put(d, l.maxQueuedDatagrams)))
	if i.ended.Load() {
		i.end()
	}
}

// end drops what waits, when the session has ended.
func (i *incoming) end() {
	i.ended.Store(true)
	for {
		if _, ok := i.queue.take(); !ok {
			return
		}
		i.abandoned.Add(1)
	}
}

// take returns the oldest datagram that is not too old.
func (i *incoming) take(l *limits) ([]byte, bool) {
	for {
		d, ok := i.queue.take()
		if !ok {
			return nil, false
		}
		if l.maxDatagramAge > 0 && time.Since(d.received) > l.maxDatagramAge {
			i.expired.Add(1)
			continue
		}
		return d.payload, true
	}
}

// datagramReceiver takes the datagrams of one connection from QUIC and gives
// each to its session (RFC 9297 §2.1).
//
// Whoever waits for a datagram does this, one at a time: the one that leads reads
// from QUIC until its own comes, and hands those of other sessions over. So a
// datagram reaches a waiting application without a further goroutine between.
// Only while no application receives, a pump does it in its place, so that the
// queues hold the newest and not the oldest.
type datagramReceiver struct {
	// Static.
	conn *conn

	leading atomic.Bool
	waiting atomic.Int32  // who would lead
	takes   atomic.Uint64 // by leaders, to see whether applications receive

	// Guarded by mu.
	mu       sync.Mutex
	stopPump context.CancelFunc // nil unless there is a pump
	// free is nil until somebody waits, and then holds a token when one of those
	// may lead.
	free chan struct{}
}

func (r *datagramReceiver) init(c *conn) {
	r.conn = c
}

// lead makes the caller the leader if there is none.
func (r *datagramReceiver) lead() bool { return r.leading.CompareAndSwap(false, true) }

// release ends the caller's lead.
func (r *datagramReceiver) release() {
	r.leading.Store(false)
	r.passOn()
}

// receive waits for the next datagram of the session.
func (r *datagramReceiver) receive(ctx context.Context, s *Session) ([]byte, error) {
	for {
		// Who has waited may have taken the token, and does not lead after all.
		if err := s.endedWith(); err != nil {
			r.passOn()
			return nil, err
		}
		if payload, ok := s.incoming.take(&r.conn.limits); ok {
			r.passOn()
			return payload, nil
		}
		if !r.lead() {
			// Who leads may have missed that somebody waits, unless it was tried again
			// after that became visible.
			r.waiting.Add(1)
			if !r.lead() {
				err := r.await(ctx, s)
				r.waiting.Add(-1)
				if err != nil {
					r.passOn()
					r.conn.datagrams.watch()
					return nil, err
				}
				continue
			}
			r.waiting.Add(-1)
		}
		payload, err := r.leadFor(ctx, s)
		r.takes.Add(1)
		r.release()
		r.conn.datagrams.watch()
		if payload != nil || err != nil {
			return payload, err
		}
	}
}

// await waits until the session may have a datagram or there is nobody who leads.
func (r *datagramReceiver) await(ctx context.Context, s *Session) error {
	r.mu.Lock()
	if r.stopPump != nil {
		r.stopPump() // an application receives better
	}
	if r.free == nil {
		r.free = make(chan struct{}, 1)
		r.free <- struct{}{} // one may have been missed
	}
	free := r.free
	r.mu.Unlock()
	select {
	case <-free:
	case <-s.incoming.queue.filled():
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ctx.Done():
		return s.endedWith()
	}
	return nil
}

// passOn lets somebody lead who waits for it.
func (r *datagramReceiver) passOn() {
	if r.waiting.Load() == 0 || r.leading.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.free == nil {
		return // whoever makes it puts a token into it
	}
	select {
	case r.free <- struct{}{}:
	default:
	}
}

// leadFor reads until there is a datagram for the session. It returns neither a
// datagram nor an error if there are some in the session's queue.
func (r *datagramReceiver) leadFor(ctx context.Context, s *Session) ([]byte, error) {
	until := s.receiving.until(ctx, s.ctx)
	for s.incoming.queue.empty() {
		b, err := r.conn.quic.ReceiveDatagram(until)
		if err != nil {
			switch {
			case s.endedWith() != nil:
				return nil, s.endedWith()
			case ctx.Err() != nil:
				return nil, context.Cause(ctx)
			default:
				return nil, s.translate(err)
			}
		}
		session, payload, ok := r.route(b, s)
		switch {
		case !ok:
			return nil, s.translate(context.Cause(r.conn.quic.Context()))
		case session == s:
			if payload == nil {
				payload = []byte{}
			}
			s.incoming.received.Add(1)
			return payload, nil
		case session != nil:
			session.incoming.add(payload, &r.conn.limits)
		}
	}
	return nil, nil
}

// route finds the session of a datagram; likely says which it may be. A datagram
// for a session that does not exist yet waits, one for none is dropped. It
// reports false, and ends the connection, if the datagram is malformed.
func (r *datagramReceiver) route(b []byte, likely *Session) (session *Session, payload []byte, ok bool) {
	c := r.conn
	quarter, n, err := quicvarint.Parse(b)
	if err != nil || quarter >= 1<<60 {
		_ = c.fail(connectionError(codeDatagramError, "datagram without a stream id"))
		return nil, nil, false
	}
	id, payload := quarter*4, b[n:]
	if likely != nil && likely.id == id {
		return likely, payload, true
	}
	c.mu.Lock()
	session, known := c.requests[id]
	plain := c.plain[id]
	switch {
	case session != nil:
	case plain == nil && (known || id >= c.nextRequest):
		c.pending.addDatagramLocked(id, payload)
	default:
		c.strays++
	}
	c.mu.Unlock()
	if plain != nil {
		refuseDatagrams(plain)
	}
	if session == nil && c.logger.Enabled(context.Background(), slog.LevelDebug) {
		c.logger.Debug("datagram without a session", slog.Uint64("session", id))
	}
	return session, payload, true
}

// pump reads datagrams while no application does, until ctx ends.
func (r *datagramReceiver) pump(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	r.mu.Lock()
	if r.stopPump != nil || !r.lead() {
		r.mu.Unlock()
		return
	}
	r.stopPump = stop
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.stopPump = nil
		r.mu.Unlock()
		r.release()
	}()
	for r.waiting.Load() == 0 {
		b, err := r.conn.quic.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		session, payload, ok := r.route(b, nil)
		if !ok {
			return
		}
		if session != nil {
			session.incoming.add(payload, &r.conn.limits)
		}
	}
}

// datagramPeriod is how often a connection in use looks whether its datagrams
// still flow.
const datagramPeriod = 10 * time.Millisecond

// lingerPeriods is how many periods the sender stays when nothing is sent.
const lingerPeriods = 10

// datagramWatch notices that an application has stopped sending or receiving
// datagrams on a connection. It costs nothing while none flow.
type datagramWatch struct {
	// Static.
	conn *conn

	armed atomic.Bool

	// Guarded by mu.
	mu           sync.Mutex
	timer        *time.Timer
	stopped      bool
	turns, takes uint64 // at the last check
	unsent       int    // periods in which nothing was sent
}

// watch has the connection checked a period from now, and then as long as
// datagrams flow.
func (w *datagramWatch) watch() {
	if w.armed.Load() || !w.armed.CompareAndSwap(false, true) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.stopped:
	case w.timer == nil:
		w.timer = time.AfterFunc(datagramPeriod, w.check)
	default:
		w.timer.Reset(datagramPeriod)
	}
}

func (w *datagramWatch) check() {
	c := w.conn
	turns, takes := c.sender.turns.Load(), c.receiver.takes.Load()
	w.mu.Lock()
	sends, receives := turns != w.turns, takes != w.takes
	w.turns, w.takes = turns, takes
	if w.unsent++; sends {
		w.unsent = 0
	}
	lingers := w.unsent < lingerPeriods
	w.mu.Unlock()
	// From now on, a sender that begins has the next check for itself. One that has
	// begun is told to leave by this one.
	w.armed.Store(false)
	if !lingers {
		c.sender.rest()
	}
	if !receives && !c.receiver.leading.Load() {
		c.startPump()
	}
	if lingers || receives || takes != c.receiver.takes.Load() {
		w.watch()
	}
}

// stop ends the checks for good.
func (w *datagramWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// eitherContext is a context that ends with the session or with the context that
// an application receives with. Applications use the same one for each datagram,
// so it is kept from one to the next.
type eitherContext struct {
	// Guarded by mu.
	mu     sync.Mutex
	parent <-chan struct{} // the Done of the context that either is for
	either context.Context
	cancel context.CancelCauseFunc
	stop   func() bool
	closed bool // the session has ended
}

// until returns a context that ends with parent and with the session's.
func (e *eitherContext) until(parent, session context.Context) context.Context {
	done := parent.Done()
	if done == nil || done == session.Done() {
		return session
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return session
	case done == e.parent:
		return e.either
	}
	e.releaseLocked()
	either, cancel := context.WithCancelCause(session)
	e.parent, e.either, e.cancel = done, either, cancel
	e.stop = afterFunc(parent, func() { cancel(context.Cause(parent)) })
	return either
}

// close lets go of the application's context.
func (e *eitherContext) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	e.releaseLocked()
}

func (e *eitherContext) releaseLocked() {
	if e.parent == nil {
		return
	}
	e.stop()
	e.cancel(nil)
	e.parent, e.either, e.cancel, e.stop = nil, nil, nil, nil
}
