package memconn

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// ResetError is returned by calls on a stream that one end has cancelled.
type ResetError struct {
	Code   uint32
	Remote bool
}

// Error implements error.
func (e *ResetError) Error() string {
	return fmt.Sprintf("memconn: stream cancelled with code %d", e.Code)
}

// Stream is one end of a bidirectional stream.
type Stream struct{ in, out *pipe }

// Read reads what the other end has written.
func (s *Stream) Read(p []byte) (int, error) { return s.in.read(p) }

// Write returns when all of p is in the stream's window.
func (s *Stream) Write(p []byte) (int, error) { return s.out.write(p) }

// Close sends FIN.
func (s *Stream) Close() error { return s.out.closeWrite() }

// CancelRead makes the other end's writes fail.
func (s *Stream) CancelRead(code uint32) { s.in.cancel(code, true) }

// CancelWrite resets the stream: the other end loses what it has not read.
func (s *Stream) CancelWrite(code uint32) { s.out.cancel(code, false) }

// SetReadDeadline sets the time at which reads fail with os.ErrDeadlineExceeded.
func (s *Stream) SetReadDeadline(t time.Time) error { s.in.setDeadline(&s.in.readBy, t); return nil }

// SetWriteDeadline sets the time at which writes fail with os.ErrDeadlineExceeded.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.out.setDeadline(&s.out.writeBy, t)
	return nil
}

// SetPriority does nothing: nothing is ever sent ahead of anything else.
func (s *Stream) SetPriority(int8, bool) {}

// OnReceiveEnd has f called when the other end has sent FIN or a reset.
func (s *Stream) OnReceiveEnd(f func()) { s.in.onEnd(f) }

// pipe is one direction of a stream.
type pipe struct {
	mu                sync.Mutex
	changed           sync.Cond
	buf               []byte
	fin               bool
	readErr, writeErr error
	ended             bool // FIN or a reset of the writer
	notify            []func()
	readBy, writeBy   deadline
}

// deadline is a moment after which a call fails; its timer wakes who waits.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func newPipe() *pipe {
	p := new(pipe)
	p.changed.L = &p.mu
	return p
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.readErr != nil && (len(p.buf) == 0 || isReset(p.readErr)):
			return 0, p.readErr
		case len(p.buf) > 0:
			n := copy(b, p.buf)
			p.buf = p.buf[n:]
			p.changed.Broadcast()
			return n, nil
		case p.fin:
			return 0, io.EOF
		case p.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		}
		p.changed.Wait()
	}
}

func isReset(err error) bool {
	_, ok := errors.AsType[*ResetError](err)
	return ok
}

func (p *pipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	written := 0
	for {
		switch {
		case p.writeErr != nil:
			return written, p.writeErr
		case p.fin:
			return written, io.ErrClosedPipe
		case len(b) == 0:
			return written, nil
		case p.writeBy.passed():
			return written, os.ErrDeadlineExceeded
		}
		if room := window - len(p.buf); room > 0 {
			n := min(room, len(b))
			p.buf = append(p.buf, b[:n]...)
			b = b[n:]
			written += n
			p.changed.Broadcast()
			continue
		}
		p.changed.Wait()
	}
}

func (p *pipe) closeWrite() error {
	p.mu.Lock()
	if p.writeErr != nil {
		defer p.mu.Unlock()
		return p.writeErr
	}
	p.fin = true
	p.finishLocked()
	return nil
}

// finishLocked wakes everybody, unlocks, and tells that the writer has ended.
func (p *pipe) finishLocked() {
	p.ended = true
	notify := p.notify
	p.notify = nil
	p.changed.Broadcast()
	p.mu.Unlock()
	for _, f := range notify {
		f()
	}
}

func (p *pipe) onEnd(f func()) {
	p.mu.Lock()
	if !p.ended {
		p.notify = append(p.notify, f)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	f()
}

// cancel ends the pipe from its reader's or its writer's side.
func (p *pipe) cancel(code uint32, byReader bool) {
	p.mu.Lock()
	if p.readErr != nil || p.writeErr != nil || byReader && p.fin && len(p.buf) == 0 {
		p.mu.Unlock()
		return
	}
	p.readErr = &ResetError{Code: code, Remote: !byReader}
	p.writeErr = &ResetError{Code: code, Remote: byReader}
	p.buf = nil
	if byReader {
		p.changed.Broadcast()
		p.mu.Unlock()
		return
	}
	p.finishLocked()
}

// fail ends the pipe with its connection.
func (p *pipe) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readErr == nil && !p.fin {
		p.readErr = err
	}
	if p.writeErr == nil {
		p.writeErr = err
	}
	for _, d := range []*deadline{&p.readBy, &p.writeBy} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}
	p.changed.Broadcast()
}

func (p *pipe) setDeadline(d *deadline, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.at = t
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if !t.IsZero() && p.writeErr == nil {
		d.timer = time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.changed.Broadcast()
		})
	}
	p.changed.Broadcast()
}
