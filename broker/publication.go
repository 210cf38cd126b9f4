package broker

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// publication is a session's channel into a topic. The goroutine that serves its
// stream reads it; answers go through its outlet.
type publication struct {
	// Static after construction.
	session *session
	topic   *topic // pinned
	stream  Stream
	out     *outlet
	// publisher is what the topic remembers of this client, held; nil: nothing.
	publisher *publisher

	ended atomic.Bool // what still comes is not published

	// Owned by read.
	next     uint64   // the sequence of the next PUBLISH
	received uint64   // bytes of PUBLISH frames
	granted  uint64   // the credit that the client was told, or less
	answers  []answer // of the last PUBLISH frames, not in acks yet

	acks   acks       // guarded by the session's mu
	ending *codec.End // how the publication is to end, if not by its reader; guarded by the session's mu
}

// openPublication begins a publication; first is the first frame of its stream.
func (s *session) openPublication(stream Stream, first codec.Frame) (*publication, error) {
	f, err := codec.ParsePublication(first)
	if err != nil {
		return nil, err
	}
	if !f.Publisher.IsZero() && f.Publisher != s.id {
		return nil, codec.Errorf(codec.CodeUnauthorized, "the publisher is another client's id")
	}
	if err := s.permitPublish(f.Topic); err != nil {
		return nil, err
	}
	b := s.broker
	tp, err := b.topics.get(f.Topic, true)
	if err != nil {
		return nil, err
	}
	p := &publication{session: s, topic: tp, stream: stream, next: f.First, out: newOutlet(stream, rankControl), publisher: b.publishers.hold(tp, s.id)}
	p.out.acks = &p.acks
	p.out.done = p.finished
	p.acks.limit = b.config.Limits.PublicationCredit
	p.acks.told = p.acks.limit
	p.granted = p.acks.told

	s.mu.Lock()
	switch {
	case s.stopped || s.draining:
		err = codec.Errorf(codec.CodeShuttingDown, "the session ends")
	case s.pubs[f.Topic] != nil:
		err = codec.Errorf(codec.CodeUnexpectedFrame, "a publication to %q is open", f.Topic)
	case uint64(len(s.pubs)) >= b.config.Limits.Publications:
		err = codec.Errorf(codec.CodeTooManyPublications, "the session has its %d publications: end one, or publish on the control stream", b.config.Limits.Publications)
	default:
		s.pubs[tp.name] = p
	}
	s.mu.Unlock()
	if err != nil {
		b.publishers.release(tp, p.publisher)
		tp.unpin()
		return nil, err
	}
	b.counters.publications.Add(1)
	stream.SetPriority(0, true) // answers and credit, like those on the control stream
	// A token that was replaced meanwhile is seen here, or by AUTH in s.pubs.
	if err := s.permitPublish(tp.name); err != nil {
		p.end(endOf(err))
	}
	return p, nil
}

// read reads PUBLISH frames until the client's FIN, a fault, or the end that
// somebody else has asked for; then it ends the publication, after the answer to
// what it has published.
func (p *publication) read(r *codec.Reader) {
	s := p.session
	r.SetMaxFrame(s.broker.maxFrame())
	credit := s.broker.config.Limits.PublicationCredit
	if p.publisher != nil && p.publisher.answered(s.ctx, p.next) != nil {
		p.ended.Store(true) // with the session
	}
	end := codec.End{Code: codec.CodeOK}
	for !p.ended.Load() {
		f, err := r.Next()
		if p.ended.Load() {
			break
		}
		if err == nil && f.Type != codec.TypePublish {
			err = unexpected(f.Type)
		}
		if err == nil && !p.credited() {
			err = errBeyondCredit
		}
		if err != nil {
			if _, coded := errors.AsType[*codec.Error](err); coded {
				end = endOf(err)
			}
			break // or FIN, a reset, or the connection is gone
		}
		p.received += uint64(f.Size())
		// What came in one piece is delivered and answered together: a lock and a
		// wake-up for each subscriber then serve many messages.
		more := len(p.answers) < maxTogether-1 && r.Pending()
		pos, err := p.publish(f, more)
		if errors.Is(err, errOutOfSequence) || errors.Is(err, errSessionEnded) {
			end = endOf(err)
			break
		}
		if err != nil && !errors.Is(err, errDuplicate) {
			s.broker.counters.rejected.Add(1)
		}
		p.answers = append(p.answers, answer{p.next, pos, err, p.received + credit})
		p.next++
		if !more {
			p.settle()
		}
	}
	p.settle()
	p.finish(end)
}

