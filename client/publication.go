package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// publication is how this client publishes to one topic over one connection. Its
// first message goes alone on the control stream; if another one comes soon, a
// publication stream is opened for those that follow, after the answers to what
// went before, so that all of them stay in order (PROTOCOL §7.2).
//
// It is open, then closing, then ended. It becomes closing only when every frame
// has its answer, and FIN goes out; it becomes ended when its reader has seen the
// broker's END or the end of the stream. Until then it stays in the connection's
// map, so that its successor cannot reach the broker before it has gone: whoever
// publishes to the topic meanwhile waits. One without a stream goes from open to
// ended at once.
type publication struct {
	// Static after construction.
	conn  *connection
	topic string

	used atomic.Int64 // when it was made or published to last, ns since the Unix epoch

	mu        sync.Mutex
	changed   chan struct{}    // closed and replaced when something below changes; guarded by mu
	state     publicationState // guarded by mu
	published bool             // used tells of a message; guarded by mu
	singles   int              // on the control stream, without an answer yet; guarded by mu
	idle      *time.Timer      // closes the stream; guarded by mu
	opening   bool             // somebody opens the stream; guarded by mu
	stream    Stream           // nil until it is open; guarded by mu
	fin       bool             // FIN or a reset was sent, or will be by who set it; guarded by mu
	next      uint64           // sequence of the next PUBLISH; guarded by mu
	sent      uint64           // bytes of PUBLISH frames; guarded by mu
	limit     uint64           // the credit; guarded by mu
	out       []byte           // waits to be written; guarded by mu
	queued    int              // PUBLISH frames in out; guarded by mu
	writing   bool             // write lives; guarded by mu
	failed    error            // what write failed with; guarded by mu
	answers   []chan answer    // of the frames without an answer, in order; guarded by mu
	first     uint64           // sequence of answers[0]; guarded by mu
}

// publicationState is how far a publication is.
type publicationState int

const (
	publicationOpen    publicationState = iota
	publicationClosing                  // FIN follows what is being written
	publicationEnded                    // a new one has to be made
)

const (
	// maxSingle is the longest frame that goes on the control stream.
	maxSingle = 16 << 10
	// soon is how long after a single message another one opens a stream.
	soon = 10 * time.Second
	// idleAfter is how long a publication stays open without a message.
	idleAfter = 30 * time.Second
)

// errEnded tells that a publication has ended before a frame was sent on it.
var errEnded = errors.New("client: publication ended")

// publish publishes a message and waits for the answer.
func (n *connection) publish(ctx context.Context, topic string, m codec.Publish) (Position, error) {
	if limit := n.welcome.Limits.Payload; uint64(len(m.Payload.Data)) > limit {
		return Position{}, codec.Errorf(codec.CodePayloadTooLarge, "a payload of %d bytes; the broker takes %d", len(m.Payload.Data), limit)
	}
	for {
		p, spare, err := n.publication(topic)
		if err != nil {
			return Position{}, err
		}
		for _, p := range spare {
			p.retire(0)
		}
		pos, err := p.publish(ctx, m)
		if !errors.Is(err, errEnded) {
			return pos, err
		}
	}
}

// publishLossy sends a message that is not answered.
func (n *connection) publishLossy(ctx context.Context, topic string, m codec.Publish) error {
	if limit := n.welcome.Limits.Payload; uint64(len(m.Payload.Data)) > limit {
		return codec.Errorf(codec.CodePayloadTooLarge, "a payload of %d bytes; the broker takes %d", len(m.Payload.Data), limit)
	}
	m.Topic, m.Mode = topic, codec.ModeLossy
	frame := codec.AppendPublish(nil, m)
	if n.welcome.Capabilities&codec.CapDatagrams != 0 && len(frame) <= n.conn.MaxDatagramSize() {
		err := n.conn.SendDatagram(ctx, frame)
		if err != nil && n.ctx.Err() != nil {
			return n.interrupted()
		}
		return err
	}
	return n.sendMessage(ctx, frame)
}

// publication returns the publication of a topic. If it makes it, spare are those
// that should make room.
func (n *connection) publication(topic string) (p *publication, spare []*publication, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return nil, nil, n.interrupted()
	}
	if p := n.pubs[topic]; p != nil {
		return p, nil, nil
	}
	for range min(2, len(n.pubs)-max(1, int(n.welcome.Limits.Publications)/2)+1) {
		spare = append(spare, n.leastUsedLocked())
	}
	p = &publication{conn: n, topic: topic, changed: make(chan struct{})}
	p.used.Store(time.Now().UnixNano())
	n.pubs[topic] = p
	return p, spare, nil
}

