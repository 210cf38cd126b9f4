package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	directory := checkout(t, map[string]string{
		"expected": "# why\n\n/a | known to *\n/a | known but passes\n?/* | [races]\n",
		"bad":      "/a known to fail\n",
	})
	expected, err := readExpectations(filepath.Join(directory, "expected"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readExpectations(filepath.Join(directory, "bad")); err == nil {
		t.Error("a line without a page is taken")
	}
	var out bytes.Buffer
	p := &report{out: &out, expected: expected}
	p.add(result{URL: "/a", Tests: []subtest{
		{"passes", statusPass, ""},
		{"known to  fail", statusFail, "why"},
		{"known but passes", statusPass, ""},
		{"[races]", statusPass, ""},
		{"hangs", statusTimeout, ""},
	}})
	p.add(result{URL: "/b", Status: statusTimeout, Tests: []subtest{{"[races]", statusFail, "lost"}}})
	record := filepath.Join(directory, "record.json")
	ok, err := p.finish(record)
	if err != nil || ok {
		t.Errorf("finish: %v, %v", ok, err)
	}
	want := strings.Join([]string{
		"  3/5   /a",
		"        known: /a | known to fail",
		"        PASS:  /a | known but passes",
		"               although it is known not to",
		"        FAIL:  /a | hangs",
		"               timeout",
		"  0/1   /b",
		"        FAIL:  /b | (page)",
		"               ended with status 2:",
		"        known: /b | [races]",
		"3 of 6 subtests on 2 pages passed; 3 not as expected",
		"",
	}, "\n")
	if out.String() != want {
		t.Errorf("the report is\n%s\nwant\n%s", &out, want)
	}
	if b, err := os.ReadFile(record); err != nil || !json.Valid(b) {
		t.Errorf("record: %s, %v", b, err)
	}
}