// maxTogether bounds the messages of a publication that are delivered and answered
// together.
const maxTogether = 64

// answer is the answer to one PUBLISH, and the credit that goes with it.
type answer struct {
	sequence uint64
	position Position
	err      error
	limit    uint64
}

// settle delivers what was published, and queues the answers. While too many answers
// wait, it waits too, and with it the client's credit.
func (p *publication) settle() {
	p.topic.settle()
	s := p.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p.answers {
		a := &p.answers[i]
		p.acks.addLocked(a.sequence, a.position, a.err, a.limit)
	}
	clear(p.answers)
	p.answers = p.answers[:0]
	s.scheduleLocked(p.out)
	for len(p.acks.frames) > maxAnswers && !p.out.gone && s.ctx.Err() == nil {
		s.changed.Wait()
	}
}

// maxAnswers bounds the answers that wait for one publication, in bytes.
const maxAnswers = 16 << 10

// errOutOfSequence ends a publication: nothing that follows could be answered.
var errOutOfSequence = &codec.Error{Code: codec.CodeUnexpectedFrame, Reason: "PUBLISH out of sequence, or with a topic"}

// errSessionEnded is why a message has no answer: its session ended while it waited for its
// turn. A refusal that still arrived would be final, and the client's next connection
// publishes it.
var errSessionEnded = &codec.Error{Code: codec.CodeShuttingDown, Reason: "the session has ended"}

// errBeyondCredit ends a publication (PROTOCOL §7.3).
var errBeyondCredit = &codec.Error{Code: codec.CodeCreditExceeded, Reason: "more than the publication's credit"}

// publish publishes the message of one PUBLISH frame; more tells that the next one is
// at hand.
func (p *publication) publish(f codec.Frame, more bool) (Position, error) {
	m, err := codec.ParsePublish(f)
	if err != nil {
		return Position{}, err // answered by NACK: the frames after it are whole
	}
	if m.Sequence != p.next || m.Topic != "" {
		return Position{}, errOutOfSequence
	}
	return p.session.publishCounted(p.topic, p.publisher, m.Sequence, m, more)
}

// publishCounted publishes a message that has a place in its publisher's count,
// unless it was, or may have been, published before (PROTOCOL §7.6). p is nil where
// nothing is remembered.
func (s *session) publishCounted(tp *topic, p *publisher, sequence uint64, m codec.Publish, more bool) (Position, error) {
	forgotten := tp.config.mayForget(m.Age)
	switch {
	case p == nil && forgotten:
		return Position{}, errForgotten
	case p == nil:
		return s.publish(tp.name, tp.config, m, more)
	}
	before, fresh, err := p.begin(s.ctx, sequence)
	if err != nil {
		return Position{}, errSessionEnded
	}
	if !fresh {
		s.broker.counters.duplicates.Add(1)
		if before.Offset == 0 {
			return Position{}, errDuplicate
		}
		return before, nil
	}
	if forgotten {
		p.end(sequence, Position{})
		return Position{}, errForgotten
	}
	pos, err := s.publish(tp.name, tp.config, m, more)
	p.end(sequence, pos)
	return pos, err
}

// credited reports whether the client may begin another PUBLISH.
func (p *publication) credited() bool {
	if p.received >= p.granted {
		p.session.mu.Lock()
		p.granted = p.acks.told
		p.session.mu.Unlock()
	}
	return p.received < p.granted
}

