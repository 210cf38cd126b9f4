package wt

import (
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlogwriter"
)

// Which connections a server takes. It is decided at a client's first packet,
// before TLS costs anything: the packet is taken, answered with Retry (RFC 9000
// §8.1.2), or refused with CONNECTION_REFUSED (RFC 9000 §20.1).

// defaultRetryThreshold is above what clients cause that all come back at once
// after a restart: quic-go sends few Retries at a time and drops the packets that
// ask for more, so that under a low threshold such clients back off for many
// seconds. Whoever forges addresses can have as many handshakes under way for some
// seconds each, which are tens of megabytes.
const defaultRetryThreshold = 1024

var errRefused = errors.New("wt: connection refused")

// ServerStats counts what a [Server] does with connections, over all its
// sockets.
type ServerStats struct {
	// Connections is how many connections there are now, those in their handshake
	// included, and those whose handlers have not returned.
	Connections int
	// Handshakes is how many of these have not completed their handshake.
	Handshakes int
	// Accepted is how many connections there have been.
	Accepted uint64
	// Retries is how many packets were answered with Retry. A client's hello takes
	// one or two packets, and each of them is answered.
	Retries uint64
	// RefusedFull is how many packets were answered with CONNECTION_REFUSED for
	// [ServerConfig.MaxConnections].
	RefusedFull uint64
	// RefusedAddr is how many packets were answered with CONNECTION_REFUSED for
	// [ServerConfig.MaxConnectionsPerAddr].
	RefusedAddr uint64
}

// admissions counts the connections of a server and holds them to its limits.
type admissions struct {
	// Static after construction.
	retryThreshold int
	maxConnections int
	maxPerAddr     int
	// running waits for all admissions. Serve holds it while admissions begin.
	running *sync.WaitGroup

	// Guarded by mu.
	mu     sync.Mutex
	stats  ServerStats
	byAddr map[netip.Prefix]int // only with a maxPerAddr
}

func newAdmissions(config *ServerConfig, running *sync.WaitGroup) *admissions {
	limitOf := func(n int) int {
		if n == 0 {
			return math.MaxInt
		}
		return n
	}
	a := &admissions{
		retryThreshold: config.RetryThreshold,
		maxConnections: limitOf(config.MaxConnections),
		maxPerAddr:     limitOf(config.MaxConnectionsPerAddr),
		running:        running,
	}
	if config.MaxConnectionsPerAddr > 0 {
		a.byAddr = make(map[netip.Prefix]int)
	}
	return a
}

// validate reports whether a client has to show that it receives at its address
// before it is admitted.
func (a *admissions) validate(addr net.Addr) bool {
	prefix := prefixOf(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	count := a.byAddr[prefix]
	switch {
	case a.stats.Connections >= a.maxConnections, count >= a.maxPerAddr:
		return false // refused in any case
	case a.stats.Handshakes+1 >= a.retryThreshold, count >= a.maxPerAddr/2:
		// The latter keeps half of an address's places from those who forge it.
		a.stats.Retries++
		return true
	default:
		return false
	}
}

// admit decides about a new connection. What it admits counts from its begin on.
func (a *admissions) admit(info *quic.ClientInfo) (*admission, error) {
	prefix := prefixOf(info.RemoteAddr)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.stats.Connections >= a.maxConnections:
		a.stats.RefusedFull++
		return nil, errRefused
	case a.byAddr[prefix] >= a.maxPerAddr:
		a.stats.RefusedAddr++
		return nil, errRefused
	}
	return &admission{all: a, prefix: prefix, addrValidated: info.AddrVerified, handshaking: true}, nil
}

func (a *admissions) snapshot() ServerStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stats
}

// prefixOf is what an address is counted as: an IPv4 address itself, an IPv6
// address with its /64, which is what one host is given. Other addresses are not
// counted: their prefix is invalid.
func prefixOf(addr net.Addr) netip.Prefix {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip, bits := udp.AddrPort().Addr().Unmap(), 32
	switch {
	case ip.IsLinkLocalUnicast():
		bits = ip.BitLen() // all hosts of a link have the same /64
	case ip.Is6():
		bits = 64
	}
	prefix, _ := ip.Prefix(bits) // invalid for no address
	return prefix
}

// admission is the place that one connection has. It is the trace of its QUIC
// connection, because that is how it is found again when the connection is
// accepted; it passes on what the application's tracer gives, and else no event.
type admission struct {
	// Static after begin.
	all           *admissions
	prefix        netip.Prefix
	addrValidated bool // by a token that the first packet carried
	tracer        func(context.Context, bool, quic.ConnectionID) qlogwriter.Trace
	trace         qlogwriter.Trace
	// disarm keeps the end of the QUIC connection from ending the admission.
	disarm func() bool

	// Guarded by all.mu.
	handshaking bool
	begun       bool
}

// begin is the Tracer of the QUIC connection: it is called once the connection
// is there, and ctx ends with it.
func (p *admission) begin(ctx context.Context, isClient bool, id quic.ConnectionID) qlogwriter.Trace {
	a := p.all
	a.running.Add(1)
	a.mu.Lock()
	p.begun = true
	a.stats.Connections++
	a.stats.Handshakes++
	a.stats.Accepted++
	if a.byAddr != nil && p.prefix.IsValid() {
		a.byAddr[p.prefix]++
	}
	a.mu.Unlock()
	p.disarm = context.AfterFunc(ctx, p.end)
	if p.tracer != nil {
		p.trace = p.tracer(ctx, isClient, id)
	}
	return p
}

// established notes that the handshake is complete.
func (p *admission) established() {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	if p.handshaking {
		p.handshaking = false
		p.all.stats.Handshakes--
	}
}

// end gives the place back. Only the first call does.
func (p *admission) end() {
	a := p.all
	a.mu.Lock()
	if !p.begun {
		a.mu.Unlock()
		return
	}
	p.begun = false
	a.stats.Connections--
	if p.handshaking {
		p.handshaking = false
		a.stats.Handshakes--
	}
	if n, counted := a.byAddr[p.prefix]; counted {
		if n == 1 {
			delete(a.byAddr, p.prefix)
		} else {
			a.byAddr[p.prefix] = n - 1
		}
	}
	a.mu.Unlock()
	a.running.Done()
}

// AddProducer implements qlogwriter.Trace.
func (p *admission) AddProducer() qlogwriter.Recorder {
	if p.trace == nil {
		return nil
	}
	return p.trace.AddProducer()
}

// admissionOf returns the admission of an accepted connection.
func admissionOf(q *quic.Conn) *admission {
	p, _ := q.QlogTrace().(*admission)
	return p
}
