package codec

import (
	"slices"
	"strconv"
	"strings"
)

// Operator is what a condition asks of a header (PROTOCOL §6.10).
type Operator uint8

// The operators of PROTOCOL §6.10.
const (
	OpIs Operator = iota
	OpIsNot
	OpExists
	OpAbsent
	OpPrefix
	OpAtLeast
	OpAtMost
)

// Condition is one condition on a header (PROTOCOL §6.10).
type Condition struct {
	Name     string
	Operator Operator
	Values   []string // at most MaxValues
}

// Filter holds for a message if each of its conditions does. The zero value holds
// for every message.
type Filter []Condition

// CheckFilter reports what is wrong with a filter, with CodeInvalidOption. A broker keeps
// filters as long as their subscriptions last, so all of one is bounded too.
func CheckFilter(f Filter) error {
	if len(f) > MaxConditions {
		return Errorf(CodeInvalidOption, "a filter of %d conditions; the limit is %d", len(f), MaxConditions)
	}
	size := 0
	for _, c := range f {
		if err := checkHeaderName(c.Name); err != nil {
			return err
		}
		size += len(c.Name)
		least, most := 1, MaxValues
		switch c.Operator {
		case OpIs, OpIsNot, OpPrefix:
		case OpExists, OpAbsent:
			least, most = 0, 0
		case OpAtLeast, OpAtMost:
			most = 1
		default:
			return Errorf(CodeInvalidOption, "a filter has no operator %d", c.Operator)
		}
		if n := len(c.Values); n < least || n > most {
			return Errorf(CodeInvalidOption, "the condition on %q has %d values; it takes %d to %d", c.Name, n, least, most)
		}
		for _, v := range c.Values {
			size += len(v)
			if len(v) > MaxHeaderValue {
				return Errorf(CodeInvalidOption, "a value of the condition on %q is longer than %d bytes", c.Name, MaxHeaderValue)
			}
			if c.Operator >= OpAtLeast {
				if _, ok := decimal(v); !ok {
					return Errorf(CodeInvalidOption, "the condition on %q compares with %q, which is no decimal number", c.Name, cutReason(v))
				}
			}
		}
	}
	if size > MaxFilter {
		return Errorf(CodeInvalidOption, "a filter of %d bytes; the limit is %d", size, MaxFilter)
	}
	return nil
}

// Match reports whether every condition of a checked filter holds.
func (f Filter) Match(h Headers) bool {
	for i := range f {
		if !f[i].holds(h) {
			return false
		}
	}
	return true
}

func (c *Condition) holds(h Headers) bool {
	value, there := h.Get(c.Name)
	switch c.Operator {
	case OpExists:
		return there
	case OpAbsent:
		return !there
	case OpIsNot:
		return !there || !c.any(func(v string) bool { return v == value })
	case OpIs:
		return there && c.any(func(v string) bool { return v == value })
	case OpPrefix:
		return there && c.any(func(v string) bool { return strings.HasPrefix(value, v) })
	}
	got, ok := decimal(value)
	if !there || !ok {
		return false
	}
	bound, _ := decimal(c.Values[0])
	if c.Operator == OpAtLeast {
		return got >= bound
	}
	return got <= bound
}

func (c *Condition) any(f func(string) bool) bool {
	return slices.ContainsFunc(c.Values, f)
}

// decimal reads a decimal number with an optional sign and fraction, and nothing
// else that a language may take for a number.
func decimal(s string) (float64, bool) {
	digits := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c == '.' || i == 0 && (c == '-' || c == '+'):
		default:
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil && digits > 0
}

// filter writes a filter, nil if it is empty.
func (p *packer) filter(f Filter) {
	if len(f) == 0 {
		p.none()
		return
	}
	p.array(len(f))
	for _, c := range f {
		p.array(2 + len(c.Values))
		p.text(c.Name)
		p.uint(uint64(c.Operator))
		for _, v := range c.Values {
			p.text(v)
		}
	}
}

// filter reads a filter and checks it.
func (u *unpacker) filter() Filter {
	if u.absent() {
		return nil
	}
	n := u.list(len(u.body))
	if u.err == nil && n > MaxConditions {
		u.fail(Errorf(CodeInvalidOption, "a filter of %d conditions; the limit is %d", n, MaxConditions))
	}
	if u.err != nil || n == 0 {
		return nil
	}
	f := make(Filter, 0, n)
	for range n {
		fields := u.list(len(u.body))
		if u.err == nil && (fields < 2 || fields > 2+MaxValues) {
			u.fail(Errorf(CodeInvalidOption, "a condition is a name, an operator and at most %d values", MaxValues))
		}
		c := Condition{Name: u.text(len(u.body))}
		op := u.uint()
		if op > uint64(OpAtMost) {
			u.fail(Errorf(CodeInvalidOption, "a filter has no operator %d", op))
		}
		c.Operator = Operator(op)
		for range fields - 2 {
			if u.err != nil {
				break
			}
			c.Values = append(c.Values, u.text(len(u.body)))
		}
		if u.err != nil {
			return nil
		}
		f = append(f, c)
	}
	u.failOn(CheckFilter(f))
	return f
}
