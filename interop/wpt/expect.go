package main

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// expectations are the subtests that are known not to pass, or not always.
type expectations []expectation

type expectation struct {
	name  *regexp.Regexp
	races bool // it may pass or not
	line  string
}

// readExpectations reads a file of expectations; the name "" is that of none. A
// line names subtests as the report does, and "*" stands for anything. A "?" in
// front says that they may pass. Lines that begin with "#" say why.
func readExpectations(file string) (expectations, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all expectations
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		pattern, races := strings.CutPrefix(line, "?")
		if !strings.Contains(pattern, " | ") {
			return nil, fmt.Errorf("%s: %q is not of the form PAGE | SUBTEST", file, line)
		}
		pattern = strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(pattern)), `\*`, ".*")
		name, err := regexp.Compile("^" + pattern + "$")
		if err != nil {
			return nil, err
		}
		all = append(all, expectation{name: name, races: races, line: line})
	}
	return all, lines.Err()
}

// find returns what is expected of a subtest: whether it is known, and whether it
// may pass all the same.
func (e expectations) find(name string) (known, races bool) {
	for _, one := range e {
		if one.name.MatchString(name) {
			return true, one.races
		}
	}
	return false, true
}
