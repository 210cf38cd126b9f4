package interop

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidewire/tidewire/wt"
)

// peer is an implementation that the tests know.
type peer struct {
	// name is that in the table, and of the subtest.
	name string
	// folder holds the program and what it is built from.
	folder string
	// build makes what the program needs and returns the command that runs it.
	build func(t *testing.T, folder string) []string
	// plain says that the program needs nothing but the go command.
	plain bool
	// draft is the family that it follows.
	draft wt.Draft
	// client and server are the roles that it has; each holds what the peer lacks
	// in it, by the name of the case.
	client, server map[string]lack
	// note is said of the peer below the table.
	note string
}

// lack is a case that a peer cannot do, or only by hand.
type lack struct {
	// cell is what the table says: "–" where it cannot be done, "by hand" where the
	// application has to do what the library does not.
	cell string
	// cause is why, in a sentence.
	cause string
	// check, where it is not nil, takes the place of the case's own.
	check func(client, server report) error
}

// cell is what the table says of a case.
type cell struct{ text, cause string }

// column is what the table says of one peer in one role.
type column struct {
	name    string // of the peer, with its version
	note    string
	results map[string]cell // by the name of the case
}

// TestMatrix tries every case with every peer, in each of its roles, and compares
// the table in docs/interop.md with what it saw.
func TestMatrix(t *testing.T) {
	var table results
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			if testing.Short() && !p.plain {
				t.Skip("needs more than the go command; run without -short")
			}
			readAll(t, p.folder)
			command := p.build(t, p.folder)
			if p.client != nil {
				t.Run("client", func(t *testing.T) { table.clients = append(table.clients, tryTheirClient(t, p, command)) })
			}
			if p.server != nil {
				t.Run("server", func(t *testing.T) { table.servers = append(table.servers, tryTheirServer(t, p, command)) })
			}
		})
	}
	if !t.Failed() && table.complete() {
		checkTable(t, table)
	}
}

// readAll opens what a peer's program is made of, so that the go command knows
// that a result in its cache rests on it.
func readAll(t *testing.T, folder string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		path := filepath.Join(folder, entry.Name())
		if entry.IsDir() {
			readAll(t, path)
		} else if _, err := os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
}

// tryTheirClient tries every case with our server and the peer's client.
func tryTheirClient(t *testing.T, p peer, command []string) column {
	running := start(t, command, "client")
	col := column{name: running.peer, note: p.note, results: make(map[string]cell)}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ours := serve(t, c)
			theirs, err := running.try(c.name, ours.addr, ours.hash)
			if err != nil {
				t.Fatal(err)
			}
			var seen report
			if c.name != "reject" {
				seen = next(t, ours)
				if seen.Draft != p.draft.String() {
					t.Errorf("negotiated %s, want %s", seen.Draft, p.draft)
				}
			}
			col.results[c.name] = judge(t, c, p, p.client, theirs, seen)
		})
	}
	return col
}

// next returns the report of our server. Its session has ended if that of the
// client has.
func next(t *testing.T, s *ourServer) report {
	t.Helper()
	select {
	case r := <-s.reports:
		return r
	case <-time.After(2 * caseTimeout):
		t.Fatal("our server has no report")
		return report{}
	}
}

// tryTheirServer tries every case with the peer's server and our client.
func tryTheirServer(t *testing.T, p peer, command []string) column {
	running := start(t, command, "server")
	col := column{name: running.peer, note: p.note, results: make(map[string]cell)}
	for _, flow := range []struct {
		name    string
		maxData int64
	}{{"", 0}, {"/with flow control", 64 << 10}} {
		for _, c := range cases {
			t.Run(c.name+flow.name, func(t *testing.T) {
				ours := try(t.Context(), c, running.addr, running.hash, wt.Dialer{MaxSessionData: flow.maxData})
				var theirs report
				if c.name != "reject" {
					if ours.Draft != p.draft.String() {
						t.Errorf("negotiated %q, want %s", ours.Draft, p.draft)
					}
					var err error
					if theirs, err = running.report(c.name); err != nil {
						t.Fatal(errors.Join(errors.New(ours.Error), err))
					}
				}
				col.results[c.name] = judge(t, c, p, p.server, ours, theirs)
			})
		}
	}
	return col
}

// judge compares what both sides saw with what the peer can do, and returns what
// the table says of it.
func judge(t *testing.T, c testCase, p peer, lacks map[string]lack, client, server report) cell {
	t.Helper()
	known, lacking := lacks[c.name]
	check := c.check
	if lacking && known.check != nil {
		check = known.check
	}
	if err := checkReports(check, client, server); err != nil {
		t.Errorf("%v\nclient: %+v\nserver: %+v", err, client, server)
		return cell{text: "FAILED"}
	}
	switch {
	case lacking:
		return cell{known.cell, known.cause}
	case c.name == "handshake":
		return cell{text: p.draft.String()}
	default:
		return cell{text: "ok"}
	}
}
