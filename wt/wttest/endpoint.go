package wttest

import (
	"container/heap"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
)

// Endpoint is a socket on a [Network]. It is a net.PacketConn, and its methods
// are safe for concurrent use.
type Endpoint struct {
	// Static after construction.
	network *Network
	conn    *simnet.SimConn
	wake    chan struct{} // holds a token when the inbox changed
	closed  chan struct{}

	delivering sync.WaitGroup
	closing    sync.Once

	// Guarded by the network's mu.
	outside netip.AddrPort
	link    *Link // nil where it is the network's
	cut     bool
	random  *rand.Rand
	free    time.Time // when the link has sent what it was given
	sent    int
	holding bool
	held    []Packet

	// Guarded by mu, which is taken after the network's.
	mu    sync.Mutex
	inbox inbox
	gone  bool
}

var _ net.PacketConn = (*Endpoint)(nil)

// uplink is the router of one endpoint.
type uplink struct{ *Endpoint }

// AddNode does nothing: the network knows its endpoints.
func (uplink) AddNode(net.Addr, simnet.PacketReceiver) {}

// SendPacket takes a packet that the endpoint sends. It never fails, as little
// as UDP does.
func (u uplink) SendPacket(p simnet.Packet) error {
	to, ok := p.To.(*net.UDPAddr)
	if !ok {
		return errors.New("wttest: not a UDP address")
	}
	addr := to.AddrPort()
	n := u.network
	n.mu.Lock()
	packet := Packet{From: u.Endpoint, To: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), N: u.sent, Data: p.Data}
	u.sent++
	n.stats.Sent++
	holding := u.holding
	if holding {
		if len(u.held) < maxQueued {
			u.held = append(u.held, packet)
		} else {
			n.stats.Overflowed++
		}
	}
	n.mu.Unlock()
	if !holding {
		n.send(packet)
	}
	return nil
}

// SetLink gives the endpoint a link of its own for what it sends.
func (e *Endpoint) SetLink(link Link) {
	link = link.withDefaults()
	e.network.mu.Lock()
	defer e.network.mu.Unlock()
	e.link = &link
}

// Partition loses what is sent from or to the endpoint until [Endpoint.Heal].
func (e *Endpoint) Partition() { e.setCut(true) }

// Heal ends a partition of the endpoint.
func (e *Endpoint) Heal() { e.setCut(false) }

func (e *Endpoint) setCut(cut bool) {
	e.network.mu.Lock()
	defer e.network.mu.Unlock()
	e.cut = cut
}

// Hold keeps back what the endpoint sends, until it is released.
func (e *Endpoint) Hold() {
	e.network.mu.Lock()
	defer e.network.mu.Unlock()
	e.holding = true
}

// Release ends [Endpoint.Hold], sends what was kept back, oldest first, and
// returns how many packets that were.
func (e *Endpoint) Release() int { return e.release(false) }

// ReleaseReversed is [Endpoint.Release] with the newest packet first, so that
// each overtakes all those before it.
func (e *Endpoint) ReleaseReversed() int { return e.release(true) }

func (e *Endpoint) release(reversed bool) int {
	e.network.mu.Lock()
	held := e.held
	e.held, e.holding = nil, false
	e.network.mu.Unlock()
	if reversed {
		slices.Reverse(held)
	}
	for _, p := range held {
		e.network.send(p)
	}
	return len(held)
}

// Move gives the endpoint another address, as a translator does whose binding
// has expired: what it sends comes from the new one, what is sent to the old one
// is lost, and the endpoint does not notice, nor does its LocalAddr. An address
// that is in use fails the test.
func (e *Endpoint) Move(to netip.AddrPort) {
	e.network.t.Helper()
	n := e.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if holder := n.nodes[to]; holder != nil && holder != e {
		n.t.Errorf("wttest: another endpoint has the address %v", to)
		return
	}
	if n.nodes[e.outside] != e {
		return // it is closed
	}
	delete(n.nodes, e.outside)
	e.outside = to
	n.nodes[to] = e
}

