// Server is the world of the contract's scenarios for browsers: brokers, and over
// HTTP the steps that are about them (POST /world), the page, and the client.
//
// It prints one line, the URL of all this, and ends when its standard input does.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/tidewire/tidewire/internal/contract"
	js "github.com/tidewire/tidewire/web/js"
)

func main() {
	page := flag.String("page", "", "the folder of the page")
	topics := flag.String("topics", "", "the file that configures the topics")
	joined := flag.Bool("nats", false, "two brokers that a NATS server of its own joins, in place of one that stands alone")
	flag.Parse()
	if err := run(*page, *topics, *joined, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

func run(page, topics string, joined bool, in io.Reader, out io.Writer) (err error) {
	config, err := os.ReadFile(topics)
	if err != nil {
		return err
	}
	options := contract.Options{Topics: config}
	if joined {
		nats, err := startNATS()
		if err != nil {
			return err
		}
		defer func() { nats.Shutdown(); nats.WaitForShutdown() }()
		options.NATS = nats.ClientURL()
	}
	world, err := contract.NewWorld(options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, world.Close()) }()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /tidewire.js", js.Handler())
	mux.Handle("POST /world", world)
	mux.Handle("GET /", http.FileServer(http.Dir(page)))
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "server:", err)
		}
	})
	defer serving.Wait()
	defer func() { err = errors.Join(err, web.Close()) }()

	if _, err := fmt.Fprintf(out, "http://%s\n", listener.Addr()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// startNATS starts the server that joins the brokers, on the loopback interface.
func startNATS() (*server.Server, error) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		s.Shutdown()
		return nil, errors.New("the NATS server does not come up")
	}
	return s, nil
}
