package js_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	js "github.com/tidewire/tidewire/web/js"
)

func do(t *testing.T, method, etag string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "/any/path.js", nil)
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	w := httptest.NewRecorder()
	js.Handler().ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r.Body); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSourceIsTheCallers(t *testing.T) {
	first := js.Source()
	if !bytes.Contains(first, []byte("export{")) {
		t.Fatal("the source is no module")
	}
	first[0]++
	if bytes.Equal(first, js.Source()) {
		t.Error("writing to what Source returned changes what it returns")
	}
}

func TestHandlerServesTheModule(t *testing.T) {
	r := do(t, http.MethodGet, "")
	if r.StatusCode != http.StatusOK {
		t.Fatalf("status %d", r.StatusCode)
	}
	if got := r.Header.Get("Content-Type"); got != "text/javascript; charset=utf-8" {
		t.Errorf("Content-Type %q: browsers refuse a module of another type", got)
	}
	if !bytes.Equal(body(t, r), js.Source()) {
		t.Error("the body is not the source")
	}
	head := do(t, http.MethodHead, "")
	if head.StatusCode != http.StatusOK || len(body(t, head)) != 0 {
		t.Errorf("HEAD: status %d", head.StatusCode)
	}
}

func TestHandlerKnowsWhatTheBrowserHas(t *testing.T) {
	etag := do(t, http.MethodGet, "").Header.Get("ETag")
	if r := do(t, http.MethodGet, etag); r.StatusCode != http.StatusNotModified || len(body(t, r)) != 0 {
		t.Errorf("with the right ETag: status %d", r.StatusCode)
	}
	if r := do(t, http.MethodGet, `"other"`); r.StatusCode != http.StatusOK {
		t.Errorf("with another ETag: status %d", r.StatusCode)
	}
}

func TestHandlerRefusesOtherMethods(t *testing.T) {
	r := do(t, http.MethodPost, "")
	if r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: status %d, Allow %q", r.StatusCode, r.Header.Get("Allow"))
	}
}
