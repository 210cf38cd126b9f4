package main

import (
	"errors"
	"net"
	"syscall"
)

// portAttempts is how often a port is looked for that is free for both UDP and
// TCP, where any is asked for.
const portAttempts = 16

// listen binds an address for TCP, and the same one for UDP.
func listen(addr string) (net.Listener, net.PacketConn, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, nil, usagef("--addr %s: %v", addr, err)
	}
	for attempt := 1; ; attempt++ {
		pages, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, nil, inUse(addr, err)
		}
		packets, err := net.ListenPacket("udp", pages.Addr().String())
		if err == nil {
			return pages, packets, nil
		}
		err = errors.Join(inUse(addr, err), pages.Close())
		if port != "0" || attempt == portAttempts {
			return nil, nil, err
		}
	}
}

// inUse tells what to do about an address that is taken.
func inUse(addr string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return usagef("%s is in use; does a broker run already? --addr takes another address", addr)
	}
	return err
}
