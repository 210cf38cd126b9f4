package wt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

func write(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return err
}

// echo answers each stream and datagram that the peer sends with the same, until
// the session ends. Unidirectional streams are answered by unidirectional ones.
func echo(session *wt.Session) {
	ctx := session.Context()
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		for {
			stream, err := session.AcceptUniStream(ctx)
			if err != nil {
				return
			}
			work.Go(func() {
				back, err := session.OpenUniStream(ctx)
				if err != nil {
					return
				}
				if _, err := io.Copy(back, stream); err == nil {
					_ = back.Close()
				}
			})
		}
	})
	work.Go(func() {
		for {
			b, err := session.ReceiveDatagram(ctx)
			if err != nil || session.SendDatagram(ctx, b) != nil {
				return
			}
		}
	})
	for {
		stream, err := session.AcceptStream(ctx)
		if err != nil {
			return
		}
		work.Go(func() {
			if _, err := io.Copy(stream, stream); err == nil {
				_ = stream.Close()
			}
		})
	}
}

// echoPair is a pair whose server echoes.
func echoPair(t testing.TB) *wt.Session {
	client, server := wttest.Pair(t)
	var work sync.WaitGroup
	work.Go(func() { echo(server) })
	t.Cleanup(func() {
		_ = client.Close()
		work.Wait()
	})
	return client
}

// roundTrip sends b on a stream and reads the echo.
func roundTrip(session *wt.Session, b []byte) error {
	stream, err := session.OpenStream(session.Context())
	if err != nil {
		return err
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		if _, err := stream.Write(b); err == nil {
			_ = stream.Close()
		}
	})
	got, err := io.ReadAll(stream)
	if err == nil && !bytes.Equal(got, b) {
		err = fmt.Errorf("echo of %d bytes differs from the %d sent", len(got), len(b))
	}
	return err
}

func TestEchoOneMegabyte(t *testing.T) {
	client := echoPair(t)
	b := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	check(t, roundTrip(client, b))

	stream := must(client.OpenUniStream(t.Context()))(t)
	var sending sync.WaitGroup
	sending.Go(func() {
		if _, err := stream.Write(b); err == nil {
			_ = stream.Close()
		}
	})
	back := must(client.AcceptUniStream(t.Context()))(t)
	got, err := io.ReadAll(back)
	sending.Wait()
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("unidirectional echo: %d bytes, %v", len(got), err)
	}
}

func TestHundredStreamsAtOnce(t *testing.T) {
	client := echoPair(t)
	var streams sync.WaitGroup
	for i := range 100 {
		streams.Go(func() {
			if err := roundTrip(client, bytes.Repeat([]byte{byte(i)}, 100+i*37)); err != nil {
				t.Error(err)
			}
		})
	}
	streams.Wait()
}

func TestServerOpensStreams(t *testing.T) {
	client, server := wttest.Pair(t)
	var work sync.WaitGroup
	work.Go(func() { echo(client) })
	check(t, roundTrip(server, []byte("from the server")))
	check(t, server.Close())
	work.Wait()
}

// A stream of which only the header and FIN were sent is a stream.
// A stream that its opener reads before it writes is seen by the peer, which may
// be who writes first.
func TestReadShowsStream(t *testing.T) {
	client, server := wttest.Pair(t)
	opened := must(server.OpenStream(t.Context()))(t)
	read := make(chan string)
	go func() {
		b, _ := io.ReadAll(opened)
		read <- string(b)
	}()
	accepted := must(client.AcceptStream(t.Context()))(t)
	check(t, write(accepted, "first"))
	check(t, accepted.Close())
	if got := <-read; got != "first" {
		t.Errorf("read %q", got)
	}
	check(t, write(opened, "last"))
	check(t, opened.Close())
	if b := must(io.ReadAll(accepted))(t); string(b) != "last" {
		t.Errorf("read %q", b)
	}
}

// Whatever a stream begins with, its header comes first: read, write, and reset at
// the same moment.
func TestReadBesideFirstWrite(t *testing.T) {
	client, server := wttest.Pair(t)
	for i := range 200 {
		opened := must(client.OpenStream(t.Context()))(t)
		var work sync.WaitGroup
		work.Go(func() { _, _ = opened.Read(make([]byte, 1)) })
		if i%2 == 0 {
			work.Go(func() { _ = write(opened, "whole"); _ = opened.Close() })
		} else {
			work.Go(func() { opened.CancelWrite(7) })
		}
		accepted := must(server.AcceptStream(t.Context()))(t)
		b, err := io.ReadAll(accepted)
		var reset *wt.StreamError
		switch {
		case i%2 == 0 && (err != nil || string(b) != "whole"):
			t.Fatalf("stream %d: %q, %v", i, b, err)
		case i%2 == 1 && (!errors.As(err, &reset) || reset.Code != 7):
			t.Fatalf("stream %d: %q, %v", i, b, err)
		}
		check(t, accepted.Close())
		work.Wait()
	}
}

