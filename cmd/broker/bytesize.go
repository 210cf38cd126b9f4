package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// byteSize is a number of bytes, written plainly or with KiB, MiB or GiB.
type byteSize int64

// String writes it as UnmarshalText reads it.
func (s byteSize) String() string {
	for _, unit := range []struct {
		name  string
		shift int
	}{{"GiB", 30}, {"MiB", 20}, {"KiB", 10}} {
		if n := s >> unit.shift; n > 0 && n<<unit.shift == s {
			return fmt.Sprintf("%d%s", int64(n), unit.name)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *byteSize) UnmarshalText(text []byte) error {
	number, shift := string(text), 0
	for unit, n := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if rest, ok := strings.CutSuffix(number, unit); ok {
			number, shift = strings.TrimSpace(rest), n
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return fmt.Errorf("%q is no size: write a number of bytes, or one with KiB, MiB or GiB", text)
	}
	*s = byteSize(n << shift)
	return nil
}
