package guide

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What needs no place in the table of calls, and why: a name, or all of a type.
var (
	inGoOnly = map[string]string{
		"Config.TLSConfig":          "browsers have their own authorities",
		"Config.InsecureSkipVerify": "browsers have no such thing",
		"Config.Logger":             "a page has the console of the browser",
		"Conn.*":                    "of who brings a transport of his own",
		"Stream.*":                  "of who brings a transport of his own",
		"WebTransport":              "makes such a transport of a session that stands",
		"Gap.String":                "for people",
		"PresenceKind.String":       "for people",
		"State.String":              "for people",
		"SubscriptionState.String":  "for people",
	}
	inTSOnly = map[string]string{
		"BackoffOptions.factor":   "Go doubles",
		"PublishOptions.encoding": "codec.Bytes, Text and JSON make a value of Go's of it",
		"ReplyOptions.encoding":   "the same",
		"RequestOptions.encoding": "the same",
		"contains":                "codec.Contains",
		"matches":                 "codec.Matches",
		"Transport.*":             "of who brings a transport of his own",
		"TransportCloseInfo.*":    "of who brings a transport of his own",
		"TransportConstructor.*":  "of who brings a transport of his own",
		"TransportDatagrams.*":    "of who brings a transport of his own",
		"TransportOptions.*":      "of who brings a transport of his own",
		"TransportStats.*":        "of who brings a transport of his own",
		"TransportStream.*":       "of who brings a transport of his own",
		"ConnectOptions.signal":   "a context in Go",
		"HistoryOptions.signal":   "a context in Go",
		"MapOptions.signal":       "a context in Go",
		"PublishOptions.signal":   "a context in Go",
		"RequestOptions.signal":   "a context in Go",
		"SubscribeOptions.signal": "a context in Go",
		"WatchOptions.signal":     "a context in Go",
	}
)

// names are what a client exports: functions and types, and behind a dot what can be
// called on a type, or set.
type names struct {
	all map[string]bool
	// types are told of by what they have, and by what takes or gives them, so they need
	// no place in the table.
	types map[string]bool
	// extends names the type whose members a type has too.
	extends map[string]string
}

// Everything that either client exports is in the table of README.md, or needs no place
// there, and everything in the table exists.
func TestCalls(t *testing.T) {
	_, table, ok := strings.Cut(read(t, index), "## Which call is which\n")
	if !ok {
		t.Fatal("the table of calls is not there")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	for _, client := range []struct {
		name   string
		column int
		names  names
		alone  map[string]string
	}{
		{"package client", 1, goNames(t, "../../client"), inGoOnly},
		{"web/js", 2, tsNames(t, "../../web/js/src"), inTSOnly},
	} {
		told := make(map[string]bool)
		for _, name := range slices.Concat(tableNames(table, client.column), slices.Collect(maps.Keys(client.alone))) {
			found := client.names.match(name)
			if len(found) == 0 {
				t.Errorf("%s has no %s", client.name, name)
			}
			for _, name := range found {
				told[name] = true
			}
		}
		for _, name := range slices.Sorted(maps.Keys(client.names.all)) {
			if !told[name] && !client.names.types[name] {
				t.Errorf("%s of %s is not in the table", name, client.name)
			}
		}
	}
}

// match returns what a name stands for: itself, a member that a type has of another one,
// or all members of a type.
func (n names) match(name string) (found []string) {
	of, member, dotted := strings.Cut(name, ".")
	switch {
	case !dotted:
		if n.all[name] {
			found = append(found, name)
		}
	case member == "*":
		for name := range n.all {
			if strings.HasPrefix(name, of+".") {
				found = append(found, name)
			}
		}
	default:
		for ; of != "" && len(found) == 0; of = n.extends[of] {
			if n.all[of+"."+member] {
				found = append(found, of+"."+member)
			}
		}
	}
	return found
}

// tableNames returns the names in a column of a table. Other code is a loop or a value.
func tableNames(table string, column int) (found []string) {
	quoted := regexp.MustCompile("`([A-Za-z]+(?:\\.(?:[A-Za-z]+|\\*))?)`")
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || strings.HasPrefix(cells[1], " Go") {
			continue
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[column], -1) {
			found = append(found, m[1])
		}
	}
	return found
}

