package broker

import (
	"context"
	"errors"
	"net"
	"time"
)

// Conn is a client's connection as the broker needs it. WebTransport, a fallback
// transport and an in-memory pair satisfy it. All methods may be called
// concurrently; those with a context return when it ends.
type Conn interface {
	// AcceptStream returns the next stream that the client opened.
	AcceptStream(ctx context.Context) (Stream, error)
	// ReceiveDatagram returns the next datagram, or ErrNoDatagrams at once if the
	// connection carries none.
	ReceiveDatagram(ctx context.Context) ([]byte, error)
	// SendDatagram sends b, which it does not keep. It may block while the
	// transport's own queue is full. A datagram above MaxDatagramSize gives
	// ErrDatagramTooLarge.
	SendDatagram(ctx context.Context, b []byte) error
	// MaxDatagramSize is the most bytes of a datagram just now; 0 if the
	// connection carries none.
	MaxDatagramSize() int
	// CloseWithError ends the connection and all its streams. Code and reason are
	// brought to the client as well as the transport can.
	CloseWithError(code uint32, reason string) error
	// Context ends when the connection has ended. If its cause has a method Clean() bool
	// that returns true, the client has closed the connection without an error: it
	// does not come back.
	Context() context.Context
	// RemoteAddr is the client's address.
	RemoteAddr() net.Addr
	// Stats are the transport's figures just now; the zero value if it has none.
	Stats() ConnStats
}

// ConnStats are what a transport knows of a connection.
type ConnStats struct {
	// RTT is the smoothed round trip; 0 before the first estimate.
	RTT time.Duration
	// PacketsSent includes PacketsLost, those that did not arrive.
	PacketsSent, PacketsLost uint64
}

// Stream is a bidirectional stream that the client opened. Reading and writing
// may go on at the same time, each in one goroutine. Deadlines, cancellation and
// priority may be set from others.
type Stream interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	// Close sends FIN. It must not be called while Write is under way.
	Close() error
	// CancelRead asks the client to stop sending; CancelWrite resets this side.
	CancelRead(code uint32)
	CancelWrite(code uint32)
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	// SetPriority sets the urgency of what is written: 0 (first) to 7.
	SetPriority(urgency int8, incremental bool)
	// OnReceiveEnd has f called once when the client's FIN or reset has arrived,
	// without anybody reading. f must not block. It may be called before
	// OnReceiveEnd returns.
	OnReceiveEnd(f func())
}

// ErrNoDatagrams is what a Conn without datagrams returns.
var ErrNoDatagrams = errors.New("broker: the connection carries no datagrams")

// ErrDatagramTooLarge is what SendDatagram of a Conn returns for a datagram above
// MaxDatagramSize.
var ErrDatagramTooLarge = errors.New("broker: datagram too large")
