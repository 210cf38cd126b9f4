package main

import (
	"context"
	"errors"
	"net"
	"net/url"
	"sync"
	"syscall"
)

// errNobody says that nothing listens at an address.
var errNobody = errors.New("nothing listens there")

// untilRefused returns a context that ends with errNobody when the system says
// that no program has the target's UDP port. QUIC does not see that and tries on
// for seconds, which is long for somebody who has forgotten to start a broker.
//
// It sends one byte, which is no QUIC packet and which a broker drops. It is for
// addresses of this machine, where the answer can be trusted; of a name it cannot
// tell which address is going to be tried. The caller calls stop, which waits.
func untilRefused(parent context.Context, target *url.URL) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	ip := net.ParseIP(target.Hostname())
	if ip == nil || !ip.IsLoopback() || target.Port() == "" {
		return ctx, func() { cancel(nil) }
	}
	probe, err := net.Dial("udp", target.Host)
	if err != nil {
		return ctx, func() { cancel(nil) } // the connection itself will tell
	}
	var watching sync.WaitGroup
	watching.Go(func() {
		if _, err := probe.Write([]byte{0}); err != nil {
			return
		}
		if _, err := probe.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNREFUSED) {
			cancel(errNobody)
		}
	})
	return ctx, func() {
		_ = probe.Close() // ends Read
		watching.Wait()
		cancel(nil)
	}
}
