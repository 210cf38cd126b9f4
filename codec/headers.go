package codec

import "strings"

// Header is one header of a message (PROTOCOL §4.7).
type Header struct {
	Name  string // 1 to MaxHeaderName bytes of printable ASCII but space and colon
	Value string // at most MaxHeaderValue bytes
}

// Headers are the headers of a message, each name once, at most MaxHeaders of them
// and MaxHeaderBytes in all (PROTOCOL §4.7).
type Headers []Header

// Get returns the value of a header; ok is false if it is not there.
func (h Headers) Get(name string) (value string, ok bool) {
	for i := range h {
		if h[i].Name == name {
			return h[i].Value, true
		}
	}
	return "", false
}

// CheckHeaders reports what is wrong with headers, with CodeInvalidOption.
func CheckHeaders(h Headers) error {
	if len(h) > MaxHeaders {
		return Errorf(CodeInvalidOption, "%d headers; the limit is %d", len(h), MaxHeaders)
	}
	total := 0
	for i, e := range h {
		if err := checkHeaderName(e.Name); err != nil {
			return err
		}
		if len(e.Value) > MaxHeaderValue {
			return Errorf(CodeInvalidOption, "header %q has a value of %d bytes; the limit is %d", e.Name, len(e.Value), MaxHeaderValue)
		}
		total += len(e.Name) + len(e.Value)
		if _, twice := h[:i].Get(e.Name); twice {
			return Errorf(CodeInvalidOption, "header %q stands twice", e.Name)
		}
	}
	if total > MaxHeaderBytes {
		return Errorf(CodeInvalidOption, "headers of %d bytes; the limit is %d", total, MaxHeaderBytes)
	}
	return nil
}

func checkHeaderName(name string) *Error {
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }
	if name == "" || len(name) > MaxHeaderName || strings.ContainsFunc(name, bad) {
		return Errorf(CodeInvalidOption, "a header's name is 1 to %d printable ASCII characters, without space and colon; this is %q", MaxHeaderName, cutReason(name))
	}
	return nil
}

// headers writes headers, nil if there are none.
func (p *packer) headers(h Headers) {
	if len(h) == 0 {
		p.none()
		return
	}
	p.array(2 * len(h))
	for _, e := range h {
		p.text(e.Name)
		p.text(e.Value)
	}
}

// headers reads headers and checks them.
func (u *unpacker) headers() Headers {
	if u.absent() {
		return nil
	}
	n := u.list(2 * MaxHeaders)
	if n%2 != 0 {
		u.malformed("a header without a value")
	}
	if u.err != nil || n == 0 {
		return nil
	}
	h := make(Headers, 0, n/2)
	for range n / 2 {
		h = append(h, Header{Name: u.text(len(u.body)), Value: u.text(len(u.body))})
		if u.err != nil {
			return nil
		}
	}
	u.failOn(CheckHeaders(h))
	return h
}

// label reads an optional text of 1 to limit bytes; a longer one is an invalid
// option and not a bad frame.
func (u *unpacker) label(what string, limit int) string {
	if u.absent() {
		return ""
	}
	s := u.text(len(u.body))
	if u.err == nil && (s == "" || len(s) > limit) {
		u.fail(Errorf(CodeInvalidOption, "%s is 1 to %d bytes", what, limit))
	}
	return s
}
