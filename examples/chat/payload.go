package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// What the page and the terminal agree on; README.md is its description, and
// page/payload.js the other half of this file.

// Limits of what is said, in characters.
const (
	maxText    = 2000
	maxName    = 32
	maxRoom    = 32
	maxPayload = 16 << 10 // bytes of any payload of the chat
)

// fadeAfter is the time to live of what is said with /fade.
const fadeAfter = 30 * time.Second

// said is what somebody says in a room: a message of chat.ROOM.messages.
type said struct {
	ID   string `msgpack:"id" json:"id"` // the message's idempotency key
	Name string `msgpack:"name" json:"name"`
	Text string `msgpack:"text" json:"text"`
}

// person is who somebody is: their state in the presence of chat.ROOM.
type person struct {
	Name string `msgpack:"name" json:"name"`
	Via  string `msgpack:"via" json:"via"`   // "browser" or "terminal"
	Away bool   `msgpack:"away" json:"away"` // nobody looks at the page
}

// about is what a room is about: the last value of chat.ROOM.topic.
type about struct {
	Name string `msgpack:"name" json:"name"` // who said so
	Text string `msgpack:"text" json:"text"`
}

// throw asks for dice to be thrown: a request to chat.ROOM.roll.
type throw struct {
	Name string `msgpack:"name" json:"name"`
	Dice string `msgpack:"dice" json:"dice"` // such as 2d6
}

// thrown answers a throw. What fell is said in the room.
type thrown struct {
	Total int    `msgpack:"total" json:"total"`
	Error string `msgpack:"error" json:"error"` // for people, if there are no such dice
}

func presenceTopic(room string) string { return "chat." + room }
func messagesTopic(room string) string { return "chat." + room + ".messages" }
func aboutTopic(room string) string    { return "chat." + room + ".topic" }
func rollTopic(room string) string     { return "chat." + room + ".roll" }

// roomToken makes the token of a topic from what somebody calls a room: lower
// case, with a dash for what a token or a URL cannot have.
func roomToken(name string) (string, error) {
	var b strings.Builder
	dash := false
	n := 0
	for _, r := range strings.ToLower(strings.TrimPrefix(strings.TrimSpace(name), "#")) {
		if !unicode.IsLetter(r) && !unicode.IsNumber(r) {
			dash = n > 0
			continue
		}
		if dash {
			b.WriteByte('-')
			n, dash = n+1, false
		}
		b.WriteRune(r)
		n++
	}
	switch {
	case n == 0:
		return "", errors.New("the name of a room needs a letter or a number")
	case n > maxRoom:
		return "", fmt.Errorf("the name of a room has at most %d characters", maxRoom)
	}
	return b.String(), nil
}

// cleanName makes what a client calls itself fit to be shown: one line without
// control characters, at most maxName characters.
func cleanName(name string) string {
	name = strings.Join(strings.FieldsFunc(printable(name), unicode.IsSpace), " ")
	if name = cut(name, maxName); name == "" {
		return "somebody"
	}
	return name
}

// cleanText makes what somebody says fit to be shown.
func cleanText(text string) string { return cut(strings.TrimSpace(printable(text)), maxText) }

// printable drops what could do more than be read: control characters, which
// command a terminal, and those that change the direction of what follows.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return r
		case r == '\t':
			return ' '
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, s)
}

// cut cuts s to n characters.
func cut(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}
