package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// defaultServer is where pub and sub look for a broker.
const defaultServer = "https://127.0.0.1:4433" + path

// welcome writes where the broker serves, and what to do next.
func (h *house) welcome(w io.Writer) {
	name := programName()
	url := "https://" + h.addr + path
	site := "http://" + h.addr
	if h.identity == nil {
		site = "https://" + h.addr
	}

	who := "anyone may connect"
	if h.tokens {
		who = "clients need a token"
	}
	reach := "for this machine only"
	if !h.local {
		reach = "for other machines too"
	}
	fmt.Fprintf(w, "Tidewire serves %s, %s; %s.\n\n", h.addr, reach, who)
	fmt.Fprintf(w, "  URL          %s\n", url)
	if h.identity != nil {
		leaf := h.identity.Certificate().Leaf
		fmt.Fprintf(w, "  certificate  %s\n", h.identity.HashBase64())
		fmt.Fprintf(w, "               SHA-256 of the development identity, valid until %s\n", leaf.NotAfter.Local().Format(time.DateOnly))
	}
	if h.shows("metrics") {
		fmt.Fprintf(w, "  metrics      %s/metrics\n", site)
	}
	fmt.Fprintf(w, "  health       %s/healthz\n", site)

	flags := ""
	if url != defaultServer {
		flags += " --server " + url
	}
	if h.identity != nil && (!h.local || h.unsaved != nil) {
		flags += " --cert-hash " + h.identity.HashBase64()
	}
	if h.tokens {
		flags += " --token TOKEN"
		fmt.Fprintf(w, "\nMake a token with the key that the broker checks: %s token --help\n", name)
	}
	fmt.Fprintf(w, "\nTry it from two other terminals:\n\n")
	fmt.Fprintf(w, "  %s sub%s 'chat.>'\n", name, flags)
	fmt.Fprintf(w, "  %s pub%s chat.lobby hello\n", name, flags)
	fmt.Fprintf(w, "\nCtrl-C stops it.\n\n")
}

// programName is what one types to run this program.
func programName() string {
	if executable, err := os.Executable(); err == nil && strings.Contains(filepath.ToSlash(executable), "/go-build") {
		return "go run ./cmd/broker"
	}
	return filepath.Base(os.Args[0])
}
