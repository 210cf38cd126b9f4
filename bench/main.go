// Command bench measures the broker beside its peers: CPU-seconds of the server
// process per million deliveries, and the memory of idle sessions. Each server is
// a process of its own on loopback; all are measured in one run, in turn, so that
// the ratios hold on a machine whose speed drifts.
//
//	go run . [-rounds 3] [-peers tidewire,quichub,natsws] [-plans fan100,paced100,idle1000]
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// plan is one workload.
type plan struct {
	name, title string
	subscribers int
	size        int           // bytes of payload
	rate        int           // messages a second; 0: as fast as window allows
	window      int           // messages that are not delivered everywhere yet
	idle        bool          // only connect and subscribe, each to a topic of its own
	warm, run   time.Duration // unmeasured, measured
}

var plans = []plan{
	{name: "one", title: "1→1, 128 B, saturated", subscribers: 1, size: 128, window: 1024, warm: time.Second, run: 3 * time.Second},
	{name: "fan100", title: "1→100, 128 B, saturated", subscribers: 100, size: 128, window: 256, warm: time.Second, run: 3 * time.Second},
	{name: "fan100k", title: "1→100, 1 KiB, saturated", subscribers: 100, size: 1024, window: 64, warm: time.Second, run: 3 * time.Second},
	{name: "paced100", title: "1→100, 128 B, 500/s", subscribers: 100, size: 128, rate: 500, warm: time.Second, run: 4 * time.Second},
	{name: "idle1000", title: "1,000 idle sessions", subscribers: 1000, idle: true, run: 5 * time.Second},
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		if err := serve(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	rounds := flag.Int("rounds", 3, "times that each peer runs each plan, in turn")
	peerList := flag.String("peers", "tidewire,quichub,natsws", "peers, the first is what the others are compared with")
	planList := flag.String("plans", "one,fan100,fan100k,paced100,idle1000", "plans")
	flag.Parse()
	if err := run(*rounds, strings.Split(*peerList, ","), strings.Split(*planList, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(rounds int, peers, names []string) error {
	for _, p := range plans {
		if !slices.Contains(names, p.name) {
			continue
		}
		results := make(map[string][]result)
		for round := range rounds {
			for _, peer := range peers {
				fmt.Fprintf(os.Stderr, "%s: %s, round %d of %d\n", p.title, peer, round+1, rounds)
				r, err := measure(peer, p)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", p.title, peer, err)
				}
				results[peer] = append(results[peer], r)
			}
		}
		report(p, peers, results)
	}
	return nil
}

// report prints a table of medians, with the lowest and highest in brackets.
func report(p plan, peers []string, results map[string][]result) {
	fmt.Printf("\n### %s\n\n", p.title)
	if p.idle {
		fmt.Println("| peer | RSS, KiB a session | server CPU, ms a set-up |\n|---|---|---|")
	} else {
		fmt.Println("| peer | server CPU-s a million deliveries | ratio | deliveries/s | p50 ms | p99 ms |\n|---|---|---|---|---|---|")
	}
	first := median(results[peers[0]], func(r result) float64 { return r.cpu })
	for _, peer := range peers {
		rs := results[peer]
		cpu := median(rs, func(r result) float64 { return r.cpu })
		if p.idle {
			fmt.Printf("| %s | %s | %s |\n", peer, spread(rs, func(r result) float64 { return r.rss }), spread(rs, func(r result) float64 { return r.setup }))
			continue
		}
		fmt.Printf("| %s | %s | %.2f | %.0f | %.2f | %.2f |\n", peer, spread(rs, func(r result) float64 { return r.cpu }), cpu/first,
			median(rs, func(r result) float64 { return r.perSecond }), median(rs, func(r result) float64 { return r.p50 }), median(rs, func(r result) float64 { return r.p99 }))
	}
}

func sorted(rs []result, f func(result) float64) []float64 {
	var v []float64
	for _, r := range rs {
		v = append(v, f(r))
	}
	slices.Sort(v)
	return v
}

func median(rs []result, f func(result) float64) float64 {
	v := sorted(rs, f)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func spread(rs []result, f func(result) float64) string {
	v := sorted(rs, f)
	return fmt.Sprintf("%.2f (%.2f–%.2f)", median(rs, f), v[0], v[len(v)-1])
}
