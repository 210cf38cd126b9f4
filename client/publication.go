package client

import (
	"context"
	"errors"
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
type publication struct {
	// Static after construction.
	conn  *connection
	topic string

	used   atomic.Int64 // when a message was published last, ns since the Unix epoch; 0: never
	flight atomic.Int64 // calls of publish under way

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when something below changes; guarded by mu
	singles int           // on the control stream, without an answer yet; guarded by mu
	idle    *time.Timer   // closes the stream; guarded by mu
	ended   bool          // a new one has to be made; guarded by mu
	opening bool          // somebody opens the stream; guarded by mu
	stream  Stream        // nil until it is open; guarded by mu
	next    uint64        // sequence of the next PUBLISH; guarded by mu
	sent    uint64        // bytes of PUBLISH frames; guarded by mu
	limit   uint64        // the credit; guarded by mu
	out     []byte        // waits to be written; guarded by mu
	writing bool          // write lives; guarded by mu
	answers []chan answer // of the frames without an answer, in order; guarded by mu
	first   uint64        // sequence of answers[0]; guarded by mu
}

const (
	// maxSingle is the longest frame that goes on the control stream.
	maxSingle = 16 << 10
	// soon is how long after a single message another one opens a stream.
	soon = 10 * time.Second
	// idleAfter is how long a publication stays open without a message.
	idleAfter = 30 * time.Second
)

// errEnded tells that a publication has ended before a frame was queued on it.
var errEnded = errors.New("client: publication ended")

// publish publishes a message and waits for the answer.
func (n *connection) publish(ctx context.Context, topic string, payload codec.Payload) (Position, error) {
	if limit := n.welcome.Limits.Payload; uint64(len(payload.Data)) > limit {
		return Position{}, codec.Errorf(codec.CodePayloadTooLarge, "a payload of %d bytes; the broker takes %d", len(payload.Data), limit)
	}
	for {
		p, err := n.publication(topic)
		if err != nil {
			return Position{}, err
		}
		pos, err := p.publish(ctx, payload)
		if !errors.Is(err, errEnded) {
			return pos, err
		}
	}
}

// publishLossy sends a message that is not answered.
func (n *connection) publishLossy(ctx context.Context, topic string, payload codec.Payload) error {
	if limit := n.welcome.Limits.Payload; uint64(len(payload.Data)) > limit {
		return codec.Errorf(codec.CodePayloadTooLarge, "a payload of %d bytes; the broker takes %d", len(payload.Data), limit)
	}
	frame := codec.AppendPublish(nil, codec.Publish{Topic: topic, Mode: codec.ModeLossy, Payload: payload})
	if n.welcome.Capabilities&codec.CapDatagrams != 0 && len(frame) <= n.conn.MaxDatagramSize() {
		err := n.conn.SendDatagram(ctx, frame)
		if err != nil && n.ctx.Err() != nil {
			return n.interrupted()
		}
		return err
	}
	n.send(frame)
	return nil
}

// publication returns the publication of a topic, and makes room for it.
func (n *connection) publication(topic string) (*publication, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return nil, n.interrupted()
	}
	if p := n.pubs[topic]; p != nil {
		return p, nil
	}
	if most := max(1, int(n.welcome.Limits.Publications)/2); len(n.pubs) >= most {
		var oldest *publication
		var since int64
		for _, p := range n.pubs {
			if used := p.used.Load(); p.flight.Load() == 0 && (oldest == nil || used < since) {
				oldest, since = p, used
			}
		}
		if oldest != nil {
			delete(n.pubs, oldest.topic)
			n.wg.Go(oldest.retire)
		}
	}
	p := &publication{conn: n, topic: topic, changed: make(chan struct{})}
	n.pubs[topic] = p
	return p, nil
}

// forget removes a publication, so that the next message makes a new one.
func (n *connection) forget(p *publication) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pubs[p.topic] == p {
		delete(n.pubs, p.topic)
	}
}