// goNames returns what a package exports.
func goNames(t *testing.T, dir string) names {
	t.Helper()
	n := names{all: make(map[string]bool), types: make(map[string]bool)}
	for _, file := range glob(t, dir+"/*.go") {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range tree.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if of := receiver(d); d.Name.IsExported() && (of == "" || ast.IsExported(of)) {
					n.all[of+d.Name.Name] = true
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					n.declare(spec)
				}
			}
		}
	}
	return n
}

// declare takes note of a type and its members, and of constants and variables, which
// need as little place as types.
func (n names) declare(spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.ValueSpec:
		for _, name := range spec.Names {
			if name.IsExported() {
				n.all[name.Name], n.types[name.Name] = true, true
			}
		}
	case *ast.TypeSpec:
		if !spec.Name.IsExported() {
			return
		}
		n.all[spec.Name.Name], n.types[spec.Name.Name] = true, true
		var fields *ast.FieldList
		switch of := spec.Type.(type) {
		case *ast.StructType:
			fields = of.Fields
		case *ast.InterfaceType:
			fields = of.Methods
		default:
			return
		}
		for _, field := range fields.List {
			for _, name := range field.Names {
				if name.IsExported() {
					n.all[spec.Name.Name+"."+name.Name] = true
				}
			}
		}
	}
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

var (
	tsExports  = regexp.MustCompile(`(?s)export (?:type )?\{([^}]*)\} from "\./([a-z-]+)\.js";`)
	tsFunction = regexp.MustCompile(`(?m)^export (?:async )?function (\w+)`)
	tsComment  = regexp.MustCompile(`(?s)/\*\*.*?\*/|//[^\n]*`)
	// tsMember is a member of a class or an interface: they stand two spaces in.
	tsMember = regexp.MustCompile(`(?m)^  (?:(?:readonly|static|override|async|get|set) |\*)*([A-Za-z]\w*)(?:\??[(<:;!]| =)`)
	// tsField is a field of an object type within another type.
	tsField = regexp.MustCompile(`(\w+)\??: `)
)

// tsNames returns what the index of a folder exports.
func tsNames(t *testing.T, dir string) names {
	t.Helper()
	n := names{all: make(map[string]bool), types: make(map[string]bool), extends: make(map[string]string)}
	entry := text(t, filepath.Join(dir, "index.ts"))
	for _, m := range tsFunction.FindAllStringSubmatch(entry, -1) {
		n.all[m[1]] = true
	}
	for _, m := range tsExports.FindAllStringSubmatch(entry, -1) {
		source := tsComment.ReplaceAllStringFunc(text(t, filepath.Join(dir, m[2]+".ts")), func(comment string) string {
			if strings.Contains(comment, "@internal") {
				return "/*internal*/"
			}
			return ""
		})
		// What a comment says is internal is not exported.
		source = regexp.MustCompile(`/\*internal\*/\s*[^\n]*`).ReplaceAllString(source, "")
		for name := range strings.SplitSeq(m[1], ",") {
			if name = strings.TrimPrefix(strings.TrimSpace(name), "type "); name != "" {
				n.declareTS(t, name, source)
			}
		}
	}
	return n
}

// declareTS takes note of a function, or of a type and its members.
func (n names) declareTS(t *testing.T, name, source string) {
	t.Helper()
	n.all[name] = true
	if regexp.MustCompile(`(?m)^export (?:async )?function ` + name + `\b`).MatchString(source) {
		return
	}
	n.types[name] = true
	if m := regexp.MustCompile(`(?ms)^export (?:class|interface) ` + name + `\b(.*?)\{\n(.*?)^\}`).FindStringSubmatch(source); m != nil {
		if _, base, ok := strings.Cut(m[1], " extends "); ok {
			n.extends[name] = regexp.MustCompile(`^\w+`).FindString(base)
		}
		for _, member := range tsMember.FindAllStringSubmatch(m[2], -1) {
			if member[1] != "constructor" {
				n.all[name+"."+member[1]] = true
			}
		}
		return
	}
	m := regexp.MustCompile(`(?ms)^export type ` + name + `\b.*?=(.*?);\n(?:\n|\z|export)`).FindStringSubmatch(source)
	if m == nil {
		t.Fatalf("where is %s declared?", name)
	}
	for _, field := range tsField.FindAllStringSubmatch(m[1], -1) {
		n.all[name+"."+field[1]] = true
	}
}

func text(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: nothing found (%v)", pattern, err)
	}
	return files
}
