package broker

import (
	"context"
	"net"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// Authenticator decides who a client is. It is asked for each HELLO and AUTH.
//
// An error refuses the client. If it is a *codec.Error its code and reason are
// sent; of any other error only CodeUnauthorized is, and the error is logged.
// Authenticate may be called concurrently, and should return when ctx ends.
type Authenticator interface {
	Authenticate(ctx context.Context, c Credentials) (Principal, error)
}

// Credentials are what a client shows.
type Credentials struct {
	Token      string   // as in HELLO or AUTH; "" if there was none
	RemoteAddr net.Addr // of the connection
}

// Principal is who a client is, and what it may do. Its methods are called
// concurrently, on the path of publishing and subscribing: they must be fast and
// must not block. Topics and patterns are valid and never of the system.
type Principal interface {
	// ID names the principal; a session is resumed, and its token replaced, only
	// by the same one. It may be empty.
	ID() string
	// Expires is when the permission ends; the zero time means never.
	Expires() time.Time
	CanPublish(topic string) bool
	CanSubscribe(pattern string) bool
}

// Open is the authenticator that lets every client publish and subscribe to
// everything but the system's topics. By itself it takes clients on the loopback
// interface only.
type Open struct {
	// AllowRemote takes clients from everywhere. Whoever reaches the broker can
	// then read and write every topic.
	AllowRemote bool
}

// Authenticate implements Authenticator.
func (o Open) Authenticate(_ context.Context, c Credentials) (Principal, error) {
	if !o.AllowRemote && !isLoopback(c.RemoteAddr) {
		return nil, codec.Errorf(codec.CodeUnauthorized, "this broker has no authenticator and takes clients on its own machine only")
	}
	return anyone{}, nil
}

// anyone is the principal of Open.
type anyone struct{}

func (anyone) ID() string               { return "" }
func (anyone) Expires() time.Time       { return time.Time{} }
func (anyone) CanPublish(string) bool   { return true }
func (anyone) CanSubscribe(string) bool { return true }

// isLoopback reports whether addr is on this machine. A connection within the
// process has no IP address, and is.
func isLoopback(addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.UDPAddr:
		return a.IP.IsLoopback()
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case nil:
		return false
	default:
		return addr.Network() == "memory"
	}
}
