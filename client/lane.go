package client

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// lane is a publication stream of a publisher. It is open, then closing, then
// gone. It becomes closing only when every frame has its answer, and FIN goes out;
// it is gone when its reader has seen the broker's END or the end of the stream.
// Until then the publisher makes no other one, so that what follows cannot reach the
// broker before it has gone.
type lane struct {
	// Static after construction.
	publisher *publisher
	conn      *connection
	stream    Stream

	// Guarded by publisher.mu.
	closing bool        // FIN follows what is being written
	fin     bool        // FIN or a reset was sent, or will be by who set it
	bytes   uint64      // of PUBLISH frames
	limit   uint64      // the credit
	out     []byte      // waits to be written
	queued  int         // PUBLISH frames in out
	writing bool        // write lives
	failed  error       // what write failed with
	idle    *time.Timer // closes the stream
}

const (
	// maxSingle is the longest frame that goes on the control stream.
	maxSingle = 16 << 10
	// idleAfter is how long a lane stays open without a message.
	idleAfter = 30 * time.Second
)

// takeSlot takes one of the publication streams that the broker allows; false if
// all are open. Where many are, those that were not used for longest make room.
func (n *connection) takeSlot() bool {
	most := max(1, int(n.welcome.Limits.Publications))
	n.mu.Lock()
	var spare []*lane
	for range min(2, n.slots-max(1, most/2)+1) {
		if l := n.leastUsedLocked(); l != nil {
			spare = append(spare, l)
		}
	}
	took := n.slots < most && !n.ended
	if took {
		n.slots++
	}
	n.mu.Unlock()
	for _, l := range spare {
		l.retire(0)
	}
	return took
}

// leastUsedLocked returns the lane that was not used for longest among a few that
// are looked at; nil if there is none.
func (n *connection) leastUsedLocked() *lane {
	const look = 16
	var oldest *lane
	seen := 0
	for l := range n.lanes { // in random order
		if oldest == nil || l.publisher.used.Load() < oldest.publisher.used.Load() {
			oldest = l
		}
		if seen++; seen == look {
			break
		}
	}
	return oldest
}

// giveSlot gives a publication stream back; l may be nil if none was opened.
func (n *connection) giveSlot(l *lane) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slots--
	delete(n.lanes, l)
}

// open opens a lane, for which a slot was taken; false if that failed.
func (p *publisher) open(n *connection) bool {
	stream, err := n.openStream(n.ctx)
	if err != nil {
		n.giveSlot(nil)
		if n.ctx.Err() == nil {
			p.mu.Lock()
			p.failures++
			p.mu.Unlock()
		}
		return false
	}
	l := &lane{publisher: p, conn: n, stream: stream, limit: n.welcome.Limits.PublicationCredit}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lane, p.establishing = l, false
	first := p.next
	if p.numbered > 0 {
		first = p.queue[0].message.Sequence
	}
	l.out = codec.AppendPublication(nil, codec.Publication{Topic: p.topic, Publisher: n.welcome.Client, First: first})
	l.idle = time.AfterFunc(idleAfter, func() { l.retire(idleAfter) })
	n.mu.Lock()
	n.lanes[l] = struct{}{} // from here on others may retire it
	n.mu.Unlock()
	if !n.start(l.read) { // the connection has ended just now
		l.idle.Stop()
		n.giveSlot(l)
		p.lane, p.establishing = nil, true
		return false
	}
	l.writing = n.start(l.write)
	l.fillLocked()
	return true
}

// fillLocked puts what waits onto the lane, within the credit.
func (l *lane) fillLocked() {
	p := l.publisher
	if l.closing {
		return
	}
	for l.bytes < l.limit {
		p.refuseLocked(l.conn, p.sent)
		if p.sent == len(p.queue) {
			break
		}
		before := len(l.out)
		l.out = codec.AppendPublish(l.out, p.numberLocked(p.sent))
		l.bytes += uint64(len(l.out) - before)
		l.queued++
		p.sent++
		p.usedLocked()
	}
	if len(l.out) > 0 && !l.writing {
		l.writing = l.conn.start(l.write)
	}
}

// write writes what waits. It lives while something does, and sends FIN when the
// lane closes.
func (l *lane) write() {
	p := l.publisher
	for {
		p.mu.Lock()
		b := l.out
		for _, o := range p.queue[p.sent-min(l.queued, p.sent) : p.sent] {
			o.tentative = false
		}
		l.out, l.queued = nil, 0
		if len(b) == 0 {
			l.writing = false
			fin := l.finLocked()
			p.mu.Unlock()
			if fin {
				_ = l.stream.Close()
			}
			return
		}
		p.mu.Unlock()
		if _, err := l.stream.Write(b); err != nil {
			p.mu.Lock()
			l.failed, l.fin = err, true
			p.mu.Unlock()
			// The broker may have said why.
			_ = l.stream.SetReadDeadline(time.Now().Add(closeTimeout))
			return
		}
	}
}

