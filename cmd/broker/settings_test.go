package main

import (
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"
)

// settings parses arguments.
func settings(t *testing.T, args ...string) (*serveCommand, error) {
	t.Helper()
	all, command, err := parse(args, io.Discard, io.Discard)
	if err != nil {
		return nil, err
	}
	if command.Selected().Name != "serve" {
		t.Fatalf("the command is %s", command.Selected().Name)
	}
	return &all.Serve, nil
}

// TestPrecedence sets each kind of setting in a file, then in the environment too,
// then by a flag too: the last one counts.
func TestPrecedence(t *testing.T) {
	for _, test := range []struct {
		name            string
		value           func(*serveCommand) any
		none            any
		file            string
		inFile          any
		variable, inVar string
		fromVar         any
		flags           []string
		fromFlags       any
	}{
		{
			name: "addr", value: func(c *serveCommand) any { return c.Addr }, none: "127.0.0.1:4433",
			file: "addr: 127.0.0.1:1", inFile: "127.0.0.1:1",
			variable: "TIDEWIRE_ADDR", inVar: "127.0.0.1:2", fromVar: "127.0.0.1:2",
			flags: []string{"--addr", "127.0.0.1:3"}, fromFlags: "127.0.0.1:3",
		},
		{
			name: "allow-origin", value: func(c *serveCommand) any { return c.Origin }, none: []string(nil),
			file: "allow-origin: [https://a, https://b]", inFile: []string{"https://a", "https://b"},
			variable: "TIDEWIRE_ALLOW_ORIGIN", inVar: "https://c,https://d", fromVar: []string{"https://c", "https://d"},
			flags: []string{"--allow-origin", "https://e", "--allow-origin", "https://f"}, fromFlags: []string{"https://e", "https://f"},
		},
		{
			name: "allow-anyone", value: func(c *serveCommand) any { return c.AllowAnyone }, none: false,
			file: "allow-anyone: true", inFile: true,
			variable: "TIDEWIRE_ALLOW_ANYONE", inVar: "false", fromVar: false,
			flags: []string{"--allow-anyone"}, fromFlags: true,
		},
		{
			name: "stop-timeout", value: func(c *serveCommand) any { return c.StopTimeout }, none: 10 * time.Second,
			file: "stop-timeout: 1s", inFile: time.Second,
			variable: "TIDEWIRE_STOP_TIMEOUT", inVar: "2s", fromVar: 2 * time.Second,
			flags: []string{"--stop-timeout", "3s"}, fromFlags: 3 * time.Second,
		},
		{
			name: "max-payload", value: func(c *serveCommand) any { return c.MaxPayload }, none: byteSize(256 << 10),
			file: `{"max-payload": 1000}`, inFile: byteSize(1000),
			variable: "TIDEWIRE_MAX_PAYLOAD", inVar: "2KiB", fromVar: byteSize(2048),
			flags: []string{"--max-payload", "3MiB"}, fromFlags: byteSize(3 << 20),
		},
		{
			name: "max-sessions", value: func(c *serveCommand) any { return c.MaxSessions }, none: 100_000,
			file: "max-sessions: 1", inFile: 1,
			variable: "TIDEWIRE_MAX_SESSIONS", inVar: "2", fromVar: 2,
			flags: []string{"--max-sessions", "3"}, fromFlags: 3,
		},
		{
			name: "publish-rate", value: func(c *serveCommand) any { return c.PublishRate }, none: 0.0,
			file: "publish-rate: 1.5", inFile: 1.5,
			variable: "TIDEWIRE_PUBLISH_RATE", inVar: "2.5", fromVar: 2.5,
			flags: []string{"--publish-rate", "3.5"}, fromFlags: 3.5,
		},
		{
			name: "log-level", value: func(c *serveCommand) any { return c.LogLevel }, none: slog.LevelInfo,
			file: "log-level: debug", inFile: slog.LevelDebug,
			variable: "TIDEWIRE_LOG_LEVEL", inVar: "warn", fromVar: slog.LevelWarn,
			flags: []string{"--log-level", "error"}, fromFlags: slog.LevelError,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			isolate(t)
			file := write(t, "tidewire.yaml", test.file)
			check := func(want any, args ...string) {
				t.Helper()
				c, err := settings(t, args...)
				if err != nil {
					t.Fatal(err)
				}
				if got := test.value(c); !reflect.DeepEqual(got, want) {
					t.Errorf("%q gives %v, want %v", args, got, want)
				}
			}
			withFile := []string{"--config", file}
			check(test.none)
			check(test.inFile, withFile...)
			check(test.fromFlags, append(withFile, test.flags...)...)
			check(test.inFile, "serve", "--config", file)
			t.Setenv(test.variable, test.inVar)
			check(test.fromVar)
			check(test.fromVar, withFile...)
			check(test.fromFlags, append(withFile, test.flags...)...)
			check(test.fromFlags, test.flags...)
			t.Setenv("TIDEWIRE_CONFIG", file)
			check(test.fromVar)
		})
	}
}

