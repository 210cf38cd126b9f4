package codec

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// Encoding tells what the bytes of a payload are (PROTOCOL §4.1).
type Encoding uint8

// The encodings of version 1.
const (
	EncodingBytes   Encoding = 0
	EncodingMsgpack Encoding = 1
	EncodingJSON    Encoding = 2
	EncodingText    Encoding = 3
)

// String returns the name that PROTOCOL §4.1 uses.
func (e Encoding) String() string {
	switch e {
	case EncodingBytes:
		return "bytes"
	case EncodingMsgpack:
		return "msgpack"
	case EncodingJSON:
		return "json"
	case EncodingText:
		return "text"
	}
	return fmt.Sprintf("encoding_%d", uint8(e))
}

// Payload is what a message carries: bytes and what they are.
type Payload struct {
	Encoding Encoding
	Data     []byte
}

// Bytes returns a payload of plain bytes. It does not copy b.
func Bytes(b []byte) Payload { return Payload{Encoding: EncodingBytes, Data: b} }

// Text returns a payload of UTF-8 text.
func Text(s string) Payload { return Payload{Encoding: EncodingText, Data: []byte(s)} }

// JSON encodes v with encoding/json.
func JSON(v any) (Payload, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return Payload{}, fmt.Errorf("codec: encode payload as JSON: %w", err)
	}
	return Payload{Encoding: EncodingJSON, Data: b}, nil
}

// Encode makes a payload of v: a Payload stays as it is, []byte becomes bytes, a
// string text, json.RawMessage JSON, and every other value MessagePack, where the
// fields of a struct are named by their msgpack tag, else by their json tag.
func Encode(v any) (Payload, error) {
	switch v := v.(type) {
	case Payload:
		return v, nil
	case []byte:
		return Bytes(v), nil
	case string:
		return Text(v), nil
	case json.RawMessage:
		return Payload{Encoding: EncodingJSON, Data: v}, nil
	}
	var buf bytes.Buffer
	enc := msgpack.NewEncoder(&buf)
	enc.SetCustomStructTag("json")
	enc.UseCompactInts(true)
	enc.SetSortMapKeys(true) // equal maps give equal payloads: a state that has not changed is no news
	if err := enc.Encode(v); err != nil {
		return Payload{}, fmt.Errorf("codec: encode payload as MessagePack: %w", err)
	}
	return Payload{Encoding: EncodingMsgpack, Data: buf.Bytes()}, nil
}

// Decode decodes the payload into the value that v points to:
//
//   - A *Payload takes the payload as it is, whatever its encoding.
//   - Bytes and text, and every encoding that is not known, go into a *[]byte, a
//     *string or an *any, which then holds a string for text and else a []byte.
//     Other types are an error.
//   - MessagePack and JSON go into whatever their decoders accept; the fields of a
//     struct are named by their msgpack tag, if the encoding is MessagePack, else
//     by their json tag.
//
// What is decoded does not refer to the payload's bytes.
func (p Payload) Decode(v any) error {
	if t, ok := v.(*Payload); ok {
		*t = Payload{Encoding: p.Encoding, Data: bytes.Clone(p.Data)}
		return nil
	}
	switch p.Encoding {
	case EncodingMsgpack:
		dec := msgpack.NewDecoder(bytes.NewReader(p.Data))
		dec.SetCustomStructTag("json")
		if err := dec.Decode(v); err != nil {
			return fmt.Errorf("codec: decode MessagePack payload into %T: %w", v, err)
		}
		return nil
	case EncodingJSON:
		if err := json.Unmarshal(p.Data, v); err != nil {
			return fmt.Errorf("codec: decode JSON payload into %T: %w", v, err)
		}
		return nil
	}
	switch v := v.(type) {
	case *[]byte:
		*v = bytes.Clone(p.Data)
	case *string:
		*v = string(p.Data)
	case *any:
		if p.Encoding == EncodingText {
			*v = string(p.Data)
		} else {
			*v = bytes.Clone(p.Data)
		}
	default:
		return fmt.Errorf("codec: a payload of %s does not decode into %T", p.Encoding, v)
	}
	return nil
}
