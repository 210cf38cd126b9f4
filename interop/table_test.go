package interop

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of docs/interop.md")

const tableFile = "../docs/interop.md"

// The tables are between these lines.
const (
	tableBegin = "<!-- tables: written by go test ./interop -update -->\n"
	tableEnd   = "<!-- tables end -->\n"
)

// results are the columns of both tables.
type results struct{ clients, servers []column }

// complete reports whether every case was tried with every peer.
func (r results) complete() bool {
	clients, servers := 0, 0
	for _, p := range peers {
		if p.client != nil {
			clients++
		}
		if p.server != nil {
			servers++
		}
	}
	if len(r.clients) != clients || len(r.servers) != servers {
		return false
	}
	for _, col := range append(r.clients[:clients:clients], r.servers...) {
		if len(col.results) != len(cases) {
			return false
		}
	}
	return true
}

// checkTable compares the tables in the documentation with the results, or
// writes them there.
func checkTable(t *testing.T, r results) {
	text, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), tableBegin)
	old, after, ended := strings.Cut(rest, tableEnd)
	if !found || !ended {
		t.Fatalf("%s has no place for the tables", tableFile)
	}
	tables := r.markdown()
	if *update {
		if err := os.WriteFile(tableFile, []byte(before+tableBegin+tables+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	// Browsers come from the machine, in the version that it has.
	browser := regexp.MustCompile(`(Chromium|Firefox)( ESR)? \d+`)
	if browser.ReplaceAllString(old, "$1") != browser.ReplaceAllString(tables, "$1") {
		t.Errorf("the tables of %s are not what was seen; write them with: go test ./interop -update\n%s", tableFile, tables)
	}
}

// markdown returns both tables and the causes below them.
func (r results) markdown() string {
	var b strings.Builder
	var causes []string
	b.WriteString("\n### Our server, their client\n\n")
	table(&b, r.clients, &causes)
	b.WriteString("\n### Our client, their server\n\n")
	table(&b, r.servers, &causes)
	b.WriteString("\n")
	for i, cause := range causes {
		fmt.Fprintf(&b, "%d. %s\n", i+1, cause)
	}
	b.WriteString("\n")
	return b.String()
}

// table writes one table. causes are those of all tables so far, each once.
func table(b *strings.Builder, columns []column, causes *[]string) {
	mark := func(cause string) string {
		if cause == "" {
			return ""
		}
		i := 0
		for i < len(*causes) && (*causes)[i] != cause {
			i++
		}
		if i == len(*causes) {
			*causes = append(*causes, cause)
		}
		return fmt.Sprintf(" [%d]", i+1)
	}
	b.WriteString("| case |")
	for _, col := range columns {
		fmt.Fprintf(b, " %s%s |", col.name, mark(col.note))
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
	for _, c := range cases {
		fmt.Fprintf(b, "| %s |", c.title)
		for _, col := range columns {
			result := col.results[c.name]
			fmt.Fprintf(b, " %s%s |", result.text, mark(result.cause))
		}
		b.WriteString("\n")
	}
}
