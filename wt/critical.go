package wt

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// criticalStream is one of the streams that a peer has once and never closes:
// control, QPACK encoder and decoder (RFC 9114 §6.2.1, RFC 9204 §4.2). It is read
// frame by frame, or instruction by instruction, by a goroutine that leaves
// between two of them when the connection sleeps.
type criticalStream struct {
	// Static.
	conn   *conn
	stream *quic.ReceiveStream
	typ    uint64
	// next reads and handles one frame or instruction. Its first byte has arrived.
	next func() error

	// Guarded by mu.
	mu      sync.Mutex
	running bool
	reading bool // it is within a frame
	leave   bool // it is to leave before the next
}

// addCritical registers a stream of which a peer has one, and reads it, while the
// connection is awake. At a second one it ends the connection.
func (c *conn) addCritical(typ uint64, stream *quic.ReceiveStream) {
	s := &criticalStream{conn: c, stream: stream, typ: typ, running: true}
	switch typ {
	case streamControl:
		s.next = c.nextControlFrame(stream)
	case streamQPACKEncoder:
		s.next = nextQPACKInstructions(stream, new(qpackEncoderStream))
	case streamQPACKDecoder:
		s.next = nextQPACKInstructions(stream, new(qpackDecoderStream))
	}
	c.mu.Lock()
	for _, other := range c.watchers.critical {
		if other.typ == typ {
			c.mu.Unlock()
			_ = c.fail(connectionError(codeStreamCreationError, "second stream of type %#x", typ))
			return
		}
	}
	c.watchers.critical = append(c.watchers.critical, s)
	s.leave = c.watchers.awake == nil
	c.mu.Unlock()
	s.run()
}

// nextQPACKInstructions returns what feeds a parser with what a stream has. The
// parser keeps an instruction that is cut.
func nextQPACKInstructions(stream *quic.ReceiveStream, parser interface{ feed(b []byte) error }) func() error {
	return func() error {
		var buffer [32]byte
		n, err := stream.Read(buffer[:])
		if broken := parser.feed(buffer[:n]); broken != nil {
			return broken
		}
		return err
	}
}

// start has the stream read. It does nothing while it is.
func (s *criticalStream) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave = false
	if !s.running {
		s.running = s.conn.spawn(s.run)
		return
	}
	if !s.reading {
		_ = s.stream.SetReadDeadline(time.Time{})
	}
}

// stop lets the goroutine leave, at once unless it is within a frame.
func (s *criticalStream) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave = true
	if s.running && !s.reading {
		_ = s.stream.SetReadDeadline(time.Unix(1, 0))
	}
}

// poll reads what has arrived, and waits for nothing but the rest of a frame.
func (s *criticalStream) poll() {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return
	}
	s.running, s.leave = true, true
	s.mu.Unlock()
	s.run()
}

// run reads until the connection ends, or there is nothing to read and it is to
// leave. The caller has set running.
func (s *criticalStream) run() {
	var first [1]byte
	for {
		s.mu.Lock()
		s.reading = false
		if s.leave {
			_ = s.stream.SetReadDeadline(time.Now().Add(scoutTime))
		} else {
			_ = s.stream.SetReadDeadline(time.Time{})
		}
		s.mu.Unlock()

		_, err := s.stream.Peek(first[:])
		s.mu.Lock()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if s.leave {
				s.running = false
				s.mu.Unlock()
				return
			}
			s.mu.Unlock()
			continue // it is not to leave any more
		}
		s.reading = true
		_ = s.stream.SetReadDeadline(time.Time{})
		s.mu.Unlock()
		if err == nil {
			err = s.next()
		}
		if err != nil {
			var cancelled *quic.StreamError
			if errors.Is(err, io.EOF) || errors.As(err, &cancelled) {
				err = closedCritical(s.typ)
			}
			_ = s.conn.fail(err)
			return
		}
	}
}
