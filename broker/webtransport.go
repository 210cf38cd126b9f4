package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt"
)

// ServeWebTransport implements wt.Handler: it accepts the session whatever its
// path is, and serves it as ServeConn does. A refusal travels in band, since
// browsers do not show a status.
func (b *Broker) ServeWebTransport(ctx context.Context, r *wt.Request) {
	session, err := r.Accept(nil)
	if err != nil {
		b.log.Debug("session not accepted", slog.Any("error", err))
		return
	}
	if err := b.ServeConn(ctx, wtConn{session}); err != nil {
		b.log.Debug("session ended", slog.String("remote", session.RemoteAddr().String()), slog.Any("error", err))
	}
}

var _ wt.Handler = (*Broker)(nil)

// wtConn is a WebTransport session as a Conn.
type wtConn struct{ session *wt.Session }

func (c wtConn) AcceptStream(ctx context.Context) (Stream, error) {
	stream, err := c.session.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return stream, nil
}

func (c wtConn) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	return c.session.ReceiveDatagram(ctx)
}

func (c wtConn) SendDatagram(ctx context.Context, b []byte) error {
	err := c.session.SendDatagram(ctx, b)
	if errors.Is(err, wt.ErrDatagramTooLarge) {
		return ErrDatagramTooLarge
	}
	return err
}

func (c wtConn) MaxDatagramSize() int { return c.session.MaxDatagramSize() }

func (c wtConn) Stats() ConnStats {
	stats := c.session.Stats().Connection
	return ConnStats{RTT: stats.SmoothedRTT, PacketsSent: stats.PacketsSent, PacketsLost: stats.PacketsLost}
}

func (c wtConn) CloseWithError(code uint32, reason string) error {
	return c.session.CloseWithError(code, reason)
}

func (c wtConn) Context() context.Context { return c.session.Context() }
func (c wtConn) RemoteAddr() net.Addr     { return c.session.RemoteAddr() }

// endOfConn returns why a session ends whose connection has ended: errDone if the
// client has closed it without an error, which it says with a close or by ending the
// CONNECT stream.
func endOfConn(err error) error {
	if e, ok := errors.AsType[*wt.SessionError](err); ok && e.Remote && e.Code == uint32(codec.CodeOK) && (e.Via == wt.ViaCapsule || e.Via == wt.ViaFIN) {
		return errDone
	}
	if e, ok := errors.AsType[interface {
		error
		Clean() bool
	}](err); ok && e.Clean() {
		return errDone
	}
	return err
}
