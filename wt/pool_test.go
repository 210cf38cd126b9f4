package wt_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// poolEcho is a handler that echoes streams and datagrams, until the session ends.
// It hands each session over first.
func poolEcho(sessions chan<- *wt.Session) wt.Handler {
	return wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
		session, err := r.Accept(nil)
		if err != nil {
			return
		}
		sessions <- session
		var serving sync.WaitGroup
		defer serving.Wait()
		serving.Go(func() {
			for {
				b, err := session.ReceiveDatagram(ctx)
				if err != nil {
					return
				}
				_ = session.SendDatagram(ctx, b)
			}
		})
		for {
			stream, err := session.AcceptStream(ctx)
			if err != nil {
				return
			}
			serving.Go(func() {
				_, _ = io.Copy(stream, stream)
				_ = stream.Close()
			})
		}
	})
}

// newPool returns a pool over a simulated network to a server of the package. Both
// end with the test.
func newPool(t *testing.T, config wt.ServerConfig) (*wt.Pool, *wt.Server) {
	t.Helper()
	n := newNetwork(t, 0)
	server, identity := serve(t, n.server, config)
	transport := &quic.Transport{Conn: n.client}
	pool := &wt.Pool{Dialer: wt.Dialer{Transport: transport, CertificateHashes: [][32]byte{identity.Hash()}}}
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Errorf("pool: %v", err)
		}
		_ = transport.Close()
	})
	return pool, server
}

// wantPooledEcho sends a message on a stream and a datagram, and wants both back.
func wantPooledEcho(t *testing.T, session *wt.Session, message string) {
	t.Helper()
	stream := must(session.OpenStream(t.Context()))(t)
	must(io.WriteString(stream, message))(t)
	check(t, stream.Close())
	if b := must(io.ReadAll(stream))(t); string(b) != message {
		t.Errorf("echo of %q is %q", message, b)
	}
	check(t, session.SendDatagram(t.Context(), []byte(message)))
	if b := must(session.ReceiveDatagram(t.Context()))(t); string(b) != message {
		t.Errorf("datagram of %q is %q", message, b)
	}
}

// connections counts the different connections of sessions.
func connections(sessions []*wt.Session) int {
	conns := make(map[*quic.Conn]bool)
	for _, s := range sessions {
		conns[s.Conn()] = true
	}
	return len(conns)
}

// Sessions share a connection, and end one by one.
func TestPoolSharesConnection(t *testing.T) {
	accepted := make(chan *wt.Session, 2)
	pool, _ := newPool(t, wt.ServerConfig{MaxSessionsPerConnection: 8, Handler: poolEcho(accepted)})
	ctx := t.Context()
	first := must(pool.Dial(ctx, serverURL+"first"))(t)
	firstAtServer := <-accepted
	second := must(pool.Dial(ctx, "https://127.0.0.2:4433/second?x=1"))(t)
	secondAtServer := <-accepted
	if connections([]*wt.Session{first, second}) != 1 {
		t.Error("sessions are on different connections")
	}
	if a, b := firstAtServer.Request().Path, secondAtServer.Request().RawPath; a != "/first" || b != "/second?x=1" {
		t.Errorf("paths %q and %q", a, b)
	}
	wantPooledEcho(t, first, "ebb")
	wantPooledEcho(t, second, "flood")

	check(t, first.CloseWithError(5, "enough"))
	<-firstAtServer.Context().Done()
	wantSessionError(t, context.Cause(firstAtServer.Context()), wt.Peer, 5, "enough")
	wantPooledEcho(t, second, "still here")

	// The server ends the other, whose connection then serves a third.
	check(t, secondAtServer.CloseWithError(6, "shut"))
	<-second.Context().Done()
	wantSessionError(t, context.Cause(second.Context()), wt.Peer, 6, "shut")
	check(t, second.Close())
	third := must(pool.Dial(ctx, serverURL))(t)
	if third.Conn() != first.Conn() {
		t.Error("the connection was not used again")
	}
	wantPooledEcho(t, third, "again")
}

