package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const conformance = "../../docs/conformance.md"

// goTest is a test of package wt.
type goTest struct {
	file     string
	text     string   // comment and body
	literals []string // strings of its file
}

// testsOfWT parses the tests of package wt.
func testsOfWT(t *testing.T) map[string]goTest {
	t.Helper()
	files, err := filepath.Glob("../../wt/*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests found: %v", err)
	}
	tests := make(map[string]goTest)
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, file, source, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		var literals []string
		ast.Inspect(tree, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if s, err := strconv.Unquote(literal.Value); err == nil {
					literals = append(literals, s)
				}
			}
			return true
		})
		for _, decl := range tree.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") || f.Name.Name == "TestMain" {
				continue
			}
			start := f.Pos()
			if f.Doc != nil {
				start = f.Doc.Pos()
			}
			text := string(source[set.Position(start).Offset:set.Position(f.End()).Offset])
			tests[f.Name.Name] = goTest{filepath.Base(file), text, literals}
		}
	}
	return tests
}

// isScript reports whether all tests of a file have to be in the tables.
func isScript(file string) bool {
	return strings.HasPrefix(file, "rules_") || file == "h3spec_test.go"
}

// cites reports whether text names the section, or one within it.
func cites(text, section string) bool {
	for {
		_, rest, ok := strings.Cut(text, section)
		if !ok {
			return false
		}
		if !regexp.MustCompile(`^[0-9]`).MatchString(rest) {
			return true
		}
		text = rest
	}
}

// row is a line of a table in docs/conformance.md.
type row struct {
	heading string
	cells   []string
}

func conformanceRows(t *testing.T) []row {
	t.Helper()
	text, err := os.ReadFile(conformance)
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	heading := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if after, ok := strings.CutPrefix(line, "## "); ok {
			heading = after
			continue
		}
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if cells[0] != "Section" && cells[0] != "Limit" {
			rows = append(rows, row{heading, cells})
		}
	}
	return rows
}

// The tables of docs/conformance.md and the tests of package wt say the same: each
// test that is named exists, and as a script cites the section; each script is
// named.
func TestConformance(t *testing.T) {
	tests := testsOfWT(t)
	quoted := regexp.MustCompile("`([^`]*)`")
	section := regexp.MustCompile(`§[0-9.]*[0-9]`)
	named := make(map[string]bool)
	rows := conformanceRows(t)
	for _, r := range rows {
		if strings.HasPrefix(r.heading, "Rules that are not followed") {
			if len(r.cells) != 3 || slices.Contains(r.cells, "") {
				t.Errorf("%s: a row is not section, rule and reason: %q", r.heading, r.cells)
			}
			continue
		}
		if len(r.cells) != 4 || slices.Contains(r.cells, "") {
			t.Errorf("%s: a row has not four cells: %q", r.heading, r.cells)
			continue
		}
		found := quoted.FindAllStringSubmatch(r.cells[3], -1)
		if len(found) == 0 {
			t.Errorf("%s: no test for %q", r.heading, r.cells[1])
		}
		for _, match := range found {
			name, part, _ := strings.Cut(match[1], "/")
			test, ok := tests[name]
			if !ok {
				t.Errorf("%s: %s does not exist", r.heading, name)
				continue
			}
			named[name] = true
			if part != "" && !slices.Contains(test.literals, part) {
				t.Errorf("%s: %s has no part %q", r.heading, name, part)
			}
			for _, s := range section.FindAllString(r.cells[0], -1) {
				if isScript(test.file) && !cites(test.text, s) {
					t.Errorf("%s: %s is named for %s and does not cite it", r.heading, name, s)
				}
			}
		}
		if strings.HasPrefix(r.heading, "Limits") {
			continue
		}
		if !slices.Contains([]string{"server", "client", "both"}, r.cells[2]) {
			t.Errorf("%s: side %q", r.heading, r.cells[2])
		}
	}
	if len(rows) < 100 {
		t.Errorf("%d rows were found: the test looks in the wrong place", len(rows))
	}
	for name, test := range tests {
		if isScript(test.file) && !named[name] {
			t.Errorf("docs/conformance.md does not name %s of %s: give it a row", name, test.file)
		}
	}
}

// The sections of the draft with a MUST for servers or clients each have a row.
func TestConformanceIsWhole(t *testing.T) {
	rows := conformanceRows(t)
	for _, s := range []string{"3.1", "3.2", "3.3", "4", "4.2", "4.3", "4.4", "4.6", "4.7", "4.8",
		"5.1", "5.2", "5.4", "5.6", "5.6.2", "5.6.3", "5.6.4", "6", "7.1"} {
		if !slices.ContainsFunc(rows, func(r row) bool {
			return strings.HasPrefix(r.heading, "draft-ietf-webtrans-http3-16") && r.cells[0] == "§"+s
		}) {
			t.Errorf("no row for §%s of the draft", s)
		}
	}
}

// Each limit of wt.ServerConfig is in the table of limits, and each field of the
// table exists.
func TestConformanceOfLimits(t *testing.T) {
	tree, err := parser.ParseFile(token.NewFileSet(), "../../wt/server.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	fields := make(map[string]bool)
	ast.Inspect(tree, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "ServerConfig" {
			return true
		}
		for _, field := range spec.Type.(*ast.StructType).Fields.List {
			for _, name := range field.Names {
				fields[name.Name] = true
			}
		}
		return false
	})
	table := make(map[string]bool)
	for _, r := range conformanceRows(t) {
		field := strings.Trim(r.cells[2], "`")
		if !strings.HasPrefix(r.heading, "Limits") || field == r.cells[2] {
			continue
		}
		table[field] = true
		if !fields[field] && !strings.HasPrefix(field, "RotationConfig.") {
			t.Errorf("ServerConfig has no field %s", field)
		}
	}
	limit := regexp.MustCompile(`^Max|Timeout$|Threshold$`)
	for field := range fields {
		if limit.MatchString(field) && !table[field] {
			t.Errorf("the limit %s is not in the table", field)
		}
	}
	if len(table) < 15 {
		t.Errorf("%d limits were found: the test looks in the wrong place", len(table))
	}
}
