package main

import (
	"strings"
	"testing"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

func TestReadable(t *testing.T) {
	for want, p := range map[string]codec.Payload{
		"plain text, ünï 🌊":                    codec.Text("plain text, ünï 🌊"),
		`two\nlines\tand\r`:                    codec.Text("two\nlines\tand\r"),
		`\x1b[2J\a`:                            codec.Text("\x1b[2J\x07"),
		`\u202e\u2028`:                         codec.Text("\u202e\u2028"),
		"0xff00":                               codec.Bytes([]byte{0xff, 0}),
		"text in bytes":                        codec.Bytes([]byte("text in bytes")),
		`{"a":1}`:                              {Encoding: codec.EncodingJSON, Data: []byte(`{"a":1}`)},
		`{"a":[1,"x"]}`:                        mustEncode(t, map[string]any{"a": []any{1, "x"}}),
		"0xc1":                                 {Encoding: codec.EncodingMsgpack, Data: []byte{0xc1}},
		"unknown, but text":                    {Encoding: 99, Data: []byte("unknown, but text")},
		"0x81" + "a178cb7ff8" + "000000000001": {Encoding: codec.EncodingMsgpack, Data: []byte("\x81\xa1x\xcb\x7f\xf8\x00\x00\x00\x00\x00\x01")}, // NaN
	} {
		if got := readable(p); got != want {
			t.Errorf("%v is shown as %s, want %s", p, got, want)
		}
	}
}

func mustEncode(t *testing.T, v any) codec.Payload {
	t.Helper()
	p, err := codec.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMakePayload(t *testing.T) {
	p, err := makePayload([]byte(`{"big": 18446744073709551615, "small": -7, "half": 0.5}`), "msgpack")
	if err != nil {
		t.Fatal(err)
	}
	type fields struct {
		Big   uint64  `msgpack:"big"`
		Small int     `msgpack:"small"`
		Half  float64 `msgpack:"half"`
	}
	var f fields
	if err := p.Decode(&f); err != nil || f != (fields{1<<64 - 1, -7, 0.5}) {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := makePayload([]byte("\xff"), "text"); err == nil || !strings.Contains(err.Error(), "no UTF-8") {
		t.Error(err)
	}
	if p, err := makePayload([]byte("\xff"), ""); err != nil || p.Encoding != codec.EncodingBytes {
		t.Errorf("%v, %v", p, err)
	}
}

func TestShowGap(t *testing.T) {
	gap := client.Message{Topic: "a", Gap: &client.Gap{
		Topic: "a", From: &client.Position{Epoch: 1, Offset: 2}, To: &client.Position{Epoch: 1, Offset: 5}, Reason: codec.GapOverflow, Count: 3,
	}}
	p := &process{stdout: newOutput(), stderr: newOutput()}
	if err := showText(p, gap); err != nil {
		t.Fatal(err)
	}
	if err := showJSON(p, gap); err != nil {
		t.Fatal(err)
	}
	if err := showJSON(p, client.Message{Gap: &client.Gap{Reason: codec.GapBus}}); err != nil {
		t.Fatal(err)
	}
	if got := p.stderr.(*output).String(); got != "gap: 3 messages of a are missing: overflow\n" {
		t.Errorf("people see %q", got)
	}
	want := `{"gap":{"topic":"a","from":{"epoch":1,"offset":2},"to":{"epoch":1,"offset":5},"reason":"overflow","count":3}}` + "\n" +
		`{"gap":{"reason":"bus"}}` + "\n"
	if got := p.stdout.(*output).String(); got != want {
		t.Errorf("programs see %s", got)
	}
}