// The server's limit, which draft 16 does not declare, is learned from what it
// rejects.
func TestPoolLearnsLimit(t *testing.T) {
	for limit := 1; limit <= 3; limit++ {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			const total = 7
			accepted := make(chan *wt.Session, 2*total)
			pool, _ := newPool(t, wt.ServerConfig{MaxSessionsPerConnection: limit, Handler: poolEcho(accepted)})
			var sessions []*wt.Session
			for i := range total {
				session := must(pool.Dial(t.Context(), serverURL))(t)
				wantPooledEcho(t, session, fmt.Sprint("session ", i))
				sessions = append(sessions, session)
			}
			if n, want := connections(sessions), (total+limit-1)/limit; n != want {
				t.Errorf("%d sessions are on %d connections, want %d", total, n, want)
			}
		})
	}
}

// Dials at the same time share one handshake, and what it teaches.
func TestPoolConcurrentDials(t *testing.T) {
	for limit, want := range map[int]int{8: 1, 4: 2, 1: 8} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			accepted := make(chan *wt.Session, 8)
			pool, _ := newPool(t, wt.ServerConfig{MaxSessionsPerConnection: limit, Handler: poolEcho(accepted)})
			sessions := make([]*wt.Session, 8)
			var dialing sync.WaitGroup
			for i := range sessions {
				dialing.Go(func() {
					session, err := pool.Dial(t.Context(), serverURL)
					if err != nil {
						t.Errorf("dial: %v", err)
						return
					}
					sessions[i] = session
				})
			}
			dialing.Wait()
			if t.Failed() {
				return
			}
			// Refusals that cross may cost a connection more, never a session.
			if n := connections(sessions); n < want || n > want+4 || limit == 8 && n != 1 {
				t.Errorf("8 sessions are on %d connections, want %d", n, want)
			}
			for _, session := range sessions {
				wantPooledEcho(t, session, "tide")
			}
		})
	}
}

