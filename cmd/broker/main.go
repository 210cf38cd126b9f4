// Broker is the Tidewire broker as a program, and the commands to try it with.
//
//	broker                          serve on this machine, with nothing configured
//	broker sub 'chat.>'             print messages as they come
//	broker pub chat.lobby hello     publish one
//	broker token                    make a token for trying things out
//	broker version
//
// broker --help and broker COMMAND --help tell the flags. Each setting is taken
// from its flag, else from its environment variable, else from the file of
// --config, else it has its default.
//
// It exits with 0 after what it was asked to do, 1 if that failed, and 2 if it
// was not asked properly. The first SIGINT or SIGTERM ends it gracefully, the
// second at once.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the next one has its usual effect, which is to kill.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// cli is the grammar of the command line. Flags and their help are the
// documentation of the settings.
type cli struct {
	Serve   serveCommand   `cmd:"" default:"withargs" help:"Serve: this is what broker does without a command."`
	Sub     subCommand     `cmd:"" help:"Subscribe to a pattern and print messages as they come."`
	Pub     pubCommand     `cmd:"" help:"Publish one message and print its position."`
	Token   tokenCommand   `cmd:"" help:"Make a token (JWT) for trying things out, and tell how to start a broker that accepts it."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

// process is what a command has of its process.
type process struct {
	ctx    context.Context // ends with the first signal
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// usageError is a fault of whoever wrote the command line or the configuration.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// run does what the arguments ask for, until it is done or ctx ends, and returns
// the exit code. stdout and stderr are written to concurrently.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	_, command, err := parse(args, stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "broker: %v\nbroker: --help tells what there is\n", err)
		return exitUsage
	}
	if command == nil {
		return exitOK
	}
	err = command.Run(&process{ctx, stdin, stdout, stderr})
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "broker: %v\n", err)
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

// parse reads the arguments, the environment and the file of --config. The command
// is nil if nothing but help was asked for, which it has written.
func parse(args []string, stdout, stderr io.Writer) (*cli, *kong.Context, error) {
	helped := false
	settings := new(cli)
	parser, err := kong.New(settings,
		kong.Name("broker"),
		kong.Description("Tidewire: real-time pub/sub over WebTransport."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { helped = true }), // only --help calls it
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.ExplicitGroups(groups),
		kong.Vars{"topic_settings": topicSettingHelp},
	)
	if err != nil {
		return nil, nil, err
	}
	command, err := parser.Parse(args)
	if helped {
		return nil, nil, nil
	}
	return settings, command, err
}
