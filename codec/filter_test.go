package codec

import (
	"slices"
	"strings"
	"testing"
)

func TestFilter(t *testing.T) {
	headers := Headers{{"kind", "trade"}, {"level", "2.5"}, {"empty", ""}, {"word", "1e3"}}
	for _, c := range []struct {
		condition Condition
		want      bool
	}{
		{Condition{"kind", OpIs, []string{"quote", "trade"}}, true},
		{Condition{"kind", OpIs, []string{"quote"}}, false},
		{Condition{"none", OpIs, []string{""}}, false},
		{Condition{"empty", OpIs, []string{""}}, true},
		{Condition{"kind", OpIsNot, []string{"quote"}}, true},
		{Condition{"kind", OpIsNot, []string{"quote", "trade"}}, false},
		{Condition{"none", OpIsNot, []string{"x"}}, true},
		{Condition{"empty", OpExists, nil}, true},
		{Condition{"none", OpExists, nil}, false},
		{Condition{"none", OpAbsent, nil}, true},
		{Condition{"kind", OpAbsent, nil}, false},
		{Condition{"kind", OpPrefix, []string{"x", "tr"}}, true},
		{Condition{"kind", OpPrefix, []string{"trades"}}, false},
		{Condition{"level", OpAtLeast, []string{"2.5"}}, true},
		{Condition{"level", OpAtLeast, []string{"+2.51"}}, false},
		{Condition{"level", OpAtMost, []string{"3"}}, true},
		{Condition{"level", OpAtMost, []string{"-3"}}, false},
		{Condition{"kind", OpAtLeast, []string{"0"}}, false},
		{Condition{"word", OpAtLeast, []string{"0"}}, false}, // no decimal number
		{Condition{"none", OpAtMost, []string{"0"}}, false},
	} {
		f := Filter{c.condition}
		if err := CheckFilter(f); err != nil {
			t.Errorf("CheckFilter(%v) = %v", f, err)
		}
		if got := f.Match(headers); got != c.want {
			t.Errorf("%v of %v = %v", c.condition, headers, got)
		}
	}
	both := Filter{{"kind", OpExists, nil}, {"none", OpExists, nil}}
	if both.Match(headers) {
		t.Error("one condition of two was enough")
	}
	if !Filter(nil).Match(nil) {
		t.Error("no condition did not hold")
	}
}

func TestFilterIsBounded(t *testing.T) {
	value := strings.Repeat("x", MaxHeaderValue)
	for values, want := range map[int]bool{7: true, 8: false} {
		f := Filter{{"kind", OpIs, slices.Repeat([]string{value}, values)}}
		if err := CheckFilter(f); (err == nil) != want || err != nil && CodeOf(err) != CodeInvalidOption {
			t.Errorf("%d values of %d bytes: %v", values, len(value), err)
		}
	}
}
