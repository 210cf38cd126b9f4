package main

import (
	"embed"
	"encoding/json"
	"io/fs"
	"net/http"
)

// pageFiles are the page where one subscribes and publishes by hand.
//
//go:embed page
var pageFiles embed.FS

// pagePolicy lets the page run its own scripts and connect to this broker, whose
// sessions are https whatever the page is. Nothing else is loaded, and no other
// site can frame it.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// pageConfig is what the page has to know: GET /config.json.
type pageConfig struct {
	// Host is what to connect to; "" is the host that the page came from. It is the
	// address itself where the certificate is trusted by hash: of the addresses of
	// localhost a browser may try another one than this.
	Host              string   `json:"host,omitempty"`
	Path              string   `json:"path"`
	CertificateHashes []string `json:"certificateHashes,omitempty"` // of the development identity, and of the next one
	Tokens            bool     `json:"tokens"`                      // clients need one
}

// handlePage serves the page at /, and the browser client that it uses at
// /tidewire.js.
func (s *setup) handlePage(mux *http.ServeMux, browserClient http.Handler) error {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		return err
	}
	static := http.FileServerFS(files)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", pagePolicy)
		w.Header().Set("Cache-Control", "no-cache") // the next version has the same names
		static.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /config.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(s.pageConfig()) // a client that has gone needs no answer
	})
	mux.Handle("GET /tidewire.js", browserClient)
	return nil
}

func (s *setup) pageConfig() pageConfig {
	config := pageConfig{Path: sessionPath, Tokens: s.tokens}
	if s.rotation != nil {
		config.CertificateHashes = []string{s.rotation.Present().HashBase64(), s.rotation.Next().HashBase64()}
		if s.local {
			config.Host = s.addr
		}
	}
	return config
}
