package main

import (
	"runtime/debug"
	"testing"
)

func TestDescribeBuild(t *testing.T) {
	info := &debug.BuildInfo{
		GoVersion: "go1.26.0",
		Main:      debug.Module{Version: "v0.1.0"},
		Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"},
			{Key: "vcs.time", Value: "2026-11-22T17:00:00Z"},
			{Key: "vcs.modified", Value: "true"},
		},
	}
	if got, want := describeBuild(info), "tidewire v0.1.0, commit 0123456789ab with changes, 2026-11-22T17:00:00Z, go1.26.0"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	info.Settings = nil
	if got, want := describeBuild(info), "tidewire v0.1.0, go1.26.0"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
