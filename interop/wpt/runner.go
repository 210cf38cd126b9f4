package main

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// Statuses of a subtest, as the suite's harness numbers them. Those of a page
// begin alike: OK, error, timeout.
const (
	statusPass = iota
	statusFail
	statusTimeout
	statusNotRun
	statusPrecondition
)

// statusNames are the statuses in words.
var statusNames = map[int]string{
	statusPass:         "pass",
	statusFail:         "fail",
	statusTimeout:      "timeout",
	statusNotRun:       "not run",
	statusPrecondition: "not supported",
}

// subtest is what became of one test of a page.
type subtest struct {
	Name    string `json:"name"`
	Status  int    `json:"status"`
	Message string `json:"message"`
}

// result is what became of a page.
type result struct {
	URL     string    `json:"url"`
	Status  int       `json:"status"`
	Message string    `json:"message"`
	Tests   []subtest `json:"tests"`
}

// Timeouts of a page before they are multiplied, as the suite's harness has them,
// and what the browser has on top for starting.
const (
	normalTimeout = 10 * time.Second
	longTimeout   = 60 * time.Second
	startTimeout  = 20 * time.Second
)

// runner hands a page to the browser and takes its result.
type runner struct {
	multiplier int // of all timeouts

	// Guarded by mu.
	mu      sync.Mutex
	job     *job          // that no browser has taken yet
	results chan<- result // of the one that runs; nil if none does
}

// run has a browser run a page. The browser is a new one, which browse runs until
// its context ends: Chromium punishes an address with failed connections, as some
// tests make on purpose, for minutes.
func (r *runner) run(ctx context.Context, j job, browse func(context.Context) error) result {
	timeout := startTimeout + 2*j.timeout(r.multiplier)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	results := make(chan result, 1)
	r.mu.Lock()
	r.job, r.results = &j, results
	r.mu.Unlock()

	ended := make(chan error, 1)
	go func() {
		ended <- browse(ctx)
		close(ended)
	}()
	var got result
	select {
	case got = <-results:
	case err := <-ended:
		got = result{Status: statusFail, Message: "no result"}
		if err != nil {
			got.Message = err.Error()
		}
	}
	cancel()
	for range ended { // until the browser has gone
	}
	r.mu.Lock()
	r.job, r.results = nil, nil
	r.mu.Unlock()
	got.URL = j.URL
	return got
}

// timeout returns how long the page may take in the browser.
func (j job) timeout(multiplier int) time.Duration {
	if j.Long {
		return longTimeout * time.Duration(multiplier)
	}
	return normalTimeout * time.Duration(multiplier)
}

// next sends the browser its page, or status 204 if there is none.
func (r *runner) next(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	j := r.job
	r.job = nil
	r.mu.Unlock()
	if j == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	_ = json.NewEncoder(w).Encode(struct {
		job
		Timeout int64 `json:"timeout"` // in milliseconds
	}{*j, (startTimeout/4 + j.timeout(r.multiplier)).Milliseconds()})
}

// result takes the result of the page.
func (r *runner) result(w http.ResponseWriter, request *http.Request) {
	var got result
	if err := json.NewDecoder(request.Body).Decode(&got); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	results := r.results
	r.results = nil
	r.mu.Unlock()
	if results == nil {
		http.Error(w, "no page runs", http.StatusConflict)
		return
	}
	results <- got
	w.WriteHeader(http.StatusNoContent)
}