// A session that is not read, or not accepted from, stops no other, on either side.
func TestPoolStalledSession(t *testing.T) {
	// stall sends data and opens streams of both kinds until nothing more goes, and
	// then sends more datagrams than anybody keeps.
	stall := func(t *testing.T, stalled *wt.Session) {
		sent := 0
		for blocked := false; !blocked; {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			stream, err := stalled.OpenStream(ctx)
			if err == nil {
				check(t, stream.SetWriteDeadline(time.Now().Add(time.Second)))
				var n int
				n, err = stream.Write(make([]byte, 256<<10))
				sent += n
			}
			cancel()
			blocked = err != nil
			if blocked && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("data: %v", err)
			}
		}
		if sent < 512<<10 {
			t.Errorf("blocked after %d bytes", sent)
		}
		exhaust := func(open func(context.Context) (io.Closer, error)) {
			opened := 0
			for ; ; opened++ {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				stream, err := open(ctx)
				cancel()
				if err != nil {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("streams: %v", err)
					}
					break
				}
				check(t, stream.Close())
			}
			if opened < 100 {
				t.Errorf("blocked after %d streams", opened)
			}
		}
		exhaust(func(ctx context.Context) (io.Closer, error) { return stalled.OpenStream(ctx) })
		exhaust(func(ctx context.Context) (io.Closer, error) { return stalled.OpenUniStream(ctx) })
		for range 500 {
			if err := stalled.TrySendDatagram([]byte("flood")); err != nil && !errors.Is(err, wt.ErrWouldBlock) {
				t.Errorf("datagram: %v", err)
			}
		}
		synctest.Wait()
	}
	t.Run("at the server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			accepted := make(chan *wt.Session, 8)
			pool, _ := newPool(t, wt.ServerConfig{MaxSessionsPerConnection: 4, Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
				if r.Path == "/stalled" {
					accepting(accepted).ServeWebTransport(ctx, r)
				} else {
					poolEcho(accepted).ServeWebTransport(ctx, r)
				}
			})})
			var stalled []*wt.Session
			for range 3 {
				stalled = append(stalled, must(pool.Dial(t.Context(), serverURL+"stalled"))(t))
			}
			live := must(pool.Dial(t.Context(), serverURL))(t)
			if connections(append(stalled, live)) != 1 {
				t.Fatal("sessions are on different connections")
			}
			for _, session := range stalled {
				stall(t, session)
			}
			wantPooledEcho(t, live, strings.Repeat("alive ", 100))
			stream := must(live.OpenStream(t.Context()))(t)
			go func() { // 4 MiB: more than the session's window
				_, _ = stream.Write(make([]byte, 4<<20))
				_ = stream.Close()
			}()
			if b := must(io.ReadAll(stream))(t); len(b) != 4<<20 {
				t.Errorf("echo of %d bytes", len(b))
			}
		})
	})
	t.Run("at the client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			accepted := make(chan *wt.Session, 8)
			pool, _ := newPool(t, wt.ServerConfig{MaxSessionsPerConnection: 4, Handler: poolEcho(accepted)})
			pool.MaxSessionsPerConnection = 4
			var stalled []*wt.Session
			for range 3 {
				must(pool.Dial(t.Context(), serverURL))(t)
				stalled = append(stalled, <-accepted)
			}
			live := must(pool.Dial(t.Context(), serverURL))(t)
			liveAtServer := <-accepted
			for _, session := range stalled {
				stall(t, session)
			}
			wantPooledEcho(t, live, strings.Repeat("alive ", 100))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			uni := must(liveAtServer.OpenUniStream(ctx))(t)
			must(uni.Write([]byte("uni")))(t)
			check(t, uni.Close())
			if b := must(io.ReadAll(must(live.AcceptUniStream(ctx))(t)))(t); string(b) != "uni" {
				t.Errorf("read %q", b)
			}
			stream := must(live.OpenStream(t.Context()))(t)
			go func() {
				_, _ = stream.Write(make([]byte, 4<<20))
				_ = stream.Close()
			}()
			if b := must(io.ReadAll(stream))(t); len(b) != 4<<20 {
				t.Errorf("echo of %d bytes", len(b))
			}
		})
	})
}

// A connection without a session is kept for IdleTimeout.
func TestPoolIdleTimeout(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"default": 5 * time.Second, "field": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				accepted := make(chan *wt.Session, 8)
				pool, _ := newPool(t, wt.ServerConfig{MaxSessionsPerConnection: 8, Handler: poolEcho(accepted)})
				if name == "field" {
					pool.IdleTimeout = timeout
				}
				first := must(pool.Dial(t.Context(), serverURL))(t)
				second := must(pool.Dial(t.Context(), serverURL))(t)
				conn := first.Conn()
				check(t, first.Close())
				time.Sleep(2 * timeout)
				wantPooledEcho(t, second, "in use")
				check(t, second.Close())
				time.Sleep(timeout - time.Millisecond)
				third := must(pool.Dial(t.Context(), serverURL))(t)
				if third.Conn() != conn {
					t.Error("the connection was not kept")
				}
				check(t, third.Close())
				began := time.Now()
				<-conn.Context().Done()
				if kept := time.Since(began); kept != timeout {
					t.Errorf("the connection was kept for %v, want %v", kept, timeout)
				}
				fourth := must(pool.Dial(t.Context(), serverURL))(t)
				wantPooledEcho(t, fourth, "anew")
			})
		})
	}
}

// draft-16 §4.7: after GOAWAY a connection gets no further session, and ends with
// the last.
func TestPoolGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, pool := listenPool(t, 0)
		control, first := p.accept(t, pool, flowSettings())
		must(control.Write(frame(7, varints(4))))(t)
		<-first.session.Draining()
		_, second := p.accept(t, pool, flowSettings())
		if first.session.Conn() == second.session.Conn() {
			t.Error("a connection was used after GOAWAY")
		}
		began := time.Now()
		check(t, first.stream.Close())
		<-first.session.Conn().Context().Done()
		if waited := time.Since(began); waited > time.Second { // the end of the session goes first
			t.Errorf("the connection ended after %v", waited)
		}
		check(t, second.stream.Close())
	})
}

