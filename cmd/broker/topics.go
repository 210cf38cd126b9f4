package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// topicFlags configure topics.
type topicFlags struct {
	Topic      []topicFlag `sep:"none" help:"Configure the topics that a pattern matches; repeatable, the most specific pattern holds, whole. Written as 'PATTERN NAME=VALUE …': ${topic_settings}." placeholder:"'PATTERN NAME=VALUE …'"`
	MaxHistory byteSize    `help:"What the histories and last values of all topics take together. Up to half of it is for who is present." default:"64MiB" env:"TIDEWIRE_MAX_HISTORY"`
}

// topicFlag is one value of --topic.
type topicFlag broker.TopicConfig

// topicSettings are the names in a value of --topic, and what each does with its
// value.
var topicSettings = map[string]func(*topicFlag, string) error{
	"class":          func(t *topicFlag, v string) (err error) { t.Class, err = parseClass(v); return err },
	"history":        func(t *topicFlag, v string) error { return parseOr(v, "off", parseCount, &t.History.Count) },
	"history-age":    func(t *topicFlag, v string) error { return parseOr(v, "unlimited", parseTime, &t.History.Age) },
	"history-bytes":  func(t *topicFlag, v string) error { return parseOr(v, "unlimited", parseSize, &t.History.Bytes) },
	"retain":         func(t *topicFlag, v string) error { return t.Retain.UnmarshalText([]byte(v)) },
	"max-keys":       func(t *topicFlag, v string) (err error) { t.MaxKeys, err = parseCount(v); return err },
	"presence":       func(t *topicFlag, v string) error { return t.Presence.UnmarshalText([]byte(v)) },
	"presence-grace": func(t *topicFlag, v string) error { return parseOr(v, "off", parseTime, &t.PresenceGrace) },
	"max-members":    func(t *topicFlag, v string) (err error) { t.MaxMembers, err = parseCount(v); return err },
	"deduplicate":    func(t *topicFlag, v string) error { return parseOr(v, "off", parseTime, &t.Deduplicate) },
	"max-payload":    func(t *topicFlag, v string) (err error) { t.MaxPayload, err = parseSize(v); return err },
	"ttl":            func(t *topicFlag, v string) (err error) { t.TTL, err = parseTime(v); return err },
	"tick":           func(t *topicFlag, v string) (err error) { t.Tick, err = parseTick(v); return err },
	"publish":        func(t *topicFlag, v string) error { return t.Publish.UnmarshalText([]byte(v)) },
	"subscribe":      func(t *topicFlag, v string) error { return t.Subscribe.UnmarshalText([]byte(v)) },
}

// topicSettingHelp is what the help tells of topicSettings.
const topicSettingHelp = "class=reliable|latest|sequenced|unreliable, history=COUNT|off, history-age=TIME|unlimited, " +
	"history-bytes=SIZE|unlimited, retain=asked|all|none, max-keys=COUNT, presence=members|counts|off, " +
	"presence-grace=TIME|off, max-members=COUNT, deduplicate=TIME|off, max-payload=SIZE, ttl=TIME, tick=TIME, " +
	"publish=token|open|closed, subscribe=token|open|closed"

// topicSettingNames is what errors tell of topicSettings.
func topicSettingNames() string {
	return strings.Join(slices.Sorted(maps.Keys(topicSettings)), ", ")
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *topicFlag) UnmarshalText(text []byte) error {
	words := strings.Fields(string(text))
	if len(words) == 0 {
		return errors.New("it names no pattern")
	}
	t.Pattern = words[0]
	if err := codec.CheckPattern(t.Pattern); err != nil {
		return errors.New(reasonOf(err))
	}
	set := make(map[string]bool)
	for _, word := range words[1:] {
		name, value, ok := strings.Cut(word, "=")
		apply := topicSettings[name]
		switch {
		case !ok:
			return fmt.Errorf("%s: %q is not written NAME=VALUE", t.Pattern, word)
		case apply == nil:
			return fmt.Errorf("%s: there is no setting %q; the names are %s", t.Pattern, name, topicSettingNames())
		case set[name]:
			return fmt.Errorf("%s: %s is set twice", t.Pattern, name)
		}
		set[name] = true
		if err := apply(t, value); err != nil {
			return fmt.Errorf("%s: %s: %w", t.Pattern, name, err)
		}
	}
	return nil
}

