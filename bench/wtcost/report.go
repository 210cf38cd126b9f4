package main

import (
	"bufio"
	"debug/buildinfo"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// printSetup names what the figures were taken with, and begins their table.
func printSetup(w io.Writer, o options) {
	quic := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/quic-go/quic-go" {
				quic = module.Version
			}
		}
	}
	defer fmt.Fprintln(w, "| what | unit | wt | beside | ratio | 95 % interval | pairs | target | verdict |\n|---|---|---|---|---|---|---|---|---|")
	fmt.Fprintf(w, "%s: %s, %d cores, %s; %s; quic-go %s, webtransport-go %s; loopback, client and server processes of their own, %d to %d pairs, %d idle sessions.\n\n",
		time.Now().UTC().Format("2 January 2006"), processor(), runtime.NumCPU(), kernel(), runtime.Version(), quic, webTransportVersions(o.webTransportGo), o.fewest, o.most, o.sessions)
}

// webTransportVersions returns the versions in the program on webtransport-go.
func webTransportVersions(program string) string {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "unknown"
	}
	var its, quic string
	for _, module := range info.Deps {
		switch module.Path {
		case "github.com/quic-go/webtransport-go":
			its = module.Version
		case "github.com/quic-go/quic-go":
			quic = module.Version
		}
	}
	return its + " on quic-go " + quic
}

// processor returns the name of the CPU.
func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	return "Linux " + strings.TrimSpace(string(b))
}

// printRows prints the comparisons of a plan as rows of a table.
func printRows(w io.Writer, comparisons []comparison) {
	for _, c := range comparisons {
		target := ""
		switch {
		case c.limit > 0:
			target = fmt.Sprintf("%.0f", c.limit)
		case c.target > 0:
			target = fmt.Sprintf("≤ %.2f×", c.target)
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s %s | %.3f | %s | %d | %s | %s |\n", c.title, c.unit, digits(medianInterval(c.as).median),
			c.b, digits(medianInterval(c.bs).median), c.ratio.median, c.ratio, c.ratio.n, target, c.said())
	}
}

// String returns the interval, without the median.
func (i interval) String() string {
	if math.IsInf(i.low, 0) {
		return "none: too few pairs"
	}
	return fmt.Sprintf("%.3f–%.3f", i.low, i.high)
}

// digits prints a number with three digits that matter.
func digits(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
