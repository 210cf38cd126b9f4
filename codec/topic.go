package codec

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckTopic reports whether name is a topic by the grammar of PROTOCOL §3; the
// error has CodeInvalidTopic. It says nothing of whether the topic belongs to the
// system: see IsSystem.
func CheckTopic(name string) error {
	if reason := checkTokens(name, false); reason != "" {
		return Errorf(CodeInvalidTopic, "%q is not a topic: %s", clip(name), reason)
	}
	return nil
}

// CheckPattern reports whether pattern is one by the grammar of PROTOCOL §3; the
// error has CodeInvalidPattern.
func CheckPattern(pattern string) error {
	if reason := checkTokens(pattern, true); reason != "" {
		return Errorf(CodeInvalidPattern, "%q is not a pattern: %s", clip(pattern), reason)
	}
	return nil
}

// checkTokens returns what is wrong with s; "" if nothing is.
func checkTokens(s string, wildcards bool) string {
	switch {
	case s == "":
		return "it is empty"
	case len(s) > MaxTopic:
		return "it is longer than 255 bytes"
	case !utf8.ValidString(s):
		return "it is not UTF-8"
	}
	tokens := 1
	start := 0 // of the token at hand
	for i, r := range s {
		switch {
		case r == '.':
			if i == start {
				return "a token is empty"
			}
			start = i + 1
			tokens++
		case r == '*' || r == '>':
			if !wildcards {
				return "it has a wildcard"
			}
			alone := i == start && (i+1 == len(s) || s[i+1] == '.')
			if !alone {
				return "a wildcard is not a whole token"
			}
			if r == '>' && i+1 != len(s) {
				return "> is not the last token"
			}
		case r <= ' ' || r >= 0x7f && r <= 0xa0 || unicode.Is(unicode.White_Space, r):
			return "it has white space or a control character"
		}
	}
	if start == len(s) {
		return "a token is empty"
	}
	if tokens > MaxTokens {
		return "it has more than 32 tokens"
	}
	return ""
}

// clip shortens a name for an error.
func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return s[:64] + "…"
}

// IsSystem reports whether a topic or pattern belongs to the system: its first
// token begins with $ or _ (PROTOCOL §3).
func IsSystem(s string) bool {
	return s != "" && (s[0] == '$' || s[0] == '_')
}

// IsExact reports whether a valid pattern has no wildcard, so that it is a topic.
func IsExact(pattern string) bool {
	return !strings.ContainsAny(pattern, "*>")
}

// Match reports whether a valid pattern matches a valid topic (PROTOCOL §3). For
// many patterns at once use a trie.
func Match(pattern, topic string) bool {
	if IsSystem(topic) && (pattern[0] == '*' || pattern[0] == '>') {
		return false
	}
	for {
		p, morePattern := nextToken(&pattern)
		if p == ">" {
			return true
		}
		t, moreTopic := nextToken(&topic)
		if p != "*" && p != t || morePattern != moreTopic {
			return false
		}
		if !morePattern {
			return true
		}
	}
}

// Contains reports whether valid pattern outer contains valid pattern inner: all
// that inner matches, outer matches too (PROTOCOL §3).
func Contains(outer, inner string) bool {
	if IsSystem(inner) && (outer[0] == '*' || outer[0] == '>') {
		return false
	}
	for {
		o, moreOuter := nextToken(&outer)
		if o == ">" {
			return true
		}
		i, moreInner := nextToken(&inner)
		switch {
		case i == ">":
			return false
		case o != "*" && o != i:
			return false
		case moreOuter != moreInner:
			return false
		case !moreOuter:
			return true
		}
	}
}

// Overlap reports whether some topic is matched by both of two valid patterns
// (PROTOCOL §3).
func Overlap(a, b string) bool {
	wild := func(p string) bool { return p[0] == '*' || p[0] == '>' }
	if IsSystem(a) && wild(b) || IsSystem(b) && wild(a) {
		return false
	}
	for {
		x, moreA := nextToken(&a)
		y, moreB := nextToken(&b)
		switch {
		case x == ">" || y == ">":
			return true
		case x != "*" && y != "*" && x != y, moreA != moreB:
			return false
		case !moreA:
			return true
		}
	}
}

// nextToken cuts the first token from *s and reports whether more follow.
func nextToken(s *string) (token string, more bool) {
	token, rest, more := strings.Cut(*s, ".")
	*s = rest
	return token, more
}
