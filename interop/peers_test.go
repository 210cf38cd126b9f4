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
			"reset-by-client": {byHand, wireCodes, nil},
			"reset-by-server": {byHand, wireCodes, nil},
			"stop-by-client":  {byHand, wireCodes, nil},
			"stop-by-server":  {byHand, wireCodes, nil},
			"close-by-client": {absent, noCapsule, func(_, server report) error {
				return want("end", closed{"connection", clientCode, clientReason}, server.Closed)
			}},
			"drain-by-server": {absent, fmt.Sprintf(noDrain, "wtransport"), undrained},
			"drain-by-client": {absent, fmt.Sprintf(noDrain, "wtransport"), undrained},
		},
		server: map[string]lack{
			"subprotocol":     {byHand, headersOnly, nil},
			"reset-by-client": {byHand, wireCodes, nil},
			"reset-by-server": {byHand, wireCodes, nil},
			"stop-by-client":  {byHand, wireCodes, nil},
			"stop-by-server":  {byHand, wireCodes, nil},
			"close-by-server": {absent, noCapsule, func(client, _ report) error {
				return want("end", closed{"connection", serverCode, serverReason}, client.Closed)
			}},
			"drain-by-server": {absent, fmt.Sprintf(noDrain, "wtransport"), undrained},
			"drain-by-client": {absent, fmt.Sprintf(noDrain, "wtransport"), undrained},
		},
	},
	aioquic("aioquic", "requirements.txt"),
	aioquic("aioquic-1.3", "requirements-1.3.txt"),
	browser("chromium", "chromium", nil),
	browser("firefox", "firefox-esr", map[string]lack{
		"subprotocol": {absent, noOffer, func(client, server report) error {
			return errors.Join(want("client's subprotocol", "", client.Subprotocol), want("server's subprotocol", "", server.Subprotocol))
		}},
		"reset-by-server": {absent, noResetCode, func(client, _ report) error {
			return wantCodes([]int64{-1, -1, -1, -1, -1, -1}, client)
		}},
		"stop-by-client": {absent, noStop, func(_, server report) error {
			return wantCodes(nil, server)
		}},
		"stop-by-server": {"to 255", noLongCode, func(client, _ report) error {
			return wantCodes([]int64{0, 29, 30, 255, 0, 0}, client)
		}},
	}),
}

// aioquic is a version of aioquic.
func aioquic(name, requirements string) peer {
	lacks := map[string]lack{
		"subprotocol":     {byHand, onlyFields, nil},
		"reset-by-client": {byHand, rawCodes, nil},
		"reset-by-server": {byHand, rawCodes, nil},
		"stop-by-client":  {byHand, rawCodes, nil},
		"stop-by-server":  {byHand, rawCodes, nil},
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

// What a page in a browser is not told or cannot say.
const (
	pageStatus  = "A page learns that its request was rejected, not with which status."
	pageDrain   = "A page cannot ask for it, and neither browser has the property draining yet. The session goes on until it is closed."
	shortCodes  = "Both browsers bound the codes that a page gives to 8 bits, as draft-02 did: 256 arrives as 255."
	noOffer     = "Firefox has no subprotocols: it offers none."
	noResetCode = "Firefox fails a page's read with an error that holds no code."
	noLongCode  = "Firefox tells a page of codes up to 255 alone: 256 arrives as 0."
	noStop      = "Firefox sends no STOP_SENDING when a page cancels its reading."
)

// browser is a browser, which has a client alone.
func browser(name, program string, lacks map[string]lack) peer {
	client := map[string]lack{
		"reject": {absent, pageStatus, func(client, _ report) error {
			return want("status", -1, client.Status) // rejected
		}},
		"reset-by-client": {"to 255", shortCodes, func(_, server report) error {
			return wantCodes([]int64{0, 29, 30, 255, 255, 255}, server)
		}},
		"stop-by-client": {"to 255", shortCodes, func(_, server report) error {
			return wantCodes([]int64{0, 29, 30, 255, 255, 255}, server)
		}},
		"drain-by-server": {absent, pageDrain, undrained},
		"drain-by-client": {absent, pageDrain, undrained},
	}
	maps.Copy(client, lacks)
	return peer{
		name:   name,
		folder: "browsers",
		build:  buildBrowser(name, program),
		draft:  wt.Draft02,
		client: client,
	}
}

// undrained is what is seen where one side cannot drain: no side is asked to, and
// the session goes on until it is closed.
func undrained(client, server report) error {
	return errors.Join(want("client drained", false, client.Drained), want("server drained", false, server.Drained))
}