// finLocked reports whether FIN is due, which the caller then sends without the
// lock.
func (l *lane) finLocked() bool {
	if !l.closing || l.fin || l.writing {
		return false
	}
	l.fin = true
	return true
}

// read takes the broker's answers until the stream ends.
func (l *lane) read() {
	r := codec.NewReader(l.stream, codec.DefaultMaxFrame)
	var err error
	for err == nil {
		var f codec.Frame
		if f, err = r.Next(); err == nil {
			err = l.handle(f)
		}
	}
	l.conn.giveSlot(l)
	p := l.publisher
	p.mu.Lock()
	l.idle.Stop()
	if _, coded := errors.AsType[*Error](err); !coded {
		if l.failed != nil {
			err = l.failed
		} else if errors.Is(err, io.EOF) {
			err = errors.New("the publication ended without END")
		}
		err = lost(err)
	}
	p.takeBackLocked()
	p.refusedLocked(err)
	if len(p.queue) > 0 {
		p.failures++
	}
	reset := l.writing && !l.fin
	l.closing, l.out, l.queued = true, nil, 0
	fin := l.finLocked()
	l.fin = true
	p.mu.Unlock()
	switch {
	case reset:
		l.stream.CancelWrite(uint32(codec.CodeOK))
	case fin:
		_ = l.stream.Close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lane = nil
	p.pumpLocked()
}

// refusedLocked decides what becomes of messages without an answer when the broker
// has ended the lane. A clean end, and that of the session, say nothing about them:
// they go onto the next lane. Of other ends whether a message that was sent was
// carried out is unknown where the code invites to send it again, so its error must
// not.
func (p *publisher) refusedLocked(end error) {
	code := codec.CodeOf(end)
	if code == codec.CodeOK || code == codec.CodeShuttingDown || code == codec.CodeConnectionLost {
		return
	}
	for _, o := range p.queue {
		err := end
		if !o.sentAt.IsZero() && code.Temporary() {
			err = o.unknown(fmt.Sprintf("the publication has ended before the answer: %v", end))
		}
		p.settle(o, answer{err: err})
	}
	p.queue, p.numbered = nil, 0
}

// handle takes one frame from the broker. An error ends the lane.
func (l *lane) handle(f codec.Frame) error {
	p := l.publisher
	switch f.Type {
	case codec.TypeAck:
		a, err := codec.ParseAck(f)
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for i, offset := range a.Offsets {
			if err := l.answerLocked(a.Sequence+uint64(i), answer{position: Position{a.Epoch, offset}}); err != nil {
				return err
			}
		}
		l.grantLocked(a.Limit)
	case codec.TypeNack:
		a, err := codec.ParseNack(f)
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if err := l.answerLocked(a.Sequence, answer{err: remote(a.Code, a.Reason, a.Retry)}); err != nil {
			return err
		}
		l.grantLocked(a.Limit)
	case codec.TypeEnd:
		e, err := codec.ParseEnd(f)
		if err != nil {
			return err
		}
		return remote(e.Code, e.Reason, e.Retry)
	default:
		return codec.Errorf(codec.CodeUnexpectedFrame, "%s on a publication", f.Type)
	}
	return nil
}

// answerLocked gives an answer to who waits. Answers come in order.
func (l *lane) answerLocked(sequence uint64, a answer) error {
	p := l.publisher
	if p.sent == 0 || p.queue[0].message.Sequence != sequence {
		return codec.Errorf(codec.CodeProtocolViolation, "an answer to %d, which is not the next", sequence)
	}
	p.answeredLocked(a)
	return nil
}

func (l *lane) grantLocked(limit codec.Optional) {
	if limit.Value > l.limit {
		l.limit = limit.Value
		l.fillLocked()
	}
}

// retire closes the lane, if it was not used for so long and nothing is under way
// on it: what was published has its answer, even where the caller has ceased to
// wait for it.
func (l *lane) retire(unused time.Duration) {
	p := l.publisher
	p.mu.Lock()
	rest := unused - p.sinceUse()
	if l.closing || len(p.queue) > 0 || rest > 0 {
		if !l.closing {
			l.idle.Reset(max(rest, time.Second))
		}
		p.mu.Unlock()
		return
	}
	l.closing = true
	l.idle.Stop()
	fin := l.finLocked()
	p.mu.Unlock()
	if fin {
		_ = l.stream.Close()
	}
}

// stopTimer is called when the connection has ended.
func (l *lane) stopTimer() {
	l.publisher.mu.Lock()
	defer l.publisher.mu.Unlock()
	l.closing = true
	l.idle.Stop()
}
