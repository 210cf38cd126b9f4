package broker

import (
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// requests are those of this broker that wait for replies: of its clients and of
// its process.
type requests struct {
	broker *Broker
	key    [32]byte // of the MACs of sealed addresses

	mu   sync.Mutex
	open map[uint64]*request // by id; nil after close; guarded by mu
}

// request waits for replies until it is over: it has as many as it wants, nobody is
// there, its time has passed, or who asked waits no longer.
type request struct {
	// Static after construction.
	all     *requests
	id      uint64 // random, so that it cannot be guessed
	limit   uint64
	session *session     // nil: of the process
	number  uint64       // of the session's
	replies chan Message // of the process; closed when the request is over

	mu     *sync.Mutex  // the session's, or one of its own
	timer  *time.Timer  // guarded by mu
	got    uint64       // replies; guarded by mu
	nobody nobody       // guarded by mu
	over   bool         // guarded by mu
	err    *codec.Error // of the process, why it is over; nil: it has all replies; guarded by mu
}

// nobody tells where nobody is there to answer.
type nobody uint8

const (
	nobodyHere      nobody = 1 << iota // no subscription of this broker took the request
	nobodyElsewhere                    // the bus knows of nobody
	nobodyAtAll     = nobodyHere | nobodyElsewhere
)

// maxResponses bounds the frames that wait for a control stream before a request
// ends because its replies are not read: half of the bound at which the session
// ends.
const maxResponses = maxControlQueue / 2

func newRequests(b *Broker) *requests {
	q := &requests{broker: b, open: make(map[uint64]*request)}
	_, _ = rand.Read(q.key[:]) // never fails: see crypto/rand
	return q
}

// add begins to wait for replies to r.
func (q *requests) add(r *request, timeout time.Duration) error {
	var b [8]byte
	_, _ = rand.Read(b[:])
	r.all, r.id = q, binary.BigEndian.Uint64(b[:])
	q.mu.Lock()
	closed := q.open == nil
	if !closed {
		q.open[r.id] = r
	}
	q.mu.Unlock()
	if closed {
		return ErrClosed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.timer = time.AfterFunc(timeout, func() {
			r.finish(codec.Errorf(codec.CodeRequestTimeout, "no further reply within %v", timeout))
		})
	}
	return nil
}

// find returns the request of an address; nil if it is over.
func (q *requests) find(address []byte) *request {
	id, ok := idOf(address)
	if !ok {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.open[id]
}

// forget removes a request that is over.
func (q *requests) forget(r *request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.open, r.id)
}

// count returns how many requests wait for replies.
func (q *requests) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.open)
}

// close ends what still waits when the broker has ended.
func (q *requests) close() {
	q.mu.Lock()
	open := q.open
	q.open = nil
	q.mu.Unlock()
	for _, r := range open {
		r.finish(codec.Errorf(codec.CodeShuttingDown, "the broker has stopped"))
	}
}

// replied brings a reply to its request. One that nobody waits for is dropped.
func (q *requests) replied(address []byte, m Message) {
	r := q.find(address)
	if r == nil || !r.take(m) {
		q.broker.counters.drop(DropReply, 1)
	}
}

// nobody takes note that nobody is there to answer a request of this broker. Only
// where that is so everywhere is the request over.
func (q *requests) nobody(address []byte, where nobody) {
	r := q.find(address)
	if r == nil {
		return
	}
	r.mu.Lock()
	r.nobody |= where
	over := r.nobody == nobodyAtAll && r.got == 0
	r.mu.Unlock()
	if over {
		r.finish(codec.Errorf(codec.CodeNoResponders, "nobody is subscribed to the topic"))
	}
}

// unasked tells requests among a batch that none of subs, which match their topic, gets
// them. Members of groups count only if this broker distributes to them; otherwise the
// bus knows.
func (b *Broker) unasked(batch []Record, subs []*subscription) {
	for i := range batch {
		r := &batch[i]
		gets := func(sub *subscription) bool {
			if sub.pool != nil {
				return !b.joined && sub.pool.filter.Match(r.Headers)
			}
			return !sub.withholds(r.Publisher, r.Headers)
		}
		if r.Reply != nil && !slices.ContainsFunc(subs, gets) {
			b.requests.nobody(r.Reply, nobodyHere)
		}
	}
}

// take hands a reply to who asked; false if the request is over.
func (r *request) take(m Message) bool {
	var frame []byte
	if r.session != nil {
		frame = codec.AppendResponse(nil, codec.Response{Number: r.number, Payload: m.Payload, Publisher: m.Publisher, Headers: m.Headers})
	}
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return false
	}
	taken := true
	if r.session != nil {
		taken = r.session.respondLocked(frame)
	} else {
		select {
		case r.replies <- m:
		default:
			taken = false
		}
	}
	r.got++
	switch {
	case !taken:
		r.endLocked(codec.Errorf(codec.CodeOverloaded, "replies come faster than they are taken"))
	case r.got == r.limit:
		r.endLocked(nil)
	}
	over := r.over
	r.mu.Unlock()
	if over {
		r.all.forget(r)
	}
	return taken
}

