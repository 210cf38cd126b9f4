package main

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// host is the name that the suite's pages are served under. The browser is told
// to find it, and all names below it, on the loopback interface.
const host = "web-platform.test"

// otherHost is the name of pages of another site.
const otherHost = "not-web-platform.test"

// ports are those that templates may name.
type ports struct {
	pages        int // HTTPS
	webTransport int // UDP
}

// placeholder matches a place in a template that a value is filled in at.
var placeholder = regexp.MustCompile(`\{\{([^{}]*)\}\}`)

// subscripted matches a value with up to two subscripts.
var subscripted = regexp.MustCompile(`^([a-z]+)(?:\[([^\]]*)\])?(?:\[([^\]]*)\])?$`)

// fill fills in a template's placeholders: what the pages need to know of the
// servers and of their own request.
func (p ports) fill(text []byte, r *http.Request) ([]byte, error) {
	var problem error
	filled := placeholder.ReplaceAllFunc(text, func(place []byte) []byte {
		value, err := p.value(strings.TrimSpace(string(place[2:len(place)-2])), r)
		if err != nil && problem == nil {
			problem = err
		}
		return []byte(value)
	})
	return filled, problem
}

// value returns the value of one placeholder.
func (p ports) value(name string, r *http.Request) (string, error) {
	m := subscripted.FindStringSubmatch(name)
	if m == nil {
		return "", fmt.Errorf("template: {{%s}} is not known", name)
	}
	switch m[1] {
	case "host":
		return host, nil
	case "domains":
		return below(m[2], host), nil
	case "hosts":
		if m[2] == "alt" {
			return below(m[3], otherHost), nil
		}
		return below(m[3], host), nil
	case "ports":
		if m[2] == "webtransport-h3" {
			return strconv.Itoa(p.webTransport), nil
		}
		return strconv.Itoa(p.pages), nil
	case "location":
		switch m[2] {
		case "host":
			return r.Host, nil
		case "hostname":
			return host, nil
		case "scheme":
			return "https", nil
		case "port":
			return strconv.Itoa(p.pages), nil
		case "path":
			return r.URL.Path, nil
		}
	}
	return "", fmt.Errorf("template: {{%s}} is not known", name)
}

// below returns the name of a subdomain, which may be none.
func below(subdomain, domain string) string {
	if subdomain == "" {
		return domain
	}
	return subdomain + "." + domain
}
