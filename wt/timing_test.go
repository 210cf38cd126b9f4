package wt_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// oneWay is how long a packet takes in tests of exact times.
const oneWay = 50 * time.Millisecond

// joinQuiet joins a session over a network with a delay, and waits until QUIC has
// said all that follows a handshake.
func joinQuiet(t *testing.T) joined {
	t.Helper()
	j := join(t, wttest.Link{Latency: oneWay}, 0, wt.ServerConfig{}, wt.Dialer{})
	time.Sleep(5 * time.Second)
	return j
}

// wantTook checks a duration since began to the nanosecond.
func wantTook(t *testing.T, what string, began time.Time, want time.Duration) {
	t.Helper()
	if took := time.Since(began); took != want {
		t.Errorf("%s took %v, want %v", what, took, want)
	}
}

// A session is there after two round trips: QUIC's handshake, and SETTINGS with
// the request.
func TestTimeToSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		join(t, wttest.Link{Latency: oneWay}, 0, wt.ServerConfig{}, wt.Dialer{})
		wantTook(t, "the session", began, 4*oneWay)
	})
}

// The peer knows of a close after one way, and the call returns when its answer
// is there, after both.
func TestCloseTakesARoundTrip(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := joinQuiet(t).sides()[side]
				began := time.Now()
				returned := make(chan time.Duration, 1)
				go func() {
					_ = ends[0].CloseWithError(1, "")
					returned <- time.Since(began)
				}()
				<-ends[0].Context().Done()
				wantTook(t, "our own end", began, 0)
				<-ends[1].Context().Done()
				wantTook(t, "the news of the close", began, oneWay)
				if took := <-returned; took != 2*oneWay {
					t.Errorf("the call took %v, want %v", took, 2*oneWay)
				}
			})
		})
	}
}

// A peer that does not answer a close is waited for two seconds, and no longer.
func TestCloseTimeout(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := joinQuiet(t)
				ends := j.sides()[side]
				stream := must(ends[0].OpenStream(t.Context()))(t)
				check(t, write(stream, "x"))
				j.network.Partition()
				began := time.Now()
				check(t, ends[0].CloseWithError(9, "nobody hears it"))
				wantTook(t, "the close", began, 2*time.Second)
				wantSessionError(t, context.Cause(ends[0].Context()), wt.Us, 9, "nobody hears it")
			})
		})
	}
}

// A second call on a session that is being closed waits for the first.
func TestCloseTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := joinQuiet(t)
		j.network.Partition()
		began := time.Now()
		first := make(chan struct{})
		go func() {
			defer close(first)
			_ = j.client.Close()
		}()
		time.Sleep(time.Second)
		check(t, j.client.CloseWithError(3, "too late"))
		wantTook(t, "the second close", began, 2*time.Second)
		<-first
		wantSessionError(t, context.Cause(j.client.Context()), wt.Us, 0, "")
	})
}

// Both close at the same moment: each keeps its own word, and neither waits for
// more than what the other sends.
func TestCloseCrosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := joinQuiet(t)
		began := time.Now()
		closed := make(chan time.Duration, 2)
		for code, s := range []*wt.Session{j.client, j.server} {
			go func() {
				_ = s.CloseWithError(uint32(code), "crossing")
				closed <- time.Since(began)
			}()
		}
		for range 2 {
			if took := <-closed; took > 2*oneWay {
				t.Errorf("a close took %v", took)
			}
		}
		wantSessionError(t, context.Cause(j.client.Context()), wt.Us, 0, "crossing")
		wantSessionError(t, context.Cause(j.server.Context()), wt.Us, 1, "crossing")
	})
}

// The news of draining takes one way, by capsule and by GOAWAY, and ends
// nothing.
func TestDrainTakesOneWay(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := joinQuiet(t).sides()[side]
				began := time.Now()
				check(t, ends[0].Drain())
				wantTook(t, "the call", began, 0)
				<-ends[1].Draining()
				wantTook(t, "the news", began, oneWay)
				time.Sleep(10 * time.Minute)
				for _, s := range ends {
					if err := s.Context().Err(); err != nil {
						t.Errorf("draining ended a session: %v", context.Cause(s.Context()))
					}
				}
			})
		})
	}
}

