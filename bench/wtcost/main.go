// Command wtcost measures what package wt costs: CPU beside bare quic-go for
// streams and datagrams, CPU of a server beside webtransport-go for the set-up of
// a session, and memory and goroutines of idle sessions beside both.
//
//	scripts/bench wt [-plans stream,datagram,set-up,idle] [-pairs 40]
//
// Client and server are processes of their own, and fresh in every run. The two
// sides of a comparison run in pairs, in turn (A B, B A, …), until the 95 %
// interval of the median of the pairs' ratios lies within ±2 % of it, so that the
// speed of the machine may drift. CPU is user and system time by getrusage in the
// process that is measured, from after a warm-up to the end of the work.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "side" {
		if err := runSide(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "wtcost: side:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	names := flag.String("plans", "", "`beginnings` of the names of the plans to run, with commas between; all by default")
	flag.IntVar(&o.fewest, "fewest", 10, "`pairs` that are run at least")
	flag.IntVar(&o.most, "pairs", 40, "`pairs` that are run at most")
	flag.IntVar(&o.sessions, "sessions", 2000, "idle `sessions` that are held")
	flag.Float64Var(&o.scale, "scale", 1, "`factor` to the work of a run, which is 1 to 2 seconds of CPU")
	flag.StringVar(&o.profiles, "profiles", "", "write CPU and heap profiles of every process to this `folder`")
	list := flag.Bool("list", false, "print the names of the plans, and end")
	flag.Parse()
	chosen := choose(o.plans(), *names)
	if *list {
		for _, p := range chosen {
			fmt.Println(p.name)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o, chosen)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "wtcost:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	fewest, most int
	sessions     int
	scale        float64
	profiles     string
	// self and webTransportGo are the paths of the programs.
	self, webTransportGo string
}

// choose returns the plans whose names begin with one of the given beginnings.
func choose(plans []plan, beginnings string) []plan {
	var chosen []plan
	for _, p := range plans {
		for beginning := range strings.SplitSeq(beginnings, ",") {
			if strings.HasPrefix(p.name, beginning) {
				chosen = append(chosen, p)
				break
			}
		}
	}
	return chosen
}

func run(ctx context.Context, o options, plans []plan) error {
	var err error
	if o.self, err = os.Executable(); err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "wtcost")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if o.webTransportGo, err = buildWebTransportGo(ctx, folder); err != nil {
		return err
	}
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o755); err != nil {
			return err
		}
	}
	printSetup(os.Stdout, o)
	for _, p := range plans {
		results, err := compare(ctx, o, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		printRows(os.Stdout, results)
	}
	return nil
}
