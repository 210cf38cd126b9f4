package wt_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// soaking reports whether tests are to run long, as make soak has them.
func soaking() bool { return os.Getenv("WT_SOAK") != "" }

// lives is what the ways that a session can live and end have at hand.
type lives struct {
	t        *testing.T
	network  *wttest.Network
	host     *wttest.Server
	accepted chan *wt.Session   // sessions that the handler keeps
	ends     []*wttest.Endpoint // of the present turn
	turn     int
}

// serveLife is the handler. The path says what it does.
func (l *lives) serveLife(ctx context.Context, r *wt.Request) {
	switch r.Path {
	case "/ignore":
	case "/reject":
		_ = r.Reject(451, nil)
	case "/return":
		_, _ = r.Accept(nil)
	case "/think":
		<-ctx.Done()
	default:
		if session, err := r.Accept(nil); err == nil {
			l.accepted <- session
			<-ctx.Done()
		}
	}
}

// dialer returns a dialer with an endpoint of its own, which ends with the turn.
func (l *lives) dialer() (d *wt.Dialer, end *wttest.Endpoint) {
	end = l.network.NewEndpoint()
	l.ends = append(l.ends, end)
	return l.host.Dialer(wt.Dialer{
		PacketConn: end,
		QUICConfig: &quic.Config{MaxIdleTimeout: 20 * time.Second},
	}), end
}

// session opens a session and, every second time, uses it.
func (l *lives) session() (client, server *wt.Session) {
	l.t.Helper()
	client, server, _ = l.sessionOf()
	return client, server
}

func (l *lives) sessionOf() (client, server *wt.Session, end *wttest.Endpoint) {
	l.t.Helper()
	d, end := l.dialer()
	client = must(d.Dial(l.t.Context(), l.host.URL))(l.t)
	server = <-l.accepted
	if l.turn++; l.turn%2 == 0 {
		l.use(client, server)
		l.use(server, client)
	}
	return client, server, end
}

// use leaves all kinds of streams behind, read to their end and not, and
// datagrams that nobody takes.
func (l *lives) use(from, to *wt.Session) {
	t, ctx := l.t, l.t.Context()
	t.Helper()
	b := make([]byte, 16)
	read := must(from.OpenStream(ctx))(t)
	check(t, write(read, "read to its end"))
	check(t, read.Close())
	accepted := must(to.AcceptStream(ctx))(t)
	for {
		if _, err := accepted.Read(b); err != nil {
			break
		}
	}
	check(t, accepted.Close())
	_ = must(from.OpenStream(ctx))(t) // never written on
	check(t, write(must(from.OpenStream(ctx))(t), "not accepted"))
	check(t, write(must(from.OpenUniStream(ctx))(t), "not accepted"))
	must(from.OpenUniStream(ctx))(t).CancelWrite(1)
	stopped := must(from.OpenUniStream(ctx))(t)
	check(t, write(stopped, "stopped"))
	must(to.AcceptUniStream(ctx))(t).CancelRead(2)
	check(t, from.SendDatagram(ctx, []byte("taken")))
	must(to.ReceiveDatagram(ctx))(t)
	for range 3 {
		check(t, from.SendDatagram(ctx, []byte("not taken")))
	}
}

// wantVia waits for the end of a session and checks it.
func (l *lives) wantVia(s *wt.Session, by wt.Party, via ...wt.Ending) {
	l.t.Helper()
	<-s.Context().Done()
	var ended *wt.SessionError
	if err := context.Cause(s.Context()); !errors.As(err, &ended) || ended.By != by || !slices.Contains(via, ended.Via) {
		l.t.Fatalf("session ended with %v (%+v), want by %v via %v", err, ended, by, via)
	}
}

