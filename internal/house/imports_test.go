package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tidewire/tidewire/"

// allowed is the import graph: for each package of the module, what it may import
// besides the standard library. A package that is not named may not exist.
// ARCHITECTURE.md draws it.
var allowed = map[string][]string{
	"codec":            {"github.com/vmihailenco/msgpack/v5"},
	"wt":               {"github.com/quic-go/quic-go", "github.com/quic-go/qpack", "github.com/dunglas/httpsfv"},
	"wt/wttest":        {"wt", "github.com/quic-go/quic-go"},
	"client":           {"codec", "wt", "github.com/google/uuid"},
	"broker":           {"codec", "wt", "github.com/google/uuid", "golang.org/x/time/rate"},
	"broker/natsbus":   {"broker", "codec", "github.com/google/uuid", "github.com/nats-io/nats.go"},
	"broker/storetest": {"broker", "codec"},
	"broker/bustest":   {"broker", "codec"},
	"broker/jwtauth":   {"broker", "codec", "github.com/golang-jwt/jwt/v5"},
	"web/js":           {},
	"cmd/broker":       {"*"},
	"examples/chat":    {"*"},
	"examples/echo":    {"wt"},

	"internal/guide":    {},
	"internal/contract": {"broker", "broker/natsbus", "codec", "wt"},
	"internal/house":    {},
	"internal/memconn":  {},
	"internal/memnet":   {"broker", "client", "internal/memconn"},
	"internal/model":    {},
	"internal/stress":   {},
	"interop":           {},
	"interop/wpt":       {"wt"},
}

// onlyIn are imports that one file of a package may have.
var onlyIn = map[string]map[string]string{
	"broker": {module + "wt": "webtransport.go"},
	"client": {module + "wt": "transport.go"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func TestImportGraph(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		may, ok := allowed[name]
		if !ok {
			if programOfTests(name) {
				continue
			}
			t.Errorf("%s has no place in the import graph: give it one here and in ARCHITECTURE.md", name)
			continue
		}
		seen[name] = true
		for _, imp := range p.Imports {
			if standard(imp) || slices.Contains(may, "*") {
				continue
			}
			if !slices.ContainsFunc(may, func(a string) bool {
				if !strings.Contains(a, ".") { // of this module
					return imp == module+a
				}
				return imp == a || strings.HasPrefix(imp, a+"/")
			}) {
				t.Errorf("%s must not import %s", name, imp)
			}
		}
	}
	for name := range allowed {
		if !seen[name] && name != "interop" {
			t.Errorf("%s is in the graph, but there is no such package", name)
		}
	}
}

// programOfTests reports whether a package is a program that only tests run.
func programOfTests(name string) bool {
	return strings.Contains(name, "/e2e") || strings.HasPrefix(name, "bench")
}

// The seam to a transport is one file.
func TestSeams(t *testing.T) {
	for pkg, imports := range onlyIn {
		for imp, file := range imports {
			files, err := filepath.Glob("../../" + pkg + "/*.go")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range files {
				parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ImportsOnly)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasSuffix(f, "_test.go") && slices.ContainsFunc(parsed.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"`+imp+`"` }) {
					got = append(got, filepath.Base(f))
				}
			}
			if len(got) != 1 || got[0] != file {
				t.Errorf("%s is imported by %v of %s; only %s may", imp, got, pkg, file)
			}
		}
	}
}

func standard(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".")
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var packages []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}