// leastUsedLocked returns the publication that was not used for longest among a few
// that are looked at.
func (n *connection) leastUsedLocked() *publication {
	const look = 16
	var oldest *publication
	seen := 0
	for _, p := range n.pubs { // in random order
		if oldest == nil || p.used.Load() < oldest.used.Load() {
			oldest = p
		}
		if seen++; seen == look {
			break
		}
	}
	return oldest
}

// takeSlot takes one of the publication streams that the broker allows; false if
// all are open.
func (n *connection) takeSlot() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.slots >= max(1, int(n.welcome.Limits.Publications)) {
		return false
	}
	n.slots++
	return true
}

func (n *connection) giveSlot() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slots--
}

// forget removes a publication that has ended, so that the next message makes a
// new one.
func (n *connection) forget(p *publication) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pubs[p.topic] == p {
		delete(n.pubs, p.topic)
	}
}

// sinceUse returns how long ago the publication was used.
func (p *publication) sinceUse() time.Duration {
	return time.Since(time.Unix(0, p.used.Load()))
}

// broadcastLocked wakes all who wait for a change.
func (p *publication) broadcastLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// await unlocks mu, waits for a change, and locks it again.
func (p *publication) await(ctx context.Context) error {
	changed := p.changed
	p.mu.Unlock()
	defer p.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.conn.ctx.Done():
		return p.conn.interrupted()
	}
}

// publish publishes one message. errEnded: it was not sent, try a new publication.
func (p *publication) publish(ctx context.Context, m codec.Publish) (Position, error) {
	p.mu.Lock()
	for p.stream == nil || p.state != publicationOpen || p.sent >= p.limit {
		if p.state == publicationEnded {
			p.mu.Unlock()
			return Position{}, errEnded
		}
		if p.state == publicationOpen && p.stream == nil && !p.opening && p.singles == 0 {
			small := len(m.Payload.Data) < maxSingle-codec.FrameOverhead
			if small && (!p.published || p.sinceUse() > soon) || !p.conn.takeSlot() {
				return p.publishSingle(ctx, m)
			}
			if err := p.openStream(ctx); err != nil {
				p.mu.Unlock()
				return Position{}, err
			}
			continue
		}
		if err := p.await(ctx); err != nil {
			p.mu.Unlock()
			return Position{}, err
		}
	}
	before := len(p.out)
	m.Sequence = p.next
	p.out = codec.AppendPublish(p.out, m)
	p.sent += uint64(len(p.out) - before)
	p.next++
	p.queued++
	answers := make(chan answer, 1)
	p.answers = append(p.answers, answers)
	p.usedLocked()
	if !p.writing {
		p.writing = p.conn.start(p.write)
	}
	p.mu.Unlock()
	return p.conn.await(ctx, answers)
}

func (p *publication) usedLocked() {
	p.published = true
	p.used.Store(time.Now().UnixNano())
}

// publishSingle publishes on the control stream. mu is held, and is released.
func (p *publication) publishSingle(ctx context.Context, m codec.Publish) (Position, error) {
	p.singles++
	p.usedLocked()
	p.mu.Unlock()
	return p.conn.single(ctx, p.topic, m, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.singles--
		p.broadcastLocked()
	})
}

// openStream opens the publication stream, for which a slot was taken. mu is held,
// and released meanwhile.
func (p *publication) openStream(ctx context.Context) error {
	n := p.conn
	p.opening = true
	p.mu.Unlock()
	stream, err := n.openStream(ctx)
	p.mu.Lock()
	p.opening = false
	p.broadcastLocked()
	if err == nil && !n.start(func() { p.read(stream) }) {
		err = n.interrupted()
	}
	if err != nil {
		n.giveSlot()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case n.ctx.Err() != nil:
			return n.interrupted()
		}
		return lost(err)
	}
	p.stream, p.next, p.first = stream, 1, 1
	p.limit = n.welcome.Limits.PublicationCredit
	p.out = codec.AppendPublication(nil, codec.Publication{Topic: p.topic, Publisher: n.welcome.Client, First: 1})
	p.writing = n.start(p.write)
	p.idle = time.AfterFunc(idleAfter, func() { p.retire(idleAfter) })
	return nil
}

// write writes what waits. It lives while something does, and sends FIN when the
// publication closes.
func (p *publication) write() {
	for {
		p.mu.Lock()
		b := p.out
		p.out, p.queued = nil, 0
		if len(b) == 0 {
			p.writing = false
			fin := p.finLocked()
			p.mu.Unlock()
			if fin {
				_ = p.stream.Close()
			}
			return
		}
		p.mu.Unlock()
		if _, err := p.stream.Write(b); err != nil {
			p.mu.Lock()
			p.failed, p.fin = err, true
			p.mu.Unlock()
			// The broker may have said why.
			_ = p.stream.SetReadDeadline(time.Now().Add(closeTimeout))
			return
		}
	}
}

