package contract

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// gate is a UDP socket whose packets can be swallowed, and whose peers can be made
// to look as if they had moved to another port.
type gate struct {
	conn  *net.UDPConn
	quiet *silence

	mu   sync.Mutex
	move int                  // added to the ports of peers; guarded by mu
	real map[int]*net.UDPAddr // peers by the port that is shown; guarded by mu
}

// silence says which packets are lost.
type silence struct{ up, down atomic.Bool }

func (s *silence) set(up, down bool) {
	s.up.Store(up)
	s.down.Store(down)
}

func newGate(conn *net.UDPConn, quiet *silence) *gate {
	return &gate{conn: conn, quiet: quiet, real: make(map[int]*net.UDPAddr)}
}

// shift makes every peer look as if it had got another port, as behind an address
// translator that forgot.
func (g *gate) shift() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.move++
}

// ReadFrom implements net.PacketConn.
func (g *gate) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, addr, err := g.conn.ReadFromUDP(p)
		if err != nil {
			return 0, nil, err
		}
		if g.quiet.up.Load() {
			continue
		}
		g.mu.Lock()
		shown := *addr
		shown.Port = 1 + (addr.Port+g.move-1)%65535
		g.real[shown.Port] = addr
		g.mu.Unlock()
		return n, &shown, nil
	}
}

// WriteTo implements net.PacketConn.
func (g *gate) WriteTo(p []byte, addr net.Addr) (int, error) {
	if g.quiet.down.Load() {
		return len(p), nil
	}
	to := addr
	if shown, ok := addr.(*net.UDPAddr); ok {
		g.mu.Lock()
		if addr := g.real[shown.Port]; addr != nil {
			to = addr
		}
		g.mu.Unlock()
	}
	return g.conn.WriteTo(p, to)
}

// Close implements net.PacketConn.
func (g *gate) Close() error { return g.conn.Close() }

// LocalAddr implements net.PacketConn.
func (g *gate) LocalAddr() net.Addr { return g.conn.LocalAddr() }

// SetDeadline implements net.PacketConn.
func (g *gate) SetDeadline(t time.Time) error { return g.conn.SetDeadline(t) }

// SetReadDeadline implements net.PacketConn.
func (g *gate) SetReadDeadline(t time.Time) error { return g.conn.SetReadDeadline(t) }

// SetWriteDeadline implements net.PacketConn.
func (g *gate) SetWriteDeadline(t time.Time) error { return g.conn.SetWriteDeadline(t) }

// SetReadBuffer is asked for by QUIC.
func (g *gate) SetReadBuffer(n int) error { return g.conn.SetReadBuffer(n) }

// SetWriteBuffer is asked for by QUIC.
func (g *gate) SetWriteBuffer(n int) error { return g.conn.SetWriteBuffer(n) }
