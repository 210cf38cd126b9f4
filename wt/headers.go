package wt

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/quic-go/qpack"
)

// errHeadersTooLarge says that a field section exceeds the limit that our
// SETTINGS declare.
var errHeadersTooLarge = errors.New("header fields too large")

// requestHead is a request as its HEADERS frame has it.
type requestHead struct {
	method    string
	scheme    string
	authority string
	path      string
	protocol  string // "" if it is no extended CONNECT
	header    http.Header
}

// fieldOverhead is what each field counts beyond its bytes (RFC 9114 §4.2.2).
const fieldOverhead = 32

// decodeFields decodes a QPACK field section and calls pseudo and regular for
// each field, in order. It checks what holds for requests and responses alike
// (RFC 9114 §4.2, §4.3). The dynamic table has no capacity, so a section that
// refers to it is a decompression failure.
func decodeFields(section []byte, limit int, pseudo, regular func(name, value string) error) error {
	decode := qpack.NewDecoder().Decode(section)
	size, pseudoOver := 0, false
	seen := make([]string, 0, 5)
	for {
		field, err := decode()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return connectionError(codeQPACKDecompressionFailed, "field section: %v", err)
		}
		size += len(field.Name) + len(field.Value) + fieldOverhead
		if size > limit {
			return errHeadersTooLarge
		}
		if !validFieldValue(field.Value) {
			return streamError(codeMessageError, "value of field %q has forbidden characters", field.Name)
		}
		if field.IsPseudo() {
			if pseudoOver {
				return streamError(codeMessageError, "pseudo-header %q after other fields", field.Name)
			}
			if slices.Contains(seen, field.Name) {
				return streamError(codeMessageError, "pseudo-header %q twice", field.Name)
			}
			seen = append(seen, field.Name)
			if err := pseudo(field.Name, field.Value); err != nil {
				return err
			}
			continue
		}
		pseudoOver = true
		if !validToken(field.Name) || strings.ToLower(field.Name) != field.Name {
			return streamError(codeMessageError, "field name %q", field.Name)
		}
		if isConnectionField(field.Name, field.Value) {
			return streamError(codeMessageError, "connection-specific field %q", field.Name)
		}
		if err := regular(field.Name, field.Value); err != nil {
			return err
		}
	}
}

// validToken reports whether s is a token of RFC 9110 §5.6.2, as methods and
// field names are.
func validToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && !('0' <= c && c <= '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// validFieldValue reports whether s is free of control characters other than
// the tab, and of white space at its ends (RFC 9110 §5.5).
func validFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return strings.Trim(s, " \t") == s
}

// validAuthority reports whether s has only characters that RFC 3986 §3.2
// permits in an authority without user information.
func validAuthority(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && !('0' <= c && c <= '9') && !strings.ContainsRune("-._~%!$&'()*+,;=:[]", rune(c)) {
			return false
		}
	}
	return s != ""
}

// isConnectionField reports whether a field is one of HTTP/1.1's about the
// connection, which make a message malformed (RFC 9114 §4.2).
func isConnectionField(name, value string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return true
	case "te":
		return value != "trailers"
	default:
		return false
	}
}

