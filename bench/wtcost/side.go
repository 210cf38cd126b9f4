package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// A side is one process of a run, as the process that measures sees it. Over its
// standard input it is told what to do, one JSON object a line, and answers each
// with a snapshot of itself.
type side struct {
	command *exec.Cmd
	in      io.Closer
	to      *json.Encoder
	from    *json.Decoder
}

// task is what a side is for.
type task struct {
	Library string
	Server  bool
	Work    work
	// Addr and Hash are of the server, for a client.
	Addr, Hash string
	// Profile is the beginning of the names of its profiles, "" for none.
	Profile string
}

// order is what a side is to do next.
type order struct {
	Do    string
	Count int
}

// snapshot is what a process has used so far, and has at present.
type snapshot struct {
	CPU        time.Duration // user and system
	Count      int           // of messages, datagrams or sessions
	Mallocs    uint64
	Allocated  uint64 // bytes
	RSS        int64  // bytes
	Heap       int64  // bytes in use
	Stacks     int64  // bytes in use
	Goroutines int
	Error      string
}

func (s snapshot) since(before snapshot) snapshot {
	s.CPU -= before.CPU
	s.Count -= before.Count
	s.Mallocs -= before.Mallocs
	s.Allocated -= before.Allocated
	s.RSS -= before.RSS
	s.Heap -= before.Heap
	s.Stacks -= before.Stacks
	s.Goroutines -= before.Goroutines
	return s
}

// startSide starts the process of a task.
func startSide(ctx context.Context, program string, t task) (*side, error) {
	argument, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, program, "side", string(argument))
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	return &side{command: c, in: in, to: json.NewEncoder(in), from: json.NewDecoder(out)}, nil
}

// stop ends the process.
func (s *side) stop() {
	_ = s.in.Close()
	_ = s.command.Wait() // it was told to end; how it does so does not matter
}

// receive reads what the process prints next.
func (s *side) receive(v any) error { return s.from.Decode(v) }

// ask has the process do something, and returns what it is then.
func (s *side) ask(o order) (snapshot, error) {
	if err := s.to.Encode(o); err != nil {
		return snapshot{}, err
	}
	var answer snapshot
	if err := s.receive(&answer); err != nil {
		return snapshot{}, err
	}
	if answer.Error != "" {
		return snapshot{}, errors.New(answer.Error)
	}
	return answer, nil
}

func (s *side) do(what string, count int) error {
	_, err := s.ask(order{Do: what, Count: count})
	return err
}

func (s *side) look() (snapshot, error) { return s.ask(order{Do: "look"}) }

// awaitQuiet waits until nothing more arrives.
func (s *side) awaitQuiet(ctx context.Context) error {
	count := -1
	for {
		now, err := s.look()
		if err != nil || now.Count == count {
			return err
		}
		count = now.Count
		if err := wait(ctx, quiet); err != nil {
			return err
		}
	}
}

// buildWebTransportGo builds the server on webtransport-go into a folder and
// returns its path.
func buildWebTransportGo(ctx context.Context, folder string) (string, error) {
	_, file, _, _ := runtime.Caller(0)
	path := filepath.Join(folder, "webtransportgo")
	c := exec.CommandContext(ctx, "go", "build", "-o", path, ".")
	c.Dir = filepath.Join(filepath.Dir(file), "webtransportgo")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the server on webtransport-go: %w\n%s", err, out)
	}
	return path, nil
}
