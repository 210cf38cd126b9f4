package wt_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// Flow control between two ends of the package: windows far smaller than what
// passes through them.

func tightPair(t *testing.T, data, streams int64) (client, server *wt.Session) {
	return wttest.PairWith(t, wttest.Options{
		Server: wt.ServerConfig{MaxSessionData: data, MaxIncomingStreams: streams + 1, MaxIncomingUniStreams: streams + 3},
		Dialer: wt.Dialer{MaxSessionData: data},
	})
}

func TestFlowControlEcho(t *testing.T) {
	client, server := tightPair(t, 5000, 4)
	var work sync.WaitGroup
	work.Go(func() { echo(server) })
	check(t, roundTrip(client, bytes.Repeat([]byte("0123456789"), 20000)))
	var streams sync.WaitGroup
	for i := range 50 {
		streams.Go(func() {
			if err := roundTrip(client, bytes.Repeat([]byte{byte(i)}, 700)); err != nil {
				t.Error(err)
			}
		})
	}
	streams.Wait()
	for range 50 {
		out := must(client.OpenUniStream(t.Context()))(t)
		check(t, write(out, "one way"))
		check(t, out.Close())
		if b, err := io.ReadAll(must(client.AcceptUniStream(t.Context()))(t)); err != nil || string(b) != "one way" {
			t.Fatalf("read %q, %v", b, err)
		}
	}
	check(t, client.Close())
	work.Wait()
}

// Streams that are reset, by either side and at any point, give back what they
// held: 300 of them pass through a window of 4000 bytes and 4 streams.
func TestFlowControlOfResets(t *testing.T) {
	client, server := tightPair(t, 4000, 4)
	ctx := t.Context()
	for i := range 300 {
		out := must(client.OpenUniStream(ctx))(t)
		check(t, out.SetWriteDeadline(time.Now().Add(time.Minute)))
		if i%3 != 0 || errors.Is(out.TryWriteAll(make([]byte, 900)), wt.ErrWouldBlock) {
			must(out.Write(make([]byte, 900)))(t) // or waits for what is under way
		}
		in := must(server.AcceptUniStream(ctx))(t)
		switch i % 4 {
		case 0:
			out.CancelWrite(1)
			_, err := io.Copy(io.Discard, in)
			wantStreamError(t, err, true, 1)
		case 1:
			in.CancelRead(2)
			<-out.Context().Done()
			_, err := out.Write([]byte("x"))
			wantStreamError(t, err, true, 2)
		case 2:
			must(in.Read(make([]byte, 10)))(t)
			check(t, out.Close())
			in.CancelRead(3)
		case 3:
			must(in.Read(make([]byte, 10)))(t)
			out.CancelWrite(4)
			in.CancelRead(4)
		}
	}
}

func TestFlowControlDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := tightPair(t, 1000, 4)
		out := must(client.OpenUniStream(t.Context()))(t)
		check(t, out.SetWriteDeadline(time.Now().Add(time.Minute)))
		began := time.Now()
		n, err := out.Write(make([]byte, 1500))
		if n != 1000 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("Write returned %d, %v after %v", n, err, time.Since(began))
		}
		check(t, out.SetWriteDeadline(time.Time{}))
		if err := out.TryWriteAll([]byte("x")); !errors.Is(err, wt.ErrWouldBlock) {
			t.Errorf("TryWriteAll without credit returned %v", err)
		}

		// A write that waits goes on when the deadline is moved, and ends with the
		// session.
		written := make(chan error, 1)
		var writing sync.WaitGroup
		writing.Go(func() {
			_, err := out.Write([]byte("x"))
			written <- err
		})
		synctest.Wait()
		check(t, out.SetWriteDeadline(time.Now().Add(time.Hour)))
		time.Sleep(time.Minute)
		check(t, server.CloseWithError(6, "full"))
		writing.Wait()
		wantSessionError(t, <-written, wt.Peer, 6, "full")
	})
}

func TestFlowControlOnReceiveEnd(t *testing.T) {
	client, server := tightPair(t, 1000, 4)
	out := must(client.OpenUniStream(t.Context()))(t)
	check(t, write(out, "unread"))
	in := must(server.AcceptUniStream(t.Context()))(t)
	ended := make(chan struct{}, 2)
	in.OnReceiveEnd(func() { t.Error("a callback that was replaced ran") })
	in.OnReceiveEnd(func() { ended <- struct{}{} })
	check(t, out.Close())
	<-ended
	in.OnReceiveEnd(func() { ended <- struct{}{} })
	<-ended
}

// A stream left unread that holds most of the window does not stop another.
func TestFlowControlBesideUnread(t *testing.T) {
	client, server := tightPair(t, 10000, 4)
	held := must(client.OpenUniStream(t.Context()))(t)
	must(held.Write(make([]byte, 8000)))(t)
	must(server.AcceptUniStream(t.Context()))(t)

	out := must(client.OpenUniStream(t.Context()))(t)
	b := bytes.Repeat([]byte("0123456789"), 5000)
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := out.Write(b); err == nil {
			_ = out.Close()
		}
	})
	got, err := io.ReadAll(must(server.AcceptUniStream(t.Context()))(t))
	writing.Wait()
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}
