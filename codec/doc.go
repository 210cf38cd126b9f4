// Package codec is the wire format of Tidewire: frames, limits, topics and
// error codes. It knows nothing of networks.
//
// The specification is PROTOCOL.md in this folder; comments cite its sections.
// The golden vectors in testdata/vectors are part of it and are read by the
// tests of every language.
//
// # Usage
//
// Each frame is a struct with an Append function that writes it, length
// included, and a Parse function that reads it from a [Frame]:
//
//	b = codec.AppendMessage(b, codec.Message{Topic: 7, Offset: 42, Previous: 1, Payload: p})
//
//	f, n, err := codec.NextFrame(b, codec.DefaultMaxFrame)
//	m, err := codec.ParseMessage(f)
//
// A [Reader] cuts a byte stream into frames.
//
// # Memory
//
// Parsing copies nothing: payloads, secrets and ids in a parsed frame refer to
// the bytes that were parsed, strings excepted. Lengths are checked against
// their limits before memory is taken. Nothing on the path of a message uses
// reflection; encoding and decoding of payloads ([Payload.Decode], [Encode])
// does.
//
// # Errors
//
// Every error of this package that a peer can cause is an [*Error] with a code
// of the registry in PROTOCOL §11. Functions may be called concurrently; a
// Reader may not.
package codec
