package guide

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every call in the table of README.md exists, in Go and in TypeScript.
func TestCalls(t *testing.T) {
	inGo := exported(t, "../../client")
	inTS := sources(t, "../../web/js/src")
	_, table, ok := strings.Cut(read(t, index), "## Which call is which\n")
	if !ok {
		t.Fatal("the table of calls is not there")
	}
	quoted := regexp.MustCompile("`([A-Za-z.]+)`")
	rows := 0
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "## ") {
			break
		}
		cells := strings.Split(line, "|")
		if !strings.HasPrefix(line, "| `") || len(cells) != 6 {
			continue
		}
		rows++
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			if !inGo[m[1]] {
				t.Errorf("package client has no %s", m[1])
			}
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[2], -1) {
			if m[1] != "await" && !regexp.MustCompile(`\b`+m[1]+`\??[(<:]`).MatchString(inTS) {
				t.Errorf("web/js has no %s", m[1])
			}
		}
	}
	if rows < 20 {
		t.Errorf("%d rows were found: the test looks in the wrong place", rows)
	}
}

// exported returns the functions, methods and fields of a package.
func exported(t *testing.T, dir string) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	for _, file := range glob(t, dir+"/*.go") {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				names[receiver(n)+n.Name.Name] = true
				return false
			case *ast.TypeSpec:
				if s, ok := n.Type.(*ast.StructType); ok {
					for _, field := range s.Fields.List {
						for _, name := range field.Names {
							names[n.Name.Name+"."+name.Name] = true
						}
					}
				}
			}
			return true
		})
	}
	return names
}

// receiver returns the type of a method with a dot behind it; "" of a function.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	var name string
	ast.Inspect(f.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && name == "" {
			name = id.Name
		}
		return true
	})
	return name + "."
}

func sources(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	for _, file := range glob(t, dir+"/*.ts") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: nothing found (%v)", pattern, err)
	}
	return files
}