// RFC 9114 §5.2: a request that the server's GOAWAY refuses is sent again.
func TestPoolRepeatsRefused(t *testing.T) {
	for name, refuse := range map[string]func(stream *quic.Stream, control *quic.SendStream) []byte{
		"GOAWAY": func(_ *quic.Stream, control *quic.SendStream) []byte {
			_, _ = control.Write(frame(7, varints(4)))
			return nil
		},
		"reset": func(stream *quic.Stream, _ *quic.SendStream) []byte {
			stream.CancelWrite(h3RequestRejected)
			return nil
		},
		"429":     func(*quic.Stream, *quic.SendStream) []byte { return headers(":status", "429") },
		"closing": nil,
	} {
		t.Run(name, func(t *testing.T) {
			p, pool := listenPool(t, 0)
			control, first := p.accept(t, pool, flowSettings())
			result := p.dial(pool)
			stream := must(first.peer.conn.AcceptStream(t.Context()))(t)
			first.peer.readHeaders(stream)
			if refuse == nil {
				check(t, first.peer.conn.CloseWithError(h3NoError, ""))
			} else if b := refuse(stream, control); b != nil {
				first.peer.write(stream, b)
			}
			second := p.answer(t, flowSettings(), result)
			if first.session.Conn() == second.session.Conn() {
				t.Error("both sessions are on one connection")
			}
			check(t, second.stream.Close())
			check(t, first.peer.conn.CloseWithError(h3NoError, ""))
		})
	}
}

// A server that refuses a session which has a connection for itself means it.
func TestPoolTellsRefusal(t *testing.T) {
	t.Run("429", func(t *testing.T) {
		asked := 0
		pool, _ := newPool(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
			asked++
			_ = r.Reject(http.StatusTooManyRequests, nil)
		})})
		_, err := pool.Dial(t.Context(), serverURL)
		var rejected *wt.RejectedError
		if !errors.As(err, &rejected) || rejected.Status != http.StatusTooManyRequests {
			t.Errorf("dial returned %v", err)
		}
		check(t, pool.Close())
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
	t.Run("403 beside a session", func(t *testing.T) {
		accepted := make(chan *wt.Session, 1)
		pool, _ := newPool(t, wt.ServerConfig{MaxSessionsPerConnection: 8, Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
			if r.Path == "/no" {
				_ = r.Reject(http.StatusForbidden, nil)
				return
			}
			poolEcho(accepted).ServeWebTransport(ctx, r)
		})})
		session := must(pool.Dial(t.Context(), serverURL))(t)
		_, err := pool.Dial(t.Context(), serverURL+"no")
		var rejected *wt.RejectedError
		if !errors.As(err, &rejected) || rejected.Status != http.StatusForbidden {
			t.Errorf("dial returned %v", err)
		}
		wantPooledEcho(t, session, "unharmed")
	})
	t.Run("reset", func(t *testing.T) {
		p, pool := listenPool(t, 0)
		result := p.dial(pool)
		q := p.next(t, flowSettings())
		stream := must(q.conn.AcceptStream(t.Context()))(t)
		stream.CancelWrite(h3RequestRejected)
		var reset *wt.StreamError
		if err := (<-result).err; !errors.As(err, &reset) || reset.HTTPCode != h3RequestRejected {
			t.Errorf("dial returned %v", err)
		}
	})
	t.Run("no WebTransport", func(t *testing.T) {
		p, pool := listenPool(t, 0)
		result := p.dial(pool)
		q := p.next(t, settingsFrame(8, 1, 0x33, 1))
		if err := (<-result).err; !errors.Is(err, wt.ErrUnsupported) {
			t.Errorf("dial returned %v", err)
		}
		q.wantClosed(h3NoError)
	})
}

