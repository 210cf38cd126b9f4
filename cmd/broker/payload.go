package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tidewire/tidewire/codec"
)

// encodings are the values of --encoding.
var encodings = map[string]codec.Encoding{
	"text": codec.EncodingText, "json": codec.EncodingJSON, "msgpack": codec.EncodingMsgpack, "bytes": codec.EncodingBytes,
}

// makePayload makes a payload of what the user gave. Without an encoding, UTF-8 is
// text and everything else bytes. MessagePack is made of JSON.
func makePayload(data []byte, encoding string) (codec.Payload, error) {
	if encoding == "" {
		encoding = "bytes"
		if utf8.Valid(data) {
			encoding = "text"
		}
	}
	p := codec.Payload{Encoding: encodings[encoding], Data: data}
	switch {
	case p.Encoding == codec.EncodingText && !utf8.Valid(data):
		return p, usagef("the payload is no UTF-8: --encoding bytes takes it as it is")
	case (p.Encoding == codec.EncodingJSON || p.Encoding == codec.EncodingMsgpack) && !json.Valid(data):
		return p, usagef("the payload is no JSON, as --encoding %s needs it", encoding)
	case p.Encoding != codec.EncodingMsgpack:
		return p, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return p, err
	}
	return codec.Encode(plainNumbers(value))
}

// plainNumbers replaces the numbers of JSON by integers where they are such, and
// by floats else.
func plainNumbers(value any) any {
	switch v := value.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n
		}
		if n, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return n
		}
		n, _ := v.Float64()
		return n
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = plainNumbers(v[name])
		}
	}
	return value
}

// jsonPayload returns a payload as JSON, by its encoding, or else in base64.
func jsonPayload(p codec.Payload) (value json.RawMessage, inBase64 *string) {
	switch p.Encoding {
	case codec.EncodingJSON:
		if json.Valid(p.Data) {
			return p.Data, nil
		}
	case codec.EncodingText:
		if utf8.Valid(p.Data) {
			if value, err := marshal(string(p.Data)); err == nil {
				return value, nil
			}
		}
	case codec.EncodingMsgpack:
		var decoded any
		if p.Decode(&decoded) == nil {
			if value, err := marshal(decoded); err == nil {
				return value, nil
			}
		}
	}
	text := base64.StdEncoding.EncodeToString(p.Data)
	return nil, &text
}

// marshal is json.Marshal without the escapes that are for HTML.
func marshal(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// readable returns a payload as text for one line of a terminal. What would move
// the cursor, or worse, is shown escaped: payloads come from anybody.
func readable(p codec.Payload) string {
	text := string(p.Data)
	if p.Encoding == codec.EncodingMsgpack {
		value, inBase64 := jsonPayload(p)
		if inBase64 != nil {
			return "0x" + hex.EncodeToString(p.Data)
		}
		text = string(value)
	}
	if !utf8.ValidString(text) {
		return "0x" + hex.EncodeToString(p.Data)
	}
	var line strings.Builder
	for _, r := range text {
		if r == ' ' || unicode.IsGraphic(r) && !unicode.Is(unicode.Zl, r) && !unicode.Is(unicode.Zp, r) {
			line.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		line.WriteString(quoted[1 : len(quoted)-1])
	}
	return line.String()
}
