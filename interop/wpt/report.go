package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// report prints what does not pass, and counts.
type report struct {
	out      io.Writer
	expected expectations
	results  []result

	passed, total int
	surprises     int // subtests that did not as expected
}

// add takes the result of a page.
func (p *report) add(r result) {
	p.results = append(p.results, r)
	passed := 0
	for _, t := range r.Tests {
		if t.Status == statusPass {
			passed++
		}
	}
	p.passed += passed
	p.total += len(r.Tests)
	fmt.Fprintf(p.out, "%3d/%-3d %s\n", passed, len(r.Tests), r.URL)
	if r.Status != 0 {
		p.tell(r.URL+" | (page)", fmt.Sprintf("ended with status %d: %s", r.Status, r.Message), false)
	}
	for _, t := range r.Tests {
		p.tell(r.URL+" | "+oneLine(t.Name), cmp.Or(t.Message, statusNames[t.Status]), t.Status == statusPass)
	}
}

// oneLine puts a text on one line.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// tell prints a subtest that did not pass, or passed against expectation.
func (p *report) tell(name, message string, passed bool) {
	known, races := p.expected.find(name)
	switch {
	case !passed && known:
		fmt.Fprintf(p.out, "        known: %s\n", name)
	case !passed:
		p.surprises++
		fmt.Fprintf(p.out, "        FAIL:  %s\n               %s\n", name, oneLine(message))
	case known && !races:
		p.surprises++
		fmt.Fprintf(p.out, "        PASS:  %s\n               although it is known not to\n", name)
	}
}

// finish prints the sums and writes the results to a file, if one is named. It
// reports whether there were no surprises.
func (p *report) finish(record string) (bool, error) {
	fmt.Fprintf(p.out, "%d of %d subtests on %d pages passed; %d not as expected\n", p.passed, p.total, len(p.results), p.surprises)
	if record == "" {
		return p.surprises == 0, nil
	}
	b, err := json.MarshalIndent(p.results, "", " ")
	if err != nil {
		return false, err
	}
	return p.surprises == 0, os.WriteFile(record, b, 0o600)
}
