package wt

import (
	"net/http"
	"slices"

	"github.com/dunglas/httpsfv"
)

// Fields of the negotiation of subprotocols (draft-ietf-webtrans-http3-16 §3.3).
const (
	fieldAvailableProtocols = "Wt-Available-Protocols"
	fieldProtocol           = "Wt-Protocol"
)

// parseAvailableProtocols returns the subprotocols that a client offers, in its
// order of preference. A field that is not a list of strings is ignored as a
// whole, as the draft asks.
func parseAvailableProtocols(header http.Header) []string {
	values := header.Values(fieldAvailableProtocols)
	if len(values) == 0 {
		return nil
	}
	list, err := httpsfv.UnmarshalList(values)
	if err != nil {
		return nil
	}
	protocols := make([]string, 0, len(list))
	for _, member := range list {
		item, ok := member.(httpsfv.Item)
		if !ok {
			return nil
		}
		protocol, ok := item.Value.(string)
		if !ok {
			return nil
		}
		protocols = append(protocols, protocol)
	}
	return protocols
}

// formatAvailableProtocols is the inverse of parseAvailableProtocols. It fails
// if a protocol has characters that a structured string cannot hold.
func formatAvailableProtocols(protocols []string) (string, error) {
	list := make(httpsfv.List, 0, len(protocols))
	for _, protocol := range protocols {
		list = append(list, httpsfv.NewItem(protocol))
	}
	return httpsfv.Marshal(list)
}

// parseProtocol returns the subprotocol that a server chose. It is not ok if the
// server chose none, or the field is not a string and so to be ignored.
func parseProtocol(header http.Header) (protocol string, ok bool) {
	item, err := httpsfv.UnmarshalItem(header.Values(fieldProtocol))
	if err != nil {
		return "", false
	}
	protocol, ok = item.Value.(string)
	return protocol, ok
}

// formatProtocol is the inverse of parseProtocol.
func formatProtocol(protocol string) (string, error) {
	return httpsfv.Marshal(httpsfv.NewItem(protocol))
}

// chooseProtocol returns the first of supported that is among offered, or "".
func chooseProtocol(supported, offered []string) string {
	for _, protocol := range supported {
		if slices.Contains(offered, protocol) {
			return protocol
		}
	}
	return ""
}
