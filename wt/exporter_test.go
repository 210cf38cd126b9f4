package wt_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// draft-ietf-webtrans-http3-16 §4.8: the label, and the struct that is the
// context, byte by byte.
func TestExporter(t *testing.T) {
	client, server := wttest.Pair(t)
	got := must(client.ExportKeyingMaterial("label", []byte("ctx"), 32))(t)
	state := server.Conn().ConnectionState().TLS
	context := append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 5}, "label\x03ctx"...) // the first request's id is 0
	want := must(state.ExportKeyingMaterial("EXPORTER-WebTransport", context, 32))(t)
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if there := must(server.ExportKeyingMaterial("label", []byte("ctx"), 32))(t); !bytes.Equal(got, there) {
		t.Errorf("client has %x, server %x", got, there)
	}
	for _, other := range [][]byte{
		must(client.ExportKeyingMaterial("labelc", []byte("tx"), 32))(t),
		must(client.ExportKeyingMaterial("label", nil, 32))(t),
	} {
		if bytes.Equal(got, other) {
			t.Error("another label and context give the same secret")
		}
	}
	if _, err := client.ExportKeyingMaterial(strings.Repeat("x", 255), make([]byte, 255), 4096); err != nil {
		t.Errorf("the longest: %v", err)
	}
	for name, call := range map[string]func() ([]byte, error){
		"no label":     func() ([]byte, error) { return client.ExportKeyingMaterial("", nil, 32) },
		"long label":   func() ([]byte, error) { return client.ExportKeyingMaterial(strings.Repeat("x", 256), nil, 32) },
		"long context": func() ([]byte, error) { return client.ExportKeyingMaterial("x", make([]byte, 256), 32) },
		"no length":    func() ([]byte, error) { return client.ExportKeyingMaterial("x", nil, 0) },
	} {
		if _, err := call(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	check(t, client.Close())
	if _, err := client.ExportKeyingMaterial("label", nil, 32); !errors.Is(err, wt.ErrSessionClosed) {
		t.Errorf("after the end: %v", err)
	}
}
