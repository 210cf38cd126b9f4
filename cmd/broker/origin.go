package main

import (
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/tidewire/tidewire/wt"
)

// originPolicy tells which pages may open sessions. A page of another site in the
// browser of somebody who can reach the broker must not use that reach; clients
// that are no browsers name no origin, and are welcome.
type originPolicy struct {
	any     bool
	allowed map[string]bool
	// local welcomes the pages of this machine, whatever program serves them. It is
	// for brokers that only this machine reaches. A name that somebody has made to
	// resolve to this machine is none of its own, so that the page of such a name,
	// although it comes from the broker's own address, is not welcome.
	local bool
	// scheme is that of the broker's own pages where local is not set.
	scheme string
}

// checkOrigins refuses what is no origin, so that a slip does not go unnoticed.
func (c *serveCommand) checkOrigins() error {
	for _, origin := range c.Origin {
		if origin == "*" {
			continue
		}
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != origin || strings.ToLower(origin) != origin {
			return usagef("--allow-origin %q is no origin: write scheme and host, in lower case, and the port if it is not the usual one, such as https://app.example", origin)
		}
	}
	return nil
}

func (s *setup) originPolicy() originPolicy {
	p := originPolicy{allowed: make(map[string]bool), local: s.local, scheme: "https"}
	if s.rotation != nil {
		p.scheme = "http"
	}
	for _, origin := range s.command.Origin {
		p.any = p.any || origin == "*"
		p.allowed[origin] = true
	}
	return p
}

// maxToldOrigins bounds the refused origins that are told in the log.
const maxToldOrigins = 64

// check returns a wt.ServerConfig.CheckOrigin. A browser does not say why its page was
// refused, so the log does, once for each origin.
func (p originPolicy) check(log *slog.Logger) func(*wt.Request) bool {
	var mu sync.Mutex
	told := make(map[string]bool) // guarded by mu
	return func(r *wt.Request) bool {
		if p.welcomes(r) {
			return true
		}
		mu.Lock()
		fresh := !told[r.Origin] && len(told) < maxToldOrigins
		if fresh {
			told[r.Origin] = true
		}
		mu.Unlock()
		if fresh {
			log.Warn("pages of this origin are refused; --allow-origin ORIGIN admits them", slog.String("origin", r.Origin))
		}
		return false
	}
}

// welcomes reports whether a request may open a session.
func (p originPolicy) welcomes(r *wt.Request) bool {
	if r.Origin == "" || p.any || p.allowed[r.Origin] {
		return true
	}
	u, err := url.Parse(r.Origin)
	if err != nil || u.Host == "" {
		return false
	}
	if p.local {
		return (u.Scheme == "http" || u.Scheme == "https") && isLoopbackHost(u.Hostname())
	}
	return u.Scheme == p.scheme && strings.EqualFold(u.Host, r.Authority)
}

// guard answers requests by a name that is not the broker's with 421. A page whose
// name was made to resolve to this machine could otherwise read what is served
// to this machine only.
func (p originPolicy) guard(next http.Handler) http.Handler {
	if !p.local {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u := url.URL{Host: r.Host}
		if !isLoopbackHost(u.Hostname()) && !p.allowed["http://"+r.Host] && !p.allowed["https://"+r.Host] {
			http.Error(w, "this broker serves its own machine only, as localhost or 127.0.0.1", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLoopbackHost reports whether a host names this machine, whatever a resolver
// says.
func isLoopbackHost(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