// finLocked reports whether FIN is due, which the caller then sends without the
// lock.
func (p *publication) finLocked() bool {
	if p.state == publicationOpen || p.fin || p.writing || p.stream == nil {
		return false
	}
	p.fin = true
	return true
}

// read takes the broker's answers until the stream ends.
func (p *publication) read(stream Stream) {
	r := codec.NewReader(stream, codec.DefaultMaxFrame)
	var err error
	for err == nil {
		var f codec.Frame
		if f, err = r.Next(); err == nil {
			err = p.handle(f)
		}
	}
	p.conn.giveSlot()
	p.conn.forget(p)
	p.mu.Lock()
	p.state = publicationEnded
	if p.idle != nil {
		p.idle.Stop()
	}
	if _, coded := errors.AsType[*Error](err); !coded {
		if p.failed != nil {
			err = p.failed
		} else if errors.Is(err, io.EOF) {
			err = errors.New("the publication ended without END")
		}
		err = lost(err)
	}
	// What the writer has not taken was not sent.
	unsent := len(p.answers) - min(p.queued, len(p.answers))
	for i, answers := range p.answers {
		answers <- answer{err: unanswered(err, i < unsent)}
	}
	p.answers, p.out, p.queued = nil, nil, 0
	p.broadcastLocked()
	reset := p.writing && !p.fin
	fin := p.finLocked()
	p.fin = true
	p.mu.Unlock()
	switch {
	case reset:
		stream.CancelWrite(uint32(codec.CodeOK))
	case fin:
		_ = stream.Close()
	}
}

// unanswered is the error of a PUBLISH that got no answer before its publication
// ended with end. Whether one that was sent was carried out is unknown, so its
// error must not be one that invites to send it again. One that was not may go by
// another publication, unless the broker has refused this one.
func unanswered(end error, sent bool) error {
	code := codec.CodeOf(end)
	switch {
	case code == codec.CodeConnectionLost:
		return end
	case sent && (code == codec.CodeOK || code.Temporary()):
		return &Error{Code: codec.CodeConnectionLost, Reason: fmt.Sprintf("the publication has ended before the answer: %v", end)}
	case code == codec.CodeOK:
		return errEnded
	}
	return end
}

// handle takes one frame from the broker. An error ends the publication.
func (p *publication) handle(f codec.Frame) error {
	switch f.Type {
	case codec.TypeAck:
		a, err := codec.ParseAck(f)
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for i, offset := range a.Offsets {
			if err := p.answerLocked(a.Sequence+uint64(i), answer{position: Position{a.Epoch, offset}}); err != nil {
				return err
			}
		}
		p.grantLocked(a.Limit)
	case codec.TypeNack:
		a, err := codec.ParseNack(f)
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if err := p.answerLocked(a.Sequence, answer{err: remote(a.Code, a.Reason, a.Retry)}); err != nil {
			return err
		}
		p.grantLocked(a.Limit)
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
func (p *publication) answerLocked(sequence uint64, a answer) error {
	if len(p.answers) == 0 || sequence != p.first {
		return codec.Errorf(codec.CodeProtocolViolation, "an answer to %d; the next is %d", sequence, p.first)
	}
	p.answers[0] <- a
	p.answers[0] = nil
	p.answers = p.answers[1:]
	p.first++
	return nil
}

func (p *publication) grantLocked(limit codec.Optional) {
	if limit.Value > p.limit {
		p.limit = limit.Value
		p.broadcastLocked()
	}
}

// retire ends the publication, if it was not used for so long and nothing is under
// way on it: what was published has its answer, even where the caller has ceased to
// wait for it.
func (p *publication) retire(unused time.Duration) {
	p.mu.Lock()
	rest := unused - p.sinceUse()
	if p.state != publicationOpen || p.opening || p.singles > 0 || len(p.answers) > 0 || rest > 0 {
		if p.idle != nil && p.state == publicationOpen {
			p.idle.Reset(max(rest, time.Second))
		}
		p.mu.Unlock()
		return
	}
	p.state = publicationClosing
	if p.stream == nil {
		p.state = publicationEnded
		defer p.conn.forget(p)
	} else {
		p.idle.Stop()
	}
	p.broadcastLocked()
	fin := p.finLocked()
	p.mu.Unlock()
	if fin {
		_ = p.stream.Close()
	}
}

func (p *publication) stopTimer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle != nil {
		p.idle.Stop()
	}
}
