package natsbus

import (
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// unconnected is a bus that encodes and decodes.
func unconnected() *bus {
	return &bus{sink: deafSink{}, name: "here", replies: "_INBOX.here."}
}

// What the headers of plain clients mean.
func TestDecodeEncoding(t *testing.T) {
	b := unconnected()
	b.config.Encoding = codec.EncodingMsgpack // of who says nothing
	for _, test := range []struct {
		header nats.Header
		want   codec.Encoding
		shown  bool // the content type is shown to clients
	}{
		{nil, codec.EncodingMsgpack, false},
		{nats.Header{"Content-Type": {"application/json"}}, codec.EncodingJSON, false},
		{nats.Header{"Content-Type": {"application/problem+json"}}, codec.EncodingJSON, true},
		{nats.Header{"Content-Type": {"application/json; charset=utf-8"}}, codec.EncodingJSON, true},
		{nats.Header{"Content-Type": {"application/msgpack"}}, codec.EncodingMsgpack, false},
		{nats.Header{"Content-Type": {"application/x-msgpack"}}, codec.EncodingMsgpack, true},
		{nats.Header{"Content-Type": {"text/plain; charset=utf-8"}}, codec.EncodingText, false},
		{nats.Header{"Content-Type": {"text/plain"}}, codec.EncodingText, true},
		{nats.Header{"Content-Type": {"text/plain; charset=latin1"}}, codec.EncodingBytes, true},
		{nats.Header{"Content-Type": {"application/octet-stream"}}, codec.EncodingBytes, false},
		{nats.Header{"Content-Type": {"image/png"}}, codec.EncodingMsgpack, true},
		{nats.Header{"Content-Type": {";;;"}}, codec.EncodingMsgpack, true},
		{nats.Header{"Content-Type": {"application/json"}, "Tidewire-Encoding": {"text"}}, codec.EncodingText, true},
		{nats.Header{"Content-Type": {"application/json"}, "Tidewire-Encoding": {"nonsense"}}, codec.EncodingJSON, false},
	} {
		m := b.decode("a", &nats.Msg{Header: test.header})
		if _, shown := m.Headers.Get("Content-Type"); m.Payload.Encoding != test.want || shown != test.shown {
			t.Errorf("%v: %v, %v", test.header, m.Payload.Encoding, m.Headers)
		}
	}
}

// A message must not have what a plain client has set wrongly.
func TestDecodeBadHeaders(t *testing.T) {
	b := unconnected()
	header := nats.Header{
		"Tidewire-Publisher": {"nonsense"}, "Tidewire-Mode": {"both"}, "Tidewire-Key": {strings.Repeat("k", 256)}, "Tidewire-Retain": {"perhaps"},
		"Tidewire-TTL": {"-1"}, "Nats-Msg-Id": {strings.Repeat("i", 65)}, "nats-x": {"hidden"}, "TIDEWIRE-x": {"hidden"},
		"Long": {strings.Repeat("v", 513)}, "Not-Text": {"\xff"}, "None": nil, "Two": {"first", "second"}, "Empty": {""},
	}
	got := b.decode("a", &nats.Msg{Header: header})
	want := broker.Message{Topic: "a", Headers: codec.Headers{{Name: "Empty"}, {Name: "None"}, {Name: "Two", Value: "first"}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	// As many as a message may have, and no more.
	many := make(nats.Header)
	for i := range 40 {
		many[strings.Repeat("n", i+1)] = []string{strings.Repeat("v", 500)}
	}
	if h := b.decode("a", &nats.Msg{Header: many}).Headers; codec.CheckHeaders(h) != nil || len(h) == 0 {
		t.Errorf("%d headers: %v", len(h), codec.CheckHeaders(h))
	}
}

// What NATS cannot carry, or would take for its own, is refused with a code.
func TestEncodeRefuses(t *testing.T) {
	b := unconnected()
	for _, h := range []codec.Header{
		{Name: "Nats-Rollup", Value: "all"}, {Name: "nats-expected-stream"}, {Name: "Tidewire-Id", Value: "x"},
		{Name: "A", Value: "x\r\nB: y"}, {Name: "A", Value: "\n"}, {Name: "A", Value: " x"}, {Name: "A", Value: "x\t"}, {Name: "A", Value: "\x00"},
	} {
		if _, err := b.encode("s", broker.Message{Headers: codec.Headers{h}}); codec.CodeOf(err) != codec.CodeInvalidOption {
			t.Errorf("%q: %v", h, err)
		}
	}
	m, err := b.encode("s", broker.Message{Payload: codec.Text("<a/>"), Headers: codec.Headers{{Name: "content-type", Value: "image/svg+xml"}}})
	if err != nil || m.Header.Get("Content-Type") != "" || m.Header.Get("content-type") != "image/svg+xml" {
		t.Errorf("%v, %v", m, err)
	}
}

func TestQueueNames(t *testing.T) {
	for _, group := range []string{"workers", "a b", "=x", "ü", "\x00", "x\u00a0y", strings.Repeat("=", 64)} {
		queue := queueOf(group)
		if got, ok := groupOf(queue); !ok || got != group || strings.ContainsAny(queue, " \t\r\n\x00") {
			t.Errorf("%q is %q, and back %q", group, queue, got)
		}
	}
	if queueOf("workers") != "workers" {
		t.Error("plain clients do not find the group")
	}
	if _, ok := groupOf("=!"); ok {
		t.Error("nonsense is a group")
	}
}

// Whatever NATS brings, the message is one that a client could have published.
func FuzzDecode(f *testing.F) {
	f.Add("Content-Type", "application/json", "Tidewire-Key", "a%20b", "_INBOX.x")
	f.Add("Tidewire-TTL", "18446744073709551615", "Tidewire-Encoding", "msgpack", "")
	f.Add("Nats-Msg-Id", "%", "Tidewire-Publisher", "00000000-0000-0000-0000-000000000001", "_INBOX.here.AAE")
	f.Add("A", "\xff", "Tidewire-Mode", "lossy", "_INBOX.here.!")
	f.Add("Tidewire-Retain", "true", "B", "x", "\x00a")
	f.Fuzz(func(t *testing.T, name, value, name2, value2, reply string) {
		b := unconnected()
		m := b.decode("a", &nats.Msg{Header: nats.Header{name: {value}, name2: {value2}}, Reply: reply})
		if err := codec.CheckHeaders(m.Headers); err != nil {
			t.Errorf("headers %v: %v", m.Headers, err)
		}
		for _, h := range m.Headers {
			if !utf8.ValidString(h.Value) || reserved(h.Name) {
				t.Errorf("header %q", h)
			}
		}
		if len(m.Key) > codec.MaxKey || !utf8.ValidString(m.Key) || len(m.ID) > codec.MaxID || !utf8.ValidString(m.ID) {
			t.Errorf("key %q, id %q", m.Key, m.ID)
		}
		if m.Expires > codec.MaxInteger || m.Retain && m.Mode == codec.ModeLossy || m.Payload.Encoding > codec.EncodingText {
			t.Errorf("%+v", m)
		}
		if len(m.Reply) > 0 && m.Reply[0] == 0 && !strings.HasPrefix(reply, b.replies) {
			t.Errorf("address %q of %q", m.Reply, reply)
		}
		// It goes out again, and comes back the same, unless it is refused.
		m.Reply = nil
		out, err := b.encode("a", m)
		if err != nil {
			return
		}
		back := b.decode("a", out)
		back.Expires, m.Expires = 0, 0 // the clock goes on
		if !reflect.DeepEqual(back, m) {
			t.Errorf("out %+v\nback %+v", m, back)
		}
	})
}
