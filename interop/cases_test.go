package interop

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// What both sides of a case agree on. The programs of the peers hold the same.
const (
	textUp      = "both ways"
	textDown    = "from the server"
	streamCount = 100
	streamSize  = 1000
	turnover    = 300
	megabyte    = 1 << 20
	datagrams   = 200
	// fewestDatagrams is how many of them have to come back. Loopback loses one
	// only where a queue overflows.
	fewestDatagrams = 190
	// datagramTimeout is when a datagram counts as lost.
	datagramTimeout = time.Second

	clientCode   = 17
	clientReason = "the client's reason ✓"
	serverCode   = 4711
	serverReason = "low water ≈ 2 m"

	// caseTimeout bounds one case on one side.
	caseTimeout = 30 * time.Second
)

// offered are the subprotocols of the client, known those of the server, and
// chosen is the one that they have in common.
var (
	offered = []string{"interop.v1", "other"}
	known   = []string{"interop.v2", "interop.v1"}
)

const chosen = "interop.v1"

// streamCodes are codes of resets: the ends of the range and both sides of the
// gaps that the mapping to HTTP/3 codes leaves out.
var streamCodes = []int64{0, 29, 30, 255, 256, 1<<32 - 1}

// wireCode is what an application's code is on the wire
// (draft-ietf-webtrans-http3-16 §4.4).
func wireCode(code int64) int64 { return 0x52e4a40fa8db + code + code/0x1e }

// report is what one side saw of a case.
type report struct {
	Case string `json:"case"`
	// Error is what kept this side from doing its part, empty if nothing did.
	Error string `json:"error"`
	// Draft is what was negotiated. Only our side tells.
	Draft string `json:"-"`
	// Status is that of an answer other than 2xx.
	Status int `json:"status"`
	// Subprotocol is the one that was chosen.
	Subprotocol string `json:"subprotocol"`
	// Count is of streams or datagrams whose echo came.
	Count int `json:"count"`
	// Codes are those with which the other side reset or stopped streams, -1 where
	// there was a reset without a code.
	Codes []int64 `json:"codes"`
	// Wire says that the codes are those on the wire, for an application to map.
	Wire bool `json:"wire"`
	// Drained says that the other side asked for the session's end.
	Drained bool `json:"drained"`
	// Closed is how the session ended, where the other side ended it.
	Closed closed `json:"closed"`
}

// closed is how a session ended.
type closed struct {
	// How is "close" for a WT_CLOSE_SESSION capsule or a clean end of the CONNECT
	// stream, "connection" for the end of the QUIC connection with a code.
	How    string `json:"how"`
	Code   uint64 `json:"code"`
	Reason string `json:"reason"`
}

// testCase is a row of the table.
type testCase struct {
	name  string
	title string
	// check compares what both sides saw with what they should have. No side has
	// an error when it is called.
	check func(client, server report) error
}

var cases = []testCase{
	{"handshake", "Handshake, with the draft that both follow", nil},
	{"reject", "A request is rejected with 404", func(client, _ report) error {
		return want("status", 404, client.Status)
	}},
	{"subprotocol", "A subprotocol is offered and chosen", func(client, server report) error {
		return errors.Join(want("client's subprotocol", chosen, client.Subprotocol), want("server's subprotocol", chosen, server.Subprotocol))
	}},
	{"bidi", "Bidirectional streams, opened by either side", nil},
	{"uni", "Unidirectional streams, one from each side", nil},
	{"megabyte", "1 MB on a stream, there and back", nil},
	{"streams", "100 streams of the client at once", func(client, _ report) error {
		return want("streams", streamCount, client.Count)
	}},
	{"server-streams", "100 streams of the server at once", func(_, server report) error {
		return want("streams", streamCount, server.Count)
	}},
	{"turnover", "300 streams of each side, one after the other", func(client, _ report) error {
		return want("streams", turnover, client.Count)
	}},
	{"datagrams", "200 datagrams, of which 190 have to come back", func(client, _ report) error {
		if client.Count < fewestDatagrams {
			return fmt.Errorf("%d of %d datagrams came back", client.Count, datagrams)
		}
		return nil
	}},
	{"reset-by-client", "The client resets streams with codes", func(_, server report) error {
		return wantCodes(streamCodes, server)
	}},
	{"reset-by-server", "The server resets streams with codes", func(client, _ report) error {
		return wantCodes(streamCodes, client)
	}},
	{"stop-by-client", "The client stops streams with codes", func(_, server report) error {
		return wantCodes(streamCodes, server)
	}},
	{"stop-by-server", "The server stops streams with codes", func(client, _ report) error {
		return wantCodes(streamCodes, client)
	}},
	{"close-by-client", "The client closes with code and reason", func(_, server report) error {
		return want("end", closed{"close", clientCode, clientReason}, server.Closed)
	}},
	{"close-by-server", "The server closes with code and reason", func(client, _ report) error {
		return want("end", closed{"close", serverCode, serverReason}, client.Closed)
	}},
	{"drain-by-server", "The server asks to drain", func(client, _ report) error {
		return want("drained", true, client.Drained)
	}},
	{"drain-by-client", "The client asks to drain", func(_, server report) error {
		return want("drained", true, server.Drained)
	}},
}

func want[T comparable](what string, want, got T) error {
	if got != want {
		return fmt.Errorf("%s: got %+v, want %+v", what, got, want)
	}
	return nil
}

// wantCodes compares the codes that a side saw with the application's.
func wantCodes(want []int64, r report) error {
	want = slices.Clone(want)
	for i, code := range want {
		if r.Wire {
			want[i] = wireCode(code)
		}
	}
	if !slices.Equal(r.Codes, want) {
		return fmt.Errorf("codes: got %d, want %d", r.Codes, want)
	}
	return nil
}

// checkReports checks a case with what both sides saw. check, where it is not
// nil, compares what they saw once neither has an error.
func checkReports(check func(client, server report) error, client, server report) error {
	var all error
	for side, r := range map[string]report{"client": client, "server": server} {
		if r.Error != "" {
			all = errors.Join(all, fmt.Errorf("%s: %s", side, r.Error))
		}
	}
	if all != nil || check == nil {
		return all
	}
	return check(client, server)
}
