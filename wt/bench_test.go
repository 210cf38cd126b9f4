package wt_test

import (
	"context"
	"io"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/tidewire/tidewire/wt"
)

// barePair is a client's and a server's QUIC connection over loopback.
func barePair(b testing.TB) (client, server *quic.Conn) {
	b.Helper()
	identity := must(wt.NewDevIdentity())(b)
	tlsConfig := identity.TLSConfig()
	tlsConfig.NextProtos = []string{"h3"}
	config := &quic.Config{EnableDatagrams: true, EnableStreamResetPartialDelivery: true}
	listener := must(quic.ListenAddr("127.0.0.1:0", tlsConfig, config))(b)
	clientTLS := tlsConfig.Clone()
	clientTLS.InsecureSkipVerify = true
	client = must(quic.DialAddr(b.Context(), listener.Addr().String(), clientTLS, config))(b)
	server = must(listener.Accept(b.Context()))(b)
	b.Cleanup(func() {
		_ = client.CloseWithError(0, "")
		_ = server.CloseWithError(0, "")
		_ = listener.Close()
	})
	return client, server
}

// loopbackPair is the two ends of a session over loopback.
func loopbackPair(b testing.TB) (client, server *wt.Session) {
	b.Helper()
	identity := must(wt.NewDevIdentity())(b)
	sessions := make(chan *wt.Session, 1)
	s := must(wt.NewServer(wt.ServerConfig{Addr: "127.0.0.1:0", TLSConfig: identity.TLSConfig(), Handler: accepting(sessions)}))(b)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.ListenAndServe() })
	dialer := wt.Dialer{CertificateHashes: [][32]byte{identity.Hash()}}
	client = must(dialer.Dial(b.Context(), "https://"+s.Addr(b.Context()).String()+"/"))(b)
	b.Cleanup(func() {
		_ = client.Close()
		_ = s.Close()
		serving.Wait()
	})
	return client, <-sessions
}

const messageSize = 128

// writeStream writes b.N messages of 128 bytes and waits until the reader has
// them all.
func writeStream(b *testing.B, write func([]byte) (int, error), read func([]byte) (int, error)) {
	b.Helper()
	b.ReportAllocs()
	b.SetBytes(messageSize)
	received := make(chan int64, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		buf, total := make([]byte, 64<<10), int64(0)
		for {
			n, err := read(buf)
			total += int64(n)
			if err != nil {
				received <- total
				return
			}
		}
	})
	message, sent := make([]byte, messageSize), int64(0)
	for b.Loop() {
		n, err := write(message)
		if err != nil {
			b.Fatal(err)
		}
		sent += int64(n)
	}
	if _, err := write(nil); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		reading.Wait()
		if got := <-received; got != sent {
			b.Errorf("received %d bytes of %d", got, sent)
		}
	})
}

func BenchmarkStreamWrite(b *testing.B) {
	b.Run("quic", func(b *testing.B) {
		client, server := barePair(b)
		out := must(client.OpenUniStreamSync(b.Context()))(b)
		must(out.Write([]byte{0}))(b)
		in := must(server.AcceptUniStream(b.Context()))(b)
		must(in.Read(make([]byte, 1)))(b)
		writeStream(b, out.Write, in.Read)
		check(b, out.Close())
	})
	b.Run("wt", func(b *testing.B) {
		client, server := loopbackPair(b)
		out := must(client.OpenUniStream(b.Context()))(b)
		must(out.Write([]byte{0}))(b)
		in := must(server.AcceptUniStream(b.Context()))(b)
		must(in.Read(make([]byte, 1)))(b)
		writeStream(b, out.Write, in.Read)
		check(b, out.Close())
	})
}

// sendDatagrams sends b.N datagrams of 128 bytes and reports how many of them
// arrived; their queues drop under load.
func sendDatagrams(b *testing.B, send func([]byte) error, receive func(context.Context) ([]byte, error)) {
	b.Helper()
	b.ReportAllocs()
	b.SetBytes(messageSize)
	ctx, stop := context.WithCancel(b.Context())
	var receiving sync.WaitGroup
	received := 0
	receiving.Go(func() {
		for {
			if _, err := receive(ctx); err != nil {
				return
			}
			received++
		}
	})
	message := make([]byte, messageSize)
	for b.Loop() {
		if err := send(message); err != nil {
			b.Fatal(err)
		}
	}
	stop()
	receiving.Wait()
	b.ReportMetric(float64(received)/float64(b.N), "received/op")
}

func BenchmarkDatagram(b *testing.B) {
	b.Run("quic", func(b *testing.B) {
		client, server := barePair(b)
		sendDatagrams(b, client.SendDatagram, server.ReceiveDatagram)
	})
	b.Run("wt", func(b *testing.B) {
		client, server := loopbackPair(b)
		sendDatagrams(b, func(p []byte) error { return client.SendDatagram(b.Context(), p) }, server.ReceiveDatagram)
	})
}

