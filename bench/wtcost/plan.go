package main

import (
	"fmt"
)

// Libraries that are compared.
const (
	libWT           = "wt"
	libQUIC         = "quic"           // bare quic-go of the same version
	libWebTransport = "webtransportgo" // a program of its own, on its own quic-go
)

// work is what the processes of a run do. It is the same for both libraries.
type work struct {
	// Kind is one of kindStream, kindDatagram, kindSetUp and kindIdle.
	Kind string
	// Down says that the server sends and the client receives, in place of the
	// other way.
	Down bool
	// Size is that of a message or a datagram, in bytes.
	Size int
	// Batch is how many messages go into one write.
	Batch int
	// Rate is how many datagrams are sent a second, 0 for as many as go.
	Rate int
	// Window is how many datagrams may be under way, 0 for as many as go.
	Window int
	// Count is of messages, datagrams or sessions.
	Count int
	// Close says that each session of a set-up is closed at once.
	Close bool
	// Stream says that a bare connection has a stream which its server reads, as a
	// session has the one of its CONNECT.
	Stream bool
}

// Kinds of work.
const (
	kindStream   = "stream"
	kindDatagram = "datagram"
	kindSetUp    = "set-up"
	kindIdle     = "idle"
)

// plan compares two libraries at one work.
type plan struct {
	name string
	work work
	a, b string
	// measures are what is taken from each run.
	measures []measure
}

// measure is one number of a run.
type measure struct {
	title  string
	unit   string
	target float64 // of the ratio, 0 for none
	of     func(outcome) float64
	// limit is an upper bound of the number itself, 0 for none.
	limit float64
	// rough says that no pairs are run to make it more precise.
	rough bool
}

// outcome is what one run has shown: of each process the difference between its
// end and its beginning.
type outcome struct {
	server, client snapshot
	received       float64 // share of the datagrams that the application received
}

// Targets.
const (
	targetMessage = 1.05
	targetSetUp   = 0.80
	targetIdle    = 1.20
	limitRoutines = 5
)

// perItem is CPU in microseconds a message, datagram or session.
func perItem(s snapshot) float64 { return float64(s.CPU.Nanoseconds()) / 1000 / float64(s.Count) }

// kibEach is a number of bytes as KiB a message, datagram or session.
func kibEach(f func(snapshot) int64) func(snapshot) float64 {
	return func(s snapshot) float64 { return float64(f(s)) / 1024 / float64(s.Count) }
}

// each is a number a message, datagram or session.
func each(f func(snapshot) int64) func(snapshot) float64 {
	return func(s snapshot) float64 { return float64(f(s)) / float64(s.Count) }
}

func mallocs(s snapshot) int64 { return int64(s.Mallocs) }

func ofServer(f func(snapshot) float64) func(outcome) float64 {
	return func(o outcome) float64 { return f(o.server) }
}

func ofClient(f func(snapshot) float64) func(outcome) float64 {
	return func(o outcome) float64 { return f(o.client) }
}

