package wttest

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
)

// maxQueued bounds the packets that are on their way to an endpoint, and those
// that it holds back.
const maxQueued = 1 << 14

// Network is a simulated network of UDP packets within the process. Its methods
// are safe for concurrent use, and changes apply to what is sent from then on.
type Network struct {
	// Static after construction.
	t    testing.TB
	seed uint64

	// Guarded by mu.
	mu        sync.Mutex
	link      Link
	cut       bool
	intercept func(Packet) Fate
	nodes     map[netip.AddrPort]*Endpoint // by outside address
	made      int                          // endpoints there have ever been
	order     uint64                       // of packets, where they are due at the same time
	stats     Stats
}

// Packet is a packet as its sender gave it to the network.
type Packet struct {
	// From is the endpoint that sent it.
	From *Endpoint
	// To is where it is sent to.
	To netip.AddrPort
	// N counts the packets that From has sent before.
	N int
	// Data is the UDP payload. It must not be changed.
	Data []byte
}

// Fate is what [Network.Intercept] decides on a packet. The zero value lets it
// pass. What passes still meets the conditions of its [Link].
type Fate struct {
	// Drop loses the packet.
	Drop bool
	// Delay adds to the latency of the link.
	Delay time.Duration
	// Copies are how often it arrives beside the first time.
	Copies int
}

// Stats count the packets of a network.
type Stats struct {
	// Sent are those that endpoints sent.
	Sent int
	// Delivered are those that endpoints got, repetitions included.
	Delivered int
	// Lost are those that [Link.Loss] chose, and Intercepted those that
	// [Network.Intercept] did.
	Lost, Intercepted int
	// Duplicated are repetitions, and Reordered those that [Link.Reorder] held
	// back.
	Duplicated, Reordered int
	// TooLarge exceeded [Link.MTU]; Overflowed found [Link.Queue], or that of an
	// endpoint which does not read, full.
	TooLarge, Overflowed int
	// Cut were sent during a partition.
	Cut int
	// Unreachable were for an address that no endpoint has.
	Unreachable int
}

// NewNetwork returns a network whose endpoints have link, until the test ends.
// The seed determines what is random; see the package's documentation.
func NewNetwork(t testing.TB, link Link, seed uint64) *Network {
	n := &Network{t: t, seed: seed, link: link.withDefaults(), nodes: make(map[netip.AddrPort]*Endpoint)}
	t.Cleanup(n.close)
	return n
}

// NewEndpoint returns a new endpoint with an address of its own.
func (n *Network) NewEndpoint() *Endpoint {
	n.mu.Lock()
	n.made++
	k := n.made
	n.mu.Unlock()
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)}), 4433)
	e := &Endpoint{
		network: n,
		outside: addr,
		random:  rand.New(rand.NewPCG(n.seed, uint64(k))),
		wake:    make(chan struct{}, 1),
		closed:  make(chan struct{}),
	}
	// It blocks when the reader is behind; what waits is bounded by deliver's queue.
	e.conn = simnet.NewBlockingSimConn(net.UDPAddrFromAddrPort(addr), uplink{e})
	n.mu.Lock()
	n.nodes[addr] = e
	n.mu.Unlock()
	e.delivering.Go(e.deliver)
	return e
}

// SetLink changes the link of all endpoints that have none of their own.
func (n *Network) SetLink(link Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link = link.withDefaults()
}

// Partition loses every packet that is sent until [Network.Heal]. Those that
// are on their way arrive.
func (n *Network) Partition() { n.setCut(true) }

// Heal ends a partition of the network.
func (n *Network) Heal() { n.setCut(false) }

func (n *Network) setCut(cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
}

// Intercept has f decide on each packet that is sent, after [Endpoint.Hold] and
// before its link. It may be called from several goroutines at once, and must
// not block. With nil, all pass.
func (n *Network) Intercept(f func(Packet) Fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.intercept = f
}

// Stats returns the counts so far.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// calm ends all that was done to the network, so that closes need not wait.
func (n *Network) calm() {
	n.Heal()
	n.Intercept(nil)
	n.SetLink(Link{})
	for _, e := range n.endpoints() {
		n.mu.Lock()
		e.link, e.cut = nil, false
		n.mu.Unlock()
		e.Release()
	}
}

func (n *Network) endpoints() []*Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]*Endpoint, 0, len(n.nodes))
	for _, e := range n.nodes {
		all = append(all, e)
	}
	return all
}

func (n *Network) close() {
	for _, e := range n.endpoints() {
		_ = e.Close()
	}
}

// send passes a packet through the link of its sender.
func (n *Network) send(p Packet) {
	n.mu.Lock()
	intercept := n.intercept
	n.mu.Unlock()
	var fate Fate
	if intercept != nil {
		fate = intercept(p)
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	e := p.From
	link := n.link
	if e.link != nil {
		link = *e.link
	}
	d := throw(e.random)
	to := n.nodes[p.To]
	switch {
	case fate.Drop:
		n.stats.Intercepted++
		return
	case n.cut || e.cut || to != nil && to.cut:
		n.stats.Cut++
		return
	case to == nil:
		n.stats.Unreachable++
		return
	case len(p.Data) > link.MTU:
		n.stats.TooLarge++
		return
	}
	now := time.Now()
	leaves := now
	if link.Rate > 0 {
		start := now
		if e.free.After(now) {
			start = e.free
		}
		leaves = start.Add(link.sendTime(len(p.Data)))
		if leaves.Sub(now) > link.sendTime(link.Queue) {
			n.stats.Overflowed++
			return
		}
		e.free = leaves
	}
	if d.loss < link.Loss {
		n.stats.Lost++
		return
	}
	if d.reorder < link.Reorder {
		n.stats.Reordered++
	}
	n.deliverLocked(p, to, leaves.Add(fate.Delay+link.delay(d)))
	copies := fate.Copies
	if d.duplicate < link.Duplicate {
		copies++
	}
	for range copies {
		n.stats.Duplicated++
		d.jitter = d.jitter2
		n.deliverLocked(p, to, leaves.Add(fate.Delay+link.delay(d)))
	}
}

func (n *Network) deliverLocked(p Packet, to *Endpoint, at time.Time) {
	n.order++
	packet := simnet.Packet{From: net.UDPAddrFromAddrPort(p.From.outside), To: net.UDPAddrFromAddrPort(p.To), Data: p.Data}
	if to.push(due{at, n.order, packet}) {
		n.stats.Delivered++
	} else {
		n.stats.Overflowed++
	}
}
