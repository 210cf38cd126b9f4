package main

import (
	"strings"
	"testing"
)

func TestRoomToken(t *testing.T) {
	for name, want := range map[string]string{
		"lobby": "lobby", " #Tea Room ": "tea-room", "Käse & Brot": "käse-brot", "a.b.*.>": "a-b", "$SYS": "sys",
		"7": "7", "東京": "東京", "": "", "!?": "", strings.Repeat("x", maxRoom): strings.Repeat("x", maxRoom),
		strings.Repeat("x", maxRoom+1): "",
	} {
		got, err := roomToken(name)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestClean(t *testing.T) {
	for name, want := range map[string]string{
		"Ada": "Ada", "  Ada \n Lovelace\t": "Ada Lovelace", "": "somebody", "\x1b": "somebody", "a\u202eb": "ab",
		strings.Repeat("ä", maxName+1): strings.Repeat("ä", maxName),
	} {
		if got := cleanName(name); got != want {
			t.Errorf("name %q: %q, want %q", name, got, want)
		}
	}
	for text, want := range map[string]string{
		" two\nlines\n": "two\nlines", "\x07": "", "a\r\nb": "a\nb", "tab\tbed": "tab bed",
		strings.Repeat("ä", maxText+1): strings.Repeat("ä", maxText),
	} {
		if got := cleanText(text); got != want {
			t.Errorf("text %.20q: %.20q, want %.20q", text, got, want)
		}
	}
}

func TestParseDice(t *testing.T) {
	for text, want := range map[string][2]int{
		"": {1, 6}, "d20": {1, 20}, " 2D6 ": {2, 6}, "20d100": {20, 100},
		"6": {}, "0d6": {}, "21d6": {}, "1d1": {}, "1d101": {}, "-1d6": {}, "1d6d6": {}, "d": {}, "dice": {}, "99999999999999999999d6": {},
	} {
		n, sides, err := parseDice(text)
		if [2]int{n, sides} != want || (err != nil) != (n == 0) {
			t.Errorf("%q: %dd%d, %v", text, n, sides, err)
		}
	}
}
