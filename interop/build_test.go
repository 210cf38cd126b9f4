package interop

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// cacheDir is where what is built and installed stays between runs. Git ignores
// it, and the go command does not look into it.
const cacheDir = ".cache"

// cached returns the absolute path of a directory in the cache, which it makes.
func cached(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(cacheDir, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// tool fails the test if a program is missing, and says how to get it.
func tool(t *testing.T, name, install string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: %s. go test -short leaves out what needs it.", name, install)
	}
	return path
}

// run runs a command in a folder to its end.
func run(t *testing.T, folder, name string, args ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, args...)
	command.Dir = folder
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// buildGo builds a program in a module of its own.
func buildGo(t *testing.T, folder string) []string {
	t.Helper()
	program := filepath.Join(t.TempDir(), folder)
	run(t, folder, "go", "build", "-o", program, ".")
	return []string{program}
}

// buildRust builds a program with the versions in its Cargo.lock.
func buildRust(t *testing.T, folder string) []string {
	t.Helper()
	tool(t, "cargo", "install Rust 1.88 or later, with rustup for example")
	target := cached(t, folder)
	run(t, folder, "cargo", "build", "--quiet", "--locked", "--target-dir", target)
	return []string{filepath.Join(target, "debug", folder+"-peer")}
}

// buildPython makes an environment with the versions in a list of requirements,
// or takes that of an earlier run.
func buildPython(requirements string) func(t *testing.T, folder string) []string {
	return func(t *testing.T, folder string) []string {
		t.Helper()
		python := tool(t, "python3", "install Python 3.11 or later, with its venv module")
		want, err := os.ReadFile(filepath.Join(folder, requirements))
		if err != nil {
			t.Fatal(err)
		}
		environment := cached(t, folder+"-"+strings.TrimSuffix(requirements, ".txt"))
		program := filepath.Join(environment, "bin", "python")
		installed := filepath.Join(environment, "installed.txt")
		have, err := os.ReadFile(installed)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if !bytes.Equal(have, want) {
			run(t, folder, python, "-m", "venv", "--clear", environment)
			run(t, folder, program, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "-r", requirements)
			if err := os.WriteFile(installed, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		// -B: the folder is left as it is.
		return []string{program, "-B", filepath.Join(folder, "main.py")}
	}
}

// buildBrowser has nothing to build: the packages of web/js drive the browser.
func buildBrowser(name, program string) func(t *testing.T, folder string) []string {
	return func(t *testing.T, folder string) []string {
		t.Helper()
		node := tool(t, "node", "install Node 20 or later")
		tool(t, program, "run make browsers, or install it")
		if _, err := os.Stat("../web/js/node_modules/playwright-core"); err != nil {
			t.Fatalf("playwright-core is missing, run make deps: %v", err)
		}
		return []string{node, filepath.Join(folder, "main.mjs"), name}
	}
}
