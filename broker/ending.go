package broker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// refuse ends a stream that did not become one of the session's: END and FIN. The
// session's writer does it, as it does all writing.
func (s *session) refuse(stream Stream, err error) {
	e := endOf(err)
	s.broker.counters.streamEnd(e.Code)
	out := newOutlet(stream, rankControl)
	out.done = func(err error) { s.letGo(stream, err) }
	out.end = true
	out.queue.push(entry{frame: codec.AppendEnd(nil, e)})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scheduleLocked(out)
}

// letGo ends the reading of a stream that has got its END and FIN, or whose writing
// has failed. Nobody else may read it. A goroutine of the session calls it.
//
// STOP_SENDING goes only where the client's FIN does not come: Firefox drops at
// STOP_SENDING what it has received on the stream and not given to the page, and
// with it the END that went just before.
func (s *session) letGo(stream Stream, err error) {
	if err != nil {
		stream.CancelRead(uint32(codec.CodeOK))
		return
	}
	s.wg.Go(func() {
		_ = stream.SetReadDeadline(time.Now().Add(farewell))
		_, _ = io.Copy(io.Discard, stream)
		stream.CancelRead(uint32(codec.CodeOK))
	})
}

// fail ends the session. The first call decides with what.
func (s *session) fail(err error) { s.cancel(err) }

// drain ends the session gracefully: the client is told, queues are written as
// far as there is credit, streams end, and the session does when they have, at
// the latest at the deadline.
func (s *session) drain(deadline time.Time) {
	s.mu.Lock()
	if s.principal == nil {
		s.mu.Unlock()
		s.fail(codec.Errorf(codec.CodeShuttingDown, "the broker is shutting down"))
		return
	}
	if s.draining {
		s.mu.Unlock()
		return
	}
	s.draining = true
	wait := time.Until(deadline)
	s.sendControlLocked(codec.AppendNotice(nil, codec.Notice{
		Code: codec.CodeShuttingDown, Reason: "the broker is shutting down",
		Deadline: codec.Some(s.broker.now() + uint64(max(0, wait)/time.Millisecond)),
	}))
	end := codec.End{Code: codec.CodeShuttingDown, Reason: "the broker is shutting down", Retry: codec.Some(0)}
	for _, sub := range s.subs {
		s.endLocked(sub, end)
	}
	pubs := make([]*publication, 0, len(s.pubs))
	for _, p := range s.pubs {
		pubs = append(pubs, p)
	}
	if !s.stopped {
		s.graceEnd = time.AfterFunc(wait, func() {
			s.fail(codec.Errorf(codec.CodeShuttingDown, "the broker is shutting down"))
		})
	}
	s.mu.Unlock()
	for _, p := range pubs {
		p.end(end)
	}
	s.checkDrained()
}

// checkDrained ends a session that drains and has nothing left.
func (s *session) checkDrained() {
	s.mu.Lock()
	drained := s.draining && len(s.subs) == 0 && len(s.pubs) == 0 && len(s.ending) == 0
	s.mu.Unlock()
	if drained {
		s.fail(&codec.Error{Code: codec.CodeShuttingDown, Reason: "the broker is shutting down"})
	}
}

// tearDown says farewell, closes the connection, waits for every goroutine, and
// forgets the session.
func (s *session) tearDown() error {
	cause := endOfConn(context.Cause(s.ctx))
	e := endOf(cause)
	if s.conn.Context().Err() != nil && !errors.Is(cause, errDone) {
		e.Code = codec.CodeConnectionLost // nobody is there to be told
	}
	// Who has ended its session, or may not be here, is not awaited.
	s.broker.presences.ended(s, e.Code == codec.CodeOK || e.Code.Range() == codec.RangePermission)

	s.mu.Lock()
	s.stopped = true
	control := s.control
	writing := s.current
	for _, t := range []*time.Timer{s.expiry, s.graceEnd} {
		if t != nil {
			t.Stop()
		}
	}
	var members []*groupMember
	for _, sub := range s.subs {
		if sub.member != nil && !sub.opening {
			members = append(members, sub.member)
		}
	}
	var last []byte
	if control != nil && !control.gone {
		for control.queue.len() > 0 {
			last = append(last, s.popLocked(control).frame...)
		}
		last = codec.AppendEnd(last, e)
	}
	s.mu.Unlock()
	for _, m := range members {
		s.broker.groups.leave(m) // others need not wait for the farewell
	}
	if writing != nil {
		// The writer may be within a write that the client does not take.
		_ = writing.SetWriteDeadline(time.Now().Add(farewell))
	}
	s.wakeDatagrams()
	s.waitWriter()
	if last != nil {
		s.mu.Lock()
		if last = append(control.rest.b, last...); control.gone {
			last = nil // its stream has failed
		}
		s.mu.Unlock()
	}
	open := false // the client's side of the control stream
	select {
	case <-s.finished:
	default:
		open = true
	}
	if last != nil && s.conn.Context().Err() == nil {
		_ = control.stream.SetWriteDeadline(time.Now().Add(farewell))
		if _, err := control.stream.Write(last); err == nil {
			_ = control.stream.Close()
			s.linger(open)
		}
	}
	_ = s.conn.CloseWithError(uint32(e.Code), e.Reason)
	s.wg.Wait()
	s.forgetRequests()
	s.mu.Lock()
	subs, pubs, ending := s.subs, s.pubs, s.ending
	s.subs, s.pubs, s.ending = nil, nil, nil
	for _, sub := range subs {
		s.discardLocked(sub.out)
		sub.out.gone = true
	}
	s.restsLocked(-s.rests)
	s.discardDatagramsLocked()
	s.mu.Unlock()
	for _, sub := range subs {
		sub.close()
	}
	for _, p := range pubs {
		p.close()
	}
	for p := range ending {
		p.close()
	}
	select {
	case <-s.welcomed:
		s.log.Debug("session ends", slog.String("code", e.Code.String()), slog.String("reason", e.Reason))
	default:
		s.broker.counters.sessionsRefused.Add(1)
	}
	if e.Code == codec.CodeOK {
		return nil
	}
	return cause
}

// linger waits, for a bounded time, until the client has read END, which closing
// the connection from this side could overtake: then the client closes the
// connection, or ends the control stream if it was still open.
func (s *session) linger(open bool) {
	var finished <-chan struct{}
	if open {
		finished = s.finished
	}
	timeout := time.NewTimer(farewell)
	defer timeout.Stop()
	select {
	case <-s.conn.Context().Done():
	case <-finished:
	case <-timeout.C:
	}
}

// waitWriter waits until the writer has ended, so that tearDown may write.
func (s *session) waitWriter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writing {
		s.changed.Wait()
	}
}