func TestEmptyStream(t *testing.T) {
	client, server := wttest.Pair(t)
	ctx := t.Context()
	check(t, must(client.OpenStream(ctx))(t).Close())
	check(t, must(client.OpenUniStream(ctx))(t).Close())
	bidi := must(server.AcceptStream(ctx))(t)
	uni := must(server.AcceptUniStream(ctx))(t)
	for _, r := range []io.Reader{bidi, uni} {
		if b, err := io.ReadAll(r); err != nil || len(b) != 0 {
			t.Errorf("read %q, %v", b, err)
		}
	}
}

func TestResetAndStopCodes(t *testing.T) {
	for _, code := range []uint32{0, 29, 30, 31, 4711, 1<<32 - 1} {
		client, server := wttest.Pair(t)
		for _, way := range []struct {
			name             string
			opener, acceptor *wt.Session
		}{{"client opens", client, server}, {"server opens", server, client}} {
			t.Run(fmt.Sprintf("%s, code %d", way.name, code), func(t *testing.T) {
				ctx := t.Context()
				opened := must(way.opener.OpenStream(ctx))(t)
				check(t, write(opened, "x"))
				accepted := must(way.acceptor.AcceptStream(ctx))(t)
				must(accepted.Read(make([]byte, 1)))(t)

				opened.CancelWrite(code)
				_, err := accepted.Read(make([]byte, 1))
				wantStreamError(t, err, true, code)
				_, err = opened.Write([]byte("x"))
				wantStreamError(t, err, false, code)

				opened.CancelRead(code)
				<-accepted.Context().Done()
				_, err = accepted.Write([]byte("x"))
				wantStreamError(t, err, true, code)
				_, err = opened.Read(make([]byte, 1))
				wantStreamError(t, err, false, code)
			})
		}
	}
}

// A reset before the first write still shows the stream to the peer, with its
// code, where both sides have reliable resets.
func TestResetBeforeFirstWrite(t *testing.T) {
	client, server := wttest.Pair(t)
	reset := must(client.OpenUniStream(t.Context()))(t)
	reset.CancelWrite(5)
	reset.CancelWrite(6)
	_, err := reset.Write([]byte("x"))
	wantStreamError(t, err, false, 5)
	wantStreamError(t, reset.TryWriteAll([]byte("x")), false, 5)
	wantStreamError(t, reset.Close(), false, 5)
	stream := must(server.AcceptUniStream(t.Context()))(t)
	_, err = stream.Read(make([]byte, 1))
	wantStreamError(t, err, true, 5)
}

// A first write and a reset at the same moment never put data in front of the
// stream's header, for which the peer would end the connection. Whether the peer
// learns of such a stream depends on which comes first.
func TestResetBesideFirstWrite(t *testing.T) {
	client, server := wttest.Pair(t)
	for range 200 {
		stream := must(client.OpenStream(t.Context()))(t)
		var both sync.WaitGroup
		both.Go(func() { _, _ = stream.Write([]byte{0, 1, 2, 3}) })
		both.Go(func() { stream.CancelWrite(1) })
		both.Wait()
		stream.CancelRead(1)
	}
	last := must(client.OpenStream(t.Context()))(t)
	check(t, write(last, "last"))
	check(t, last.Close())
	for {
		stream := must(server.AcceptStream(t.Context()))(t)
		b, err := io.ReadAll(stream)
		if err == nil && string(b) == "last" {
			return
		}
		wantStreamError(t, err, true, 1)
	}
}

func TestOnReceiveEnd(t *testing.T) {
	ends := map[string]func(*wt.SendStream){
		"FIN":   func(s *wt.SendStream) { check(t, s.Close()) },
		"reset": func(s *wt.SendStream) { s.CancelWrite(1) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			client, server := wttest.Pair(t)
			sent := must(client.OpenUniStream(t.Context()))(t)
			check(t, write(sent, "unread"))
			got := must(server.AcceptUniStream(t.Context()))(t)
			ended := make(chan struct{})
			got.OnReceiveEnd(func() { close(ended) })
			select {
			case <-ended:
				t.Fatal("ended while the stream is open")
			default:
			}
			end(sent)
			<-ended
			again := false
			got.OnReceiveEnd(func() { again = true })
			if !again {
				t.Error("a callback set after the end did not run at once")
			}
		})
	}
}

func TestWriteAfterClose(t *testing.T) {
	client, _ := wttest.Pair(t)
	stream := must(client.OpenStream(t.Context()))(t)
	check(t, stream.Close())
	if _, err := stream.Write([]byte("x")); !errors.Is(err, wt.ErrStreamClosed) {
		t.Errorf("Write returned %v", err)
	}
	if err := stream.TryWriteAll([]byte("x")); !errors.Is(err, wt.ErrStreamClosed) {
		t.Errorf("TryWriteAll returned %v", err)
	}
}

