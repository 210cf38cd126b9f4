// Package js holds the built browser client of Tidewire, so that a Go program can
// serve it on a machine without Node.
//
//	mux.Handle("GET /tidewire.js", js.Handler())
//
// A page then imports it:
//
//	import { connect } from "/tidewire.js";
//
// The source is in src; `npm run check:dist` holds that dist is what it builds to.
package js

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"time"
)

//go:embed dist/tidewire.js
var source []byte

// Source returns the client as one minified ECMAScript module, about 34 KB. The
// bytes are the caller's.
func Source() []byte { return bytes.Clone(source) }

// Handler serves the client to GET and HEAD, at whatever path it is mounted. The
// ETag is the hash of the bytes; browsers keep the module and ask each time
// whether it is still the same, which is answered by 304. Other methods get 405.
func Handler() http.Handler {
	sum := sha256.Sum256(source)
	etag := `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("ETag", etag)
		http.ServeContent(w, r, "tidewire.js", time.Time{}, bytes.NewReader(source))
	})
}
