package wt_test

import (
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// slowPair is a pair over a link that carries 250,000 bytes a second each way.
func slowPair(t *testing.T) (client, server *wt.Session) {
	t.Helper()
	return wttest.PairWith(t, wttest.Options{Latency: 10 * time.Millisecond, Link: wttest.Link{Rate: 250_000}})
}

// upload is a stream with what it writes, and when the other side had it.
type upload struct {
	stream   *wt.SendStream
	size     int
	received time.Time // of the last byte
}

// uploadAll writes all at once, and returns when all have been received.
func uploadAll(t *testing.T, server *wt.Session, uploads []*upload) {
	t.Helper()
	var writing, reading sync.WaitGroup
	for _, u := range uploads {
		check(t, write(u.stream, "x")) // so that the server knows the stream
		in := must(server.AcceptUniStream(t.Context()))(t)
		reading.Go(func() {
			n, err := io.Copy(io.Discard, in)
			if err != nil || n != int64(u.size)+1 {
				t.Errorf("read %d bytes of %d: %v", n, u.size+1, err)
			}
			u.received = time.Now()
		})
	}
	synctest.Wait()
	for _, u := range uploads {
		writing.Go(func() {
			// In small pieces, so that each decides anew.
			for rest := u.size; rest > 0; rest -= 4096 {
				if _, err := u.stream.Write(make([]byte, min(rest, 4096))); err != nil {
					t.Error(err)
				}
			}
			check(t, u.stream.Close())
		})
	}
	writing.Wait()
	reading.Wait()
}

// Streams of higher order are received first, whatever the order of their opening.
func TestSendOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := slowPair(t)
		var uploads []*upload
		for _, order := range []int64{-5, 7, 0} {
			u := &upload{stream: must(client.OpenUniStream(t.Context()))(t), size: 250_000}
			u.stream.SetSendOrder(order)
			uploads = append(uploads, u)
		}
		began := time.Now()
		uploadAll(t, server, uploads)
		low, high, middle := uploads[0].received.Sub(began), uploads[1].received.Sub(began), uploads[2].received.Sub(began)
		// Each needs about a second for itself; together they need three.
		if high > 1300*time.Millisecond || middle < high+700*time.Millisecond || low < middle+500*time.Millisecond {
			t.Errorf("received after %v (order 7), %v (0) and %v (-5)", high, middle, low)
		}
	})
}

// An order that is changed while a write waits counts from then on.
func TestSendOrderChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := slowPair(t)
		first := &upload{stream: must(client.OpenUniStream(t.Context()))(t), size: 250_000}
		second := &upload{stream: must(client.OpenUniStream(t.Context()))(t), size: 250_000}
		first.stream.SetSendOrder(1)
		second.stream.SetSendOrder(0)
		var changing sync.WaitGroup
		changing.Go(func() {
			time.Sleep(500 * time.Millisecond)
			second.stream.SetSendOrder(2)
		})
		uploadAll(t, server, []*upload{first, second})
		changing.Wait()
		if !second.received.Before(first.received) {
			t.Errorf("the stream that was moved up came %v after the other", second.received.Sub(first.received))
		}
	})
}

// Groups share evenly, whatever the orders of their streams and their number.
func TestSendGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := slowPair(t)
		crowded, lonely := client.NewSendGroup(), client.NewSendGroup()
		var uploads []*upload
		for range 4 {
			u := &upload{stream: must(client.OpenUniStream(t.Context()))(t), size: 125_000}
			u.stream.SetSendOrder(100)
			check(t, u.stream.SetSendGroup(crowded))
			uploads = append(uploads, u)
		}
		alone := &upload{stream: must(client.OpenUniStream(t.Context()))(t), size: 250_000}
		check(t, alone.stream.SetSendGroup(lonely))
		began := time.Now()
		uploadAll(t, server, append(uploads, alone))
		// It is a third of all, and has half of the link until it is through: two
		// seconds. Without groups it would have a fifth, and take three.
		if took := alone.received.Sub(began); took > 2500*time.Millisecond {
			t.Errorf("the lonely group's stream took %v", took)
		}
	})
}

