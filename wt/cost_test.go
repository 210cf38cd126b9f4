package wt_test

import (
	"context"
	"maps"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// The numbers that the package's documentation states: of goroutines that an
// idle session holds on a server and on a client, those of QUIC apart.
func TestGoroutinesOfIdleSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wttest.Pair(t)
		time.Sleep(time.Second) // until the server's connection sleeps
		synctest.Wait()
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		want := map[string]int{ // on client and server together
			"wt.(*conn).acceptStreams(":           2,
			"wt.(*conn).acceptUniStreams(":        1, // the client's, as are the next two
			"wt.(*datagramReceiver).pump(":        1,
			"wt.(*criticalStream).run(":           1,
			"wt.(*Session).run(":                  2,
			"wt.HandlerFunc.ServeWebTransport(":   1,
			"quic-go.(*Conn).run(":                2,
			"quic-go.(*sendQueue).Run(":           2,
			"quic-go.(*Transport).listen(":        2, // one a socket
			"quic-go.(*Transport).runSendQueue(":  2, // one a socket
			"wt.(*Server).Serve(":                 1, // one a socket
			"wt.(*rouser).run(":                   1, // one a socket
			"quic-go.(*baseServer).run(":          1, // one a socket
			"quic-go.(*baseServer).runSendQueue(": 1, // one a socket
		}
		got := make(map[string]int)
		for goroutine := range strings.SplitSeq(string(stacks), "\n\n") {
			ours := strings.Contains(goroutine, "quic-go.") || strings.Contains(goroutine, "tidewire/wt")
			// Connections of earlier tests have timers still.
			if !ours || strings.Contains(goroutine, "created by time.goFunc") || strings.Contains(goroutine, "testing.") || strings.Contains(goroutine, "wttest.(*Endpoint).deliver(") {
				continue
			}
			known := false
			for f := range want {
				if strings.Contains(goroutine, f) {
					got[f]++
					known = true
				}
			}
			if !known {
				t.Errorf("a goroutine that is not counted:\n%s", goroutine)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("goroutines %v, want %v", got, want)
		}
	})
}

// barePair is a client's and a server's QUIC connection over loopback.
func barePair(b *testing.B) (client, server *quic.Conn) {
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
func loopbackPair(b *testing.B) (client, server *wt.Session) {
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
