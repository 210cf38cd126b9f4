package guide

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// importable are the packages that a snippet in Go may use, by their names.
var importable = map[string]string{
	"atomic":  "sync/atomic",
	"broker":  "github.com/tidewire/tidewire/broker",
	"client":  "github.com/tidewire/tidewire/client",
	"codec":   "github.com/tidewire/tidewire/codec",
	"context": "context",
	"errors":  "errors",
	"fmt":     "fmt",
	"jwtauth": "github.com/tidewire/tidewire/broker/jwtauth",
	"log":     "log",
	"maps":    "maps",
	"slices":  "slices",
	"sort":    "sort",
	"strings": "strings",
	"sync":    "sync",
	"time":    "time",
}

const (
	programEnv = "TIDEWIRE_GUIDE_BROKER" // the broker's binary, for the second run
	functions  = "func snippet%d(ctx context.Context, c *client.Client, g *given) error {\n\turl, config, dial, fetchToken, restartBroker := g.url, g.config, g.dial, g.fetchToken, g.restartBroker\n\t_, _, _, _, _ = url, config, dial, fetchToken, restartBroker\n//line %s:%d\n%s\n\treturn nil\n}\n"
)

// TestGo compiles the Go snippets of the guide into this package and runs them.
func TestGo(t *testing.T) {
	if compiled != nil {
		for _, s := range compiled {
			t.Run(s.name(), func(t *testing.T) { s.run(t, os.Getenv(programEnv)) })
		}
		return
	}
	all := snippets(t, "go")
	dir := t.TempDir()
	program := filepath.Join(dir, "broker")
	command(t, nil, "go", "build", "-o", program, "../../cmd/broker")

	source, err := generate(all)
	if err != nil {
		t.Fatal(err)
	}
	generated := filepath.Join(dir, "compiled_test.go")
	if err := os.WriteFile(generated, source, 0o600); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(here, "compiled_test.go"): generated},
	})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"test", "-overlay", overlayFile, "-count=1", "-v", "-timeout=5m", "-run=^TestGo$", "."}
	if withRace {
		args = slices.Insert(args, 1, "-race")
	}
	out := command(t, []string{programEnv + "=" + program}, "go", args...)
	for _, s := range all {
		if !strings.Contains(out, "--- PASS: TestGo/"+s.name()+" ") {
			t.Errorf("%s was not run", s.name())
		}
	}
}

// command runs a program and returns what it printed; the test fails with it.
func command(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// generate writes compiled_test.go with the snippets in it.
func generate(all []snippet) ([]byte, error) {
	imports := map[string]bool{"context": true, "client": true}
	var body strings.Builder
	body.WriteString("var compiled = []compiledSnippet{\n")
	for i, s := range all {
		fmt.Fprintf(&body, "{snippet{%q, %d, %q, %q, %q, %q}, snippet%d},\n", s.Page, s.Line, s.Lang, s.Code, s.Output, s.Config, i)
	}
	body.WriteString("}\n")
	for i, s := range all {
		f := fmt.Sprintf(functions, i, s.Page, s.Line, s.Code)
		tree, err := parser.ParseFile(token.NewFileSet(), "", "package guide\n"+f, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name(), err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if selector, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := selector.X.(*ast.Ident); ok && importable[x.Name] != "" {
					imports[x.Name] = true
				}
			}
			return true
		})
		body.WriteString(f)
	}
	var source strings.Builder
	source.WriteString("package guide\n\nimport (\n")
	for _, name := range slices.Sorted(maps.Keys(imports)) {
		fmt.Fprintf(&source, "\t%q\n", importable[name])
	}
	source.WriteString(")\n\n" + body.String())
	return []byte(source.String()), nil
}

// Snippets that cannot pass do not pass.
func TestGenerateRefuses(t *testing.T) {
	if _, err := generate([]snippet{{Page: "p.md", Line: 3, Lang: "go", Code: "if {\n"}}); err == nil || !strings.Contains(err.Error(), "p.md:3") {
		t.Errorf("a syntax error: %v", err)
	}
	for _, s := range []struct{ got, want string }{{"a\n", "b\n"}, {"a\n", "a\nb\n"}, {"", "a\n"}} {
		if same(s.got, s.want) {
			t.Errorf("%q passes for %q", s.got, s.want)
		}
	}
	if !same("a  \nb", "a\nb\n") {
		t.Error("space at the ends of lines counts")
	}
}