// A shutdown asks to drain, waits for sessions until its deadline, and then ends
// them as a transport does. Without sessions it waits for nothing.
func TestShutdownDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := joinQuiet(t)
		began := time.Now()
		enough := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 7*time.Second, enough)
		defer cancel()
		drained := make(chan time.Duration, 1)
		go func() {
			<-j.client.Draining()
			drained <- time.Since(began)
		}()
		if err := j.host.Shutdown(ctx); !errors.Is(err, enough) {
			t.Errorf("Shutdown: %v", err)
		}
		wantTook(t, "the shutdown", began, 7*time.Second)
		if took := <-drained; took != oneWay {
			t.Errorf("the client was told after %v", took)
		}
		<-j.client.Context().Done()
		wantTook(t, "the client's session", began, 7*time.Second+oneWay)
		wantSessionError(t, context.Cause(j.client.Context()), wt.Transport, 0, "")
	})
	synctest.Test(t, func(t *testing.T) {
		j := joinQuiet(t)
		began := time.Now()
		go func() { // a client that does what it is asked
			<-j.client.Draining()
			time.Sleep(time.Second)
			_ = j.client.Close()
		}()
		check(t, j.host.Shutdown(t.Context()))
		if took := time.Since(began); took < time.Second || took > time.Second+4*oneWay {
			t.Errorf("the shutdown took %v", took)
		}
	})
}

// A connection whose last request has ended may stay without one for as long as
// one that never had any.
func TestConnectionWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sessions := make(chan *wt.Session, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions), HandshakeTimeout: 4 * time.Second})
		stream := p.session()
		time.Sleep(time.Minute) // a session is no lack of one
		check(t, stream.Close())
		<-(<-sessions).Context().Done()
		must(io.ReadAll(stream))(t)
		time.Sleep(3 * time.Second)
		p.wantReset(p.bidi(headers(":method", "x")), h3MessageError)
		began := time.Now()
		p.wantClosed(h3NoError)
		if took := time.Since(began); took < 4*time.Second || took > 5*time.Second {
			t.Errorf("closed after %v, want 4s", took)
		}
	})
}

// A dial that meets silence ends with QUIC's handshake timeout, and earlier with
// its context; at no time does it leave anything behind.
func TestDialTimeouts(t *testing.T) {
	silent := func(t *testing.T) (*wttest.Server, *wttest.Network) {
		n := wttest.NewNetwork(t, wttest.Link{Latency: oneWay}, 0)
		s := wttest.Serve(t, n, wt.ServerConfig{Handler: accepting(nil)})
		n.Partition()
		return s, n
	}
	t.Run("QUIC's timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			host, _ := silent(t)
			began := time.Now()
			_, err := host.Dialer(wt.Dialer{QUICConfig: &quic.Config{HandshakeIdleTimeout: 3 * time.Second}}).Dial(t.Context(), host.URL)
			var idle *quic.IdleTimeoutError
			if !errors.As(err, &idle) {
				t.Errorf("dial: %v", err)
			}
			wantTook(t, "the dial", began, 3*time.Second)
		})
	})
	t.Run("context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			host, _ := silent(t)
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := host.Dialer(wt.Dialer{}).Dial(ctx, host.URL); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("dial: %v", err)
			}
			wantTook(t, "the dial", began, time.Second)
		})
	})
	t.Run("context, while the handler thinks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := wttest.NewNetwork(t, wttest.Link{Latency: oneWay}, 0)
			abandoned := make(chan time.Time, 1)
			host := wttest.Serve(t, n, wt.ServerConfig{Handler: wt.HandlerFunc(func(ctx context.Context, _ *wt.Request) {
				<-ctx.Done()
				abandoned <- time.Now()
			})})
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := host.Dialer(wt.Dialer{}).Dial(ctx, host.URL); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("dial: %v", err)
			}
			wantTook(t, "the dial", began, time.Second)
			if at := <-abandoned; at.Sub(began) != time.Second+oneWay {
				t.Errorf("the handler learned of it after %v", at.Sub(began))
			}
		})
	})
}

// Reads, writes and accepts end at their deadline, not before and not after.
func TestDeadlinesAreExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := joinQuiet(t)
		stream := must(j.client.OpenStream(t.Context()))(t)
		check(t, write(stream, "x"))
		began := time.Now()
		check(t, stream.SetReadDeadline(began.Add(1234*time.Millisecond)))
		if _, err := stream.Read(make([]byte, 1)); err == nil {
			t.Error("a read of nothing succeeded")
		}
		wantTook(t, "the read", began, 1234*time.Millisecond)

		began = time.Now()
		check(t, stream.SetWriteDeadline(began.Add(77*time.Second)))
		if n, err := stream.Write(make([]byte, 64<<20)); err == nil || n == 0 {
			t.Errorf("a write of more than QUIC's windows gave %d, %v", n, err)
		}
		wantTook(t, "the write", began, 77*time.Second)

		for name, call := range map[string]func(context.Context) error{
			"AcceptStream":    func(ctx context.Context) error { _, err := j.client.AcceptStream(ctx); return err },
			"AcceptUniStream": func(ctx context.Context) error { _, err := j.client.AcceptUniStream(ctx); return err },
			"ReceiveDatagram": func(ctx context.Context) error { _, err := j.client.ReceiveDatagram(ctx); return err },
		} {
			began = time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
			wantTook(t, name, began, 3*time.Second)
		}
	})
}