func TestConfigFromTheEnvironment(t *testing.T) {
	isolate(t)
	t.Setenv("TIDEWIRE_CONFIG", write(t, "tidewire.yaml", "# a comment\nname: tide\nallow-origin:\n  - https://a\n"))
	c, err := settings(t)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "tide" || len(c.Origin) != 1 {
		t.Errorf("name %q, origins %q", c.Name, c.Origin)
	}
	// Other commands have no file, and do not read this one.
	t.Setenv("TIDEWIRE_CONFIG", "/does/not/exist")
	if _, _, err := parse([]string{"version"}, io.Discard, io.Discard); err != nil {
		t.Error(err)
	}
}

func TestBadConfigFile(t *testing.T) {
	isolate(t)
	for want, text := range map[string]string{
		`line 2: there is no setting "jwt-isuer"`: "name: x\njwt-isuer: x\n",
		`there is no setting "config"`:            "config: other.yaml",
		`there is no setting "help"`:              "help: true",
		"line 2: name is set twice":               "name: x\nname: y\n",
		"line 1: settings are written":            "[]",
		"neither a plain value":                   "name: {a: b}",
		"line 1: addr: it is neither":             "addr:",
		"no list of plain values":                 "allow-origin: [[x]]",
		"max-sessions":                            "max-sessions: many",
		"is no size":                              "max-payload: 1MB",
		"--log-format must be one of":             "log-format: xml",
		"unexpected end":                          "name: 'x\n",
	} {
		_, err := settings(t, "--config", write(t, "tidewire.yaml", text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := settings(t, "--config", "/does/not/exist.yaml"); err == nil || !strings.Contains(err.Error(), "--config /does/not/exist.yaml: no such file") {
		t.Error(err)
	}
	if c, err := settings(t, "--config", write(t, "tidewire.yaml", "# nothing\n")); err != nil || c.Name != "tidewire" {
		t.Errorf("an empty file: %v", err)
	}
	long := "name: " + strings.Repeat("x", maxConfigFile)
	if _, err := settings(t, "--config", write(t, "tidewire.yaml", long)); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a long file: %v", err)
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]byteSize{"0": 0, "17": 17, "64KiB": 65536, "1 MiB": 1 << 20, "2GiB": 2 << 30} {
		var s byteSize
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%q: %d, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "x", "-1", "1MB", "KiB", "9223372036854775807KiB", "1.5MiB"} {
		if err := new(byteSize).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestUsage(t *testing.T) {
	isolate(t)
	if out, _ := do(t, 0, "--help"); !strings.Contains(out, "sub ") || !strings.Contains(out, "token ") {
		t.Errorf("help: %s", out)
	}
	out, _ := do(t, 0, "serve", "--help")
	for _, flag := range []string{"--addr", "--jwt-hmac-key-file", "--allow-anyone", "$TIDEWIRE_ADDR", "--max-payload", "--nats"} {
		if !strings.Contains(out, flag) {
			t.Errorf("help of serve has no %s", flag)
		}
	}
	if _, errs := do(t, 2, "nonsense"); !strings.Contains(errs, "--help") {
		t.Errorf("an unknown command: %s", errs)
	}
	if _, errs := do(t, 2, "sub"); !strings.Contains(errs, "<pattern>") {
		t.Errorf("no pattern: %s", errs)
	}
	if out, _ := do(t, 0, "version"); !strings.HasPrefix(out, "tidewire ") || !strings.Contains(out, "go1.") {
		t.Errorf("version: %q", out)
	}
}