// finish ends a request, unless it is over.
func (r *request) finish(err *codec.Error) {
	r.mu.Lock()
	if !r.over {
		r.endLocked(err)
	}
	r.mu.Unlock()
	r.all.forget(r)
}

// endLocked ends the request and tells who asked.
func (r *request) endLocked(err *codec.Error) {
	r.over = true
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.session == nil {
		r.err = err
		close(r.replies)
		return
	}
	delete(r.session.requests, r.number)
	if err == nil {
		err = errDone
	}
	r.session.sendControlLocked(codec.AppendDone(nil, codec.Done{Number: r.number, Code: err.Code, Reason: err.Reason}))
}

// drop ends a request without a word: nobody waits for it any more.
func (r *request) drop() {
	r.mu.Lock()
	r.over = true
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	r.all.forget(r)
}

// request carries out a REQUEST (PROTOCOL §7.7). An error ends the session.
func (s *session) request(frame codec.Frame) error {
	f, err := codec.ParseRequest(frame)
	if err != nil && codec.CodeOf(err) != codec.CodeInvalidOption {
		return err
	}
	r := &request{session: s, number: f.Number, limit: f.Limit, mu: &s.mu}
	s.mu.Lock()
	switch {
	case s.requests[f.Number] != nil:
		s.mu.Unlock()
		// DONE would be taken for that of the one that is open.
		return codec.Errorf(codec.CodeDuplicateNumber, "request %d is open", f.Number)
	case err != nil:
	case s.draining:
		err = codec.Errorf(codec.CodeShuttingDown, "the broker is shutting down")
	case len(s.requests) >= codec.MaxRequests:
		err = codec.Errorf(codec.CodeTooManyRequests, "the session has %d requests open: wait for one to end", codec.MaxRequests)
	default:
		if s.requests == nil {
			s.requests = make(map[uint64]*request)
		}
		s.requests[f.Number] = r
	}
	s.mu.Unlock()
	if err != nil {
		s.broker.counters.rejected.Add(1)
		e := endOf(err)
		s.sendControl(codec.AppendDone(nil, codec.Done{Number: f.Number, Code: e.Code, Reason: e.Reason}))
		return nil
	}
	err = s.broker.requests.add(r, time.Duration(f.Timeout)*time.Millisecond)
	if err == nil {
		err = codec.CheckTopic(f.Topic)
	}
	if err == nil {
		err = s.permitPublish(f.Topic)
	}
	if err == nil {
		m := codec.Publish{Payload: f.Payload, Key: f.Key, Headers: f.Headers, TTL: codec.Some(f.Timeout)}
		_, err = s.publishRequest(f.Topic, s.broker.topics.config(f.Topic), m, addressOf(r.id))
	}
	if err != nil {
		s.broker.counters.rejected.Add(1)
		r.finish(errorOf(endOf(err)))
	}
	return nil
}

// respondLocked queues a RESPONSE. It reports false if there is no room for it, what
// waits counts like messages do, or if the session ends.
func (s *session) respondLocked(frame []byte) bool {
	if s.control == nil || s.control.gone || s.stopped {
		return false
	}
	q := &s.control.queue
	empty := q.bytes == 0
	if q.len() >= maxResponses || q.bytes+len(frame) > s.broker.config.MaxQueueBytes && !empty || !s.chargeLocked(s.control, len(frame), empty) {
		return false
	}
	q.push(entry{frame: frame, charged: true})
	s.scheduleLocked(s.control)
	return true
}

// cancelRequest ends a request that its client does not wait for any more.
func (s *session) cancelRequest(number uint64) {
	s.mu.Lock()
	r := s.requests[number]
	delete(s.requests, number)
	s.mu.Unlock()
	if r != nil {
		r.drop()
	}
}

// forgetRequests ends the requests of a session that has ended.
func (s *session) forgetRequests() {
	s.mu.Lock()
	open := s.requests
	s.requests = nil
	s.mu.Unlock()
	for _, r := range open {
		r.drop()
	}
}

// reply carries out a REPLY (PROTOCOL §7.7), which is not answered. An error ends the
// session.
func (s *session) reply(frame codec.Frame) error {
	f, err := codec.ParseReply(frame)
	switch {
	case err == nil:
		s.answer(f)
	case codec.CodeOf(err) == codec.CodeInvalidOption:
		s.broker.counters.rejected.Add(1)
	default:
		return err
	}
	return nil
}

// answer brings a reply to who asked. One that must not be, or that nobody waits for,
// is dropped.
func (s *session) answer(f codec.Reply) {
	b := s.broker
	if b.checkPayload(f.Payload) != nil {
		b.counters.rejected.Add(1)
		return
	}
	if s.allow() != nil {
		b.counters.drop(DropRateLimited, 1)
		return
	}
	address, ok := b.requests.unseal(f.To)
	if !ok {
		b.counters.drop(DropReply, 1)
		return
	}
	f.Payload.Data = append([]byte(nil), f.Payload.Data...) // it refers to the reader's buffer
	m := Message{Payload: f.Payload, Publisher: s.id, Headers: f.Headers}
	if _, own := idOf(address); own {
		b.requests.replied(address, m)
	} else if b.bus.Reply(s.ctx, address, m) != nil {
		b.counters.drop(DropReply, 1)
	}
}
