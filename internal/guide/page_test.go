package guide

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const (
	folder = "../../docs/guide"
	index  = "README.md"
	// guarantees has tables and no snippets.
	guarantees = "guarantees.md"
)

// snippet is a fenced block of a page.
type snippet struct {
	Page   string // file name
	Line   int    // of the first line of code
	Lang   string
	Code   string
	Output string // what it prints, without space at the ends of lines
	Config string // of its broker; "": the default
}

func (s snippet) name() string { return fmt.Sprintf("%s:%d", s.Page, s.Line) }

// pages returns the file names of the guide.
func pages(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(folder + "/*.md")
	if err != nil || len(files) < 2 {
		t.Fatalf("the pages of the guide were not found: %v", err)
	}
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files
}

func read(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, page))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// parse returns the fenced blocks of a page.
func parse(page, text string) ([]snippet, error) {
	var found []snippet
	config := ""
	var open *snippet
	line := 0
	for l := range strings.Lines(text) {
		line++
		l = strings.TrimRight(l, " \t\r\n")
		switch fence, isFence := strings.CutPrefix(strings.TrimSpace(l), "```"); {
		case isFence && open == nil:
			open = &snippet{Page: page, Line: line + 1, Lang: fence, Config: config}
		case isFence && fence != "":
			return nil, fmt.Errorf("%s:%d: a block begins within a block", page, line)
		case isFence:
			if open.Lang == "yaml" {
				config = open.Code
			}
			found = append(found, *open)
			open = nil
		case open != nil:
			open.Code += l + "\n"
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s:%d: a block has no end", page, open.Line)
	}
	for i := range found {
		if s := &found[i]; s.Lang == "go" || s.Lang == "ts" {
			code, output, ok := strings.Cut(s.Code, "// Output:\n")
			if !ok || strings.TrimSpace(output) == "" {
				return nil, fmt.Errorf("%s: the snippet does not say what it prints: end it with // Output: and lines of comments", s.name())
			}
			s.Code = code
			for l := range strings.Lines(output) {
				l, ok := strings.CutPrefix(strings.TrimRight(l, "\n"), "//")
				if !ok {
					return nil, fmt.Errorf("%s: there is code behind the output", s.name())
				}
				s.Output += strings.TrimPrefix(l, " ") + "\n"
			}
		}
	}
	return found, nil
}

// snippets returns those of a language, of all pages.
func snippets(t *testing.T, lang string) []snippet {
	t.Helper()
	var all []snippet
	for _, page := range pages(t) {
		found, err := parse(page, read(t, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range found {
			if s.Lang == lang {
				all = append(all, s)
			}
		}
	}
	return all
}

// Every page is in the index, shows its capability in both languages, and has no
// block that no test would run.
func TestPages(t *testing.T) {
	list := read(t, index)
	for _, page := range pages(t) {
		found, err := parse(page, read(t, page))
		if err != nil {
			t.Error(err)
			continue
		}
		count := make(map[string]int)
		for _, s := range found {
			count[s.Lang]++
			switch s.Lang {
			case "go", "ts", "yaml", "text", "sh":
			default:
				t.Errorf("%s: a block of language %q, which nothing checks", s.name(), s.Lang)
			}
		}
		if page == index || page == guarantees {
			continue
		}
		if count["go"] == 0 || count["ts"] == 0 {
			t.Errorf("%s has %d snippets in Go and %d in TypeScript: show both", page, count["go"], count["ts"])
		}
		if !strings.Contains(list, "("+page+")") {
			t.Errorf("%s is not in %s", page, index)
		}
	}
}

// The links of the guide, and to it, lead to files that exist, and to headings in them.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]*))?\)`)
	code := regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	seen := 0
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(read(t, page), ""), -1) {
			file, anchor := m[1], m[2]
			if strings.Contains(file, "://") {
				continue
			}
			if file == "" {
				file = page
			}
			seen++
			text, err := os.ReadFile(filepath.Join(folder, file))
			if err != nil {
				t.Errorf("%s: %v", page, err)
			} else if anchor != "" && !slices.Contains(anchors(string(text)), anchor) {
				t.Errorf("%s: %s has no heading #%s", page, file, anchor)
			}
		}
	}
	if seen < 20 {
		t.Errorf("%d links were found: the test looks in the wrong place", seen)
	}
}

// anchors returns the headings of a page as links name them.
func anchors(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && line[0] == '#' {
			list = append(list, strings.Map(func(r rune) rune {
				switch {
				case r == ' ':
					return '-'
				case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
					return unicode.ToLower(r)
				}
				return -1
			}, strings.TrimSpace(heading)))
		}
	}
	return list
}

func TestParse(t *testing.T) {
	text := "# Page\n```yaml\na: 1\n```\n```go\nx()\n// Output:\n// one\n//  two\n```\n"
	got, err := parse("p.md", text)
	if err != nil {
		t.Fatal(err)
	}
	want := snippet{Page: "p.md", Line: 6, Lang: "go", Code: "x()\n", Output: "one\n two\n", Config: "a: 1\n"}
	if len(got) != 2 || got[1] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []string{
		"```go\nx()\n```\n",
		"```go\nx()\n// Output:\n```\n",
		"```ts\nx()\n// Output:\n// 1\ny()\n```\n",
		"```go\nx()\n",
		"```go\nx()\n```ts\n```\n",
	} {
		if _, err := parse("p.md", bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
