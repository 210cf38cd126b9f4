package wt_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"

	"github.com/tidewire/tidewire/wt"
)

// A server that greets whoever names himself on a stream, and its client.
func ExampleServer() {
	identity, err := wt.NewDevIdentity()
	if err != nil {
		log.Fatal(err)
	}
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig: identity.TLSConfig(),
		Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
			if r.Path != "/greet" {
				return // refused with 404
			}
			session, err := r.Accept(nil)
			if err != nil {
				return
			}
			for {
				stream, err := session.AcceptStream(ctx)
				if err != nil {
					return // the session has ended
				}
				name, err := io.ReadAll(stream)
				if err != nil {
					continue
				}
				fmt.Fprintf(stream, "hello, %s", name)
				_ = stream.Close()
			}
		}),
	})
	if err != nil {
		log.Fatal(err)
	}
	// A server learns its port before it serves, if it binds the socket itself.
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(packets) }()

	dialer := wt.Dialer{CertificateHashes: [][32]byte{identity.Hash()}}
	session, err := dialer.Dial(context.Background(), fmt.Sprintf("https://%s/greet", packets.LocalAddr()))
	if err != nil {
		log.Fatal(err)
	}
	stream, err := session.OpenStream(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(stream, "tide")
	_ = stream.Close()
	answer, err := io.ReadAll(stream)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)

	_ = session.CloseWithError(0, "goodbye")
	_ = server.Close()
	fmt.Println(<-served)
	// Output:
	// hello, tide
	// wt: server closed
}

// A client of a server with a certificate that the system trusts.
func ExampleDialer_Dial() {
	ctx := context.Background()
	dialer := wt.Dialer{Subprotocols: []string{"chat.v2", "chat.v1"}}
	session, err := dialer.Dial(ctx, "https://example.com/chat")
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()
	log.Printf("speaking %s by %v", session.Subprotocol(), session.Draft())
	stream, err := session.OpenStream(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(stream, "hello")
	_ = stream.Close()
	if _, err := io.Copy(log.Writer(), stream); err != nil {
		log.Fatal(err)
	}
}

// A handler that echoes datagrams. They may be lost, and where a receiver is
// late, the newest are kept.
func ExampleSession_SendDatagram() {
	mux := wt.NewMux()
	mux.HandleFunc("/positions", func(ctx context.Context, r *wt.Request) {
		session, err := r.Accept(nil)
		if err != nil {
			return
		}
		for {
			position, err := session.ReceiveDatagram(ctx)
			if err != nil {
				return
			}
			err = session.SendDatagram(ctx, position)
			if err != nil && !errors.Is(err, wt.ErrDatagramTooLarge) {
				return
			}
		}
	})
	// mux is a ServerConfig.Handler.
}

// Who ended a session, and with which words.
func ExampleSessionError() {
	err := fmt.Errorf("reading: %w", &wt.SessionError{Code: 42, Reason: "moved away", By: wt.Peer, Remote: true})
	var ended *wt.SessionError
	if errors.As(err, &ended) {
		fmt.Printf("ended by %v with code %d: %s\n", ended.By, ended.Code, ended.Reason)
	}
	fmt.Println(errors.Is(err, wt.ErrSessionClosed))
	// Output:
	// ended by peer with code 42: moved away
	// true
}
