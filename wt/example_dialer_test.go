package wt_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"github.com/tidewire/tidewire/wt"
)

// startEcho starts a server that echoes streams, and returns its URL and the hash
// of its certificate.
func startEcho() (url string, hash [32]byte, stop func()) {
	identity, err := wt.NewDevIdentity()
	if err != nil {
		log.Fatal(err)
	}
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig:                identity.TLSConfig(),
		MaxSessionsPerConnection: 8,
		Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
			session, err := r.Accept(nil)
			if err != nil {
				return
			}
			for {
				stream, err := session.AcceptStream(ctx)
				if err != nil {
					return
				}
				_, _ = io.Copy(stream, stream)
				_ = stream.Close()
			}
		}),
	})
	if err != nil {
		log.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(packets)
	}()
	return fmt.Sprintf("https://%s/echo", packets.LocalAddr()), identity.Hash(), func() {
		_ = server.Close()
		<-done
	}
}

// A client that trusts an authority of its own beside none of the system's, and
// tells what went wrong.
func ExampleDialer() {
	ctx := context.Background()
	pem, err := os.ReadFile("authority.pem")
	if err != nil {
		log.Print(err)
		return
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	dialer := wt.Dialer{TLSConfig: &tls.Config{RootCAs: roots}}

	session, err := dialer.Dial(ctx, "https://tide.example:4433/chat")
	var rejected *wt.RejectedError
	var failed *wt.DialError
	switch {
	case errors.As(err, &rejected):
		log.Printf("the server answered with status %d", rejected.Status)
		return
	case errors.Is(err, wt.ErrUnsupported):
		log.Print("no WebTransport there")
		return
	case errors.As(err, &failed):
		log.Printf("came as far as %v: %v", failed.Step, err)
		return
	case err != nil:
		log.Print(err) // the URL or the Dialer is at fault
		return
	}
	defer session.Close()
	log.Printf("connected by %v", session.Draft())
}

// The first message goes out together with the request, a round trip earlier than
// after Dial.
func ExampleDialer_DialEarly() {
	url, hash, stop := startEcho()
	defer stop()
	ctx := context.Background()
	dialer := wt.Dialer{CertificateHashes: [][32]byte{hash}}
	session, err := dialer.DialEarly(ctx, url)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()
	stream, err := session.OpenStream(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(stream, "early tide")
	_ = stream.Close()

	if err := session.Ready(ctx); err != nil { // a *RejectedError, for example
		log.Fatal(err)
	}
	fmt.Println("status", session.Response().Status)
	answer, err := io.ReadAll(stream)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)
	// Output:
	// status 200
	// early tide
}

// Two sessions share a connection, and end one by one.
func ExamplePool() {
	url, hash, stop := startEcho()
	defer stop()
	ctx := context.Background()
	pool := &wt.Pool{Dialer: wt.Dialer{CertificateHashes: [][32]byte{hash}}}
	defer pool.Close()

	chat, err := pool.Dial(ctx, url+"?room=1")
	if err != nil {
		log.Fatal(err)
	}
	game, err := pool.Dial(ctx, url+"?room=2")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("one connection:", chat.Conn() == game.Conn())

	_ = chat.CloseWithError(0, "good night")
	stream, err := game.OpenStream(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(stream, "still playing")
	_ = stream.Close()
	answer, err := io.ReadAll(stream)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)
	// Output:
	// one connection: true
	// still playing
}
