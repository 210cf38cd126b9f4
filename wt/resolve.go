package wt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// The way from a name to a connection: both families of addresses are looked up
// and tried side by side, as RFC 8305 describes it ("Happy Eyeballs").

// Resolver looks up the addresses of names. *[net.Resolver] is one. A Resolver
// must be safe for concurrent use.
type Resolver interface {
	// LookupNetIP returns the addresses of host, in the order in which they are to
	// be tried. network is "ip4" or "ip6" for the family that is asked for. It
	// returns when ctx ends at the latest.
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	// attemptDelay is how long an attempt has before the next address is tried
	// beside it (RFC 8305 §5).
	attemptDelay = 250 * time.Millisecond
	// resolutionDelay is how long addresses of one family wait for those of the
	// preferred one (RFC 8305 §3).
	resolutionDelay = 50 * time.Millisecond
	// maxAddresses bounds the addresses of a family that are tried.
	maxAddresses = 8
)

// lookup is what was found for one family.
type lookup struct {
	v6    bool
	addrs []netip.Addr
	err   error
}

// attempt is the end of one try.
type attempt struct {
	conn *quic.Conn
	err  error
}

// race connects to one of a server's addresses by dial, which ends with its
// context. It is used for one connection.
type race struct {
	// Static.
	resolver Resolver
	host     string
	port     uint16
	dial     func(ctx context.Context, addr netip.AddrPort) (*quic.Conn, error)

	// Owned by run.
	v4, v6       []netip.Addr // found and not tried
	got4, got6   bool         // whether the lookup has ended
	waited       bool         // long enough for the preferred family
	tried, last4 bool         // whether there was an attempt, and the last one's family
	lookupErrs   []error
	attemptErrs  []error
}

// run returns the first connection whose handshake is complete. When it returns,
// all other attempts and lookups have ended. The error of a name that was not
// resolved has resolved false.
func (r *race) run(ctx context.Context) (conn *quic.Conn, resolved bool, err error) {
	if addr, err := netip.ParseAddr(r.host); err == nil {
		conn, err := r.dial(ctx, netip.AddrPortFrom(addr, r.port))
		return conn, true, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	// Both are buffered for all that will ever be sent, so that nobody waits for run.
	lookups := make(chan lookup, 2)
	attempts := make(chan attempt, 2*maxAddresses)
	defer func() {
		cancel(nil)
		running.Wait()
		for len(attempts) > 0 { // a second winner
			if lost := <-attempts; lost.conn != nil {
				_ = lost.conn.CloseWithError(codeNoError, "")
			}
		}
	}()
	for _, v6 := range []bool{true, false} {
		running.Go(func() { lookups <- r.lookUp(ctx, v6) })
	}

	var delay <-chan time.Time // until the next attempt may begin
	inFlight := 0
	for ctx.Err() == nil {
		if delay == nil {
			addr, ok, wait := r.next()
			switch {
			case ok:
				inFlight++
				running.Go(func() {
					conn, err := r.dial(ctx, addr)
					if err != nil {
						err = fmt.Errorf("%v: %w", addr, err)
					}
					attempts <- attempt{conn, err}
				})
				delay = time.After(attemptDelay)
			case wait:
				delay = time.After(resolutionDelay)
			case inFlight == 0 && r.got4 && r.got6 && r.tried:
				return nil, true, errors.Join(r.attemptErrs...)
			case r.got4 && r.got6 && !r.tried:
				return nil, false, errors.Join(r.lookupErrs...)
			}
		}
		select {
		case found := <-lookups:
			if r.take(found); !r.tried {
				delay = nil // it need not wait for the other family
			}
		case done := <-attempts:
			if done.err == nil {
				return done.conn, true, nil
			}
			inFlight--
			r.attemptErrs = append(r.attemptErrs, done.err)
			delay = nil // RFC 8305 §5: the next begins at once
		case <-delay:
			delay = nil
			r.waited = true
		case <-ctx.Done():
		}
	}
	return nil, r.tried, context.Cause(ctx)
}

// lookUp looks up one family.
func (r *race) lookUp(ctx context.Context, v6 bool) lookup {
	network := "ip4"
	if v6 {
		network = "ip6"
	}
	addrs, err := r.resolver.LookupNetIP(ctx, network, r.host)
	found := lookup{v6: v6, err: err}
	for _, addr := range addrs {
		// Resolvers may give addresses of IPv4 in the form of IPv6.
		if addr = addr.Unmap(); addr.Is4() != v6 && len(found.addrs) < maxAddresses {
			found.addrs = append(found.addrs, addr)
		}
	}
	if err == nil && len(found.addrs) == 0 {
		found.err = &net.DNSError{Err: "no address", Name: r.host, IsNotFound: true}
	}
	return found
}

// take takes note of what was found.
func (r *race) take(found lookup) {
	if found.v6 {
		r.v6, r.got6 = found.addrs, true
	} else {
		r.v4, r.got4 = found.addrs, true
	}
	// A name that does not exist gives the same error twice.
	if found.err != nil && (len(r.lookupErrs) == 0 || r.lookupErrs[0].Error() != found.err.Error()) {
		r.lookupErrs = append(r.lookupErrs, found.err)
	}
}

// next takes out the address that is to be tried next. If there is none, wait
// says that some are held back for the preferred family, for resolutionDelay.
//
// IPv6 comes first, and then the families take turns (RFC 8305 §4), except that
// names of this machine resolve to ::1 on many where servers bind 127.0.0.1.
func (r *race) next() (addr netip.AddrPort, ok, wait bool) {
	if len(r.v4) == 0 && len(r.v6) == 0 {
		return netip.AddrPort{}, false, false
	}
	take4 := !r.last4
	if !r.tried {
		take4 = len(r.v6) == 0 || r.v6[0].IsLoopback()
		missing := take4 && len(r.v4) == 0 && !r.got4 ||
			len(r.v6) == 0 && !r.got6 && !r.v4[0].IsLoopback()
		if missing && !r.waited {
			return netip.AddrPort{}, false, true
		}
	}
	from := &r.v6
	if take4 && len(r.v4) > 0 || len(r.v6) == 0 {
		from = &r.v4
	}
	chosen := (*from)[0]
	*from = (*from)[1:]
	r.tried, r.last4 = true, chosen.Is4()
	return netip.AddrPortFrom(chosen, r.port), true, false
}
