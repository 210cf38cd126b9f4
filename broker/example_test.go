package broker_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/wt"
)

// A broker in the process, served over WebTransport on loopback, publishes to a
// client.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	b, err := broker.New(broker.Config{})
	if err != nil {
		log.Fatal(err)
	}
	identity, err := wt.NewDevIdentity()
	if err != nil {
		log.Fatal(err)
	}
	srv, err := wt.NewServer(wt.ServerConfig{TLSConfig: identity.TLSConfig(), Handler: b})
	if err != nil {
		log.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(packets) }()
	defer func() {
		_ = b.Shutdown(ctx) // the sessions are told, and their queues drain
		_ = srv.Close()
		<-served
	}()

	url := fmt.Sprintf("https://%s/tidewire", packets.LocalAddr())
	c, err := client.Dial(ctx, url, client.Config{CertificateHashes: [][32]byte{identity.Hash()}})
	if err != nil {
		log.Print(err)
		return
	}
	defer c.Close()
	sub, err := c.Subscribe(ctx, "news.>", nil)
	if err != nil {
		log.Print(err)
		return
	}
	if _, err := b.Publish(ctx, "news.today", "it rains", nil); err != nil {
		log.Print(err)
		return
	}
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			log.Print(err)
			return
		}
		fmt.Printf("%s: %s\n", m.Topic, m.Payload.Data)
		break
	}
	// Output: news.today: it rains
}