// draft-16 §5.1: without flow control on both sides, one session a connection. Of
// older drafts, no more than the server declares.
func TestPoolKeepsToSettings(t *testing.T) {
	for name, c := range map[string]struct {
		settings []byte
		room     int
	}{
		"-16 without flow control":        {serverSettings(), 1},
		"-16 with it":                     {flowSettings(), 3}, // the pool's own limit
		"-02":                             {settingsFrame(8, 1, 0x33, 1, 0x2b603742, 1), 1},
		"-07 of many sessions":            {settingsFrame(8, 1, 0x33, 1, 0xc671706a, 9), 1},
		"-12 of two":                      {settingsFrame(8, 1, 0x33, 1, 0xc671706a, 2, 0x2b61, 1000, 0x2b64, 10, 0x2b65, 10), 2},
		"-14 of two":                      {settingsFrame(8, 1, 0x33, 1, 0x14e9cd29, 2, 0x2b61, 1000, 0x2b64, 10, 0x2b65, 10), 2},
		"-14 of two, limits in capsules":  {settingsFrame(8, 1, 0x33, 1, 0x14e9cd29, 2), 2},
		"-14 of one":                      {settingsFrame(8, 1, 0x33, 1, 0x14e9cd29, 1, 0x2b61, 1000), 1},
		"-14 of many":                     {settingsFrame(8, 1, 0x33, 1, 0x14e9cd29, 1<<40, 0x2b61, 1000), 3},
		"-14 of many, without datagrams?": {settingsFrame(8, 1, 0x33, 1, 0x14e9cd29, 100, 0x2c7cf000, 1), 1}, // it speaks -16
	} {
		t.Run(name, func(t *testing.T) {
			p, pool := listenPool(t, 3)
			_, first := p.accept(t, pool, c.settings)
			for range c.room - 1 {
				result := p.dial(pool)
				stream := must(first.peer.conn.AcceptStream(t.Context()))(t)
				first.peer.readHeaders(stream)
				first.peer.write(stream, headers(":status", "200"))
				check(t, (<-result).err)
			}
			_, other := p.accept(t, pool, c.settings)
			if other.peer.conn == first.peer.conn {
				t.Error("one session too many on a connection")
			}
			check(t, first.peer.conn.CloseWithError(h3NoError, ""))
			check(t, other.peer.conn.CloseWithError(h3NoError, ""))
		})
	}
}

// Whoever gives up a dial does not end that of another.
func TestPoolDialContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, pool := listenPool(t, 0)
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("changed my mind")
		impatient := make(chan error, 1)
		go func() {
			_, err := pool.Dial(ctx, serverURL)
			impatient <- err
		}()
		q := p.nextSilent(t)
		result := p.dial(pool)
		synctest.Wait()
		cancel(why)
		if err := <-impatient; !errors.Is(err, why) {
			t.Errorf("dial returned %v", err)
		}
		q.control(flowSettings())
		stream := must(q.conn.AcceptStream(t.Context()))(t)
		q.readHeaders(stream)
		q.write(stream, headers(":status", "200"))
		check(t, (<-result).err)
		check(t, q.conn.CloseWithError(h3NoError, ""))

		// When nobody waits any more, neither does the connection.
		ctx, cancel = context.WithCancelCause(t.Context())
		go func() {
			_, err := pool.Dial(ctx, serverURL)
			impatient <- err
		}()
		q = p.nextSilent(t)
		cancel(why)
		if err := <-impatient; !errors.Is(err, why) {
			t.Errorf("dial returned %v", err)
		}
		q.wantClosed(h3NoError)
	})
}

