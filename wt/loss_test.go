package wt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// joined is a session over a network that the test can spoil.
type joined struct {
	network        *wttest.Network
	clientEnd      *wttest.Endpoint
	host           *wttest.Server
	client, server *wt.Session
}

// join joins a client and a server that accepts each request.
func join(t *testing.T, link wttest.Link, seed uint64, config wt.ServerConfig, dialer wt.Dialer) joined {
	t.Helper()
	n := wttest.NewNetwork(t, link, seed)
	sessions := make(chan *wt.Session, 1)
	config.Handler = accepting(sessions)
	j := joined{network: n, host: wttest.Serve(t, n, config), clientEnd: n.NewEndpoint()}
	dialer.PacketConn = j.clientEnd
	j.client = must(j.host.Dialer(dialer).Dial(t.Context(), j.host.URL))(t)
	j.server = <-sessions
	return j
}

// sides are the ends of a session in both orders.
func (j joined) sides() map[string][2]*wt.Session {
	return map[string][2]*wt.Session{"client": {j.client, j.server}, "server": {j.server, j.client}}
}

// conditions are networks on which sessions live as on a good one.
var conditions = map[string]wttest.Link{
	"10 % loss":           {Latency: 20 * time.Millisecond, Loss: 0.1},
	"loss and reordering": {Latency: 20 * time.Millisecond, Jitter: 30 * time.Millisecond, Loss: 0.1},
	"duplication":         {Latency: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, Duplicate: 0.5},
	"late packets":        {Latency: 20 * time.Millisecond, Reorder: 0.2, ReorderBy: 100 * time.Millisecond},
	"narrow and lossy":    {Latency: 50 * time.Millisecond, Rate: 250_000, Queue: 32 << 10, Loss: 0.02},
}

// everySeed is a test of random conditions with n seeds, and many more in a soak.
func everySeed(n uint64, f func(t *testing.T, seed uint64)) func(*testing.T) {
	if soaking() {
		n *= 40
	}
	return func(t *testing.T) {
		var seed uint64
		defer func() {
			if t.Failed() {
				t.Logf("with seed %d", seed)
			}
		}()
		for ; seed < n; seed++ {
			if f(t, seed); t.Failed() {
				return
			}
		}
	}
}

// noise is n bytes that no part of repeats.
func noise(n int, seed uint64) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// What is written on streams arrives complete and in order, both ways at once:
// 1 MiB on one stream, and a little on each of twenty more.
func TestStreamsUnderLoss(t *testing.T) {
	for name, link := range conditions {
		t.Run(name, everySeed(1, func(t *testing.T, seed uint64) {
			synctest.Test(t, func(t *testing.T) {
				j := join(t, link, seed, wt.ServerConfig{}, wt.Dialer{})
				var work sync.WaitGroup
				exchange := func(label string, from, to *wt.Session, size, streams int) {
					work.Go(func() {
						for i := range streams {
							stream, err := from.OpenUniStream(t.Context())
							if err != nil {
								t.Errorf("%s: %v", label, err)
								return
							}
							b := noise(size, uint64(i))
							work.Go(func() {
								if _, err := stream.Write(append([]byte{byte(i)}, b...)); err != nil {
									t.Errorf("%s: write: %v", label, err)
								} else if err := stream.Close(); err != nil {
									t.Errorf("%s: close: %v", label, err)
								}
							})
						}
						for range streams {
							stream, err := to.AcceptUniStream(t.Context())
							if err != nil {
								t.Errorf("%s: %v", label, err)
								return
							}
							work.Go(func() {
								got, err := io.ReadAll(stream)
								if err != nil || len(got) == 0 || !bytes.Equal(got[1:], noise(size, uint64(got[0]))) {
									t.Errorf("%s: %d bytes differ from the %d sent, or %v", label, len(got), size+1, err)
								}
							})
						}
					})
				}
				// One after the other, because streams are not told apart otherwise.
				for _, batch := range []struct{ size, streams int }{{1 << 20, 1}, {5000, 20}} {
					for side, ends := range j.sides() {
						exchange(side, ends[0], ends[1], batch.size, batch.streams)
					}
					work.Wait()
				}
			})
		}))
	}
}

