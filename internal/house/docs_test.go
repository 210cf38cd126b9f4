package house

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// Programs in the documentation compile.
func TestDocumentedPrograms(t *testing.T) {
	block := regexp.MustCompile("(?s)```go\n(package main\n.*?)```")
	found := 0
	for _, pattern := range []string{"*.md", "docs/*.md", "*/README.md", "*/*/README.md"} {
		files, err := filepath.Glob("../../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range block.FindAllSubmatch(text, -1) {
				found++
				program := filepath.Join(t.TempDir(), "main.go")
				if err := os.WriteFile(program, m[1], 0o600); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command("go", "vet", program)
				cmd.Dir = "../.."
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("a program in %s: %v\n%s", file, err, out)
				}
			}
		}
	}
	if found == 0 {
		t.Error("no program was found: the test looks in the wrong place")
	}
}