// plans returns all plans.
func (o options) plans() []plan {
	var plans []plan
	scaled := func(n int) int { return max(1, int(float64(n)*o.scale)) }
	both := func(w work, what string) []measure {
		server, client := "receiving server", "sending client"
		if w.Down {
			server, client = "sending server", "receiving client"
		}
		return []measure{
			{title: what + ", " + server, unit: "CPU µs", target: targetMessage, of: ofServer(perItem)},
			{title: what + ", " + client, unit: "CPU µs", target: targetMessage, of: ofClient(perItem)},
			{title: what + ", " + server, unit: "allocations", of: ofServer(each(mallocs)), rough: true},
			{title: what + ", " + client, unit: "allocations", of: ofClient(each(mallocs)), rough: true},
		}
	}
	direction := func(down bool) string {
		if down {
			return "down"
		}
		return "up"
	}
	for _, w := range []work{
		{Size: 128, Batch: 1, Count: 400_000},
		{Size: 128, Batch: 512, Count: 2_000_000},
		{Size: 1024, Batch: 1, Count: 200_000},
		{Size: 1024, Batch: 64, Count: 300_000},
	} {
		for _, down := range []bool{false, true} {
			w.Kind, w.Down, w.Count = kindStream, down, scaled(w.Count)
			what, name := "a message a write", "single"
			if w.Batch > 1 {
				what, name = fmt.Sprintf("%d a write", w.Batch), "coalesced"
			}
			plans = append(plans, plan{
				name: fmt.Sprintf("stream-%d-%s-%s", w.Size, name, direction(down)), work: w, a: libWT, b: libQUIC,
				measures: both(w, fmt.Sprintf("stream, messages of %d B, %s", w.Size, what)),
			})
		}
	}
	for _, w := range []work{
		{Size: 100, Count: 300_000},
		{Size: 100, Count: 200_000, Window: 96},
		{Size: 100, Count: 3_000, Rate: 2_000},
		{Size: 1000, Count: 100_000},
		{Size: 1000, Count: 100_000, Window: 96},
		{Size: 1000, Count: 3_000, Rate: 2_000},
	} {
		for _, down := range []bool{false, true} {
			w.Kind, w.Down, w.Count = kindDatagram, down, scaled(w.Count)
			what, name := "as many as go", "flood"
			switch {
			case w.Rate > 0:
				what, name = fmt.Sprintf("%d a second", w.Rate), "paced"
			case w.Window > 0:
				what, name = fmt.Sprintf("%d under way", w.Window), "window"
			}
			p := plan{
				name: fmt.Sprintf("datagram-%d-%s-%s", w.Size, name, direction(down)), work: w, a: libWT, b: libQUIC,
				measures: both(w, fmt.Sprintf("datagrams of %d B, %s", w.Size, what)),
			}
			p.measures = append(p.measures, measure{
				title: fmt.Sprintf("datagrams of %d B, %s, %s", w.Size, what, direction(down)), unit: "share received",
				of: func(o outcome) float64 { return o.received }, rough: true,
			})
			plans = append(plans, p)
		}
	}
	setUp := func(what string, target float64) []measure {
		return []measure{
			{title: what + ", server", unit: "CPU µs", target: target, of: ofServer(perItem)},
			{title: what + ", server", unit: "allocations", of: ofServer(each(mallocs)), rough: true},
			{title: what + ", server", unit: "KiB allocated", of: ofServer(kibEach(func(s snapshot) int64 { return int64(s.Allocated) })), rough: true},
		}
	}
	opened, closed := work{Kind: kindSetUp, Count: scaled(400)}, work{Kind: kindSetUp, Count: scaled(400), Close: true}
	plans = append(plans,
		plan{name: "set-up-webtransportgo", work: opened, a: libWT, b: libWebTransport, measures: setUp("set-up of a session", targetSetUp)},
		plan{name: "set-up-close-webtransportgo", work: closed, a: libWT, b: libWebTransport, measures: setUp("set-up and close of a session", targetSetUp)},
		plan{name: "set-up-quic", work: opened, a: libWT, b: libQUIC, measures: setUp("set-up of a session or a bare connection", 0)},
	)
	idle := func(what string, target, limit float64) []measure {
		return []measure{
			{title: what, unit: "KiB resident", target: target, of: ofServer(kibEach(func(s snapshot) int64 { return s.RSS }))},
			{title: what, unit: "KiB of heap", of: ofServer(kibEach(func(s snapshot) int64 { return s.Heap })), rough: true},
			{title: what, unit: "KiB of stacks", of: ofServer(kibEach(func(s snapshot) int64 { return s.Stacks })), rough: true},
			{title: what, unit: "goroutines", limit: limit, of: ofServer(each(func(s snapshot) int64 { return int64(s.Goroutines) })), rough: true},
		}
	}
	held, read := work{Kind: kindIdle, Count: o.sessions}, work{Kind: kindIdle, Count: o.sessions, Stream: true}
	return append(plans,
		plan{name: "idle-quic", work: held, a: libWT, b: libQUIC, measures: idle("idle session, server", targetIdle, limitRoutines)},
		plan{name: "idle-stream-quic", work: read, a: libWT, b: libQUIC, measures: idle("idle session beside a connection with a stream, server", 0, 0)},
		plan{name: "idle-webtransportgo", work: held, a: libWT, b: libWebTransport, measures: idle("idle session, server", 0, 0)},
	)
}
