package main

import (
	"embed"
	"encoding/json"
	"io/fs"
	"net/http"

	"github.com/tidewire/tidewire/web/js"
)

//go:embed page
var files embed.FS

// serverConfig is what a client has to know to reach the broker. /config.json
// gives it. The identity is a new one each time the server starts, so clients
// ask again before they come back.
type serverConfig struct {
	URL  string `json:"url"`
	Hash string `json:"hash"` // SHA-256 of the certificate, in base64
}

// webHandler serves the page, the browser client at /tidewire.js, and
// /config.json.
func webHandler(where, hash string) (http.Handler, error) {
	page, err := fs.Sub(files, "page")
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(serverConfig{URL: where, Hash: hash})
	if err != nil {
		return nil, err
	}
	// The policy lets nothing in from elsewhere, and no script that is not a file
	// of this program: what people write stays text even if the page had a fault.
	policy := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
		"connect-src 'self' " + where + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(page))
	mux.Handle("GET /tidewire.js", js.Handler())
	mux.HandleFunc("GET /config.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(config)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	}), nil
}
