// Chat is a chat in rooms: a broker within the process, a page, and a client for
// the terminal.
//
//	go run ./examples/chat                  # serve, then open the page it names
//	go run ./examples/chat join lobby       # join a room from a terminal
//
// It serves the loopback interface only, because it asks nobody who they are.
// README.md tells which topics it uses and what its messages carry.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"strings"
	"syscall"
)

const usage = `The chat of Tidewire.

  chat [--http 127.0.0.1:8080] [--addr 127.0.0.1:4433]
      serves the page, and the broker that it talks to
  chat join [--name NAME] [--server http://127.0.0.1:8080] ROOM
      joins a room of a running chat from this terminal

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

// errUsage tells that the arguments are wrong, and that it was said.
var errUsage = errors.New("wrong arguments")

// command runs what the arguments ask for, until it is done or ctx ends.
func command(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) error {
	flags := flag.NewFlagSet("chat", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.Usage = func() {
		fmt.Fprint(errs, usage)
		flags.PrintDefaults()
	}
	if len(args) > 0 && args[0] == "join" {
		var j joining
		flags.StringVar(&j.name, "name", loginName(), "the `name` that others see")
		flags.StringVar(&j.server, "server", "http://127.0.0.1:8080", "`URL` of the chat's page")
		if err := parse(flags, args[1:], 1); err != nil {
			return err
		}
		j.room = flags.Arg(0)
		return join(ctx, j, in, out)
	}
	addr := flags.String("addr", "127.0.0.1:4433", "UDP `address` for WebTransport")
	httpAddr := flags.String("http", "127.0.0.1:8080", "TCP `address` for the page")
	if err := parse(flags, args, 0); err != nil {
		return err
	}
	return serve(ctx, *addr, *httpAddr, out)
}

// parse parses flags that are followed by n arguments.
func parse(flags *flag.FlagSet, args []string, n int) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if flags.NArg() != n {
		flags.Usage()
		return errUsage
	}
	return nil
}

// loginName is the name of who is logged in, without a domain.
func loginName() string {
	u, err := user.Current()
	if err != nil {
		return "guest"
	}
	return u.Username[strings.LastIndex(u.Username, `\`)+1:]
}
