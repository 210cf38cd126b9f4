package client

import (
	"context"
	"errors"
	"time"

	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt"
)

// Conn is a connection to a broker as the client needs it. WebTransport is one.
// Its methods may be called concurrently; those with a context return when it
// ends.
type Conn interface {
	OpenStream(ctx context.Context) (Stream, error)
	// SendDatagram may block while the transport's queue is full. A datagram above
	// MaxDatagramSize is an error. On a connection that has ended the error has
	// CodeConnectionLost.
	SendDatagram(ctx context.Context, b []byte) error
	// ReceiveDatagram returns the next datagram; an error means that no more come.
	ReceiveDatagram(ctx context.Context) ([]byte, error)
	// MaxDatagramSize is the most bytes of a datagram; 0 if there are none.
	MaxDatagramSize() int
	// CloseWithError ends the connection and all its streams.
	CloseWithError(code uint32, reason string) error
	// Context ends with the connection; its cause tells why. A code of PROTOCOL §11
	// with which the broker closed the connection is an *Error whose Remote is set,
	// or a *wt.SessionError.
	Context() context.Context
}

// Stream is a bidirectional stream. One goroutine may read and one write at the
// same time.
type Stream interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	Close() error // sends FIN
	CancelRead(code uint32)
	CancelWrite(code uint32)
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// dialWebTransport is the DialFunc of a Config that names none.
func (c *Config) dialWebTransport(ctx context.Context, url string) (Conn, error) {
	d := wt.Dialer{TLSConfig: c.TLSConfig, CertificateHashes: c.CertificateHashes, InsecureSkipVerify: c.InsecureSkipVerify, Logger: c.Logger}
	session, err := d.Dial(ctx, url)
	if err != nil {
		return nil, err
	}
	return wtConn{session}, nil
}

// WebTransport returns a session as a Conn, for a Config.Dial that makes its
// sessions itself: with another Dialer, or over a socket of its own. Closing the
// Conn closes the session.
func WebTransport(s *wt.Session) Conn { return wtConn{s} }

// wtConn is a WebTransport session as a Conn.
type wtConn struct{ session *wt.Session }

func (c wtConn) OpenStream(ctx context.Context) (Stream, error) {
	stream, err := c.session.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	return stream, nil
}

func (c wtConn) SendDatagram(ctx context.Context, b []byte) error {
	err := c.session.SendDatagram(ctx, b)
	if errors.Is(err, wt.ErrSessionClosed) {
		return lost(err) // which the client may not have noticed yet
	}
	return err
}

func (c wtConn) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	return c.session.ReceiveDatagram(ctx)
}

func (c wtConn) MaxDatagramSize() int { return c.session.MaxDatagramSize() }

func (c wtConn) CloseWithError(code uint32, reason string) error {
	return c.session.CloseWithError(code, reason)
}

func (c wtConn) Context() context.Context { return c.session.Context() }

// told returns what the broker said when it closed the connection, which may come
// without END: it is all that is left of a refusal that the broker could not wait
// for the client to read. nil if it gave no code of PROTOCOL §11 that is an error.
func told(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok && e.Remote {
		return e
	}
	e, ok := errors.AsType[*wt.SessionError](err)
	if !ok || !e.Remote {
		return nil
	}
	switch code := codec.Code(e.Code); {
	case code == codec.CodeReplaced:
	case code.Range() == codec.RangeClean, code.Range() >= codec.RangeClient:
		return nil
	}
	return &Error{Code: codec.Code(e.Code), Reason: e.Reason, Remote: true}
}
