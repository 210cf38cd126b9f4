package wt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

func TestDatagramEcho(t *testing.T) {
	client := echoPair(t)
	for i := range 200 {
		b := bytes.Repeat([]byte{byte(i)}, i)
		check(t, client.SendDatagram(t.Context(), b))
		got := must(client.ReceiveDatagram(t.Context()))(t)
		if !bytes.Equal(got, b) {
			t.Fatalf("datagram %d came back as %d bytes", i, len(got))
		}
	}
}

func TestMaxDatagramSize(t *testing.T) {
	client, server := wttest.Pair(t)
	size := client.MaxDatagramSize()
	if size < 1000 || size > 1500 {
		t.Fatalf("maximum is %d bytes", size)
	}
	check(t, client.SendDatagram(t.Context(), make([]byte, size)))
	if got := must(server.ReceiveDatagram(t.Context()))(t); len(got) != size {
		t.Errorf("got %d bytes, want %d", len(got), size)
	}
	if err := client.SendDatagram(t.Context(), make([]byte, 1500)); !errors.Is(err, wt.ErrDatagramTooLarge) {
		t.Errorf("1500 bytes: %v", err)
	}
}

// A session that nobody receives from keeps its newest datagrams and counts the
// others.
func TestDatagramsDropOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.PairWith(t, wttest.Options{Server: wt.ServerConfig{MaxQueuedDatagrams: 3}})
		for i := range uint32(10) {
			check(t, client.SendDatagram(t.Context(), binary.BigEndian.AppendUint32(nil, i)))
			synctest.Wait() // so that no queue underneath overflows
		}
		time.Sleep(time.Second)
		for want := uint32(7); want < 10; want++ {
			if got := binary.BigEndian.Uint32(must(server.ReceiveDatagram(t.Context()))(t)); got != want {
				t.Errorf("got datagram %d, want %d", got, want)
			}
		}
		if server.DroppedDatagrams() != 7 {
			t.Errorf("%d datagrams counted as dropped, want 7", server.DroppedDatagrams())
		}
	})
}

// SendDatagram waits while the network takes nothing, but not beyond its context
// and the session.
func TestSendDatagramWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := wttest.PairWith(t, wttest.Options{Latency: time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		var err error
		for range 1000 {
			if err = client.SendDatagram(ctx, make([]byte, 1000)); err != nil {
				break
			}
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a full queue gave %v", err)
		}
	})
}

// stalledPair is a pair whose network carries nothing until it is healed.
func stalledPair(t *testing.T, dialer wt.Dialer) (client, server *wt.Session, end *wttest.Endpoint) {
	t.Helper()
	n := wttest.NewNetwork(t, wttest.Link{Latency: 20 * time.Millisecond}, 0)
	end = n.NewEndpoint()
	dialer.PacketConn = end
	client, server = wttest.PairWith(t, wttest.Options{Network: n, Dialer: dialer})
	end.Partition()
	return client, server, end
}

// fillDatagrams fills QUIC's queue and the session's, until a try fails, and
// returns how many went in.
func fillDatagrams(t *testing.T, s *wt.Session) int {
	t.Helper()
	for n := range 1000 {
		err := s.TrySendDatagram(make([]byte, 1000))
		if errors.Is(err, wt.ErrWouldBlock) {
			synctest.Wait() // the sender may take more
			err = s.TrySendDatagram(make([]byte, 1000))
		}
		if errors.Is(err, wt.ErrWouldBlock) {
			return n
		}
		check(t, err)
	}
	t.Fatal("the queue has no bound")
	return 0
}

func TestTryAndPushDatagram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, end := stalledPair(t, wt.Dialer{MaxOutgoingDatagrams: 4})
		fillDatagrams(t, client)
		for i := range byte(10) {
			check(t, client.PushDatagram([]byte{i}))
		}
		if s := client.Stats().Datagrams; s.OutgoingOverflowed != 10 {
			t.Errorf("%+v, want 10 dropped for newer ones", s)
		}
		end.Heal()
		var last []byte
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for {
			b, err := server.ReceiveDatagram(ctx)
			if err != nil {
				break
			}
			if len(b) == 1 && len(last) == 1 && b[0] != last[0]+1 {
				t.Errorf("datagram %d after %d", b[0], last[0])
			}
			last = b
		}
		if len(last) != 1 || last[0] != 9 || client.Stats().Datagrams.OutgoingOverflowed != 10 {
			t.Errorf("the last datagram is %d", last)
		}
	})
}

func TestOutgoingDatagramsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _, end := stalledPair(t, wt.Dialer{MaxOutgoingDatagrams: 16, MaxOutgoingDatagramAge: time.Second})
		accepted := 0
		for range 20 { // QUIC paces, and fills the path bit by bit
			accepted += fillDatagrams(t, client)
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(1500 * time.Millisecond) // QUIC probes the network with a few
		check(t, client.SendDatagram(t.Context(), []byte("in the place of what is too old")))
		end.Heal()
		time.Sleep(5 * time.Second)
		if s := client.Stats().Datagrams; s.OutgoingExpired == 0 || s.Sent+s.OutgoingExpired != uint64(accepted)+1 {
			t.Errorf("%+v of %d", s, accepted+1)
		}
	})
}

func TestIncomingDatagramsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.PairWith(t, wttest.Options{Server: wt.ServerConfig{MaxDatagramAge: time.Second}})
		check(t, client.SendDatagram(t.Context(), []byte("old")))
		time.Sleep(2 * time.Second)
		check(t, client.SendDatagram(t.Context(), []byte("new")))
		if got := string(must(server.ReceiveDatagram(t.Context()))(t)); got != "new" {
			t.Errorf("got %q", got)
		}
		if s := server.Stats().Datagrams; s.IncomingExpired != 1 || server.DroppedDatagrams() != 1 {
			t.Errorf("%+v, want 1 expired", s)
		}
	})
}

// What waits when the session ends is counted, and who waits for room is told.
func TestDatagramsOfEndedSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _, _ := stalledPair(t, wt.Dialer{MaxOutgoingDatagrams: 4})
		fillDatagrams(t, client)
		waited := make(chan error, 1)
		go func() { waited <- client.SendDatagram(context.Background(), []byte("x")) }()
		synctest.Wait()
		check(t, client.CloseWithError(3, "over"))
		wantSessionError(t, <-waited, wt.Us, 3, "over")
		wantSessionError(t, client.TrySendDatagram([]byte("x")), wt.Us, 3, "over")
		wantSessionError(t, client.PushDatagram([]byte("x")), wt.Us, 3, "over")
		if s := client.Stats().Datagrams; s.OutgoingAbandoned != 4 {
			t.Errorf("%+v, want 4 abandoned", s)
		}
	})
}

// Receivers that come and go, in turn and at once, lose nothing and keep the
// order, and each ends with its context.
func TestDatagramReceivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.Pair(t)
		next := byte(0)
		send := func(n int) {
			for range n {
				check(t, client.SendDatagram(t.Context(), []byte{next}))
				next++
				synctest.Wait()
			}
		}
		expected := byte(0)
		receive := func(ctx context.Context, n int) {
			t.Helper()
			for range n {
				if got := must(server.ReceiveDatagram(ctx))(t); got[0] != expected {
					t.Fatalf("got datagram %d, want %d", got[0], expected)
				}
				expected++
			}
		}
		for range 5 {
			ctx, cancel := context.WithCancel(t.Context())
			send(3)
			receive(ctx, 2)
			time.Sleep(15 * time.Millisecond) // within the watch's period
			send(3)
			receive(ctx, 4)
			time.Sleep(time.Second) // a pump has taken over
			send(3)
			receive(t.Context(), 3)

			// Several wait; the context of one of them ends; the others share what comes.
			var waiting []chan error
			for i := range 3 {
				done := make(chan error, 1)
				waiting = append(waiting, done)
				use := t.Context()
				if i == 0 {
					use = ctx
				}
				go func() {
					_, err := server.ReceiveDatagram(use)
					done <- err
				}()
				synctest.Wait()
			}
			cancel()
			if err := <-waiting[0]; !errors.Is(err, context.Canceled) {
				t.Errorf("a cancelled receiver got %v", err)
			}
			send(2)
			expected += 2
			check(t, <-waiting[1])
			check(t, <-waiting[2])
		}
		if s := server.Stats().Datagrams; s.Received != uint64(next) || s.IncomingOverflowed != 0 {
			t.Errorf("%+v of %d sent", s, next)
		}
	})
}

// Sessions that share a connection get their own datagrams, whoever receives.
func TestDatagramsOfTwoSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sessions := make(chan *wt.Session, 2)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions), MaxSessionsPerConnection: 2, MaxQueuedDatagrams: 4})
		p.control(settingsFrame(0x33, 1, 0x2c7cf000, 1, 0x2b61, 1<<20, 0x2b64, 10, 0x2b65, 10))
		p.wantStatus(p.bidi(connectHead()), "200")
		first := <-sessions
		p.wantStatus(p.bidi(connectHead()), "200")
		second := <-sessions

		// Nobody receives of the first; that of the second is not held up.
		for i := range byte(100) {
			check(t, p.conn.SendDatagram([]byte{0, i}))
			check(t, p.conn.SendDatagram([]byte{1, i}))
			if got := must(second.ReceiveDatagram(t.Context()))(t); len(got) != 1 || got[0] != i {
				t.Fatalf("the second session got %v, want %d", got, i)
			}
		}
		for want := byte(96); want < 100; want++ {
			if got := must(first.ReceiveDatagram(t.Context()))(t); len(got) != 1 || got[0] != want {
				t.Fatalf("the first session got %v, want %d", got, want)
			}
		}
		if s := first.Stats().Datagrams; s.Received != 100 || s.IncomingOverflowed != 96 {
			t.Errorf("%+v", s)
		}
		// Both wait at once; the one that leads passes on what is the other's.
		both := make(chan string, 2)
		go func() { both <- "first " + string(must(first.ReceiveDatagram(t.Context()))(t)) }()
		synctest.Wait()
		go func() { both <- "second " + string(must(second.ReceiveDatagram(t.Context()))(t)) }()
		synctest.Wait()
		check(t, p.conn.SendDatagram([]byte("\x01for the second")))
		if got := <-both; got != "second for the second" {
			t.Error(got)
		}
		check(t, p.conn.SendDatagram([]byte("\x00for the first")))
		if got := <-both; got != "first for the first" {
			t.Error(got)
		}
	})
}