// waysToEnd are the ways a session can end. None leaves anything on a client when
// it returns, and on the server after a while.
var waysToEnd = map[string]func(l *lives){
	"client closes": func(l *lives) {
		client, server := l.session()
		check(l.t, client.CloseWithError(1, "client"))
		l.wantVia(server, wt.Peer, wt.ViaCapsule)
	},
	"server closes": func(l *lives) {
		client, server := l.session()
		check(l.t, server.CloseWithError(1, "server"))
		l.wantVia(client, wt.Peer, wt.ViaCapsule)
	},
	"both close": func(l *lives) {
		client, server := l.session()
		var closing sync.WaitGroup
		closing.Go(func() { _ = client.Close() })
		closing.Go(func() { _ = server.Close() })
		closing.Wait()
	},
	"client finishes": func(l *lives) {
		client, server := l.session()
		check(l.t, client.Finish())
		l.wantVia(server, wt.Peer, wt.ViaFIN)
	},
	"server finishes": func(l *lives) {
		client, server := l.session()
		check(l.t, server.Finish())
		l.wantVia(client, wt.Peer, wt.ViaFIN)
	},
	"client resets": func(l *lives) {
		client, server := l.session()
		check(l.t, client.Reset(0x102))
		l.wantVia(client, wt.Us, wt.ViaReset)
		// The client's connection ends at once, and may be faster.
		<-server.Context().Done()
	},
	"server resets": func(l *lives) {
		client, server := l.session()
		check(l.t, server.Reset(0x102))
		l.wantVia(client, wt.Peer, wt.ViaReset)
	},
	"client closes the connection": func(l *lives) {
		client, server := l.session()
		check(l.t, client.CloseConnection(0x100, "client"))
		<-server.Context().Done()
	},
	"server closes the connection": func(l *lives) {
		client, server := l.session()
		check(l.t, server.CloseConnection(0x100, "server"))
		<-client.Context().Done()
	},
	"QUIC's connection closes": func(l *lives) {
		client, server := l.session()
		check(l.t, client.Conn().CloseWithError(0x1234, ""))
		<-server.Context().Done()
	},
	"client vanishes": func(l *lives) {
		client, server, end := l.sessionOf()
		end.Partition()
		l.wantVia(client, wt.Transport, wt.ViaLoss)
		l.wantVia(server, wt.Transport, wt.ViaLoss)
	},
	"client closes and vanishes": func(l *lives) {
		client, server, end := l.sessionOf()
		end.Partition()
		check(l.t, client.Close())
		<-server.Context().Done()
	},
	"server closes to a client that vanished": func(l *lives) {
		client, server, end := l.sessionOf()
		end.Partition()
		check(l.t, server.Close())
		l.wantVia(client, wt.Transport, wt.ViaLoss)
	},
	"handler returns": func(l *lives) {
		d, _ := l.dialer()
		client := must(d.Dial(l.t.Context(), l.host.URL+"return"))(l.t)
		l.wantVia(client, wt.Peer, wt.ViaCapsule)
	},
	"handler does not answer": func(l *lives) { l.wantRejected("ignore", 404) },
	"rejected":                func(l *lives) { l.wantRejected("reject", 451) },
	"dial cancelled while the handler thinks": func(l *lives) {
		d, _ := l.dialer()
		ctx, cancel := context.WithTimeout(l.t.Context(), time.Second)
		defer cancel()
		if _, err := d.Dial(ctx, l.host.URL+"think"); !errors.Is(err, context.DeadlineExceeded) {
			l.t.Fatalf("dial: %v", err)
		}
	},
	"dial cancelled in the handshake": func(l *lives) {
		d, end := l.dialer()
		end.SetLink(wttest.Link{Latency: 10 * time.Second})
		ctx, cancel := context.WithTimeout(l.t.Context(), time.Second)
		defer cancel()
		if _, err := d.Dial(ctx, l.host.URL); !errors.Is(err, context.DeadlineExceeded) {
			l.t.Fatalf("dial: %v", err)
		}
	},
	"dial of nobody": func(l *lives) {
		d, end := l.dialer()
		end.Partition()
		if _, err := d.Dial(l.t.Context(), l.host.URL); err == nil {
			l.t.Fatal("nobody was reached")
		}
	},
	"early, and closed before the answer": func(l *lives) {
		d, _ := l.dialer()
		client := must(d.DialEarly(l.t.Context(), l.host.URL+"think"))(l.t)
		check(l.t, write(must(client.OpenStream(l.t.Context()))(l.t), "early"))
		check(l.t, client.SendDatagram(l.t.Context(), []byte("early")))
		check(l.t, client.Close())
	},
	"early, and rejected": func(l *lives) {
		d, _ := l.dialer()
		client := must(d.DialEarly(l.t.Context(), l.host.URL+"reject"))(l.t)
		if stream, err := client.OpenStream(l.t.Context()); err == nil { // the answer may be faster
			_ = write(stream, "early")
		}
		l.wantVia(client, wt.Peer, wt.ViaAnswer)
		check(l.t, client.Close())
	},
	"drained": func(l *lives) {
		client, server := l.session()
		check(l.t, server.Drain())
		<-client.Draining()
		check(l.t, client.Close())
	},
	"rule broken": func(l *lives) {
		_, end := l.dialer()
		transport := &quic.Transport{Conn: end}
		p := dialBare(l.t, transport, l.host, peerQUIC())
		p.session()
		server := <-l.accepted
		p.uni([]byte{0x40, 0x54, 1}) // no id of a session
		p.wantClosed(h3IDError)
		<-server.Context().Done()
		check(l.t, transport.Close())
	},
	"slept, and woken": func(l *lives) {
		client, server := l.session()
		time.Sleep(5 * time.Second)
		check(l.t, client.SendDatagram(l.t.Context(), []byte("morning")))
		time.Sleep(5 * time.Second)
		check(l.t, server.Close())
	},
	"four on a connection": func(l *lives) {
		l.pooled(4, func(clients, servers []*wt.Session, _ *wttest.Endpoint) {
			l.use(clients[0], servers[0])
			check(l.t, clients[0].Close())
			check(l.t, servers[1].CloseWithError(1, "server"))
			check(l.t, clients[2].Finish())
			for i := range 3 {
				<-clients[i].Context().Done()
				<-servers[i].Context().Done()
			}
			l.use(clients[3], servers[3])
		})
	},
	"three on a connection that is lost": func(l *lives) {
		l.pooled(3, func(clients, servers []*wt.Session, end *wttest.Endpoint) {
			end.Partition()
			for i := range clients {
				l.wantVia(clients[i], wt.Transport, wt.ViaLoss)
				l.wantVia(servers[i], wt.Transport, wt.ViaLoss)
			}
		})
	},
	"server closed": func(l *lives) { l.wantServerEnds((*wt.Server).Close) },
	"server shut down": func(l *lives) {
		l.wantServerEnds(func(s *wt.Server) error {
			ctx, cancel := context.WithTimeout(l.t.Context(), time.Second)
			defer cancel()
			if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("shutdown: %w", err)
			}
			return nil
		})
	},
}