// A lost connection ends its sessions, and the next dial makes another.
func TestPoolLostConnection(t *testing.T) {
	accepted := make(chan *wt.Session, 3)
	pool, _ := newPool(t, wt.ServerConfig{MaxSessionsPerConnection: 8, Handler: poolEcho(accepted)})
	first := must(pool.Dial(t.Context(), serverURL))(t)
	second := must(pool.Dial(t.Context(), serverURL))(t)
	check(t, (<-accepted).CloseConnection(0x102, "oops"))
	for _, session := range []*wt.Session{first, second} {
		<-session.Context().Done()
		var ended *wt.SessionError
		if !errors.As(context.Cause(session.Context()), &ended) || ended.Via != wt.ViaConnection || ended.HTTPCode != 0x102 {
			t.Errorf("session ended with %v", ended)
		}
	}
	third := must(pool.Dial(t.Context(), serverURL))(t)
	wantPooledEcho(t, third, "anew")
	if third.Conn() == first.Conn() {
		t.Error("a dead connection was used")
	}
}

// Close ends everything, waits for it, and is the end.
func TestPoolClose(t *testing.T) {
	accepted := make(chan *wt.Session, 3)
	pool, _ := newPool(t, wt.ServerConfig{MaxSessionsPerConnection: 2, Handler: poolEcho(accepted)})
	var sessions []*wt.Session
	for range 3 {
		sessions = append(sessions, must(pool.Dial(t.Context(), serverURL))(t))
	}
	check(t, pool.Close())
	for _, session := range sessions {
		wantSessionError(t, context.Cause(session.Context()), wt.Us, 0, "")
		if session.Conn().Context().Err() == nil {
			t.Error("a connection is left")
		}
		server := <-accepted
		<-server.Context().Done()
		var ended *wt.SessionError
		if !errors.As(context.Cause(server.Context()), &ended) || ended.Via != wt.ViaCapsule || ended.By != wt.Peer {
			t.Errorf("the server's session ended with %v", ended)
		}
	}
	if _, err := pool.Dial(t.Context(), serverURL); !errors.Is(err, wt.ErrPoolClosed) {
		t.Errorf("dial returned %v", err)
	}
	check(t, pool.Close())

	t.Run("dials under way", func(t *testing.T) {
		p, pool := listenPool(t, 1)
		unanswered := p.dial(pool)
		q := p.next(t, flowSettings())
		q.readHeaders(must(q.conn.AcceptStream(t.Context()))(t))
		connecting := p.dial(pool)
		p.nextSilent(t)
		check(t, pool.Close())
		for _, result := range []<-chan dialed{unanswered, connecting} {
			if err := (<-result).err; !errors.Is(err, wt.ErrPoolClosed) {
				t.Errorf("dial returned %v", err)
			}
		}
	})
}

func TestPoolArguments(t *testing.T) {
	for name, pool := range map[string]*wt.Pool{
		"MaxSessionsPerConnection": {MaxSessionsPerConnection: -1},
		"IdleTimeout":              {IdleTimeout: -1},
		"PacketConn":               {Dialer: wt.Dialer{PacketConn: newNetwork(t, 0).client}},
		"MaxQueuedDatagrams":       {Dialer: wt.Dialer{MaxQueuedDatagrams: -1}},
	} {
		if _, err := pool.Dial(t.Context(), serverURL); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: dial returned %v", name, err)
		}
		check(t, pool.Close())
	}
	pool := &wt.Pool{}
	if _, err := pool.Dial(t.Context(), "http://x/"); err == nil {
		t.Error("dial of http: no error")
	}
	check(t, pool.Close())
	check(t, (&wt.Pool{}).Close())
}

