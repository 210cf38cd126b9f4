package natsbus

import (
	"fmt"
	"maps"
	"mime"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// The headers of a message on NATS: see the package's doc.
const (
	headerEncoding    = "Tidewire-Encoding"
	headerPublisher   = "Tidewire-Publisher"
	headerMode        = "Tidewire-Mode"
	headerKey         = "Tidewire-Key"
	headerRetain      = "Tidewire-Retain"
	headerTTL         = "Tidewire-TTL"
	headerID          = "Tidewire-Id"
	headerMsgID       = nats.MsgIdHdr
	headerContentType = "Content-Type"
)

// contentTypes are the content types of the encodings.
var contentTypes = map[codec.Encoding]string{
	codec.EncodingBytes:   "application/octet-stream",
	codec.EncodingMsgpack: "application/msgpack",
	codec.EncodingJSON:    "application/json",
	codec.EncodingText:    "text/plain; charset=utf-8",
}

// reserved reports whether a header's name belongs to NATS or to this package, so
// that clients neither set nor see it.
func reserved(name string) bool {
	for _, prefix := range []string{"Nats-", "Tidewire-"} {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return true
		}
	}
	return false
}

// encode makes the NATS message for a subject. It refuses headers that NATS cannot
// carry, or that would mean something to it.
func (b *bus) encode(subject string, m broker.Message) (*nats.Msg, error) {
	header := nats.Header{
		headerEncoding:    {m.Payload.Encoding.String()},
		headerID:          {fmt.Sprintf("%s.%d", b.name, b.sequence.Add(1))},
		headerContentType: {contentTypes[m.Payload.Encoding]},
	}
	if !m.Publisher.IsZero() {
		header[headerPublisher] = []string{m.Publisher.String()}
	}
	if m.Mode == codec.ModeLossy {
		header[headerMode] = []string{"lossy"}
	}
	if m.Key != "" {
		header[headerKey] = []string{url.PathEscape(m.Key)}
	}
	if m.Retain {
		header[headerRetain] = []string{"true"}
	}
	if m.Expires > 0 {
		now := b.sink.Now()
		header[headerTTL] = []string{strconv.FormatUint(max(m.Expires, now+1)-now, 10)}
	}
	if m.ID != "" {
		header[headerMsgID] = []string{url.PathEscape(m.ID)}
	}
	for _, h := range m.Headers {
		switch {
		case reserved(h.Name):
			return nil, codec.Errorf(codec.CodeInvalidOption, "header %q: names that begin with Nats- or Tidewire- are reserved between brokers", h.Name)
		case strings.ContainsAny(h.Value, "\r\n\x00") || textproto.TrimString(h.Value) != h.Value:
			return nil, codec.Errorf(codec.CodeInvalidOption, "header %q: between brokers a value has no line breaks, and no space around it", h.Name)
		case strings.EqualFold(h.Name, headerContentType):
			delete(header, headerContentType)
		}
		header[h.Name] = []string{h.Value}
	}
	return &nats.Msg{Subject: subject, Header: header, Data: m.Payload.Data}, nil
}

// decode reads a NATS message; what its headers do not say has a default. A header
// that a message must not have is left out.
func (b *bus) decode(topic string, m *nats.Msg) broker.Message {
	out := broker.Message{Topic: topic, Payload: codec.Payload{Encoding: b.config.Encoding, Data: m.Data}}
	if m.Reply != "" {
		out.Reply = b.addressOf(m.Reply)
	}
	if len(m.Header) == 0 {
		return out
	}
	if e, ok := encodingOf(m.Header); ok {
		out.Payload.Encoding = e
	}
	if id, err := uuid.Parse(m.Header.Get(headerPublisher)); err == nil {
		out.Publisher = codec.ID(id)
	}
	if m.Header.Get(headerMode) == "lossy" {
		out.Mode = codec.ModeLossy
	}
	out.Key = unescape(m.Header.Get(headerKey), codec.MaxKey)
	out.Retain = m.Header.Get(headerRetain) == "true" && out.Mode != codec.ModeLossy
	if ttl, err := strconv.ParseUint(m.Header.Get(headerTTL), 10, 64); err == nil && ttl > 0 {
		now := b.sink.Now()
		out.Expires = now + min(ttl, codec.MaxInteger-now)
	}
	out.ID = unescape(m.Header.Get(headerMsgID), codec.MaxID)
	out.Headers = headersOf(m.Header, out.Payload.Encoding)
	return out
}

// encodingOf returns what the headers say of the encoding; false if nothing.
func encodingOf(h nats.Header) (codec.Encoding, bool) {
	if name := h.Get(headerEncoding); name != "" {
		for e := range contentTypes {
			if name == e.String() {
				return e, true
			}
		}
	}
	media, parameters, err := mime.ParseMediaType(h.Get(headerContentType))
	if err != nil {
		return 0, false
	}
	switch {
	case media == "application/json" || strings.HasSuffix(media, "+json"):
		return codec.EncodingJSON, true
	case media == "application/msgpack" || media == "application/x-msgpack" || media == "application/vnd.msgpack":
		return codec.EncodingMsgpack, true
	case media == "text/plain":
		charset := parameters["charset"]
		if charset == "" || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "us-ascii") {
			return codec.EncodingText, true
		}
		return codec.EncodingBytes, true
	case media == "application/octet-stream":
		return codec.EncodingBytes, true
	}
	return 0, false
}

// headersOf returns the headers that clients see: those that are not reserved and
// keep the limits, by name; of several values the first. The content type is among
// them if it says more than the encoding.
func headersOf(h nats.Header, encoding codec.Encoding) codec.Headers {
	var out codec.Headers
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if len(out) == codec.MaxHeaders {
			break
		}
		value := h.Get(name)
		if reserved(name) || !utf8.ValidString(value) || name == headerContentType && strings.EqualFold(value, contentTypes[encoding]) {
			continue
		}
		out = append(out, codec.Header{Name: name, Value: value})
		if codec.CheckHeaders(out) != nil {
			out = out[:len(out)-1]
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// unescape reads a text that was escaped as in a URL; "" if it is none, or longer than
// limit.
func unescape(s string, limit int) string {
	text, err := url.PathUnescape(s)
	if err != nil || len(text) > limit || !utf8.ValidString(text) {
		return ""
	}
	return text
}
