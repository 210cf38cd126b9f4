package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/wt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs the program on free ports until the test ends, and returns where
// it serves, as it printed it.
func start(t *testing.T) (page, url string, dialer wt.Dialer) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, in := io.Pipe()
	var running sync.WaitGroup
	running.Go(func() {
		if err := run(ctx, "127.0.0.1:0", "127.0.0.1:0", in); err != nil {
			t.Error(err)
		}
		_ = in.Close()
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	var hash string
	if _, err := fmt.Fscanf(out, "open %s in a browser\necho at %s\ncertificate sha-256: %s\n", &page, &url, &hash); err != nil {
		t.Fatal(err)
	}
	b, err := base64.StdEncoding.DecodeString(hash)
	if err != nil || len(b) != 32 {
		t.Fatalf("hash %q: %v", hash, err)
	}
	return page, strings.TrimSuffix(url, "/echo"), wt.Dialer{CertificateHashes: [][32]byte{[32]byte(b)}}
}

func TestEcho(t *testing.T) {
	_, url, dialer := start(t)
	ctx := t.Context()
	session, err := dialer.Dial(ctx, url+"/echo")
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()

	stream, err := session.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(stream, "both ways")
	_ = stream.Close()
	if b, err := io.ReadAll(stream); err != nil || string(b) != "both ways" {
		t.Errorf("stream: %q, %v", b, err)
	}

	uni, err := session.OpenUniStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(uni, "one way")
	_ = uni.Close()
	back, err := session.AcceptUniStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(back); err != nil || string(b) != "one way" {
		t.Errorf("unidirectional: %q, %v", b, err)
	}

	if err := session.SendDatagram(ctx, []byte("datagram")); err != nil {
		t.Fatal(err)
	}
	if b, err := session.ReceiveDatagram(ctx); err != nil || string(b) != "datagram" {
		t.Errorf("datagram: %q, %v", b, err)
	}
}

func TestClose(t *testing.T) {
	_, url, dialer := start(t)
	session, err := dialer.Dial(t.Context(), url+"/close?code=4711&reason=low+water")
	if err != nil {
		t.Fatal(err)
	}
	<-session.Context().Done()
	var ended *wt.SessionError
	if err := context.Cause(session.Context()); !errors.As(err, &ended) || ended.Code != 4711 || ended.Reason != "low water" || !ended.Remote {
		t.Errorf("session ended with %v", err)
	}
	_ = session.Close()
}

func TestRefused(t *testing.T) {
	_, url, dialer := start(t)
	for path, status := range map[string]int{"/": 404, "/close?code=x": 400, "/echo/more": 404} {
		_, err := dialer.Dial(t.Context(), url+path)
		var rejected *wt.RejectedError
		if !errors.As(err, &rejected) || rejected.Status != status {
			t.Errorf("%s: %v, want status %d", path, err, status)
		}
	}
}

func TestOrigins(t *testing.T) {
	page, url, dialer := start(t)
	page = strings.TrimSuffix(page, "/")
	port := page[strings.LastIndex(page, ":"):]
	for origin, welcome := range map[string]bool{
		page: true, "http://localhost" + port: true, "http://evil.example" + port: false, "http://localhost:1": false, "null": false,
	} {
		d := dialer
		d.Origin = origin
		session, err := d.Dial(t.Context(), url+"/echo")
		if err == nil {
			_ = session.Close()
		}
		if (err == nil) != welcome {
			t.Errorf("origin %q: %v, welcome %v", origin, err, welcome)
		}
	}
}

func TestPage(t *testing.T) {
	page, url, _ := start(t)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{"": "<title>Tidewire echo", "echo.js": "WebTransport", "server.json": url} {
		response, err := client.Get(page + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(b), want) {
			t.Errorf("%q: status %d, %v", path, response.StatusCode, err)
		}
	}
}