// Sessions opened and closed from many sides leave the pool as it should be.
func TestPoolChurn(t *testing.T) {
	accepted := make(chan *wt.Session, 1000)
	pool, _ := newPool(t, wt.ServerConfig{MaxSessionsPerConnection: 3, Handler: poolEcho(accepted)})
	var opened atomic.Int64
	var workers sync.WaitGroup
	for range 6 {
		workers.Go(func() {
			for i := range 15 {
				session, err := pool.Dial(t.Context(), serverURL)
				if err != nil {
					// Everybody may be refused by turns.
					var reset *wt.StreamError
					if !errors.As(err, &reset) || reset.HTTPCode != h3RequestRejected {
						t.Errorf("dial: %v", err)
					}
					continue
				}
				opened.Add(1)
				if err := session.CloseWithError(uint32(i), ""); err != nil {
					t.Errorf("close: %v", err)
				}
			}
		})
	}
	workers.Wait()
	if opened.Load() < 60 {
		t.Errorf("%d sessions of 90", opened.Load())
	}
}

// flowSettings are those of a server of draft 16 with flow control.
func flowSettings() []byte {
	return settingsFrame(8, 1, 0x33, 1, 0x2c7cf000, 1, 0x2b61, 1<<20, 0x2b64, 100, 0x2b65, 100)
}

// poolPeer is a server made by hand that a pool connects to.
type poolPeer struct {
	t        *testing.T
	listener *quic.Listener
	dialing  sync.WaitGroup
}

// pooledSession is a session of a pool with its server's end.
type pooledSession struct {
	session *wt.Session
	peer    *peer
	stream  *quic.Stream
}

// listenPool returns a server made by hand and a pool that trusts it. Both end
// with the test.
func listenPool(t *testing.T, sessions int) (*poolPeer, *wt.Pool) {
	t.Helper()
	n := newNetwork(t, 0)
	identity := must(wt.NewDevIdentity())(t)
	config := identity.TLSConfig()
	config.NextProtos = []string{"h3"}
	transport := &quic.Transport{Conn: n.server}
	p := &poolPeer{t: t, listener: must(transport.Listen(config, peerQUIC()))(t)}
	client := &quic.Transport{Conn: n.client}
	made := &wt.Pool{
		Dialer:                   wt.Dialer{Transport: client, CertificateHashes: [][32]byte{identity.Hash()}},
		MaxSessionsPerConnection: sessions,
	}
	t.Cleanup(func() {
		_ = p.listener.Close()
		_ = transport.Close()
		check(t, made.Close())
		p.dialing.Wait()
		_ = client.Close()
	})
	return p, made
}

// dial begins a dial.
func (p *poolPeer) dial(pool *wt.Pool) <-chan dialed {
	result := make(chan dialed, 1)
	p.dialing.Go(func() {
		session, err := pool.Dial(p.t.Context(), serverURL)
		result <- dialed{session, err}
	})
	return result
}

// nextSilent accepts a connection.
func (p *poolPeer) nextSilent(t *testing.T) *peer {
	t.Helper()
	return &peer{t: t, conn: must(p.listener.Accept(t.Context()))(t)}
}

// next accepts a connection and declares settings.
func (p *poolPeer) next(t *testing.T, settings []byte) *peer {
	t.Helper()
	q := p.nextSilent(t)
	q.control(settings)
	return q
}

// answer accepts a connection and on it a session, which a dial waits for.
func (p *poolPeer) answer(t *testing.T, settings []byte, result <-chan dialed) pooledSession {
	t.Helper()
	q := p.next(t, settings)
	stream := must(q.conn.AcceptStream(t.Context()))(t)
	q.readHeaders(stream)
	q.write(stream, headers(":status", "200"))
	answer := <-result
	return pooledSession{must(answer.session, answer.err)(t), q, stream}
}

// accept dials, and accepts a connection and the session on it. It returns the
// server's control stream as well.
func (p *poolPeer) accept(t *testing.T, pool *wt.Pool, settings []byte) (*quic.SendStream, pooledSession) {
	t.Helper()
	result := p.dial(pool)
	q := p.nextSilent(t)
	control := q.control(settings)
	stream := must(q.conn.AcceptStream(t.Context()))(t)
	q.readHeaders(stream)
	q.write(stream, headers(":status", "200"))
	answer := <-result
	return control, pooledSession{must(answer.session, answer.err)(t), q, stream}
}