// oneDatagram sends a datagram of 128 bytes and returns when it was received.
type oneDatagram func(context.Context) error

func datagramRoundTrip(send func(context.Context, []byte) error, receive func(context.Context) ([]byte, error)) oneDatagram {
	message := make([]byte, messageSize)
	return func(ctx context.Context) error {
		if err := send(ctx, message); err != nil {
			return err
		}
		_, err := receive(ctx)
		return err
	}
}

// bareDatagram has both ends on bare quic-go.
func bareDatagram(t testing.TB) oneDatagram {
	client, server := barePair(t)
	return datagramRoundTrip(func(_ context.Context, b []byte) error { return client.SendDatagram(b) }, server.ReceiveDatagram)
}

// receivedDatagram receives with the package what bare quic-go sends.
func receivedDatagram(t testing.TB) oneDatagram {
	client, server := loopbackPair(t)
	message := append(quicvarint.Append(nil, 0), make([]byte, messageSize)...) // of the first request
	return datagramRoundTrip(func(context.Context, []byte) error { return client.Conn().SendDatagram(message) }, server.ReceiveDatagram)
}

// sessionDatagram has both ends on sessions.
func sessionDatagram(t testing.TB) oneDatagram {
	client, server := loopbackPair(t)
	return datagramRoundTrip(client.SendDatagram, server.ReceiveDatagram)
}

func BenchmarkDatagramRoundTrip(b *testing.B) {
	for _, c := range []struct {
		name string
		make func(testing.TB) oneDatagram
	}{{"quic", bareDatagram}, {"received by wt", receivedDatagram}, {"wt", sessionDatagram}} {
		b.Run(c.name, func(b *testing.B) {
			one := c.make(b)
			b.ReportAllocs()
			for b.Loop() {
				check(b, one(b.Context()))
			}
		})
	}
}

// ownAllocations returns how many allocations the package itself has made so far,
// as far as the profile of memory knows: not those of QUIC on its behalf.
func ownAllocations() (own int64) {
	// A cycle publishes what was allocated before the one that precedes it.
	runtime.GC()
	runtime.GC()
	records := make([]runtime.MemProfileRecord, 4096)
	for {
		n, ok := runtime.MemProfile(records, true)
		if ok {
			records = records[:n]
			break
		}
		records = make([]runtime.MemProfileRecord, 2*n)
	}
	for _, r := range records {
		frames := runtime.CallersFrames(r.Stack())
		for {
			frame, more := frames.Next()
			if strings.HasPrefix(frame.Function, "github.com/tidewire/tidewire/wt.") {
				own += r.AllocObjects
				break
			}
			if !more || strings.HasPrefix(frame.Function, "github.com/quic-go/quic-go.") {
				break
			}
		}
	}
	return own
}

// profileAll has the profile of memory know every allocation until the test ends.
func profileAll(t *testing.T) {
	rate := runtime.MemProfileRate
	runtime.MemProfileRate = 1
	t.Cleanup(func() { runtime.MemProfileRate = rate })
}

// Neither sending nor receiving a datagram allocates beyond what QUIC does.
func TestDatagramAllocations(t *testing.T) {
	profileAll(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const rounds = 1000
	for name, make := range map[string]func(testing.TB) oneDatagram{"received": receivedDatagram, "sent and received": sessionDatagram} {
		one := make(t)
		fewest := int64(math.MaxInt64)
		for range 3 {
			before := ownAllocations()
			for range rounds {
				check(t, one(ctx))
			}
			fewest = min(fewest, ownAllocations()-before)
			if fewest < rounds/2 {
				break
			}
		}
		// What notices now and then whether they still flow may allocate, and on a slow
		// machine does so more often.
		if fewest > rounds*3/4 {
			t.Errorf("%d datagrams that are %s: %d allocations", rounds, name, fewest)
		}
	}
	if ownAllocations() == 0 {
		t.Error("the profile knows no allocation at all")
	}
}

// Neither a write nor a read on a stream allocates beyond what QUIC does.
func TestStreamAllocations(t *testing.T) {
	profileAll(t)
	client, server := loopbackPair(t)
	out := must(client.OpenUniStream(t.Context()))(t)
	message := make([]byte, messageSize)
	must(out.Write(message))(t)
	in := must(server.AcceptUniStream(t.Context()))(t)
	must(io.ReadFull(in, message))(t)
	const rounds = 1000
	before := ownAllocations()
	for i := range rounds {
		if i%2 == 0 {
			must(out.Write(message))(t)
		} else {
			check(t, out.TryWriteAll(message))
		}
		must(io.ReadFull(in, message))(t)
	}
	if got := ownAllocations() - before; got > rounds/4 {
		t.Errorf("%d messages: %d allocations", rounds, got)
	}
}
