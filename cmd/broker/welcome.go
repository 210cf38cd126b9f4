package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// defaultServer is where pub and sub look for a broker.
const defaultServer = "https://127.0.0.1:4433" + sessionPath

// welcome writes where the broker serves, and what to do next.
func (s *setup) welcome(w io.Writer) {
	name := programName()
	addr := reachable(s.addr)
	url := "https://" + addr + sessionPath
	site := "http://" + addr
	if s.rotation == nil {
		site = "https://" + addr
	}

	who := "anyone may connect"
	if s.tokens {
		who = "clients need a token"
	}
	reach := "for this machine only"
	if !s.local {
		reach = "for other machines too"
	}
	fmt.Fprintf(w, "Tidewire serves %s, %s; %s.\n\n", s.addr, reach, who)
	fmt.Fprintf(w, "  URL          %s\n", url)
	if s.rotation != nil {
		fmt.Fprintf(w, "  certificate  %s\n", s.rotation.Present().HashBase64())
		fmt.Fprintf(w, "               SHA-256 of the development identity; from %s on\n", s.rotation.NextAt().Local().Format(time.DateOnly))
		fmt.Fprintf(w, "               %s\n", s.rotation.Next().HashBase64())
	}
	if s.shows("page") {
		fmt.Fprintf(w, "  page         %s/  to subscribe and publish by hand\n", site)
	}
	if s.shows("metrics") {
		fmt.Fprintf(w, "  metrics      %s/metrics\n", site)
	}
	fmt.Fprintf(w, "  health       %s/healthz\n", site)

	flags := ""
	if url != defaultServer {
		flags += " --server " + url
	}
	if s.rotation != nil && (!s.local || s.unsaved != nil) {
		flags += " --cert-hash " + s.rotation.Present().HashBase64()
	}
	if dir := s.command.StateDir; dir != "" && s.rotation != nil && s.local && s.unsaved == nil && os.Getenv("TIDEWIRE_STATE_DIR") != dir {
		flags += " --state-dir " + dir
	}
	if s.tokens {
		flags += " --token TOKEN"
		fmt.Fprintf(w, "\nMake a token with the key that the broker checks: %s token --help\n", name)
	}
	fmt.Fprintf(w, "\nTry it from two other terminals:\n\n")
	fmt.Fprintf(w, "  %s sub%s 'chat.>'\n", name, flags)
	fmt.Fprintf(w, "  %s pub%s chat.lobby hello\n", name, flags)
	fmt.Fprintf(w, "\nCtrl-C stops it.\n\n")
}

// reachable puts this machine's name in the place of an address that stands for all
// of its own, which nobody else could connect to.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return addr
	}
	name, err := os.Hostname()
	if err != nil {
		return addr
	}
	return net.JoinHostPort(name, port)
}

// programName is what one types to run this program.
func programName() string {
	if executable, err := os.Executable(); err == nil && strings.Contains(filepath.ToSlash(executable), "/go-build") {
		return "go run ./cmd/broker"
	}
	return filepath.Base(os.Args[0])
}
