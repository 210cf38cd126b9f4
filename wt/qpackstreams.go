package wt

// The peer's two QPACK streams (RFC 9204 §4.2). Our decoder's table has no
// capacity, and our encoder refers to no table, so hardly anything may be said
// on them. They are still read: what is not allowed has a code of its own, and a
// peer that fills them would otherwise keep the connection's window.

// qpackEncoderStream parses the instructions of an encoder. The one that a table
// without capacity permits is to set its capacity to 0 (RFC 9204 §3.2.3, §4.3.1).
type qpackEncoderStream struct{ integer prefixInteger }

// feed takes the next bytes of the stream, cut anywhere. An error is one of the
// connection's, and the last.
func (s *qpackEncoderStream) feed(b []byte) error {
	for _, c := range b {
		if !s.integer.within && c&0xe0 != 0x20 {
			return connectionError(codeQPACKEncoderStreamError, "instruction %#02x to a QPACK table without capacity", c)
		}
		done, ok := s.integer.feed(c, 5)
		if !ok || done && s.integer.value != 0 {
			return connectionError(codeQPACKEncoderStreamError, "QPACK table capacity above 0")
		}
	}
	return nil
}

// qpackDecoderStream parses the instructions of a decoder. Cancellations of
// streams are the only ones that fit an encoder that inserts nothing and refers to
// nothing (RFC 9204 §4.4).
type qpackDecoderStream struct{ integer prefixInteger }

// feed takes the next bytes of the stream, cut anywhere.
func (s *qpackDecoderStream) feed(b []byte) error {
	for _, c := range b {
		if !s.integer.within {
			switch {
			case c&0x80 != 0: // §4.4.1: no section of ours awaits it
				return connectionError(codeQPACKDecoderStreamError, "acknowledgment of a section without references")
			case c&0x40 == 0: // §4.4.3: we have inserted nothing
				return connectionError(codeQPACKDecoderStreamError, "insert count increment beyond what was inserted")
			}
		}
		if _, ok := s.integer.feed(c, 6); !ok {
			return connectionError(codeQPACKDecoderStreamError, "stream ID above 62 bits")
		}
	}
	return nil
}

// prefixInteger decodes one integer after another byte by byte (RFC 9204
// §4.1.1, RFC 7541 §5.1).
type prefixInteger struct {
	value  uint64
	shift  uint
	within bool // whether value lacks its end
}

// feed takes the next byte; prefix is the number of bits that the first byte of
// an integer gives it. It reports whether the integer is complete, and not ok if
// it is longer than the 62 bits that every decoder must know.
func (p *prefixInteger) feed(c byte, prefix uint) (done, ok bool) {
	if !p.within {
		limit := uint64(1)<<prefix - 1
		p.value, p.shift = uint64(c)&limit, 0
		p.within = p.value == limit
		return !p.within, true
	}
	bits := uint64(c & 0x7f)
	// A sum of less than 2^56 takes seven more bits without leaving 64; at shift 56
	// the check below sees what they amount to. Longer encodings are padding.
	if p.shift > 56 {
		return false, false
	}
	p.value += bits << p.shift
	p.shift += 7
	p.within = c&0x80 != 0
	return !p.within, p.value < 1<<62
}
