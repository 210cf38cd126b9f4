package broker

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"github.com/tidewire/tidewire/codec"
)

// A reply address is one of this broker, a zero byte and a request's id, or one that
// the bus has given. MESSAGE carries it sealed: behind a MAC, and the time until which
// it is good. So a client can answer what it was asked and nothing else, and the
// broker keeps nothing for requests that it has handed out. The alternative, a table
// of what was asked, would have to be bounded, and forget requests that are open.

// addressSize is the length of an address of this broker.
const addressSize = 9

// sealSize is the length of the MAC.
const sealSize = 16

// addressOf returns the address of a request of this broker.
func addressOf(id uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 1, addressSize), id)
}

// idOf returns the request's id of an address of this broker; false if it is not one.
func idOf(address []byte) (uint64, bool) {
	if len(address) != addressSize || address[0] != 0 {
		return 0, false
	}
	return binary.BigEndian.Uint64(address[1:]), true
}

// seal returns what MESSAGE carries for an address. expires is when the request does;
// 0: it does not say. An address that is too long gives nil: clients cannot answer.
func (q *requests) seal(address []byte, expires uint64) []byte {
	if expires == 0 {
		expires = q.broker.now() + codec.MaxTimeout
	}
	b := make([]byte, sealSize, sealSize+binary.MaxVarintLen64+len(address))
	b = binary.AppendUvarint(b, expires)
	b = append(b, address...)
	if len(b) > codec.MaxReply {
		return nil
	}
	copy(b, q.mac(b[sealSize:]))
	return b
}

// unseal returns the address that was sealed; false if it was not sealed here, or is
// good no longer.
func (q *requests) unseal(reply []byte) (address []byte, ok bool) {
	if len(reply) < sealSize || !hmac.Equal(reply[:sealSize], q.mac(reply[sealSize:])) {
		return nil, false
	}
	expires, n := binary.Uvarint(reply[sealSize:])
	if n <= 0 || expires <= q.broker.now() {
		return nil, false
	}
	return reply[sealSize+n:], true
}

func (q *requests) mac(b []byte) []byte {
	h := hmac.New(sha256.New, q.key[:])
	h.Write(b)
	return h.Sum(nil)[:sealSize]
}