// parseRequestHead decodes the HEADERS of a request. A malformed request is a
// stream error, fields over limit bytes are errHeadersTooLarge.
func parseRequestHead(section []byte, limit int) (requestHead, error) {
	head := requestHead{header: make(http.Header)}
	var hasPath, hasScheme, hasProtocol bool
	err := decodeFields(section, limit, func(name, value string) error {
		switch name {
		case ":method":
			head.method = value
		case ":scheme":
			head.scheme, hasScheme = value, true
		case ":authority":
			head.authority = value
		case ":path":
			head.path, hasPath = value, true
		case ":protocol":
			head.protocol, hasProtocol = value, true
		default:
			return streamError(codeMessageError, "pseudo-header %q in a request", name)
		}
		return nil
	}, func(name, value string) error {
		key := http.CanonicalHeaderKey(name)
		if key == "Cookie" && head.header.Get(key) != "" {
			// RFC 9114 §4.2.1: crumbs of cookies are joined before use.
			value = head.header.Get(key) + "; " + value
			head.header.Set(key, value)
			return nil
		}
		head.header.Add(key, value)
		return nil
	})
	if err != nil {
		return requestHead{}, err
	}
	if host := head.header.Get("Host"); host != "" {
		if head.authority != "" && host != head.authority {
			return requestHead{}, streamError(codeMessageError, "host and :authority differ")
		}
		head.authority = host
	}
	plainConnect := head.method == http.MethodConnect && !hasProtocol
	switch {
	case !validToken(head.method):
		return requestHead{}, streamError(codeMessageError, "method %q", head.method)
	case hasProtocol && (head.method != http.MethodConnect || head.protocol == ""):
		return requestHead{}, streamError(codeMessageError, ":protocol %q with method %s", head.protocol, head.method)
	case plainConnect && (hasScheme || hasPath):
		return requestHead{}, streamError(codeMessageError, "CONNECT with :scheme or :path")
	case !plainConnect && (head.scheme == "" || head.path == ""):
		return requestHead{}, streamError(codeMessageError, ":scheme or :path missing")
	case !plainConnect && head.path[0] != '/' && (head.path != "*" || head.method != http.MethodOptions),
		strings.ContainsAny(head.path, " #"):
		return requestHead{}, streamError(codeMessageError, ":path %q", head.path)
	case head.authority == "" || !validAuthority(head.authority):
		return requestHead{}, streamError(codeMessageError, "authority %q", head.authority)
	}
	return head, nil
}

// parseResponseHead decodes the HEADERS of a response.
func parseResponseHead(section []byte, limit int) (status int, header http.Header, err error) {
	header = make(http.Header)
	err = decodeFields(section, limit, func(name, value string) error {
		if name != ":status" {
			return streamError(codeMessageError, "pseudo-header %q in a response", name)
		}
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil || len(value) != 3 || n < 100 {
			return streamError(codeMessageError, "status %q", value)
		}
		status = int(n)
		return nil
	}, func(name, value string) error {
		header.Add(name, value)
		return nil
	})
	if err == nil && status == 0 {
		err = streamError(codeMessageError, "response without :status")
	}
	return status, header, err
}

// appendRequestHead appends the HEADERS frame of a request.
func appendRequestHead(b []byte, head requestHead) ([]byte, error) {
	fields := []qpack.HeaderField{
		{Name: ":method", Value: head.method},
		{Name: ":scheme", Value: head.scheme},
		{Name: ":authority", Value: head.authority},
		{Name: ":path", Value: head.path},
	}
	if head.protocol != "" {
		fields = append(fields, qpack.HeaderField{Name: ":protocol", Value: head.protocol})
	}
	return appendHeaders(b, fields, head.header)
}

// plainOK is the HEADERS frame that most sessions are accepted with.
var plainOK = sync.OnceValue(func() []byte {
	b, err := appendHeaders(nil, []qpack.HeaderField{{Name: ":status", Value: "200"}}, nil)
	if err != nil {
		panic(err) // it does not depend on anything
	}
	return b
})

// appendResponseHead appends the HEADERS frame of a response.
func appendResponseHead(b []byte, status int, header http.Header) ([]byte, error) {
	if status == http.StatusOK && len(header) == 0 {
		return append(b, plainOK()...), nil
	}
	fields := []qpack.HeaderField{{Name: ":status", Value: strconv.Itoa(status)}}
	return appendHeaders(b, fields, header)
}

// appendHeaders appends a HEADERS frame. It refuses what a peer would have to
// treat as malformed.
func appendHeaders(b []byte, fields []qpack.HeaderField, header http.Header) ([]byte, error) {
	names := make([]string, 0, len(header))
	for name := range header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		lower := strings.ToLower(name)
		if !validToken(lower) {
			return nil, errors.New("wt: header field name " + strconv.Quote(name))
		}
		for _, value := range header[name] {
			if !validFieldValue(value) || isConnectionField(lower, value) {
				return nil, errors.New("wt: header field " + strconv.Quote(name) + " is not allowed or has a forbidden value")
			}
			fields = append(fields, qpack.HeaderField{Name: lower, Value: value})
		}
	}
	var section bytes.Buffer
	encoder := qpack.NewEncoder(&section)
	for _, field := range fields {
		if err := encoder.WriteField(field); err != nil {
			return nil, err
		}
	}
	b = appendFrameHeader(b, frameHeaders, uint64(section.Len()))
	return append(b, section.Bytes()...), nil
}
