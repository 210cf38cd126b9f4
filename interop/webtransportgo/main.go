// Webtransportgo is a peer for the interoperability tests, on webtransport-go.
// It is a module of its own because that library does not compile with the
// version of quic-go that the main module uses.
//
//	webtransportgo server
//	webtransportgo client -url https://127.0.0.1:4433 -hash HEX
//
// Both print one JSON object a line, and end when their standard input does. The
// server prints where it is, then how each session ended. The client prints the
// result of each check.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"

	"github.com/quic-go/webtransport-go"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "webtransportgo:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("say server or client")
	}
	out := &lines{encoder: json.NewEncoder(os.Stdout)}
	switch args[0] {
	case "server":
		return serve(os.Stdin, out)
	case "client":
		flags := flag.NewFlagSet("client", flag.ContinueOnError)
		url := flags.String("url", "", "`URL` of the server, without a path")
		hash := flags.String("hash", "", "SHA-256 of its certificate, in `hex`")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		want, err := hex.DecodeString(*hash)
		if err != nil || len(want) != sha256.Size {
			return fmt.Errorf("hash %q is not a SHA-256 in hex", *hash)
		}
		return checkServer(*url, [sha256.Size]byte(want), os.Stdin, out)
	default:
		return fmt.Errorf("unknown mode %q", args[0])
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

// ending is how a session ended.
type ending struct {
	Remote bool   `json:"remote"`
	Code   uint32 `json:"code"`
	Reason string `json:"reason"`
	Error  string `json:"error,omitempty"` // if it was no close
}

func endingOf(err error) ending {
	var closed *webtransport.SessionError
	if errors.As(err, &closed) {
		return ending{Remote: closed.Remote, Code: uint32(closed.ErrorCode), Reason: closed.Message}
	}
	return ending{Error: fmt.Sprint(err)}
}
