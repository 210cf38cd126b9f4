package wt

import (
	"context"
	"errors"
	"sync"

	"github.com/quic-go/quic-go"
)

// OpenStream opens a bidirectional stream. It waits for the peer's stream credit
// until ctx or the session ends; then its error is the cause of ctx or matches
// [SessionError]. The peer sees the stream with its first write, which may be one
// of nothing, its first read, or its Close.
func (s *Session) OpenStream(ctx context.Context) (*Stream, error) {
	stream, err := open(ctx, s, false, s.conn.quic.OpenStream, s.conn.quic.OpenStreamSync)
	if err != nil {
		return nil, err
	}
	opened := &Stream{halves{session: s, id: int64(stream.StreamID()), send: stream, receive: stream}}
	opened.h.account(0)
	opened.h.header = appendStreamHeader(nil, frameWebTransport, s.id)
	if !s.track(&opened.h) {
		opened.h.abandon()
		return nil, s.endedWith()
	}
	return opened, nil
}

// OpenUniStream opens a unidirectional stream, as [Session.OpenStream] does. The
// peer sees it with its first write, which may be one of nothing, or its Close.
func (s *Session) OpenUniStream(ctx context.Context) (*SendStream, error) {
	stream, err := open(ctx, s, true, s.conn.quic.OpenUniStream, s.conn.quic.OpenUniStreamSync)
	if err != nil {
		return nil, err
	}
	opened := &SendStream{halves{session: s, id: int64(stream.StreamID()), send: stream}}
	opened.h.header = appendStreamHeader(nil, streamWebTransport, s.id)
	if !s.track(&opened.h) {
		opened.h.abandon()
		return nil, s.endedWith()
	}
	return opened, nil
}

// open opens a stream within the session's flow control and QUIC's. It tries at
// once, and else waits until ctx or the session ends.
func open[S any](ctx context.Context, s *Session, uni bool, try func() (S, error), wait func(context.Context) (S, error)) (S, error) {
	var none S
	if err := s.endedWith(); err != nil {
		return none, err
	}
	if s.flow != nil {
		if err := s.flow.open(ctx, uni); err != nil {
			return none, err
		}
	}
	stream, err := try()
	if err == nil {
		return stream, nil
	}
	var exhausted *quic.StreamLimitReachedError
	if errors.As(err, &exhausted) {
		either, cancel := context.WithCancelCause(ctx)
		stop := afterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
		stream, err = wait(either)
		stop()
		cancel(nil)
	}
	if err == nil {
		return stream, nil
	}
	if s.flow != nil {
		s.flow.unopen(uni)
	}
	if ctx.Err() != nil && s.endedWith() == nil {
		return none, context.Cause(ctx)
	}
	return none, s.translate(err)
}

// AcceptStream returns the next bidirectional stream that the peer opened. It
// waits until ctx or the session ends; then its error is the cause of ctx or
// matches [SessionError]. Streams come in the order in which their headers
// arrived, which is not always that of their opening.
func (s *Session) AcceptStream(ctx context.Context) (*Stream, error) {
	return s.bidi.get(ctx, s)
}

// AcceptUniStream returns the next unidirectional stream that the peer opened,
// as [Session.AcceptStream] does.
func (s *Session) AcceptUniStream(ctx context.Context) (*ReceiveStream, error) {
	s.conn.wantUni()
	return s.uni.get(ctx, s)
}

// receiveStream takes a stream whose header, of so many bytes, named this
// session.
func (s *Session) receiveStream(stream *quic.Stream, header int) {
	accepted := &Stream{halves{session: s, id: int64(stream.StreamID()), remote: true, send: stream, receive: stream}}
	accepted.h.headerState.Store(headerTaken) // the opener sends it
	if s.admit(&accepted.h, header) {
		s.bidi.put(accepted, 0)
	}
}

// receiveUniStream is receiveStream for a unidirectional one.
func (s *Session) receiveUniStream(stream *quic.ReceiveStream, header int) {
	accepted := &ReceiveStream{halves{session: s, id: int64(stream.StreamID()), remote: true, receive: stream}}
	if s.admit(&accepted.h, header) {
		s.uni.put(accepted, 0)
	}
}

// admit counts and registers a stream that the peer opened. It reports false,
// and ends the stream, if the session has ended or the stream is one too many.
func (s *Session) admit(h *halves, header int) bool {
	if s.flow != nil {
		if broken := s.flow.accepted(h.send == nil); broken != nil {
			s.violate(broken)
			h.abandon()
			return false
		}
	}
	if !s.track(h) {
		h.abandon()
		return false
	}
	h.account(header)
	return true
}

// watch runs a function at the end of a context, as afterFunc does, but is part of
// what it belongs to. It is started once, before it is stopped.
type watch struct {
	running sync.WaitGroup
	prevent func() bool
	stopped sync.Once
}

func (w *watch) start(ctx context.Context, f func()) {
	w.running.Add(1)
	w.prevent = context.AfterFunc(ctx, func() {
		defer w.running.Done()
		f()
	})
}

// stop waits for the function if it has begun.
func (w *watch) stop() {
	w.stopped.Do(func() {
		if w.prevent() {
			w.running.Done()
		}
		w.prevent = nil
	})
	w.running.Wait()
}

// afterFunc is context.AfterFunc, except that stop waits for f if it has begun,
// so that its goroutine does not outlive the caller. stop reports whether f did
// not run.
func afterFunc(ctx context.Context, f func()) (stop func() bool) {
	done := make(chan struct{})
	prevent := context.AfterFunc(ctx, func() {
		defer close(done)
		f()
	})
	return func() bool {
		if prevent() {
			return true
		}
		<-done
		return false
	}
}
