// Package memconn is a connection within the process: two ends joined by streams
// that behave as those of a real transport do. They are bounded, copy what is
// written, have deadlines, and can be reset; datagrams there are none.
//
// The tests of broker and client run over it, beside WebTransport.
package memconn

import (
	"context"
	"fmt"
	"net"
	"sync"
)

const (
	// window is how many bytes one direction of a stream holds.
	window = 64 << 10
	// backlog is how many streams wait to be accepted.
	backlog = 64
)

// CloseError is how a connection ended.
type CloseError struct {
	Code   uint32
	Reason string
	Remote bool // the other end closed it
}

// Error implements error.
func (e *CloseError) Error() string {
	return fmt.Sprintf("memconn: closed with code %d: %s", e.Code, e.Reason)
}

// Clean reports whether the other end has closed the connection without an error.
func (e *CloseError) Clean() bool { return e.Remote && e.Code == 0 }

// Conn is one end of a connection. Its methods may be called concurrently.
type Conn struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	peer     *Conn
	accepted chan *Stream

	mu      sync.Mutex
	streams map[*Stream]struct{} // open on this end; guarded by mu
}

// Pair returns the two ends of a new connection. Closing either ends both.
func Pair() (a, b *Conn) {
	a, b = newConn(), newConn()
	a.peer, b.peer = b, a
	return a, b
}

func newConn() *Conn {
	c := &Conn{accepted: make(chan *Stream, backlog), streams: make(map[*Stream]struct{})}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c
}

// OpenStream opens a stream; it waits while the other end has a backlog.
func (c *Conn) OpenStream(ctx context.Context) (*Stream, error) {
	up, down := newPipe(), newPipe()
	local := &Stream{in: down, out: up}
	remote := &Stream{in: up, out: down}
	for _, end := range []struct {
		conn   *Conn
		stream *Stream
	}{{c, local}, {c.peer, remote}} {
		if !end.conn.track(end.stream) {
			return nil, context.Cause(end.conn.ctx)
		}
	}
	select {
	case c.peer.accepted <- remote:
		return local, nil
	case <-c.ctx.Done():
		return nil, context.Cause(c.ctx)
	case <-ctx.Done():
		up.fail(ctx.Err())
		down.fail(ctx.Err())
		return nil, ctx.Err()
	}
}

// track takes note of a stream, so that the end of the connection ends it.
func (c *Conn) track(s *Stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.streams[s] = struct{}{}
	return true
}

// AcceptStream returns the next stream that the other end has opened.
func (c *Conn) AcceptStream(ctx context.Context) (*Stream, error) {
	select {
	case s := <-c.accepted:
		return s, nil
	case <-c.ctx.Done():
		return nil, context.Cause(c.ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// CloseWithError ends the connection on both ends. Bytes that were written before
// and not read yet can still be read, as after an orderly close of a real one.
func (c *Conn) CloseWithError(code uint32, reason string) error {
	c.end(&CloseError{Code: code, Reason: reason})
	c.peer.end(&CloseError{Code: code, Reason: reason, Remote: true})
	return nil
}

func (c *Conn) end(err *CloseError) {
	c.mu.Lock()
	c.cancel(err)
	streams := c.streams
	c.streams = nil
	c.mu.Unlock()
	for s := range streams {
		s.in.fail(err)
		s.out.fail(err)
	}
}

// Context ends with the connection; its cause is a *CloseError.
func (c *Conn) Context() context.Context { return c.ctx }

// MaxDatagramSize is 0: there are no datagrams.
func (c *Conn) MaxDatagramSize() int { return 0 }

// RemoteAddr is an address of the network "memory".
func (c *Conn) RemoteAddr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "memory" }
func (addr) String() string  { return "memory" }
