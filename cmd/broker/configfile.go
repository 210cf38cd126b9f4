package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// maxConfigFile bounds the file of --config, in bytes.
const maxConfigFile = 1 << 20

// configFile is the value of --config: a YAML file (JSON is YAML too) whose keys
// are the names of the flags of serve, and whose values are what one would write
// behind them; lists for those that can be repeated. An entry of the list "topic" may
// be a mapping: pattern, and the settings of the topics that it matches.
type configFile string

// BeforeResolve is kong's hook: it reads the file, and puts it behind flags and
// environment. Only serve has a file, although TIDEWIRE_CONFIG may be set for all.
func (configFile) BeforeResolve(command *kong.Context, trace *kong.Path) error {
	path, _ := command.FlagValue(trace.Flag).(configFile)
	if path == "" || command.Selected() == nil || command.Selected().Name != "serve" {
		return nil
	}
	settings, err := readSettings(string(path), func(name string) bool { return settable(command.Selected(), name) })
	if err != nil {
		return fmt.Errorf("--config %s: %w", path, err)
	}
	command.AddResolver(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		// kong lets what a resolver knows win over the environment. Here the
		// environment wins: it is nearer to the one process that is started.
		for _, name := range flag.Envs {
			if _, set := os.LookupEnv(name); set {
				return nil, nil
			}
		}
		return settings[flag.Name], nil
	}))
	return nil
}

// settable reports whether a file may set a flag of the command.
func settable(command *kong.Node, name string) bool {
	for _, flag := range command.Flags {
		if flag.Name == name {
			return name != "config"
		}
	}
	return false
}

// readSettings returns the values of a file by name, as kong's mappers take them:
// strings and lists of strings. Names that are not known are an error.
func readSettings(path string, known func(name string) bool) (map[string]any, error) {
	file, err := os.Open(path)
	if err != nil {
		if e, ok := errors.AsType[*os.PathError](err); ok {
			err = e.Err // the caller names the file
		}
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, maxConfigFile+1))
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	if len(text) > maxConfigFile {
		return nil, fmt.Errorf("it is longer than %d bytes", maxConfigFile)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if document.Kind == 0 { // nothing but comments
		return nil, nil
	}
	top := document.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: settings are written NAME: VALUE", top.Line)
	}
	settings := make(map[string]any)
	for i := 0; i < len(top.Content); i += 2 {
		name, node := top.Content[i].Value, top.Content[i+1]
		if _, twice := settings[name]; twice {
			return nil, fmt.Errorf("line %d: %s is set twice", top.Content[i].Line, name)
		}
		if !known(name) {
			return nil, fmt.Errorf("line %d: there is no setting %q; the settings are the flags of `broker serve --help`, without dashes in front", top.Content[i].Line, name)
		}
		value, err := settingValue(name, node)
		if err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", node.Line, name, err)
		}
		settings[name] = value
	}
	return settings, nil
}

func settingValue(name string, node *yaml.Node) (any, error) {
	switch {
	case name == "topic":
		return topicValues(node)
	case node.Kind == yaml.ScalarNode && node.Tag != "!!null":
		return node.Value, nil
	case node.Kind == yaml.SequenceNode:
		list := make([]any, 0, len(node.Content))
		for _, element := range node.Content {
			if element.Kind != yaml.ScalarNode || element.Tag == "!!null" {
				return nil, errors.New("it is no list of plain values")
			}
			list = append(list, element.Value)
		}
		return list, nil
	}
	return nil, errors.New("it is neither a plain value nor a list of them")
}