// pooled opens sessions on one connection, has f use them, and closes what is
// left.
func (l *lives) pooled(sessions int, f func(clients, servers []*wt.Session, end *wttest.Endpoint)) {
	l.t.Helper()
	d, end := l.dialer()
	transport := &quic.Transport{Conn: end}
	d.Transport, d.PacketConn = transport, nil
	pool := &wt.Pool{Dialer: *d}
	var clients, servers []*wt.Session
	for range sessions {
		clients = append(clients, must(pool.Dial(l.t.Context(), l.host.URL))(l.t))
		servers = append(servers, <-l.accepted)
		if clients[0].Conn() != clients[len(clients)-1].Conn() {
			l.t.Fatal("a session has a connection for itself")
		}
	}
	f(clients, servers, end)
	check(l.t, pool.Close())
	check(l.t, transport.Close())
}

// wantServerEnds ends a server of its own under a session.
func (l *lives) wantServerEnds(end func(*wt.Server) error) {
	l.t.Helper()
	server := must(wt.NewServer(wt.ServerConfig{
		TLSConfig: l.host.Identity.TLSConfig(),
		Handler:   wt.HandlerFunc(l.serveLife),
	}))(l.t)
	d, _ := l.dialer()
	socket := l.network.NewEndpoint() // the server closes it
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(socket) })
	client := must(d.Dial(l.t.Context(), "https://"+socket.Addr().String()))(l.t)
	l.use(client, <-l.accepted)
	check(l.t, end(server))
	serving.Wait()
	l.wantVia(client, wt.Transport, wt.ViaConnection)
	check(l.t, client.Close())
}

func (l *lives) wantRejected(path string, status int) {
	l.t.Helper()
	d, _ := l.dialer()
	var rejected *wt.RejectedError
	if _, err := d.Dial(l.t.Context(), l.host.URL+path); !errors.As(err, &rejected) || rejected.Status != status {
		l.t.Fatalf("dial: %v", err)
	}
}

// Sessions opened and ended in every way, one after another, leave nothing:
// goroutines and heap return to where they began. make soak opens 10,000.
func TestLeaks(t *testing.T) {
	total := 300
	if soaking() {
		total = 10_000
	}
	synctest.Test(t, func(t *testing.T) {
		l := &lives{t: t, network: wttest.NewNetwork(t, wttest.Link{}, 0), accepted: make(chan *wt.Session, 1)}
		l.host = wttest.Serve(t, l.network, wt.ServerConfig{
			Handler:                  wt.HandlerFunc(l.serveLife),
			MaxSessionsPerConnection: 4,
		})
		ways := slices.Sorted(maps.Keys(waysToEnd))
		live := func(sessions int) {
			for i := range sessions {
				waysToEnd[ways[i%len(ways)]](l)
				for _, end := range l.ends {
					check(t, end.Close())
				}
				l.ends = l.ends[:0]
			}
		}
		live(4 * len(ways)) // whatever is made once, and kept
		before := measure()
		live(total)
		after := measure()
		t.Logf("%d sessions in %d ways: goroutines %d, then %d; heap %d bytes in %d objects, then %d in %d", total, len(ways),
			before.goroutines, after.goroutines, before.bytes, before.objects, after.bytes, after.objects)
		if after.goroutines != before.goroutines {
			stacks := make([]byte, 1<<20)
			t.Errorf("goroutines: %d, then %d\n%s", before.goroutines, after.goroutines, stacks[:runtime.Stack(stacks, true)])
		}
		// A leak of one object a session is seen in soaking, one of a session's worth
		// always.
		if after.objects > before.objects+500 || after.bytes > before.bytes+128<<10 {
			t.Errorf("heap: %d bytes in %d objects, then %d in %d", before.bytes, before.objects, after.bytes, after.objects)
		}
	})
}

// usage is what the program holds.
type usage struct {
	goroutines     int
	bytes, objects uint64
}

// measure lets everything end that ends by itself, and says what is left.
func measure() usage {
	time.Sleep(5 * time.Minute)
	synctest.Wait()
	for range 3 { // pools are emptied in two turns
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{runtime.NumGoroutine(), m.HeapAlloc, m.HeapObjects}
}