// sinceUse returns how long ago a message was published; false if none was.
func (p *publication) sinceUse() (time.Duration, bool) {
	used := p.used.Load()
	return time.Since(time.Unix(0, used)), used != 0
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
func (p *publication) publish(ctx context.Context, payload codec.Payload) (Position, error) {
	p.flight.Add(1)
	defer p.flight.Add(-1)
	p.mu.Lock()
	for p.stream == nil {
		if p.ended {
			p.mu.Unlock()
			return Position{}, errEnded
		}
		small := len(payload.Data) < maxSingle-codec.FrameOverhead
		since, used := p.sinceUse()
		if small && !p.opening && p.singles == 0 && (!used || since > soon) {
			return p.publishSingle(ctx, payload)
		}
		if p.opening || p.singles > 0 {
			if err := p.await(ctx); err != nil {
				p.mu.Unlock()
				return Position{}, err
			}
			continue
		}
		p.opening = true
		p.mu.Unlock()
		err := p.open(ctx)
		p.mu.Lock()
		p.opening = false
		p.broadcastLocked()
		if err != nil {
			p.mu.Unlock()
			return Position{}, err
		}
	}
	for p.sent >= p.limit && !p.ended {
		if err := p.await(ctx); err != nil {
			p.mu.Unlock()
			return Position{}, err
		}
	}
	if p.ended {
		p.mu.Unlock()
		return Position{}, errEnded
	}
	before := len(p.out)
	p.out = codec.AppendPublish(p.out, codec.Publish{Sequence: p.next, Payload: payload})
	p.sent += uint64(len(p.out) - before)
	p.next++
	answers := make(chan answer, 1)
	p.answers = append(p.answers, answers)
	p.used.Store(time.Now().UnixNano())
	if !p.writing {
		p.writing = p.conn.start(p.write)
	}
	p.mu.Unlock()
	select {
	case a := <-answers:
		return a.position, a.err
	case <-ctx.Done():
		return Position{}, ctx.Err()
	case <-p.conn.ctx.Done():
		return Position{}, p.conn.interrupted()
	}
}

// publishSingle publishes on the control stream. mu is held, and is released.
func (p *publication) publishSingle(ctx context.Context, payload codec.Payload) (Position, error) {
	p.singles++
	p.used.Store(time.Now().UnixNano())
	p.mu.Unlock()
	pos, err := p.conn.do(ctx, func(number uint64) []byte {
		return codec.AppendPublish(nil, codec.Publish{Sequence: number, Topic: p.topic, Payload: payload})
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.singles--
	p.broadcastLocked()
	return pos, err
}

// open opens the publication stream.
func (p *publication) open(ctx context.Context) error {
	n := p.conn
	stream, err := n.conn.OpenStream(ctx)
	if err != nil {
		if n.ctx.Err() != nil {
			return n.interrupted()
		}
		return err
	}
	if _, err := stream.Write(codec.AppendPublication(nil, codec.Publication{Topic: p.topic, Publisher: n.welcome.Client, First: 1})); err != nil {
		return n.interrupted()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !n.start(func() { p.read(stream) }) {
		return n.interrupted()
	}
	p.stream, p.next, p.first = stream, 1, 1
	p.limit = n.welcome.Limits.PublicationCredit
	p.idle = time.AfterFunc(idleAfter, p.expire)
	return nil
}

// write writes what waits. It lives while something does, and sends FIN when the
// publication was retired.
func (p *publication) write() {
	for {
		p.mu.Lock()
		b := p.out
		p.out = nil
		if len(b) == 0 {
			p.writing = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		if _, err := p.stream.Write(b); err != nil {
			return // the reader knows why
		}
	}
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
	if _, coded := errors.AsType[*Error](err); !coded {
		if errors.Is(err, io.EOF) {
			err = errors.New("the publication ended without END")
		}
		err = lost(err)
	}
	p.conn.forget(p)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.stopTimerLocked()
	if codec.CodeOf(err) == codec.CodeOK && len(p.answers) > 0 {
		err = lost(errors.New("the publication ended"))
	}
	for _, answers := range p.answers {
		answers <- answer{err: err}
	}
	p.answers = nil
	p.broadcastLocked()
	if !p.writing {
		_ = stream.Close()
	} else {
		stream.CancelWrite(uint32(codec.CodeOK))
	}
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

// expire is called by the timer: it retires the publication if it is idle.
func (p *publication) expire() {
	p.mu.Lock()
	since, _ := p.sinceUse()
	rest := idleAfter - since
	if p.ended {
		p.mu.Unlock()
		return
	}
	if rest > 0 || len(p.answers) > 0 {
		p.idle.Reset(max(rest, time.Second))
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.conn.forget(p)
	p.retire()
}

// retire ends the publication by FIN, if it has a stream. The reader ends with
// the broker's END.
func (p *publication) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.stopTimerLocked()
	p.broadcastLocked()
	if p.stream != nil && !p.writing {
		_ = p.stream.Close() // no write begins any more
	}
}

func (p *publication) stopTimer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopTimerLocked()
}

func (p *publication) stopTimerLocked() {
	if p.idle != nil {
		p.idle.Stop()
	}
}