// The echo of a bidirectional stream, whose directions hinder each other.
func TestEchoUnderLoss(t *testing.T) {
	for _, data := range []int64{0, 64 << 10} {
		t.Run(fmt.Sprintf("MaxSessionData %d", data), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := join(t, conditions["10 % loss"], 2, wt.ServerConfig{MaxSessionData: data}, wt.Dialer{MaxSessionData: data})
				var work sync.WaitGroup
				defer work.Wait()
				defer j.client.Close()
				work.Go(func() { echo(j.server) })
				check(t, roundTrip(j.client, noise(1<<20, 3)))
			})
		})
	}
}

// Datagrams are lost at the network's rate and not beyond, arrive whole, and
// never twice. A few more are lost where packets are very late, because QUIC takes
// them for repetitions.
func TestDatagramsUnderLoss(t *testing.T) {
	for name, link := range conditions {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := join(t, link, 1, wt.ServerConfig{}, wt.Dialer{})
				const sent = 500
				for side, ends := range j.sides() {
					var work sync.WaitGroup
					work.Go(func() {
						for i := range sent {
							if err := ends[0].SendDatagram(t.Context(), append([]byte{byte(i >> 8), byte(i)}, noise(100, uint64(i))...)); err != nil {
								t.Errorf("%s: %v", side, err)
							}
							time.Sleep(10 * time.Millisecond)
						}
					})
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					seen := make(map[int]bool)
					for {
						b, err := ends[1].ReceiveDatagram(ctx)
						if err != nil {
							break
						}
						i := int(b[0])<<8 | int(b[1])
						if seen[i] || !bytes.Equal(b[2:], noise(100, uint64(i))) {
							t.Errorf("%s: datagram %d came twice, or changed", side, i)
						}
						seen[i] = true
					}
					cancel()
					work.Wait()
					least := int(sent * (1 - link.Loss) * 0.92)
					if link.Loss == 0 && link.Reorder == 0 {
						least = sent
					}
					if len(seen) < least {
						t.Errorf("%s: %d of %d datagrams arrived, want %d", side, len(seen), sent, least)
					}
				}
			})
		})
	}
}

// A close's code and reason arrive whatever single packets are lost, and both
// sides know who closed.
func TestCloseUnderLoss(t *testing.T) {
	for name, link := range conditions {
		t.Run(name, everySeed(15, func(t *testing.T, seed uint64) {
			for _, side := range []string{"client", "server"} {
				synctest.Test(t, func(t *testing.T) {
					ends := join(t, link, seed, wt.ServerConfig{}, wt.Dialer{}).sides()[side]
					began := time.Now()
					check(t, ends[0].CloseWithError(4000, "through the storm"))
					if took := time.Since(began); took > 2500*time.Millisecond {
						t.Errorf("the %s's close took %v", side, took)
					}
					<-ends[1].Context().Done()
					wantSessionError(t, context.Cause(ends[0].Context()), wt.Us, 4000, "through the storm")
					wantSessionError(t, context.Cause(ends[1].Context()), wt.Peer, 4000, "through the storm")
				})
			}
		}))
	}
}

// The same where exactly the packet with the close is lost, once and again.
func TestCloseLost(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		for lost := 1; lost <= 3; lost++ {
			t.Run(fmt.Sprintf("%s %d times", side, lost), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					j := join(t, wttest.Link{Latency: 20 * time.Millisecond}, 0, wt.ServerConfig{}, wt.Dialer{})
					time.Sleep(time.Second) // what QUIC does after a handshake is done
					sender, ends := j.clientEnd, j.sides()[side]
					if side == "server" {
						sender = j.host.Endpoint
					}
					var mu sync.Mutex
					left := lost
					j.network.Intercept(func(p wttest.Packet) wttest.Fate {
						mu.Lock()
						defer mu.Unlock()
						if p.From != sender || left == 0 {
							return wttest.Fate{}
						}
						left--
						return wttest.Fate{Drop: true}
					})
					check(t, ends[0].CloseWithError(1, "lost and found"))
					<-ends[1].Context().Done()
					wantSessionError(t, context.Cause(ends[1].Context()), wt.Peer, 1, "lost and found")
					if got := j.network.Stats().Intercepted; got != lost {
						t.Errorf("%d packets were lost, want %d", got, lost)
					}
				})
			})
		}
	}
}

