package wt_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/tidewire/tidewire/wt"
)

// A server that runs for longer than a browser trusts a certificate by its hash,
// and what gives its page the hashes.
//
//	const hashes = await (await fetch("/hashes")).json();
//	const transport = new WebTransport("https://127.0.0.1:4433/chat", {
//	  serverCertificateHashes: hashes.map((hash) => ({
//	    algorithm: "sha-256",
//	    value: new Uint8Array(hash),
//	  })),
//	});
func ExampleRotation_Hashes() {
	rotation, err := wt.NewRotation(wt.RotationConfig{Dir: "identities"})
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("GET /hashes", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(rotation.Hashes())
	})
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig: rotation.TLSConfig(),
		Handler:   wt.NewMux(),
		// The page comes from another port than the sessions.
		CheckOrigin: func(r *wt.Request) bool {
			return r.Origin == "" || r.Origin == "http://127.0.0.1:8080"
		},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(server.ListenAndServe()) }()
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", nil))
}

// A server that stops: its handlers get to know, and close their sessions with a code
// that clients understand.
func ExampleServer_Shutdown() {
	const goingAway = 7
	identity, err := wt.NewDevIdentity()
	if err != nil {
		log.Fatal(err)
	}
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig: identity.TLSConfig(),
		Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
			session, err := r.Accept(nil)
			if err != nil {
				return
			}
			select {
			case <-session.Draining():
				_ = session.CloseWithError(goingAway, "the server restarts")
			case <-ctx.Done():
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
	served := make(chan error, 1)
	go func() { served <- server.Serve(packets) }()

	dialer := wt.Dialer{CertificateHashes: [][32]byte{identity.Hash()}}
	session, err := dialer.Dial(context.Background(), fmt.Sprintf("https://%s/", packets.LocalAddr()))
	if err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		log.Print(err) // some sessions were cut off
	}
	<-session.Context().Done()
	var ended *wt.SessionError
	if errors.As(context.Cause(session.Context()), &ended) {
		fmt.Println(ended.Code, ended.Reason)
	}
	_ = session.Close()
	fmt.Println(<-served)
	// Output:
	// 7 the server restarts
	// wt: server closed
}
