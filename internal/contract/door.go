package contract

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/tidewire/tidewire/wt"
)

// door is the address at which one client reaches its broker. It stays the same
// while the network is cut and while the broker is away.
type door struct {
	node     *node
	identity *wt.Identity
	addr     *net.UDPAddr
	quiet    silence

	mu      sync.Mutex
	cut     bool       // by the scenario; guarded by mu
	server  *wt.Server // nil while nobody can pass; guarded by mu
	gate    *gate      // of server; guarded by mu
	serving sync.WaitGroup
}

// newDoor opens a door to a node, at any port.
func newDoor(n *node, identity *wt.Identity) (*door, error) {
	d := &door{node: n, identity: identity, addr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	return d, d.open()
}

// open lets the client through, unless the scenario has cut the network or the
// broker is away.
func (d *door) open() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut || d.server != nil || d.node.current() == nil {
		return nil
	}
	conn, err := net.ListenUDP("udp4", d.addr)
	if err != nil {
		return err
	}
	d.addr = conn.LocalAddr().(*net.UDPAddr)
	g := newGate(conn, &d.quiet)
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig:   d.identity.TLSConfig(),
		Handler:     wt.HandlerFunc(d.node.serve),
		CheckOrigin: func(*wt.Request) bool { return true }, // pages have another port
	})
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	d.server, d.gate = server, g
	d.serving.Go(func() {
		if err := server.Serve(g); !errors.Is(err, wt.ErrServerClosed) {
			d.node.log.Error("door", "error", err)
		}
	})
	return nil
}

// close ends the connections that pass, at once, and takes no others.
func (d *door) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.server == nil {
		return nil
	}
	err := d.server.Close()
	d.serving.Wait()
	d.server, d.gate = nil, nil
	return err
}

// setCut cuts the network of the client, or restores it.
func (d *door) setCut(cut bool) error {
	d.mu.Lock()
	d.cut = cut
	d.mu.Unlock()
	if cut {
		return d.close()
	}
	d.quiet.set(false, false)
	return d.open()
}

// move makes the client look as if it had moved to another address.
func (d *door) move() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gate == nil {
		return errors.New("there is no connection that could move")
	}
	d.gate.shift()
	return nil
}

func (d *door) url() string { return fmt.Sprintf("https://%s/tidewire", d.addr) }
