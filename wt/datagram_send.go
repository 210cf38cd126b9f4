package wt

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/quicvarint"
)

// outgoing are the datagrams that a session waits to send: a bounded queue, of
// which the connection's sender takes turns with those of other sessions. A
// session that sends more than its share fills its own queue and no other.
type outgoing struct {
	// Static.
	sender  *datagramSender
	session *Session
	limit   int
	maxAge  time.Duration // 0: none
	quarter uint64        // the quarter stream id that each begins with
	prefix  int           // its length

	// room holds one token while somebody who waits for room may find it.
	room chan struct{}

	// Guarded by the sender's mu.
	ring    []outgoingDatagram // of length 0 or limit; its buffers are used again
	first   int
	count   int
	ready   bool // whether the sender has it among those to serve
	waiting int  // callers that wait for room
	ended   bool // no datagram is added any more

	// Counters, see DatagramStats.
	sent, overflowed, expired, refused, abandoned atomic.Uint64
}

type outgoingDatagram struct {
	b      []byte // prefix and payload
	queued time.Time
}

func (o *outgoing) init(sender *datagramSender, session *Session) {
	o.sender, o.session = sender, session
	o.limit, o.maxAge = sender.conn.limits.maxOutgoingDatagrams, sender.conn.limits.maxOutgoingDatagramAge
	o.quarter, o.prefix = session.id/4, quicvarint.Len(session.id/4)
}

// tryAdd adds b, or returns ErrWouldBlock.
func (o *outgoing) tryAdd(b []byte) error {
	d := o.sender
	d.mu.Lock()
	defer d.mu.Unlock()
	if o.ended {
		return o.session.endedWith()
	}
	if o.count == o.limit && o.waiting == 0 {
		o.expireLocked()
	}
	if o.count == o.limit || o.waiting > 0 {
		return ErrWouldBlock
	}
	o.addLocked(b)
	return nil
}

// push adds b, in place of the oldest if there is no room.
func (o *outgoing) push(b []byte) error {
	d := o.sender
	d.mu.Lock()
	defer d.mu.Unlock()
	if o.ended {
		return o.session.endedWith()
	}
	if o.count == o.limit {
		o.dropLocked()
		o.overflowed.Add(1)
	}
	o.addLocked(b)
	return nil
}

// add adds b, and waits for room until ctx or the session ends.
func (o *outgoing) add(ctx context.Context, b []byte) error {
	d := o.sender
	d.mu.Lock()
	for waited := false; ; waited = true {
		if o.ended {
			d.mu.Unlock()
			return o.session.endedWith()
		}
		if o.count == o.limit {
			o.expireLocked()
		}
		if o.count < o.limit {
			o.addLocked(b)
			if waited && o.waiting > 0 && o.count < o.limit {
				o.signalRoomLocked()
			}
			d.mu.Unlock()
			return nil
		}
		o.waiting++
		if o.room == nil {
			o.room = make(chan struct{}, 1)
		}
		room := o.room
		d.mu.Unlock()
		var err error
		select {
		case <-room:
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-o.session.ctx.Done():
			err = o.session.endedWith()
		}
		d.mu.Lock()
		o.waiting--
		if err != nil {
			if o.waiting > 0 && o.count < o.limit {
				o.signalRoomLocked() // the token may have been for somebody else
			}
			d.mu.Unlock()
			return err
		}
	}
}

func (o *outgoing) signalRoomLocked() {
	select {
	case o.room <- struct{}{}:
	default:
	}
}

// addLocked adds b, for which there is room, and has it sent. On a connection that
// has just ended it waits for the session's own end, which is near, and is dropped
// by that.
func (o *outgoing) addLocked(b []byte) {
	if o.ring == nil {
		o.ring = make([]outgoingDatagram, o.limit)
		o.sender.used = append(o.sender.used, o)
	}
	slot := &o.ring[(o.first+o.count)%o.limit]
	slot.b = append(quicvarint.Append(slot.b[:0], o.quarter), b...)
	if o.maxAge > 0 {
		slot.queued = time.Now()
	}
	o.count++
	if !o.ready {
		o.ready = true
		o.sender.ready = append(o.sender.ready, o)
	}
	o.sender.wakeLocked()
}

// dropLocked drops the oldest datagram.
func (o *outgoing) dropLocked() {
	o.first = (o.first + 1) % o.limit
	o.count--
}

// expireLocked drops what is too old.
func (o *outgoing) expireLocked() {
	if o.maxAge == 0 || o.count == 0 {
		return
	}
	now := time.Now()
	for o.count > 0 && now.Sub(o.ring[o.first].queued) > o.maxAge {
		o.dropLocked()
		o.expired.Add(1)
	}
}

