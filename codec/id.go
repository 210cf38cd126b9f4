package codec

import "encoding/hex"

// ID is a client id: a UUID, public. The zero ID stands for none.
type ID [16]byte

// IsZero reports whether id stands for none.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the form of RFC 9562 §4, or "" for none.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}