// A network that is silent for less than the idle timeout costs time, and
// nothing else: neither session nor data. QUIC doubles the pause between its
// probes, so that what waits takes up to twice as long as the network did.
func TestPartitionSurvived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := join(t, wttest.Link{Latency: 20 * time.Millisecond}, 0, wt.ServerConfig{}, wt.Dialer{})
		var work sync.WaitGroup
		work.Go(func() { echo(j.server) })
		time.Sleep(time.Minute)
		j.network.Partition()
		began := time.Now()
		work.Go(func() { check(t, roundTrip(j.client, noise(100_000, 1))) })
		time.Sleep(8 * time.Second)
		j.network.Heal()
		check(t, roundTrip(j.client, noise(100_000, 2)))
		if took := time.Since(began); took < 8*time.Second || took > 17*time.Second {
			t.Errorf("the echo came after %v", took)
		}
		check(t, j.client.Close())
		work.Wait()
	})
}

// A network that stays silent ends the session on both sides when QUIC's idle
// timeout says so, as an end by the transport: no close of the peer's, and no
// code.
func TestPartitionNotSurvived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := &quic.Config{MaxIdleTimeout: 12 * time.Second, KeepAlivePeriod: 5 * time.Second}
		j := join(t, wttest.Link{Latency: 20 * time.Millisecond}, 0, wt.ServerConfig{QUICConfig: config}, wt.Dialer{QUICConfig: config})
		time.Sleep(time.Hour)
		j.network.Partition()
		began := time.Now()
		for side, ends := range j.sides() {
			<-ends[0].Context().Done()
			// From the last packet, at most a keep-alive ago, or the first that stays
			// unanswered, which is one at most ahead.
			if took := time.Since(began); took < 7*time.Second || took > 18*time.Second {
				t.Errorf("%s: ended after %v", side, took)
			}
			err := context.Cause(ends[0].Context())
			wantSessionError(t, err, wt.Transport, 0, "")
			var idle *quic.IdleTimeoutError
			if !errors.As(err, &idle) {
				t.Errorf("%s: ended with %v, want an idle timeout", side, err)
			}
			_, err = ends[0].OpenStream(t.Context())
			wantSessionError(t, err, wt.Transport, 0, "")
		}
		began = time.Now()
		check(t, j.client.Close())
		check(t, j.server.Close())
		if took := time.Since(began); took != 0 {
			t.Errorf("closing lost sessions took %v", took)
		}
	})
}

// A client whose address changes keeps its session, with all that is under way:
// once behind a translator, which it does not notice, and once because it moves
// to another socket.
func TestAddressChange(t *testing.T) {
	moved := netip.MustParseAddrPort("192.0.2.7:5555")
	moves := map[string]func(t *testing.T, j joined) netip.AddrPort{
		"translator": func(_ *testing.T, j joined) netip.AddrPort {
			j.clientEnd.Move(moved)
			return moved
		},
		"other socket": func(t *testing.T, j joined) netip.AddrPort {
			end := j.network.NewEndpoint()
			transport := &quic.Transport{Conn: end}
			t.Cleanup(func() {
				_ = j.client.Close()
				_ = transport.Close()
			})
			path := must(j.client.Conn().AddPath(transport))(t)
			check(t, path.Probe(t.Context()))
			check(t, path.Switch())
			return end.Addr()
		},
	}
	for name, move := range moves {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := join(t, wttest.Link{Latency: 20 * time.Millisecond}, 0, wt.ServerConfig{}, wt.Dialer{})
				var work sync.WaitGroup
				defer work.Wait()
				work.Go(func() { echo(j.server) })
				stream := must(j.client.OpenStream(t.Context()))(t)
				check(t, write(stream, "before "))
				time.Sleep(time.Second)
				before := j.server.RemoteAddr().String()

				want := move(t, j)
				check(t, write(stream, "after"))
				check(t, stream.Close())
				if got := must(io.ReadAll(stream))(t); string(got) != "before after" {
					t.Errorf("echo %q", got)
				}
				check(t, roundTrip(j.client, noise(300_000, 1)))
				check(t, j.client.SendDatagram(t.Context(), []byte("datagram")))
				if b := must(j.client.ReceiveDatagram(t.Context()))(t); string(b) != "datagram" {
					t.Errorf("echo %q", b)
				}
				got, ok := j.server.RemoteAddr().(*net.UDPAddr)
				if !ok || got.AddrPort() != want || got.String() == before {
					t.Errorf("server sees %v, want %v; before %v", j.server.RemoteAddr(), want, before)
				}
				check(t, j.client.CloseWithError(5, "moved"))
				<-j.server.Context().Done()
				wantSessionError(t, context.Cause(j.server.Context()), wt.Peer, 5, "moved")
			})
		})
	}
}
