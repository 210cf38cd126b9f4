package interop

import (
	"errors"
	"fmt"
	"maps"

	"github.com/tidewire/tidewire/wt"
)

// What the table says of a case that a peer cannot do, or of one that its
// application does in the library's place.
const (
	absent = "–"
	byHand = "by hand"
)

// What peers lack, each said once.
const (
	noDrain     = "%s knows neither WT_DRAIN_SESSION nor GOAWAY. The session goes on until it is closed."
	wireCodes   = "wtransport has the codes of QUIC for resets and stops; the application maps its own to them."
	noCapsule   = "wtransport sends no WT_CLOSE_SESSION: it closes the QUIC connection, with code and reason."
	noStatus    = "wtransport's client learns that it was rejected, not with which status."
	headersOnly = "wtransport knows no subprotocols. The application adds and reads the fields of the request and of the answer; a client cannot read the latter."
)

// What aioquic leaves to its application.
const (
	onlyFields  = "aioquic knows no subprotocols. The application adds and reads the fields of the request and of the answer."
	rawCodes    = "aioquic has the codes of QUIC for resets and stops; the application maps its own to them."
	rawCapsules = "aioquic hands the bytes of the CONNECT stream to the application, which writes and reads the capsules. A GOAWAY is skipped."
	ownStreams  = "aioquic takes what comes on a bidirectional stream that it opened for HTTP/3 frames; the application reads such streams from QUIC."
)

// peers are the implementations that are tried.
var peers = []peer{
	{
		name:   "webtransport-go",
		folder: "webtransportgo",
		build:  buildGo,
		plain:  true,
		draft:  wt.Draft16,
		note:   "webtransport-go negotiates flow control of sessions. Its server is tried with and without.",
		client: map[string]lack{
			"drain-by-server": {absent, fmt.Sprintf(noDrain, "webtransport-go"), undrained},
			"drain-by-client": {absent, fmt.Sprintf(noDrain, "webtransport-go"), undrained},
		},
		server: map[string]lack{
			"drain-by-server": {absent, fmt.Sprintf(noDrain, "webtransport-go"), undrained},
			"drain-by-client": {absent, fmt.Sprintf(noDrain, "webtransport-go"), undrained},
		},
	},
	{
		name:   "wtransport",
		folder: "wtransport",
		build:  buildRust,
		draft:  wt.Draft07,
		client: map[string]lack{
			"reject": {absent, noStatus, func(client, _ report) error {
				return want("status", -1, client.Status) // rejected
			}},
			"subprotocol": {absent, headersOnly, func(client, server report) error {
				return errors.Join(want("client's subprotocol", "", client.Subprotocol), want("server's subprotocol", chosen, server.Subprotocol))
			}},
			"reset": {byHand, wireCodes, nil},
			"stop":  {byHand, wireCodes, nil},
			"close-by-client": {absent, noCapsule, func(_, server report) error {
				return want("end", closed{"connection", clientCode, clientReason}, server.Closed)
			}},
			"drain-by-server": {absent, fmt.Sprintf(noDrain, "wtransport"), undrained},
			"drain-by-client": {absent, fmt.Sprintf(noDrain, "wtransport"), undrained},
		},
		server: map[string]lack{
			"subprotocol": {byHand, headersOnly, nil},
			"reset":       {byHand, wireCodes, nil},
			"stop":        {byHand, wireCodes, nil},
			"close-by-server": {absent, noCapsule, func(client, _ report) error {
				return want("end", closed{"connection", serverCode, serverReason}, client.Closed)
			}},
			"drain-by-server": {absent, fmt.Sprintf(noDrain, "wtransport"), undrained},
			"drain-by-client": {absent, fmt.Sprintf(noDrain, "wtransport"), undrained},
		},
	},
	aioquic("aioquic", "requirements.txt"),
	aioquic("aioquic-1.3", "requirements-1.3.txt"),
}

// aioquic is a version of aioquic.
func aioquic(name, requirements string) peer {
	lacks := map[string]lack{
		"subprotocol":     {byHand, onlyFields, nil},
		"reset":           {byHand, rawCodes, nil},
		"stop":            {byHand, rawCodes, nil},
		"close-by-client": {byHand, rawCapsules, nil},
		"close-by-server": {byHand, rawCapsules, nil},
		"drain-by-server": {byHand, rawCapsules, nil},
		"drain-by-client": {byHand, rawCapsules, nil},
	}
	client, server := maps.Clone(lacks), maps.Clone(lacks)
	for _, name := range []string{"bidi", "megabyte", "streams"} {
		client[name] = lack{byHand, ownStreams, nil}
	}
	for _, name := range []string{"bidi", "server-streams"} {
		server[name] = lack{byHand, ownStreams, nil}
	}
	return peer{
		name:   name,
		folder: "aioquic",
		build:  buildPython(requirements),
		draft:  wt.Draft02,
		client: client,
		server: server,
	}
}

// undrained is what is seen where one side cannot drain: no side is asked to, and
// the session goes on until it is closed.
func undrained(client, server report) error {
	return errors.Join(want("client drained", false, client.Drained), want("server drained", false, server.Drained))
}
