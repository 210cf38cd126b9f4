package main

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
)

// versionCommand is `broker version`.
type versionCommand struct{}

// Run prints the version.
func (*versionCommand) Run(p *process) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this program was built without module information")
	}
	fmt.Fprintln(p.stdout, describeBuild(info))
	return nil
}

// describeBuild returns the module's version, the commit if there is one, and Go's
// version, in one line.
func describeBuild(info *debug.BuildInfo) string {
	settings := make(map[string]string)
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	line := []string{"tidewire " + info.Main.Version}
	if revision := settings["vcs.revision"]; revision != "" {
		commit := "commit " + revision[:min(12, len(revision))]
		if settings["vcs.modified"] == "true" {
			commit += " with changes"
		}
		line = append(line, commit, settings["vcs.time"])
	}
	return strings.Join(append(line, info.GoVersion), ", ")
}
