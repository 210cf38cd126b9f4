package wt

import (
	"fmt"
	"slices"

	"github.com/quic-go/quic-go/quicvarint"
)

// Identifiers of settings (RFC 9114 §7.2.4.1, RFC 9204 §5, RFC 9220 §5, RFC
// 9297 §5.1, and the drafts of WebTransport).
const (
	settingQPACKMaxTable     = 0x01
	settingMaxFieldSection   = 0x06
	settingQPACKBlocked      = 0x07
	settingConnectProtocol   = 0x08
	settingDatagram          = 0x33
	settingEnableDraft02     = 0x2b603742 // drafts 02 to 06
	settingMaxSessionsDraft7 = 0xc671706a // drafts 07 to 12
	settingMaxSessions       = 0x14e9cd29 // drafts 13 and 14
	settingEnabled           = 0x2c7cf000 // drafts 15 and 16
	settingInitialMaxData    = 0x2b61
	settingInitialMaxUni     = 0x2b64
	settingInitialMaxBidi    = 0x2b65
)

// Draft is a family of drafts of WebTransport over HTTP/3 that share one
// setting and one wire format. Families are ordered: a later one is greater.
type Draft uint8

// The families, named for the draft of each that this package follows.
const (
	// Draft02 is spoken by drafts 02 to 06; browsers of 2026 among them.
	Draft02 Draft = iota + 1
	// Draft07 is spoken by drafts 07 to 12.
	Draft07
	// Draft14 is spoken by drafts 13 and 14.
	Draft14
	// Draft16 is spoken by drafts 15 and 16.
	Draft16
)

// String returns a name such as "draft-16".
func (d Draft) String() string {
	switch d {
	case Draft02:
		return "draft-02"
	case Draft07:
		return "draft-07"
	case Draft14:
		return "draft-14"
	case Draft16:
		return "draft-16"
	default:
		return fmt.Sprintf("Draft(%d)", uint8(d))
	}
}

// token returns the value of :protocol in requests of the draft.
func (d Draft) token() string {
	if d >= Draft16 {
		return "webtransport-h3"
	}
	return "webtransport"
}

// settings are what one side declared in its SETTINGS frame, as far as it
// matters here. The zero value is what holds before any.
type settings struct {
	connectProtocol bool
	datagram        bool
	maxFieldSection uint64 // 0: not declared, so without limit

	enableDraft02     uint64
	maxSessionsDraft7 uint64
	maxSessions       uint64
	enabled           uint64

	initialMaxData uint64
	initialMaxUni  uint64
	initialMaxBidi uint64
}

// appendSettings appends the payload of a SETTINGS frame.
func appendSettings(b []byte, s settings) []byte {
	add := func(id, value uint64) {
		if value != 0 {
			b = quicvarint.Append(b, id)
			b = quicvarint.Append(b, value)
		}
	}
	flag := func(id uint64, on bool) {
		if on {
			add(id, 1)
		}
	}
	add(settingMaxFieldSection, s.maxFieldSection)
	flag(settingConnectProtocol, s.connectProtocol)
	flag(settingDatagram, s.datagram)
	add(settingEnableDraft02, s.enableDraft02)
	add(settingMaxSessionsDraft7, s.maxSessionsDraft7)
	add(settingMaxSessions, s.maxSessions)
	add(settingEnabled, s.enabled)
	add(settingInitialMaxData, s.initialMaxData)
	add(settingInitialMaxUni, s.initialMaxUni)
	add(settingInitialMaxBidi, s.initialMaxBidi)
	return b
}

// parseSettings parses the payload of a SETTINGS frame, whose length has been
// checked (RFC 9114 §7.2.4). Unknown settings are ignored.
func parseSettings(b []byte) (settings, error) {
	var s settings
	// Usually there are a few, and a map costs more than they do.
	var few [16]uint64
	count := 0
	var many map[uint64]struct{}
	for len(b) > 0 {
		id, n, err := quicvarint.Parse(b)
		if err != nil {
			return settings{}, connectionError(codeFrameError, "SETTINGS cut within an identifier")
		}
		b = b[n:]
		value, n, err := quicvarint.Parse(b)
		if err != nil {
			return settings{}, connectionError(codeFrameError, "SETTINGS cut within a value")
		}
		b = b[n:]
		_, double := many[id]
		if double || slices.Contains(few[:min(count, len(few))], id) {
			return settings{}, connectionError(codeSettingsError, "setting %#x twice", id)
		}
		if count < len(few) {
			few[count] = id
		} else {
			if many == nil {
				many = make(map[uint64]struct{})
			}
			many[id] = struct{}{}
		}
		count++
		if err := s.set(id, value); err != nil {
			return settings{}, err
		}
	}
	return s, nil
}

func (s *settings) set(id, value uint64) error {
	switch id {
	case 0x00, 0x02, 0x03, 0x04, 0x05:
		return connectionError(codeSettingsError, "setting %#x of HTTP/2", id)
	case settingConnectProtocol, settingDatagram, settingEnabled:
		if value > 1 {
			return connectionError(codeSettingsError, "setting %#x is %d, not 0 or 1", id, value)
		}
	}
	switch id {
	case settingMaxFieldSection:
		s.maxFieldSection = value
	case settingConnectProtocol:
		s.connectProtocol = value == 1
	case settingDatagram:
		s.datagram = value == 1
	case settingEnableDraft02:
		s.enableDraft02 = value
	case settingMaxSessionsDraft7:
		s.maxSessionsDraft7 = value
	case settingMaxSessions:
		s.maxSessions = value
	case settingEnabled:
		s.enabled = value
	case settingInitialMaxData:
		s.initialMaxData = value
	case settingInitialMaxUni:
		s.initialMaxUni = value
	case settingInitialMaxBidi:
		s.initialMaxBidi = value
	}
	return nil
}

// newestDraft returns the newest draft that the peer's settings declare, or
// false if they declare none.
func (s settings) newestDraft() (Draft, bool) {
	switch {
	case s.enabled > 0:
		return Draft16, true
	case s.maxSessions > 0:
		return Draft14, true
	case s.maxSessionsDraft7 > 0:
		return Draft07, true
	case s.enableDraft02 > 0:
		return Draft02, true
	default:
		return 0, false
	}
}

// requestDraft returns the draft of a request with the :protocol token from a
// client with the settings s, or false if the token is not one of WebTransport.
// A client may declare nothing: draft 02 asks it of servers alone.
func (s settings) requestDraft(token string) (Draft, bool) {
	switch token {
	case Draft16.token():
		return Draft16, true
	case Draft02.token():
		s.enabled = 0
		if d, ok := s.newestDraft(); ok {
			return d, true
		}
		return Draft02, true
	default:
		return 0, false
	}
}

// Fields by which early browsers agreed on draft 02, before settings did it.
const (
	fieldDraft02Request  = "Sec-Webtransport-Http3-Draft02"
	fieldDraft02Response = "Sec-Webtransport-Http3-Draft"
)
