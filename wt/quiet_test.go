package wt_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// asleep is long enough for a server's connection to go to sleep.
const asleep = 2 * time.Second

// roused is how long a sleeping connection may take to see what came.
const roused = 250 * time.Millisecond

// What breaks a rule on a critical stream is seen while the connection sleeps,
// wherever the peer paused.
func TestSleepingConnectionSeesCriticalStreams(t *testing.T) {
	for name, c := range map[string]struct {
		before, after []byte
		want          uint64
	}{
		"bad frame":           {nil, frame(0, nil), h3FrameUnexpected},
		"cut within a type":   {[]byte{0x40}, []byte{0x00, 0x00}, h3FrameUnexpected},
		"cut within a length": {[]byte{0x21, 0x40}, []byte{0x01, 0xff, 0x00, 0x00}, h3FrameUnexpected},
		"cut within a frame":  {[]byte{0x21, 0x02, 0xff}, []byte{0xff, 0x00, 0x00}, h3FrameUnexpected},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sessions := make(chan *wt.Session, 1)
				p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
				control := p.control(usualSettings())
				p.wantStatus(p.bidi(connectHead()), "200")
				<-sessions
				if c.before != nil {
					must(control.Write(c.before))(t)
				}
				time.Sleep(asleep)
				began := time.Now()
				must(control.Write(c.after))(t)
				p.wantClosed(quicCode(c.want))
				if took := time.Since(began); took > roused+10*time.Millisecond {
					t.Errorf("seen after %v", took)
				}
			})
		})
	}
	t.Run("closed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(make(chan *wt.Session, 1))})
			control := p.control(usualSettings())
			p.wantStatus(p.bidi(connectHead()), "200")
			time.Sleep(asleep)
			check(t, control.Close())
			p.wantClosed(h3ClosedCritical)
		})
	})
	t.Run("second", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(make(chan *wt.Session, 1))})
			p.session()
			time.Sleep(asleep)
			p.uni(varints(0))
			p.wantClosed(h3StreamCreation)
		})
	})
}

// To an application that waits, sleep makes no difference.
func TestSleepingConnectionDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.Pair(t)
		for range 3 {
			uni, datagram, bidi := make(chan time.Time, 1), make(chan time.Time, 1), make(chan time.Time, 1)
			go func() {
				stream := must(server.AcceptUniStream(t.Context()))(t)
				must(io.ReadAll(stream))(t)
				uni <- time.Now()
			}()
			go func() {
				must(server.ReceiveDatagram(t.Context()))(t)
				datagram <- time.Now()
			}()
			go func() {
				must(io.ReadAll(must(server.AcceptStream(t.Context()))(t)))(t)
				bidi <- time.Now()
			}()
			time.Sleep(asleep)
			began := time.Now()
			out := must(client.OpenUniStream(t.Context()))(t)
			check(t, write(out, "x"))
			check(t, out.Close())
			both := must(client.OpenStream(t.Context()))(t)
			check(t, write(both, "x"))
			check(t, both.Close())
			check(t, client.SendDatagram(t.Context(), []byte("x")))
			for _, arrived := range []chan time.Time{uni, datagram, bidi} {
				if took := (<-arrived).Sub(began); took > time.Millisecond {
					t.Errorf("arrived after %v", took)
				}
			}
		}
	})
}

// What nobody waits for is taken in all the same, once the connection is roused.
func TestSleepingConnectionTakesIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.PairWith(t, wttest.Options{Server: wt.ServerConfig{MaxQueuedDatagrams: 2}})
		time.Sleep(asleep)
		for i := range byte(5) {
			check(t, client.SendDatagram(t.Context(), []byte{i}))
		}
		time.Sleep(roused + 10*time.Millisecond)
		if s := server.Stats().Datagrams; s.Received != 5 || s.IncomingOverflowed != 3 {
			t.Errorf("datagrams %+v", s)
		}
		time.Sleep(asleep)
		if got := must(server.ReceiveDatagram(t.Context()))(t); got[0] != 3 {
			t.Errorf("the oldest kept is %d", got[0])
		}
	})
}
