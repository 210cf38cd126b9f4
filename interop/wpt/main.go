package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"

	"github.com/tidewire/tidewire/wt"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	ok, err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "wpt:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	checkout     string
	filter       string
	browser      string
	browserFlags string
	experimental bool
	expect       string
	record       string
	multiplier   int
	repeat       int
	verbose      bool
}

func parseOptions(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("wpt", flag.ContinueOnError)
	flags.StringVar(&o.filter, "run", "", "run the pages alone whose URL contains this")
	flags.StringVar(&o.browser, "browser", "chromium", "the browser's program")
	flags.StringVar(&o.browserFlags, "browser-flags", "", "further flags of the browser, with blanks between")
	flags.BoolVar(&o.experimental, "experimental", true, "have the browser's experimental features on")
	flags.StringVar(&o.expect, "expect", "", "a file of subtests that are known not to pass")
	flags.StringVar(&o.record, "record", "", "write the results to this file, as JSON")
	flags.IntVar(&o.multiplier, "timeout-multiplier", 2, "multiplies all timeouts")
	flags.BoolVar(&o.verbose, "v", false, "print what handlers and browser report")
	flags.IntVar(&o.repeat, "repeat", 1, "run each page this often")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() != 1 {
		return o, errors.New("give the path of a checkout of web-platform-tests")
	}
	o.checkout = flags.Arg(0)
	return o, nil
}

// command runs the suite and reports whether every subtest did as expected.
func command(ctx context.Context, args []string, out io.Writer) (ok bool, err error) {
	o, err := parseOptions(args)
	if err != nil {
		return false, err
	}
	expected, err := readExpectations(o.expect)
	if err != nil {
		return false, err
	}
	jobs, err := findJobs(o.checkout, o.filter)
	if err != nil {
		return false, err
	}
	if len(jobs) == 0 {
		return false, fmt.Errorf("no pages in %s", o.checkout)
	}
	verbose := log.New(io.Discard, "", log.Lmicroseconds)
	if o.verbose {
		verbose.SetOutput(os.Stderr)
	}

	identity, err := wt.NewDevIdentity(host, "*."+host)
	if err != nil {
		return false, err
	}
	h := &handlers{log: verbose.Printf}
	webTransport, err := wt.NewServer(wt.ServerConfig{
		TLSConfig: identity.TLSConfig(),
		Handler:   h,
		// The pages have another port. Clients that are no browser are not served.
		CheckOrigin: func(r *wt.Request) bool { return r.Origin != "" },
	})
	if err != nil {
		return false, err
	}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return false, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return false, errors.Join(err, packets.Close())
	}
	p := ports{
		pages:        listener.Addr().(*net.TCPAddr).Port,
		webTransport: packets.LocalAddr().(*net.UDPAddr).Port,
	}

	report := &report{out: out, expected: expected}
	r := &runner{multiplier: o.multiplier}
	mux := http.NewServeMux()
	mux.Handle("/", &pages{checkout: o.checkout, ports: p, multiplier: o.multiplier, log: verbose.Printf})
	mux.HandleFunc("GET /runner/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", typeHTML)
		_, _ = io.WriteString(w, runnerPage)
	})
	mux.HandleFunc("POST /runner/next", r.next)
	mux.HandleFunc("POST /runner/result", r.result)
	server := &http.Server{
		Handler:   mux,
		TLSConfig: identity.TLSConfig(),
		ErrorLog:  log.New(io.Discard, "", 0), // the browser's aborted connections
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() {
		if err := webTransport.Serve(packets); ctx.Err() == nil {
			cancel(err)
		}
	})
	serving.Go(func() {
		if err := server.ServeTLS(listener, "", ""); ctx.Err() == nil {
			cancel(err)
		}
	})
	defer func() {
		cancel(nil)
		_ = server.Close()
		_ = webTransport.Close()
	}()

	page := fmt.Sprintf("https://%s:%d/runner/", host, p.pages)
	flags := strings.Fields(o.browserFlags)
	if o.experimental {
		flags = append(flags, "--enable-experimental-web-platform-features")
	}
	for _, j := range jobs {
		for range o.repeat {
			got := r.run(ctx, j, func(ctx context.Context) error {
				return browse(ctx, o.browser, page, identity.Certificate().Leaf, p, flags, verbose.Writer())
			})
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			report.add(got)
		}
	}
	return report.finish(o.record)
}
