package main

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// job is one page of the suite: a file in one of its scopes and variants.
type job struct {
	// URL is the page's path and query.
	URL string `json:"url"`
	// Crash says that the page has no harness: it passes if it finishes.
	Crash bool `json:"crash"`
	// Long says that the page may take six times as long.
	Long bool `json:"long"`
}

// meta is what a script says about itself in its first lines.
type meta struct {
	scripts  []string
	globals  []string
	variants []string
	title    string
	long     bool
}

// readMeta reads the lines "// META: key=value" that a script begins with.
func readMeta(file string) (meta, error) {
	m := meta{globals: []string{"window", "dedicatedworker"}}
	f, err := os.Open(file)
	if err != nil {
		return m, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line, ok := strings.CutPrefix(lines.Text(), "// META:")
		if !ok {
			break
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "script":
			m.scripts = append(m.scripts, value)
		case "title":
			m.title = value
		case "variant":
			m.variants = append(m.variants, value)
		case "timeout":
			m.long = value == "long"
		case "global":
			m.globals = nil
			for global := range strings.SplitSeq(value, ",") {
				if global = strings.TrimSpace(global); global == "worker" {
					m.globals = append(m.globals, "dedicatedworker", "sharedworker", "serviceworker")
				} else {
					m.globals = append(m.globals, global)
				}
			}
		}
	}
	return m, lines.Err()
}

// suffixes are how the page of a scope is named, in place of ".any.js".
var suffixes = map[string]string{
	"window":          ".any.html",
	"dedicatedworker": ".any.worker.html",
	"sharedworker":    ".any.sharedworker.html",
	"serviceworker":   ".any.serviceworker.html",
}

// findJobs lists the pages of the suite in a checkout whose URL contains filter.
func findJobs(checkout, filter string) ([]job, error) {
	files, err := filepath.Glob(filepath.Join(checkout, "webtransport", "*"))
	if err != nil {
		return nil, err
	}
	var jobs []job
	for _, file := range files {
		url := "/webtransport/" + filepath.Base(file)
		var pages []string
		m, crash := meta{}, false
		switch base, isAny := strings.CutSuffix(url, ".any.js"); {
		case isAny:
			if m, err = readMeta(file); err != nil {
				return nil, err
			}
			for _, global := range m.globals {
				if suffix, ok := suffixes[global]; ok {
					pages = append(pages, base+suffix)
				}
			}
		case strings.HasSuffix(url, ".window.js"):
			if m, err = readMeta(file); err != nil {
				return nil, err
			}
			pages = []string{strings.TrimSuffix(url, ".js") + ".html"}
		case strings.HasSuffix(url, ".html"):
			pages = []string{url}
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			crash = !strings.Contains(string(text), "testharness.js")
		}
		if len(m.variants) == 0 {
			m.variants = []string{""}
		}
		for _, page := range pages {
			for _, variant := range m.variants {
				if strings.Contains(page+variant, filter) {
					jobs = append(jobs, job{URL: page + variant, Crash: crash, Long: m.long})
				}
			}
		}
	}
	slices.SortFunc(jobs, func(a, b job) int { return strings.Compare(a.URL, b.URL) })
	return jobs, nil
}