// end asks for the end of the publication from outside of its reader, which carries
// it out when it has answered what it is publishing.
func (p *publication) end(e codec.End) {
	s := p.session
	s.mu.Lock()
	if p.ending == nil {
		p.ending = &e
	}
	p.ended.Store(true)
	s.mu.Unlock()
	_ = p.stream.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
}

// finish queues END, the last frame of the publication. An end that was asked for
// comes before the reader's own.
func (p *publication) finish(e codec.End) {
	s := p.session
	s.mu.Lock()
	defer s.mu.Unlock()
	p.ended.Store(true)
	if p.ending != nil {
		e = *p.ending
	}
	if p.out.end || p.out.gone {
		return
	}
	p.out.end = true
	s.broker.counters.streamEnd(e.Code)
	p.out.queue.push(entry{frame: codec.AppendEnd(p.acks.appendLocked(nil), e)})
	// The client may open the next one of this topic as soon as it has read END.
	delete(s.pubs, p.topic.name)
	s.ending[p] = struct{}{}
	s.scheduleLocked(p.out)
}

// finished is called by the writer when the stream has got its END and FIN, or
// has failed. It ends the reading too.
func (p *publication) finished(err error) {
	s := p.session
	p.ended.Store(true)
	if err != nil {
		p.stream.CancelWrite(uint32(codec.CodeSlowSubscriber))
	}
	s.letGo(p.stream, err) // END is the reader's last act; a failure ends it
	s.mu.Lock()
	if s.pubs[p.topic.name] == p { // its stream has failed before its end
		delete(s.pubs, p.topic.name)
	}
	delete(s.ending, p)
	s.mu.Unlock()
	p.close()
	s.checkDrained()
}

// close lets the topic go.
func (p *publication) close() {
	p.session.broker.publishers.release(p.topic, p.publisher)
	p.topic.unpin()
	p.session.broker.counters.publications.Add(-1)
}

// acks gathers the answers of a publication until they can be written, so that
// many messages share one ACK. Guarded by the session's mu.
type acks struct {
	frames  []byte // answers that are made; what follows comes after them
	first   uint64 // sequence of the first of offsets
	epoch   uint64
	offsets []uint64
	limit   uint64 // the credit to tell
	told    uint64 // the credit that the writer has taken
}

// addLocked takes the answer to one PUBLISH, and the credit that goes with it.
func (a *acks) addLocked(sequence uint64, pos Position, err error, limit uint64) {
	if err != nil {
		a.closeLocked()
		a.limit = limit
		a.frames = appendNack(a.frames, sequence, err, codec.Some(limit))
		return
	}
	if len(a.offsets) > 0 && (a.epoch != pos.Epoch || len(a.offsets) == codec.MaxAckBatch || a.offsets[len(a.offsets)-1] >= pos.Offset) {
		a.closeLocked()
	}
	if len(a.offsets) == 0 {
		a.first, a.epoch = sequence, pos.Epoch
	}
	a.offsets = append(a.offsets, pos.Offset)
	a.limit = limit
}

// closeLocked makes the ACK of what was gathered.
func (a *acks) closeLocked() {
	if len(a.offsets) == 0 {
		return
	}
	a.frames = codec.AppendAck(a.frames, codec.Ack{Sequence: a.first, Epoch: a.epoch, Offsets: a.offsets, Limit: codec.Some(a.limit)})
	a.offsets = a.offsets[:0]
}

func (a *acks) pending() bool { return len(a.frames) > 0 || len(a.offsets) > 0 }

// appendLocked appends the answers to b.
func (a *acks) appendLocked(b []byte) []byte {
	a.closeLocked()
	b = append(b, a.frames...)
	a.told = a.limit
	a.frames = a.frames[:0]
	if cap(a.frames) > 4<<10 {
		a.frames = nil
	}
	return b
}
