package main

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/web/js"
)

// webHandler is the HTTP side of the broker.
//
// To this machine it shows everything. Other machines see /healthz alone, which
// load balancers need and which tells nothing else: metrics tell how much the
// broker is used and by how many, and the page invites everybody to try topics, so
// both are shown to others only where --expose says so.
func (s *setup) webHandler(b *broker.Broker, health *health) (http.Handler, error) {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", health)
	if s.shows("metrics") {
		mux.Handle("GET /metrics", metricsHandler(b))
	}
	if s.shows("page") {
		if err := s.handlePage(mux, js.Handler()); err != nil {
			return nil, err
		}
	}
	return secured(s.originPolicy().guard(mux)), nil
}

// shows reports whether a part of the HTTP side is served.
func (s *setup) shows(what string) bool { return s.local || slices.Contains(s.command.Expose, what) }

// secured sets the fields that keep browsers from doing more with an answer than
// it is for.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

// health is what /healthz tells.
type health struct{ draining atomic.Bool }

// ServeHTTP answers 200 while the broker takes clients, and 503 while it drains.
func (h *health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if h.draining.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "draining")
		return
	}
	fmt.Fprintln(w, "ok")
}