func TestCloseAfterStop(t *testing.T) {
	client, server := wttest.Pair(t)
	stream := must(client.OpenStream(t.Context()))(t)
	check(t, write(stream, "x"))
	must(server.AcceptStream(t.Context()))(t).CancelRead(8)
	<-stream.Context().Done()
	wantStreamError(t, stream.Close(), true, 8)
}

func TestTryWriteAll(t *testing.T) {
	windows := &quic.Config{InitialStreamReceiveWindow: 4096, MaxStreamReceiveWindow: 4096}
	client, server := wttest.PairWith(t, wttest.Options{Server: wt.ServerConfig{QUICConfig: windows}})
	stream := must(client.OpenStream(t.Context()))(t)
	if err := stream.TryWriteAll(make([]byte, 8192)); !errors.Is(err, wt.ErrWouldBlock) {
		t.Fatalf("8192 bytes into a window of 4096: %v", err)
	}
	// Nothing of the refused bytes was written, and the header still comes first.
	check(t, stream.TryWriteAll([]byte("small")))
	got := must(server.AcceptStream(t.Context()))(t)
	check(t, stream.Close())
	if b, err := io.ReadAll(got); err != nil || string(b) != "small" {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		windows := &quic.Config{InitialStreamReceiveWindow: 4096, MaxStreamReceiveWindow: 4096, KeepAlivePeriod: 10 * time.Second}
		client, server := wttest.PairWith(t, wttest.Options{Server: wt.ServerConfig{QUICConfig: windows}})
		stream := must(client.OpenStream(t.Context()))(t)

		check(t, stream.SetReadDeadline(time.Now().Add(time.Minute)))
		began := time.Now()
		if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("Read returned %v after %v", err, time.Since(began))
		}

		check(t, stream.SetWriteDeadline(time.Now().Add(time.Minute)))
		began = time.Now()
		b := bytes.Repeat([]byte("0123456789"), 1000)
		n, err := stream.Write(b)
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute || n == 0 || n >= len(b) {
			t.Errorf("Write returned %d, %v after %v", n, err, time.Since(began))
		}
		check(t, stream.SetDeadline(time.Time{}))

		got := must(server.AcceptStream(t.Context()))(t)
		var reading sync.WaitGroup
		reading.Go(func() {
			all, err := io.ReadAll(got)
			if err != nil || !bytes.Equal(all, b) {
				t.Errorf("after the deadline: read %d bytes, %v; want %d", len(all), err, len(b))
			}
		})
		must(stream.Write(b[n:]))(t)
		check(t, stream.Close())
		reading.Wait()
	})
}

// A deadline that has passed leaves the header for the next write.
func TestDeadlineBeforeHeader(t *testing.T) {
	client, server := wttest.Pair(t)
	stream := must(client.OpenStream(t.Context()))(t)
	check(t, stream.SetWriteDeadline(time.Unix(1, 0)))
	if n, err := stream.Write([]byte("late")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Write returned %d, %v", n, err)
	}
	check(t, stream.SetWriteDeadline(time.Time{}))
	check(t, write(stream, "on time"))
	check(t, stream.Close())
	if b, err := io.ReadAll(must(server.AcceptStream(t.Context()))(t)); err != nil || string(b) != "on time" {
		t.Errorf("read %q, %v", b, err)
	}
}

// OpenStream waits for credit, and no longer than its context.
func TestStreamCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.PairWith(t, wttest.Options{Server: wt.ServerConfig{MaxIncomingStreams: 2}})
		first := must(client.OpenStream(t.Context()))(t) // and the CONNECT is the other
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := client.OpenStream(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("OpenStream without credit returned %v", err)
		}
		check(t, first.Close())
		accepted := must(server.AcceptStream(t.Context()))(t)
		check(t, accepted.Close())
		must(io.ReadAll(accepted))(t)
		must(io.ReadAll(first))(t)
		must(client.OpenStream(t.Context()))(t)

		waited := make(chan error, 1)
		var waiting sync.WaitGroup
		waiting.Go(func() {
			_, err := client.OpenStream(t.Context())
			waited <- err
		})
		synctest.Wait()
		check(t, server.CloseWithError(2, "bye"))
		waiting.Wait()
		wantSessionError(t, <-waited, wt.Peer, 2, "bye")
	})
}

func TestPriority(t *testing.T) {
	client, server := wttest.Pair(t)
	low := must(client.OpenUniStream(t.Context()))(t)
	high := must(client.OpenUniStream(t.Context()))(t)
	low.SetPriority(7, false)
	high.SetPriority(0, false)
	check(t, write(low, "low"))
	check(t, write(high, "high"))
	for range 2 {
		must(server.AcceptUniStream(t.Context()))(t)
	}
	if low.StreamID() == high.StreamID() {
		t.Error("two streams have one id")
	}
}
