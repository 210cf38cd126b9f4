package wt_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/tidewire/tidewire/wt"
)

// A server with a handler for each kind of path. Clients that ask for another one
// are refused with 404.
func ExampleMux() {
	mux := wt.NewMux()
	mux.HandleFunc("/rooms/{room}", func(ctx context.Context, r *wt.Request) {
		session, err := r.Accept(nil)
		if err != nil {
			return
		}
		stream, err := session.OpenUniStream(ctx)
		if err != nil {
			return
		}
		fmt.Fprintf(stream, "welcome to %s", r.PathValue("room"))
		_ = stream.Close()
		<-ctx.Done() // until the client closes the session
	})
	mux.HandleFunc("/admin", func(_ context.Context, r *wt.Request) {
		_ = r.Reject(http.StatusUnauthorized, http.Header{"Www-Authenticate": {"Bearer"}})
	})

	identity, err := wt.NewDevIdentity()
	if err != nil {
		log.Fatal(err)
	}
	server, err := wt.NewServer(wt.ServerConfig{TLSConfig: identity.TLSConfig(), Handler: mux})
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
	for _, path := range []string{"/rooms/lobby", "/admin", "/cellar"} {
		session, err := dialer.Dial(context.Background(), fmt.Sprintf("https://%s%s", packets.LocalAddr(), path))
		if err != nil {
			fmt.Println(path, err)
			continue
		}
		stream, err := session.AcceptUniStream(context.Background())
		if err != nil {
			log.Fatal(err)
		}
		text, err := io.ReadAll(stream)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s\n", path, text)
		_ = session.Close()
	}
	_ = server.Close()
	<-served
	// Output:
	// /rooms/lobby: welcome to lobby
	// /admin wt: server rejected the session with status 401 Unauthorized
	// /cellar wt: server rejected the session with status 404 Not Found
}

// A server that answers plain HTTP/3 requests on the same port. Browsers find it
// once a server on TCP names it in the field Alt-Svc.
func ExampleServerConfig_httpHandler() {
	pages := http.NewServeMux()
	pages.Handle("GET /", http.FileServer(http.Dir("public")))
	pages.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "afloat")
	})
	sessions := wt.NewMux()
	sessions.HandleFunc("/chat", func(ctx context.Context, r *wt.Request) {
		session, err := r.Accept(nil)
		if err != nil {
			return
		}
		defer session.Close()
		<-ctx.Done()
	})
	identity, err := wt.NewDevIdentity()
	if err != nil {
		log.Fatal(err)
	}
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig:   identity.TLSConfig(),
		Handler:     sessions, // CONNECT with :protocol
		HTTPHandler: pages,    // all others, GET and POST among them
	})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.ListenAndServe())
}
