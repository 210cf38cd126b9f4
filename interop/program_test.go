package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// program is a peer's program that runs. It is owned by one test.
type program struct {
	t        *testing.T
	in       io.WriteCloser
	lines    chan []byte // closed at the end of the output
	problems *bytes.Buffer
	ended    chan struct{}
	// peer is the name and version that the program gives itself.
	peer string
	// addr and hash are where a server is and of what certificate.
	addr, hash string
}

// start runs a command, usually in the role of "client" or "server", until the
// test ends.
func start(t *testing.T, command []string, role string) *program {
	t.Helper()
	p := &program{t: t, lines: make(chan []byte), problems: new(bytes.Buffer), ended: make(chan struct{})}
	running := exec.Command(command[0], append(command[1:], role)...)
	running.Stderr = p.problems
	var err error
	if p.in, err = running.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := running.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := running.Start(); err != nil {
		t.Fatalf("starting %s: %v", strings.Join(command, " "), err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(p.ended)
		defer close(p.lines)
		scanner := bufio.NewScanner(out)
		for scanner.Scan() {
			select {
			case p.lines <- bytes.Clone(scanner.Bytes()):
			case <-stopped:
			}
		}
	}()
	t.Cleanup(func() {
		close(stopped)
		_ = p.in.Close()
		// A program that does not end with its input is ended.
		kill := time.AfterFunc(caseTimeout, func() { _ = running.Process.Kill() })
		<-p.ended
		err := running.Wait()
		kill.Stop()
		if err != nil || p.problems.Len() > 0 {
			t.Errorf("%s %s: %v\n%s", strings.Join(command, " "), role, err, p.problems)
		}
	})
	var hello struct{ Peer, Addr, Hash string }
	if err := p.next(&hello); err != nil {
		t.Fatalf("%s %s: %v", strings.Join(command, " "), role, err)
	}
	p.peer, p.addr, p.hash = hello.Peer, hello.Addr, hello.Hash
	return p
}

// next reads the next line into v.
func (p *program) next(v any) error {
	select {
	case line, ok := <-p.lines:
		if !ok {
			return io.ErrUnexpectedEOF
		}
		if err := json.Unmarshal(line, v); err != nil {
			return fmt.Errorf("line %q: %w", line, err)
		}
		return nil
	case <-time.After(2 * caseTimeout):
		return fmt.Errorf("no line within %v", 2*caseTimeout)
	}
}

// report reads the next line, which must be a report of the case.
func (p *program) report(name string) (report, error) {
	var r report
	err := p.next(&r)
	if err == nil && r.Case != name {
		err = fmt.Errorf("report of %q, want one of %q", r.Case, name)
	}
	return r, err
}

// try has a client try a case with the server at addr.
func (p *program) try(name, addr, hash string) (report, error) {
	line, err := json.Marshal(map[string]string{"case": name, "url": "https://" + addr + "/" + name, "hash": hash})
	if err != nil {
		return report{}, err
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return report{}, err
	}
	return p.report(name)
}
