// Webtransportgo is a peer for the interoperability tests, on webtransport-go. It
// is a module of its own because that library does not compile with the version
// of quic-go that the main module uses. The package interop says what it is told
// and what it prints.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/webtransport-go"
)

// What both sides of a case agree on.
const (
	textUp          = "both ways"
	textDown        = "from the server"
	streamCount     = 100
	streamSize      = 1000
	turnover        = 300
	megabyte        = 1 << 20
	datagrams       = 200
	datagramTimeout = time.Second
	clientCode      = 17
	clientReason    = "the client's reason ✓"
	serverCode      = 4711
	serverReason    = "low water ≈ 2 m"
	caseTimeout     = 30 * time.Second
)

func offered() []string          { return []string{"interop.v1", "other"} }
func known() []string            { return []string{"interop.v2", "interop.v1"} }
func streamCodes() []streamError { return []streamError{0, 29, 30, 255, 256, 1<<32 - 1} }

type streamError = webtransport.StreamErrorCode

// flowControl declares limits of a session that the cases exceed many times, but
// for the streams that are open at once.
func flowControl() *webtransport.Config {
	return &webtransport.Config{MaxIncomingData: 64 << 10, MaxIncomingStreams: streamCount, MaxIncomingUniStreams: 10}
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "webtransportgo:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	out := &lines{encoder: json.NewEncoder(os.Stdout)}
	switch strings.Join(args, " ") {
	case "server":
		return serve(os.Stdin, out)
	case "client":
		return try(os.Stdin, out)
	default:
		return errors.New("say server or client")
	}
}

// hello is the first line. Addr and Hash are those of a server.
type hello struct {
	Peer string `json:"peer"`
	Addr string `json:"addr,omitempty"`
	Hash string `json:"hash,omitempty"`
}

// name returns the library's name and version, as the build has it.
func name() string {
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, module := range build.Deps {
			if module.Path == "github.com/quic-go/webtransport-go" {
				return "webtransport-go " + strings.TrimPrefix(module.Version, "v")
			}
		}
	}
	return "webtransport-go"
}

// report is what this side saw of a case.
type report struct {
	Case        string        `json:"case"`
	Error       string        `json:"error,omitempty"`
	Status      int           `json:"status,omitempty"`
	Subprotocol string        `json:"subprotocol,omitempty"`
	Count       int           `json:"count,omitempty"`
	Codes       []streamError `json:"codes,omitempty"`
	Closed      closed        `json:"closed,omitzero"`
}

// closed is how the other side ended the session.
type closed struct {
	How    string `json:"how"`
	Code   uint32 `json:"code"`
	Reason string `json:"reason"`
}

// endOf tells how a session ended, by the error that a call on it returned.
func endOf(err error) closed {
	var end *webtransport.SessionError
	switch {
	case !errors.As(err, &end):
		return closed{How: fmt.Sprint(err)}
	case end.Remote:
		return closed{How: "close", Code: uint32(end.ErrorCode), Reason: end.Message}
	default:
		return closed{}
	}
}

// lines prints objects, one a line. It is safe for concurrent use.
type lines struct {
	mu      sync.Mutex
	encoder *json.Encoder // guarded by mu
}

func (l *lines) print(v any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.encoder.Encode(v); err != nil {
		fmt.Fprintln(os.Stderr, "webtransportgo:", err)
	}
}
