package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// checkout makes a checkout of the files given.
func checkout(t *testing.T, files map[string]string) string {
	t.Helper()
	directory := t.TempDir()
	for name, text := range files {
		file := filepath.Join(directory, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

const anyScript = `// META: global=window,worker
// META: script=resources/helper.sub.js
// META: timeout=long
// META: title=A & B
promise_test(async t => {}, 'x');
// META: script=too-late.js
`

func testCheckout(t *testing.T) string {
	return checkout(t, map[string]string{
		"webtransport/a.https.any.js":          anyScript,
		"webtransport/b.https.window.js":       "// META: script=/common/utils.js\n// META: variant=?1\n// META: variant=?2\n",
		"webtransport/c.https.html":            `<script src="/resources/testharness.js"></script>`,
		"webtransport/d-crash.https.html":      `<html class="test-wait">`,
		"webtransport/e.https.any.js":          "test();",
		"webtransport/META.yml":                "spec: none",
		"webtransport/resources/helper.sub.js": "const url = 'https://{{host}}:{{ports[webtransport-h3][0]}}', me = '{{location[host]}}';",
		"webtransport/resources/bad.sub.js":    "{{nobody[knows]}}",
		"resources/webidl2/lib/webidl2.js":     "parser",
		"secret/x.txt":                         "seen",
	})
}

func TestFindJobs(t *testing.T) {
	directory := testCheckout(t)
	got, err := findJobs(directory, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []job{
		{URL: "/webtransport/a.https.any.html", Long: true},
		{URL: "/webtransport/a.https.any.serviceworker.html", Long: true},
		{URL: "/webtransport/a.https.any.sharedworker.html", Long: true},
		{URL: "/webtransport/a.https.any.worker.html", Long: true},
		{URL: "/webtransport/b.https.window.html?1"},
		{URL: "/webtransport/b.https.window.html?2"},
		{URL: "/webtransport/c.https.html"},
		{URL: "/webtransport/d-crash.https.html", Crash: true},
		{URL: "/webtransport/e.https.any.html"},
		{URL: "/webtransport/e.https.any.worker.html"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got, err := findJobs(directory, "shared"); err != nil || len(got) != 1 {
		t.Errorf("filtered: %v, %v", got, err)
	}
}

func get(t *testing.T, p *pages, method, target, body string) (int, http.Header, string) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, "https://"+host+":7"+target, strings.NewReader(body))
	p.ServeHTTP(w, r)
	return w.Code, w.Header(), w.Body.String()
}

func TestPages(t *testing.T) {
	p := &pages{checkout: testCheckout(t), ports: ports{pages: 7, webTransport: 8}, multiplier: 3, log: t.Logf}
	for _, c := range []struct {
		target string
		status int
		parts  []string
	}{
		{"/webtransport/a.https.any.html", 200, []string{"A &amp; B", `content="long"`, `src="resources/helper.sub.js"`, `src="/webtransport/a.https.any.js"`, "isWindow: () => true"}},
		{"/webtransport/a.https.any.worker.html?v", 200, []string{"A &amp; B", `new Worker(script)`, `"/webtransport/a.https.any.worker.js?v"`}},
		{"/webtransport/a.https.any.sharedworker.html", 200, []string{`new SharedWorker(script)`}},
		{"/webtransport/a.https.any.serviceworker.html", 200, []string{`serviceWorker.register(script`}},
		{"/webtransport/a.https.any.worker.js", 200, []string{"isWindow: () => false", `importScripts("/resources/testharness.js");` + "\n" + `importScripts("resources/helper.sub.js");` + "\n" + `importScripts("/webtransport/a.https.any.js");` + "\ndone();"}},
		{"/webtransport/b.https.window.html?1", 200, []string{`src="/common/utils.js"`, `src="/webtransport/b.https.window.js"`, `id="log"`}},
		{"/webtransport/resources/helper.sub.js", 200, []string{"'https://web-platform.test:8', me = 'web-platform.test:7'"}},
		{"/webtransport/resources/bad.sub.js", 500, []string{"nobody[knows]"}},
		{"/resources/WebIDLParser.js", 200, []string{"parser"}},
		{"/resources/testharnessreport.js", 200, []string{"timeout_multiplier: 3"}},
		{"/html/remote-context-helper/resources/executor-window.py?uuid=u%22&script=/s%3C.js&startOn=pageshow", 200, []string{`requestExecutor("u\"", "pageshow")`, `src="/s&lt;.js"`}},
		{"/none.js", 404, nil},
		{"/../pages_test.go", 404, nil},
		{"/webtransport/../secret/x.txt", 200, []string{"seen"}}, // within the checkout
	} {
		status, _, body := get(t, p, "GET", c.target, "")
		if status != c.status {
			t.Errorf("%s: status %d", c.target, status)
		}
		for _, part := range c.parts {
			if !strings.Contains(body, part) {
				t.Errorf("%s lacks %q:\n%s", c.target, part, body)
			}
		}
	}
	_, header, _ := get(t, p, "GET", "/resources/WebIDLParser.js?pipe=header(Cache-Control,%20no-store)|header(X-A,%20b)", "")
	if header.Get("Cache-Control") != "no-store" || header.Get("X-A") != "b" {
		t.Errorf("header %v", header)
	}
}

func TestDispatcher(t *testing.T) {
	p := &pages{checkout: t.TempDir(), log: t.Logf}
	const path = "/common/dispatcher/dispatcher.py?uuid="
	for _, step := range []struct{ method, uuid, body, want string }{
		{"GET", "a", "", "not ready"},
		{"POST", "a", "one", "done"},
		{"POST", "a", "two", "done"},
		{"POST", "b", "other", "done"},
		{"GET", "a", "", "one"},
		{"GET", "b", "", "other"},
		{"GET", "a", "", "two"},
		{"GET", "a", "", "not ready"},
	} {
		if _, _, got := get(t, p, step.method, path+step.uuid, step.body); got != step.want {
			t.Errorf("%+v: got %q", step, got)
		}
	}
}

func TestRunner(t *testing.T) {
	r := &runner{multiplier: 1}
	post := func(handler http.HandlerFunc, body string) (int, string) {
		w := httptest.NewRecorder()
		handler(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
		return w.Code, w.Body.String()
	}
	if status, _ := post(r.next, ""); status != http.StatusNoContent {
		t.Errorf("without a page: status %d", status)
	}
	if status, _ := post(r.result, "{}"); status != http.StatusConflict {
		t.Errorf("a result of nothing: status %d", status)
	}
	got := r.run(t.Context(), job{URL: "/x"}, func(ctx context.Context) error {
		status, body := post(r.next, "")
		var next struct {
			URL     string
			Timeout int64
		}
		if err := json.Unmarshal([]byte(body), &next); err != nil || status != 200 || next.URL != "/x" || next.Timeout < 10_000 {
			t.Errorf("next: %d %s, %v", status, body, err)
		}
		if status, _ := post(r.result, `not JSON`); status != http.StatusBadRequest {
			t.Errorf("a bad result: status %d", status)
		}
		if status, _ := post(r.result, `{"tests":[{"name":"n","status":1,"message":"m"}]}`); status != http.StatusNoContent {
			t.Errorf("result: status %d", status)
		}
		<-ctx.Done()
		return nil
	})
	if want := (result{URL: "/x", Tests: []subtest{{"n", statusFail, "m"}}}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	got = r.run(t.Context(), job{URL: "/y"}, func(context.Context) error { return errors.New("no browser") })
	if got.Status != statusFail || got.Message != "no browser" {
		t.Errorf("without a browser: %+v", got)
	}
}

func TestCommandLine(t *testing.T) {
	for _, args := range [][]string{{}, {"a", "b"}, {"-expect", "/none", "."}, {t.TempDir()}} {
		if _, err := command(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
