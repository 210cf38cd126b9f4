package wt

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/testutils/simnet"
)

// What a connection does at moments that a peer cannot bring about.

// bareConns returns both ends of a QUIC connection that nobody serves.
func bareConns(t *testing.T) (client, server *quic.Conn) {
	t.Helper()
	n := &simnet.Simnet{Router: &simnet.PerfectRouter{}}
	address := func(last byte) *net.UDPAddr { return &net.UDPAddr{IP: net.IP{127, 0, 0, last}, Port: 4433} }
	from := n.NewEndpoint(address(1), simnet.NodeBiDiLinkSettings{})
	to := n.NewEndpoint(address(2), simnet.NodeBiDiLinkSettings{})
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	identity, err := NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	host, guest := &quic.Transport{Conn: to}, &quic.Transport{Conn: from}
	t.Cleanup(func() {
		_, _ = guest.Close(), host.Close()
		_, _ = from.Close(), to.Close()
		_ = n.Close()
	})
	listener, err := host.Listen(serverTLS(identity.TLSConfig()), quicConfig(nil, 100, 100))
	if err != nil {
		t.Fatal(err)
	}
	trust := Dialer{CertificateHashes: [][32]byte{identity.Hash()}}
	tlsConfig, err := trust.tlsConfig("localhost")
	if err != nil {
		t.Fatal(err)
	}
	if client, err = guest.Dial(t.Context(), address(2), tlsConfig, quicConfig(nil, 100, 100)); err != nil {
		t.Fatal(err)
	}
	if server, err = listener.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// testConn returns a connection of this package on bare QUIC, with none of its
// goroutines.
func testConn(t *testing.T, q *quic.Conn, isClient bool) *conn {
	t.Helper()
	var d Dialer
	limits, err := d.limits()
	if err != nil {
		t.Fatal(err)
	}
	return newConn(q, isClient, limits, slog.New(slog.DiscardHandler))
}

// testSession returns a session of the connection.
func testSession(t *testing.T, c *conn) *Session {
	t.Helper()
	stream, err := c.quic.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	return newSession(ctx, cancel, c, stream, newFrameReader(stream))
}

// A request on a connection of which the streams have ended, but not QUIC's
// context, fails with why they have.
func TestRequestOnEndingConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, _ := bareConns(t)
		c := testConn(t, q, true)
		c.peer = settings{datagram: true, connectProtocol: true, enabled: 1}
		close(c.settled)
		lost := errors.New("lost")
		c.ended, c.cause = true, lost
		session, err := c.request(t.Context(), clientRequest{head: requestHead{method: "CONNECT", scheme: "https", authority: "localhost", path: "/"}})
		if session != nil || !errors.Is(err, lost) {
			t.Errorf("got session %v, error %v", session, err)
		}
	})
}

// A request for which a connection that had sessions turns out to have ended is made on
// another one; one on a new connection fails.
func TestRequestOnEndedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, other := bareConns(t)
		c := testConn(t, q, true)
		c.peer = settings{datagram: true, connectProtocol: true, enabled: 1}
		close(c.settled)
		if err := other.CloseWithError(0x102, "oops"); err != nil {
			t.Fatal(err)
		}
		<-q.Context().Done()
		_, err := c.request(t.Context(), clientRequest{head: requestHead{method: "CONNECT", scheme: "https", authority: "localhost", path: "/"}})
		var closed *quic.ApplicationError
		if !errors.As(err, &closed) || closed.ErrorCode != 0x102 {
			t.Fatalf("the request failed with %v", err)
		}
		pooled := &pooledConn{pool: new(Pool), conn: c}
		if !(place{conn: pooled, number: 2}).refused(err) || !pooled.unusable {
			t.Errorf("it is not made on another connection: %v", err)
		}
		if (place{conn: pooled, number: 1}).refused(err) {
			t.Error("it is made again, though the connection was new")
		}
	})
}

// A session whose connection ended as soon as the answer was sent has ended with what
// ended the connection, and nothing waits for it.
func TestSessionOnEndedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, _ := bareConns(t)
		c := testConn(t, q, true)
		session := testSession(t, c)
		c.ended, c.cause = true, &quic.ApplicationError{Remote: true, ErrorCode: codeNoError, ErrorMessage: "done"}
		session.serve()
		<-session.done
		var ended *SessionError
		if err := context.Cause(session.Context()); !errors.As(err, &ended) || ended.By != Transport || ended.Via != ViaConnection || ended.HTTPCode != codeNoError {
			t.Errorf("the session ended with %v", err)
		}
		if _, err := session.AcceptStream(t.Context()); !errors.Is(err, ErrSessionClosed) {
			t.Errorf("AcceptStream: %v", err)
		}
	})
}

// Of those that wait for datagrams somebody leads, also if the one whose turn it
// was has found a datagram in its queue.
func TestLeadIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, _ := bareConns(t)
		c := testConn(t, q, true)
		one, other := testSession(t, c), testSession(t, c)
		for range 200 {
			ctx, cancel := context.WithCancel(t.Context())
			c.receiver.lead()
			got := make(chan error, 2)
			for _, s := range []*Session{one, other} {
				go func() {
					_, err := c.receiver.receive(ctx, s)
					got <- err
				}()
				synctest.Wait()
			}
			c.receiver.release()
			one.incoming.add([]byte("for one"), &c.limits)
			synctest.Wait()
			if !c.receiver.leading.Load() {
				t.Fatal("nobody leads")
			}
			cancel()
			<-got
			<-got
			one.incoming.queue.take()
		}
		c.datagrams.stop()
	})
}

// A packet that QUIC has counted but not handled when the rouser looks is noticed
// at the next look, though no other packet has come.
func TestRouserLooksTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, peer := bareConns(t)
		c := testConn(t, q, false)
		stream, err := peer.OpenUniStream()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Write([]byte{streamControl, frameSettings, 0}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r := newRouser()
		r.conns[c] = &heartbeat{packets: q.ConnectionStats().PacketsReceived, moved: true}
		r.look()
		time.Sleep(time.Second)
		select {
		case <-c.settled:
		default:
			t.Error("SETTINGS were not noticed")
		}
		c.goroutines.Wait()
	})
}

// A connection is not closed for idleness when a request comes at that moment.
func TestRequestAtIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, _ := bareConns(t)
		c := testConn(t, q, false)
		c.addRequest(0)
		c.closeIdle()
		if err := q.Context().Err(); err != nil {
			t.Errorf("closed: %v", context.Cause(q.Context()))
		}
	})
}

// Bytes that are read while their stream is given up are counted once.
func TestReadWhileAbandoned(t *testing.T) {
	f := &flow{ourData: newDataGrant(100), more: make(chan struct{})}
	f.ourData.step = 1000 // so that nothing is told
	var in account
	f.finalSize(&in, 100)
	f.abandoned(&in)
	f.received(&in, 40)
	if f.ourData.used != 100 || f.ourData.released != 100 {
		t.Errorf("%d bytes used, %d released, want 100", f.ourData.used, f.ourData.released)
	}
}

// A session on a connection that has received GOAWAY drains from its
// beginning.
func TestSessionAfterGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, _ := bareConns(t)
		c := testConn(t, q, true)
		s := testSession(t, c)
		c.addRequest(s.id)
		if err := c.handleGoAway(400); err != nil {
			t.Fatal(err)
		}
		c.addSession(s)
		select {
		case <-s.Draining():
		default:
			t.Error("not draining")
		}
	})
}
