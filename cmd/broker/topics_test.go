package main

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

const topicFile = `
max-history: 1MiB
topic:
  - pattern: chat.>
    class: latest
    history: 1000
    history-age: 1h
    history-bytes: unlimited
    retain: all
    max-keys: 5
    presence: counts
    presence-grace: off
    max-members: 7
    deduplicate: 5m
    max-payload: 1KiB
    ttl: 1m30s
    tick: 5ms
    publish: closed
    subscribe: open
  - "news, and more.*  history=off  deduplicate=off"
`

func TestTopicSettings(t *testing.T) {
	isolate(t)
	full := broker.TopicConfig{
		Pattern: "chat.>", Class: codec.ClassLatest, History: broker.Retention{Count: 1000, Age: time.Hour, Bytes: -1},
		Retain: broker.RetainAll, MaxKeys: 5, Presence: broker.PresenceCounts, PresenceGrace: -1, MaxMembers: 7,
		Deduplicate: 5 * time.Minute, MaxPayload: 1024, TTL: 90 * time.Second, Tick: 5 * time.Millisecond,
		Publish: broker.AccessClosed, Subscribe: broker.AccessOpen,
	}
	off := broker.TopicConfig{Pattern: "news.*", History: broker.Retention{Count: -1}, Deduplicate: -1}
	file := write(t, "tidewire.yaml", strings.Replace(topicFile, "news, and more.*", "news.*", 1))
	flags := []string{
		"--topic", "chat.> class=latest history=1000 history-age=1h history-bytes=unlimited retain=all max-keys=5 presence=counts presence-grace=off max-members=7 deduplicate=5m max-payload=1KiB ttl=1m30s tick=5ms publish=closed subscribe=open",
		"--topic", "news.* history=off deduplicate=off", "--max-history", "1MiB",
	}
	for _, args := range [][]string{flags, {"--config", file}} {
		c, err := settings(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		config := c.config()
		if want := []broker.TopicConfig{full, off}; !reflect.DeepEqual(config.Topics, want) || config.MaxHistoryBytes != 1<<20 {
			t.Errorf("%q: %+v, %d bytes\nwant %+v", args, config.Topics, config.MaxHistoryBytes, want)
		}
		if err := config.Check(); err != nil {
			t.Error(err)
		}
	}
	c, err := settings(t, "--config", file, "--topic", "a,b") // a comma is a part of a token
	if err != nil || len(c.Topic) != 1 || c.Topic[0].Pattern != "a,b" {
		t.Errorf("topics of flags beside those of a file: %+v, %v", c.Topic, err)
	}
	if c, err := settings(t); err != nil || c.config().Topics != nil || c.config().MaxHistoryBytes != 64<<20 {
		t.Errorf("without settings: %+v, %v", c.config(), err)
	}
}

func TestBadTopicSettings(t *testing.T) {
	isolate(t)
	for value, want := range map[string]string{
		"":                          "it names no pattern",
		"a history":                 `a: "history" is not written NAME=VALUE`,
		"a colour=red":              `a: there is no setting "colour"; the names are class,`,
		"a ttl=1m ttl=2m":           "a: ttl is set twice",
		"a ttl=soon":                `a: ttl: "soon" is no positive time`,
		"a ttl=0s":                  `a: ttl: "0s" is no positive time`,
		"a tick=-1s":                `a: tick: "-1s" is no positive time`,
		"a tick=2s":                 `a: tick: "2s" is above 1s`,
		"a ttl=10us":                `a: ttl: "10us" is below 1ms`,
		"a deduplicate=10us":        `a: deduplicate: "10us" is below 1ms, or off`,
		"a history=0":               `a: history: "0" is no positive number, or off`,
		"a history-age=never":       `a: history-age: "never" is no positive time: write 90s, 5m, 1h, or unlimited`,
		"a history-bytes=1MB":       `is no size`,
		"a max-payload=0":           `a: max-payload: it is not positive`,
		"a class=best":              `a: class: "best" is none of reliable, latest, sequenced, unreliable`,
		"a retain=some":             `a: retain: "some" is none of asked, all, none`,
		"a presence=no":             `a: presence: "no" is none of members, counts, off`,
		"a publish=all":             `a: publish: "all" is none of token, open, closed`,
		"a subscribe=all":           `a: subscribe: "all" is none of token, open, closed`,
		"a max-keys=-1":             `a: max-keys: "-1" is no positive number`,
		"a max-members=1.5":         `a: max-members: "1.5" is no positive number`,
		"a deduplicate=no":          `a: deduplicate: "no" is no positive time: write 90s, 5m, 1h, or off`,
		"a presence-grace=nonsense": `or off`,
	} {
		if _, err := settings(t, "--topic", value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", value, err, want)
		}
	}
	for text, want := range map[string]string{
		"topic: [{class: latest}]":                 "line 1: it has no pattern",
		"topic:\n  - pattern: a\n    pattern: b\n": "line 3: pattern is set twice",
		"topic:\n  - pattern: a\n    ttl: {a: b}":  "line 3: ttl is no plain value",
		"topic:\n  - pattern: a\n    ttl:":         "line 3: ttl is no plain value",
		"topic: [{pattern: a b}]":                  "pattern is no plain value",
		"topic: [{pattern: a, nonsense: 1}]":       `line 1: topic: line 1: a: there is no setting "nonsense"`,
		"topic:\n  - b\n  - a class=best":          `line 3: a: class: "best" is none of`,
		"topic: {pattern: a}":                      "topic: it is no list",
		"topic: a":                                 "topic: it is no list",
		"topic: [[a]]":                             "line 1: it is neither a mapping nor",
		"topics: [{pattern: a}]":                   `line 1: there is no setting "topics"`,
		"name: [{pattern: a}]":                     "no list of plain values",
	} {
		if _, err := settings(t, "--config", write(t, "tidewire.yaml", text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	// What only the broker can tell is told before anything is opened.
	for want, args := range map[string][]string{
		`"a..b" is not a pattern: a token is empty`:                     {"--topic", "a..b"},
		`topics "a": max-payload 1MiB is above --max-payload 256KiB`:    {"--topic", "a max-payload=1MiB"},
		`broker: topics "a.*" and "*.a": both`:                          {"--topic", "a.*", "--topic", "*.a"},
		"--max-history 0 is too little to keep anything: give at least": {"--max-history", "0"},
		"--max-history 10 is too little":                                {"--max-history", "10"},
	} {
		if _, errs := do(t, 2, args...); !strings.Contains(errs, want) || strings.Contains(errs, "broker: broker:") {
			t.Errorf("%q: %s, want %q", args, errs, want)
		}
	}
}

// What works, and perhaps not as it was meant, is told; what is meant is not.
func TestSurprisingTopicSettings(t *testing.T) {
	isolate(t)
	for value, want := range map[string]string{
		"a history=off history-age=1h":          "history-age and history-bytes mean nothing",
		"a history-age=1m ttl=1h":               "ttl is above history-age",
		"a history-bytes=65MiB":                 "history-bytes is above --max-history",
		"a history-bytes=1KiB max-payload=2KiB": "history-bytes is below max-payload",
		"a class=unreliable history=10":         "nothing of the history",
		"a retain=none max-keys=3":              "max-keys means nothing",
		"a presence=off presence-grace=1m":      "mean nothing with presence=off",
		"a deduplicate=5s":                      "deduplicate is below 30s",
		"$presence.a history=5":                 "topics of the system",
		"a":                                     "",
		"a ttl=1h":                              "",
		"a history=off deduplicate=off retain=none presence=off":                                                       "",
		"prices.> class=latest retain=all history=1000 history-age=10m history-bytes=1MiB":                             "",
		"rooms.* presence=counts presence-grace=30s max-members=5000 max-payload=4KiB ttl=1h deduplicate=10m tick=2ms": "",
	} {
		c, err := settings(t, "--topic", value)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(c.surprises(c.MaxPayload), "; ")
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", value, got, want)
		}
	}
	c, err := settings(t, "--max-history", "64KiB")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.surprises(c.MaxPayload); len(got) != 1 || !strings.Contains(got[0], "--max-history is below --max-payload") {
		t.Errorf("%q", got)
	}
}