// Addr returns the address that others see.
func (e *Endpoint) Addr() netip.AddrPort {
	e.network.mu.Lock()
	defer e.network.mu.Unlock()
	return e.outside
}

// LocalAddr returns the address that the endpoint was made with.
func (e *Endpoint) LocalAddr() net.Addr { return e.conn.LocalAddr() }

// ReadFrom reads a packet.
func (e *Endpoint) ReadFrom(p []byte) (int, net.Addr, error) { return e.conn.ReadFrom(p) }

// WriteTo sends a packet to a *net.UDPAddr. It does not block, and does not fail
// for what the network does to the packet.
func (e *Endpoint) WriteTo(p []byte, addr net.Addr) (int, error) { return e.conn.WriteTo(p, addr) }

// SetDeadline sets both deadlines.
func (e *Endpoint) SetDeadline(t time.Time) error { return e.conn.SetDeadline(t) }

// SetReadDeadline bounds reads.
func (e *Endpoint) SetReadDeadline(t time.Time) error { return e.conn.SetReadDeadline(t) }

// SetWriteDeadline bounds writes.
func (e *Endpoint) SetWriteDeadline(t time.Time) error { return e.conn.SetWriteDeadline(t) }

// SetReadBuffer does nothing. quic-go asks for it.
func (e *Endpoint) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing. quic-go asks for it.
func (e *Endpoint) SetWriteBuffer(int) error { return nil }

// Close takes the endpoint off the network, with what is under way to it.
func (e *Endpoint) Close() error {
	e.closing.Do(func() {
		n := e.network
		n.mu.Lock()
		if n.nodes[e.outside] == e {
			delete(n.nodes, e.outside)
		}
		e.held = nil
		n.mu.Unlock()
		e.mu.Lock()
		e.gone, e.inbox = true, nil
		e.mu.Unlock()
		close(e.closed)
		_ = e.conn.Close()
	})
	e.delivering.Wait()
	return nil
}

// push has a packet delivered. It reports false for want of room.
func (e *Endpoint) push(p due) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone || len(e.inbox) >= maxQueued {
		return false
	}
	heap.Push(&e.inbox, p)
	select {
	case e.wake <- struct{}{}:
	default:
	}
	return true
}

// deliver hands packets to the reader when they are due, until the endpoint is
// closed.
func (e *Endpoint) deliver() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		e.mu.Lock()
		var next *due
		var wait time.Duration
		if len(e.inbox) > 0 {
			if wait = time.Until(e.inbox[0].at); wait <= 0 {
				p := heap.Pop(&e.inbox).(due)
				next = &p
			}
		}
		empty := len(e.inbox) == 0
		e.mu.Unlock()
		switch {
		case next != nil:
			e.conn.RecvPacket(next.packet)
			continue
		case empty:
			timer.Stop()
		default:
			timer.Reset(wait)
		}
		select {
		case <-timer.C:
		case <-e.wake:
		case <-e.closed:
			return
		}
	}
}

// due is a packet that arrives at a time. Among equals, the one sent first.
type due struct {
	at     time.Time
	order  uint64
	packet simnet.Packet
}

// inbox is a heap of packets by the time they are due.
type inbox []due

// Len implements heap.Interface.
func (b inbox) Len() int { return len(b) }

// Less implements heap.Interface.
func (b inbox) Less(i, j int) bool {
	if !b[i].at.Equal(b[j].at) {
		return b[i].at.Before(b[j].at)
	}
	return b[i].order < b[j].order
}

// Swap implements heap.Interface.
func (b inbox) Swap(i, j int) { b[i], b[j] = b[j], b[i] }

// Push implements heap.Interface.
func (b *inbox) Push(x any) { *b = append(*b, x.(due)) }

// Pop implements heap.Interface.
func (b *inbox) Pop() any {
	old := *b
	last := old[len(old)-1]
	old[len(old)-1] = due{}
	*b = old[:len(old)-1]
	return last
}