// A stream that its reader holds up does not hold up those of lower order.
func TestSendOrderOfHeldUpStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.PairWith(t, wttest.Options{Latency: 10 * time.Millisecond})
		held := must(client.OpenUniStream(t.Context()))(t)
		held.SetSendOrder(1)
		var writing sync.WaitGroup
		writing.Go(func() { _, _ = held.Write(make([]byte, 8<<20)) }) // nobody reads it
		defer writing.Wait()
		defer held.CancelWrite(0)
		in := must(server.AcceptUniStream(t.Context()))(t)
		defer in.CancelRead(0)

		other := must(client.OpenUniStream(t.Context()))(t)
		other.SetSendOrder(0)
		began := time.Now()
		check(t, write(other, "through"))
		check(t, other.Close())
		got := must(io.ReadAll(must(server.AcceptUniStream(t.Context()))(t)))(t)
		if string(got) != "through" || time.Since(began) > time.Second {
			t.Errorf("got %q after %v", got, time.Since(began))
		}
	})
}

// A write that has given its turn away ends with its deadline, its stream and the
// session.
func TestSendOrderWaitEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*wt.Session, *wt.SendStream)
		want string
	}{
		"deadline": {func(_ *wt.Session, s *wt.SendStream) { _ = s.SetWriteDeadline(time.Now()) }, "i/o timeout"},
		"reset":    {func(_ *wt.Session, s *wt.SendStream) { s.CancelWrite(4) }, "wt: stream cancelled locally with code 4"},
		"session":  {func(s *wt.Session, _ *wt.SendStream) { go func() { _ = s.CloseWithError(1, "over") }() }, "wt: session closed by us with code 1: over"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, _ := slowPair(t)
				high, low := must(client.OpenUniStream(t.Context()))(t), must(client.OpenUniStream(t.Context()))(t)
				high.SetSendOrder(1)
				low.SetSendOrder(0)
				var writing sync.WaitGroup
				writing.Go(func() { _, _ = high.Write(make([]byte, 4<<20)) })
				waited := make(chan error, 1)
				time.Sleep(100 * time.Millisecond)
				writing.Go(func() {
					_, err := low.Write(make([]byte, 64<<10))
					waited <- err
				})
				time.Sleep(100 * time.Millisecond)
				c.end(client, low)
				if err := <-waited; err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("the write ended with %v, want %q", err, c.want)
				}
				high.CancelWrite(0)
				writing.Wait()
			})
		})
	}
}

func TestSendGroupOfAnotherSession(t *testing.T) {
	client, server := wttest.Pair(t)
	stream := must(client.OpenUniStream(t.Context()))(t)
	if err := stream.SetSendGroup(server.NewSendGroup()); err == nil {
		t.Error("a group of another session was taken")
	}
	check(t, stream.SetSendGroup(nil))
}

// The order holds under the session's flow control as well.
func TestSendOrderUnderFlowControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.PairWith(t, wttest.Options{
			Latency: 10 * time.Millisecond,
			Link:    wttest.Link{Rate: 250_000},
			Dialer:  wt.Dialer{MaxSessionData: 64 << 10},
			Server:  wt.ServerConfig{MaxSessionData: 64 << 10},
		})
		low := &upload{stream: must(client.OpenUniStream(t.Context()))(t), size: 125_000}
		high := &upload{stream: must(client.OpenUniStream(t.Context()))(t), size: 125_000}
		low.stream.SetSendOrder(1)
		high.stream.SetSendOrder(2)
		uploadAll(t, server, []*upload{low, high})
		if !high.received.Before(low.received) {
			t.Error("the stream of lower order came first")
		}
	})
}
