package main

import (
	_ "embed"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

var (
	//go:embed page/report.js
	reportScript string
	//go:embed page/runner.html
	runnerPage string
)

// pages serves a checkout to the browser: its files, the pages that are made of
// its scripts, and the few programs that the suite runs at its server.
type pages struct {
	checkout   string
	ports      ports
	multiplier int // of all timeouts
	dispatcher dispatcher
	log        func(format string, args ...any)
}

// aliases are files that the suite's server has under another name.
var aliases = map[string]string{
	"/resources/WebIDLParser.js": "/resources/webidl2/lib/webidl2.js",
}

const (
	typeHTML   = "text/html; charset=utf-8"
	typeScript = "text/javascript; charset=utf-8"
)

// ServeHTTP answers a request of the browser.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	pipes(w.Header(), r.URL.Query().Get("pipe"))
	contentType, body, err := p.content(r)
	switch {
	case os.IsNotExist(err):
		http.NotFound(w, r)
		return
	case err != nil:
		p.log("%s: %v", r.URL, err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	if w.Header().Get("Cache-Control") == "" {
		w.Header().Set("Cache-Control", "no-cache")
	}
	_, _ = w.Write(body)
}

// content returns what is at a path.
func (p *pages) content(r *http.Request) (contentType string, body []byte, err error) {
	path := r.URL.Path
	switch {
	case path == "/resources/testharnessreport.js":
		script := strings.ReplaceAll(reportScript, "TIMEOUT_MULTIPLIER", strconv.Itoa(p.multiplier))
		return typeScript, []byte(script), nil
	case path == "/common/dispatcher/dispatcher.py":
		body, err = p.dispatcher.serve(r)
		return "text/plain", body, err
	case strings.HasSuffix(path, "/remote-context-helper/resources/executor-window.py"):
		return typeHTML, executorPage(r), nil
	case strings.HasSuffix(path, ".any.worker.js"):
		return p.workerScript(path)
	case strings.HasSuffix(path, ".window.html"), strings.HasSuffix(path, ".html") && strings.Contains(path, ".any."):
		return p.scriptPage(path, r.URL.RawQuery)
	}
	if alias, ok := aliases[path]; ok {
		path = alias
	}
	file := p.file(path)
	body, err = os.ReadFile(file)
	if err != nil {
		return "", nil, err
	}
	if strings.Contains(filepath.Base(file), ".sub.") {
		body, err = p.ports.fill(body, r)
	}
	switch filepath.Ext(file) {
	case ".js":
		contentType = typeScript
	case ".html":
		contentType = typeHTML
	case ".idl":
		contentType = "text/plain; charset=utf-8"
	default:
		contentType = http.DetectContentType(body)
	}
	return contentType, body, err
}

// file returns the file of a path. http.Request.URL.Path may hold dots, which
// Join takes away together with what they would climb over.
func (p *pages) file(path string) string {
	return filepath.Join(p.checkout, filepath.FromSlash(filepath.Join("/", path)))
}

// scriptPage makes the page that runs a script in one of its scopes.
func (p *pages) scriptPage(path, query string) (contentType string, body []byte, err error) {
	name, scope := strings.TrimSuffix(path, ".html")+".js", "window"
	if base, suffix, isAny := strings.Cut(path, ".any."); isAny {
		name = base + ".any.js"
		for global, s := range suffixes {
			if s == ".any."+suffix {
				scope = global
			}
		}
	}
	m, err := readMeta(p.file(name))
	if err != nil {
		return "", nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<!doctype html>\n<meta charset=\"utf-8\">\n<title>%s</title>\n", html.EscapeString(m.title))
	if m.long {
		b.WriteString("<meta name=\"timeout\" content=\"long\">\n")
	}
	script := func(src string) { fmt.Fprintf(&b, "<script src=\"%s\"></script>\n", html.EscapeString(src)) }
	b.WriteString("<script>" + globalScript("window") + "</script>\n")
	script("/resources/testharness.js")
	script("/resources/testharnessreport.js")
	b.WriteString("<div id=\"log\"></div>\n") // so that there is a body
	if scope == "window" {
		for _, src := range m.scripts {
			script(src)
		}
		script(name)
		return typeHTML, []byte(b.String()), nil
	}
	worker := strings.TrimSuffix(name, ".js") + ".worker.js"
	if query != "" {
		worker += "?" + query
	}
	fmt.Fprintf(&b, "<script>\nconst script = %q;\n%s</script>\n", worker, workerStarts[scope])
	return typeHTML, []byte(b.String()), nil
}

// workerStarts start a worker of each kind and have the harness follow it.
var workerStarts = map[string]string{
	"dedicatedworker": "fetch_tests_from_worker(new Worker(script));\n",
	"sharedworker":    "fetch_tests_from_worker(new SharedWorker(script));\n",
	"serviceworker": `(async () => {
  const scope = "no/page/is/here";
  await (await navigator.serviceWorker.getRegistration(scope))?.unregister();
  const registration = await navigator.serviceWorker.register(script, { scope });
  fetch_tests_from_worker(registration.installing);
})();
`,
}

// globalScript tells a script in which kind of scope it runs.
func globalScript(scope string) string {
	window := scope == "window"
	return fmt.Sprintf("self.GLOBAL = { isWindow: () => %t, isWorker: () => %t, isShadowRealm: () => false };", window, !window)
}

// workerScript makes the script that a worker runs.
func (p *pages) workerScript(path string) (contentType string, body []byte, err error) {
	name := strings.TrimSuffix(path, ".worker.js") + ".js"
	m, err := readMeta(p.file(name))
	if err != nil {
		return "", nil, err
	}
	var b strings.Builder
	b.WriteString(globalScript("worker") + "\n")
	for _, src := range append(append([]string{"/resources/testharness.js"}, m.scripts...), name) {
		fmt.Fprintf(&b, "importScripts(%q);\n", src)
	}
	b.WriteString("done();\n")
	return typeScript, []byte(b.String()), nil
}

// executorPage is the page that the suite's tests of several windows open and
// then send scripts to.
func executorPage(r *http.Request) []byte {
	query := r.URL.Query()
	var b strings.Builder
	fmt.Fprintf(&b, "<!doctype html>\n<base href=\"%s\">\n", html.EscapeString(r.URL.RequestURI()))
	scripts := append([]string{"/common/dispatcher/dispatcher.js", "./executor-common.js", "./executor-window.js"}, query["script"]...)
	for _, src := range scripts {
		fmt.Fprintf(&b, "<script src=\"%s\"></script>\n", html.EscapeString(src))
	}
	startOn := "null"
	if event := query.Get("startOn"); event != "" {
		startOn = strconv.Quote(event)
	}
	fmt.Fprintf(&b, "<body><script>requestExecutor(%q, %s);</script>\n", query.Get("uuid"), startOn)
	return []byte(b.String())
}

// pipes sets the fields that a page asks for in its URL: header(name, value),
// several of them with bars between.
func pipes(header http.Header, pipe string) {
	for part := range strings.SplitSeq(pipe, "|") {
		inner, ok := strings.CutPrefix(part, "header(")
		if !ok {
			continue
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(inner, ")"), ",")
		header.Set(strings.TrimSpace(name), strings.TrimSpace(strings.ReplaceAll(value, "\\", "")))
	}
}

// dispatcher passes messages between windows of the suite.
type dispatcher struct {
	mu     sync.Mutex
	queues map[string][][]byte
}

// maxMessage bounds a message between windows, in bytes.
const maxMessage = 1 << 20

// serve takes a message by POST, and returns the oldest of a queue otherwise.
func (d *dispatcher) serve(r *http.Request) ([]byte, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	uuid := query.Get("uuid")
	if r.Method == http.MethodPost {
		message, err := io.ReadAll(io.LimitReader(r.Body, maxMessage))
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.queues == nil {
			d.queues = make(map[string][][]byte)
		}
		d.queues[uuid] = append(d.queues[uuid], message)
		return []byte("done"), nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	queue := d.queues[uuid]
	if len(queue) == 0 {
		return []byte("not ready"), nil
	}
	d.queues[uuid] = queue[1:]
	return queue[0], nil
}