// end drops what waits, when the session has ended.
func (o *outgoing) end() {
	d := o.sender
	d.mu.Lock()
	defer d.mu.Unlock()
	o.ended = true
	o.abandoned.Add(uint64(o.count))
	o.ring, o.first, o.count = nil, 0, 0
	if i := slices.Index(d.used, o); i >= 0 {
		d.used = slices.Delete(d.used, i, i+1)
	}
}

// datagramSender sends the datagrams of one connection. QUIC's SendDatagram
// blocks without a context while its queue of 32 is full, so one goroutine alone
// calls it, and callers wait in front of it, as long as they like. The goroutine
// begins with the first datagram, and leaves when none has been sent for a
// while.
type datagramSender struct {
	// Static.
	conn *conn

	largest atomic.Int64  // that QUIC is known to take, prefix included
	turns   atomic.Uint64 // batches taken, to see whether it is in use

	// Guarded by mu.
	mu      sync.Mutex
	ready   []*outgoing // sessions with something to send, in the order of their turns
	used    []*outgoing // those with a ring, which an idle connection does not keep
	running bool
	work    chan struct{} // a token when there may be something to send, or to leave for; made by the first run
	parked  bool          // it waits for work
	leave   bool          // it is to leave if there is nothing to send
}

func (d *datagramSender) init(c *conn) {
	d.conn = c
}

// wakeLocked has the sender look for work, unless the connection has ended.
func (d *datagramSender) wakeLocked() {
	switch {
	case d.running && d.parked:
		d.parked = false
		d.work <- struct{}{} // parked, so the place is free
	case !d.running:
		if d.running = d.conn.spawn(d.run); d.running {
			d.conn.datagrams.watch()
		}
	}
}

// rest lets the sender leave if it has nothing to do.
func (d *datagramSender) rest() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.running {
		return
	}
	d.leave = true
	if d.parked {
		d.parked = false
		d.work <- struct{}{}
	}
}

// sendBatch is how many datagrams of a session the sender takes at a time. These
// can no longer be dropped for newer ones.
const sendBatch = 8

// run hands datagrams to QUIC until it is told to leave or the connection ends.
func (d *datagramSender) run() {
	var batch [sendBatch]outgoingDatagram
	for {
		o, n := d.next(batch[:])
		if o == nil {
			return
		}
		sent := uint64(0)
		for i, datagram := range batch[:n] {
			if i > 0 && o.maxAge > 0 && time.Since(datagram.queued) > o.maxAge {
				o.expired.Add(1)
				continue
			}
			if err := d.conn.quic.SendDatagram(datagram.b); err != nil {
				o.refused.Add(1)
				d.largest.Store(0)
				continue
			}
			sent++
		}
		o.sent.Add(sent)
	}
}

// next waits for datagrams, moves the first of them into batch, whose buffers it
// keeps in exchange, and returns whose and how many they are. It returns nil when
// the sender is to leave.
func (d *datagramSender) next(batch []outgoingDatagram) (*outgoing, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		for len(d.ready) > 0 {
			o := d.ready[0]
			o.expireLocked()
			n := 0
			for ; n < len(batch) && o.count > 0; n++ {
				slot := &o.ring[o.first]
				*slot, batch[n] = batch[n], *slot
				o.dropLocked()
			}
			d.rotateLocked(o)
			if o.waiting > 0 && o.count <= o.limit/2 {
				// Not at each one, so that a flood costs a switch of goroutines in
				// many.
				o.signalRoomLocked()
			}
			if n > 0 {
				d.turns.Add(1)
				return o, n
			}
		}
		if d.leave || d.conn.quic.Context().Err() != nil {
			d.leave, d.running = false, false
			for _, o := range d.used {
				o.ring, o.first = nil, 0
			}
			d.used = nil
			return nil, 0
		}
		d.parked = true
		if d.work == nil {
			d.work = make(chan struct{}, 1)
		}
		work := d.work
		d.mu.Unlock()
		select {
		case <-work:
		case <-d.conn.quic.Context().Done():
		}
		d.mu.Lock()
		d.parked = false
	}
}

// rotateLocked ends the turn of o, which is the first.
func (d *datagramSender) rotateLocked(o *outgoing) {
	n := copy(d.ready, d.ready[1:])
	d.ready[n] = nil
	d.ready = d.ready[:n]
	if o.ready = o.count > 0; o.ready {
		d.ready = append(d.ready, o)
	}
}