// parseOr parses a value in which one word stands for a negative number.
func parseOr[T int | time.Duration](value, word string, parse func(string) (T, error), to *T) (err error) {
	if value == word {
		*to = -1
		return nil
	}
	if *to, err = parse(value); err != nil {
		return fmt.Errorf("%w, or %s", err, word)
	}
	return nil
}

// What is not positive would be taken for the default.

func parseCount(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%q is no positive number", value)
	}
	return n, nil
}

func parsePositive(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is no positive time: write 90s, 5m, 1h", value)
	}
	return d, nil
}

// parseTime parses a time of at least a millisecond, the least that counts.
func parseTime(value string) (time.Duration, error) {
	d, err := parsePositive(value)
	if err == nil && d < time.Millisecond {
		return 0, fmt.Errorf("%q is below 1ms", value)
	}
	return d, err
}

func parseTick(value string) (time.Duration, error) {
	d, err := parsePositive(value)
	if err == nil && d > time.Second {
		return 0, fmt.Errorf("%q is above 1s, which a message may wait at most: write 1ms to 5ms", value)
	}
	return d, err
}

func parseSize(value string) (int, error) {
	var s byteSize
	if err := s.UnmarshalText([]byte(value)); err != nil {
		return 0, err
	}
	if s == 0 {
		return 0, errors.New("it is not positive")
	}
	return int(s), nil
}

func parseClass(value string) (codec.Class, error) {
	var names []string
	for c := codec.ClassReliable; c <= codec.ClassUnreliable; c++ {
		if c.String() == value {
			return c, nil
		}
		names = append(names, c.String())
	}
	return 0, fmt.Errorf("%q is none of %s", value, strings.Join(names, ", "))
}

// topicConfigs returns the configuration as the broker takes it.
func (f topicFlags) topicConfigs() []broker.TopicConfig {
	var list []broker.TopicConfig
	for _, t := range f.Topic {
		list = append(list, broker.TopicConfig(t))
	}
	return list
}

// topicValues writes the list "topic" of a configuration file as values of --topic.
// They are parsed here already: kong's errors would name Go types in place of lines.
func topicValues(node *yaml.Node) ([]any, error) {
	if node.Kind != yaml.SequenceNode {
		return nil, errors.New("it is no list of entries that begin with - pattern")
	}
	list := make([]any, 0, len(node.Content))
	for _, entry := range node.Content {
		text, err := topicValue(entry)
		if err != nil {
			return nil, err
		}
		if err := new(topicFlag).UnmarshalText([]byte(text)); err != nil {
			return nil, fmt.Errorf("line %d: %w", entry.Line, err)
		}
		list = append(list, text)
	}
	return list, nil
}

// topicValue writes an entry of the list "topic" of a configuration file, which may be
// a mapping, as a value of --topic.
func topicValue(node *yaml.Node) (string, error) {
	switch {
	case node.Kind == yaml.ScalarNode && node.Tag != "!!null":
		return node.Value, nil
	case node.Kind != yaml.MappingNode:
		return "", fmt.Errorf("line %d: it is neither a mapping nor a value of --topic", node.Line)
	}
	pattern := ""
	var text strings.Builder
	for i := 0; i < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		if value.Kind != yaml.ScalarNode || value.Tag == "!!null" || strings.ContainsAny(value.Value, " \t\r\n") || value.Value == "" {
			return "", fmt.Errorf("line %d: %s is no plain value", value.Line, name.Value)
		}
		if name.Value == "pattern" {
			if pattern != "" {
				return "", fmt.Errorf("line %d: pattern is set twice", name.Line)
			}
			pattern = value.Value
			continue
		}
		fmt.Fprintf(&text, " %s=%s", name.Value, value.Value)
	}
	if pattern == "" {
		return "", fmt.Errorf("line %d: it has no pattern", node.Line)
	}
	return pattern + text.String(), nil
}
