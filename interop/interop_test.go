package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/wt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// build builds the peer in directory and returns the program.
func build(t *testing.T, directory string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), directory)
	command := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	command.Dir = directory
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", directory, err, out)
	}
	return program
}

// peer is a running program that prints one JSON object a line.
type peer struct {
	t     *testing.T
	lines *bufio.Scanner
}

// start runs the program until the test ends; a server ends with its input.
func start(t *testing.T, program string, args ...string) *peer {
	t.Helper()
	command := exec.Command(program, args...)
	var problems bytes.Buffer
	command.Stderr = &problems
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		if err := command.Wait(); err != nil || problems.Len() > 0 {
			t.Errorf("%s: %v\n%s", filepath.Base(program), err, &problems)
		}
	})
	return &peer{t: t, lines: bufio.NewScanner(out)}
}

// next reads the next line into v, and reports false at the end.
func (p *peer) next(v any) bool {
	p.t.Helper()
	if !p.lines.Scan() {
		return false
	}
	if err := json.Unmarshal(p.lines.Bytes(), v); err != nil {
		p.t.Fatalf("line %q: %v", p.lines.Text(), err)
	}
	return true
}

// ending is how the peer saw a session end.
type ending struct {
	Remote bool
	Code   uint32
	Reason string
	Error  string
}

func TestWebTransportGoClient(t *testing.T) {
	program := build(t, "webtransportgo")
	identity, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	type ended struct {
		draft wt.Draft
		err   error
	}
	ends := make(chan ended, 2)
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig:      identity.TLSConfig(),
		Subprotocols:   []string{"interop.v2", "interop.v1"},
		MaxSessionData: 64 << 10, // the peer negotiates flow control
		Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
			session, err := r.Accept(nil)
			if err != nil {
				t.Error(err)
				return
			}
			if r.Path == "/close" {
				_ = session.CloseWithError(4711, "low water")
			} else {
				echo(session)
			}
			ends <- ended{session.Draft(), context.Cause(session.Context())}
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(packets) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})

	hash := identity.Hash()
	client := start(t, program, "client", "-url", "https://"+packets.LocalAddr().String(), "-hash", hex.EncodeToString(hash[:]))
	for range 9 { // checks that the client makes
		var result struct{ Check, Error string }
		if !client.next(&result) {
			t.Fatal("the client ended early")
		}
		if result.Error != "" {
			t.Errorf("%s: %s", result.Check, result.Error)
		}
	}
	first := <-ends
	if first.draft != wt.Draft16 {
		t.Errorf("negotiated %v, want draft-16", first.draft)
	}
	wantClosed(t, first.err, wt.Peer, 17, "client's reason")
	wantClosed(t, (<-ends).err, wt.Us, 4711, "low water")
}

func TestWebTransportGoServer(t *testing.T) {
	server := start(t, build(t, "webtransportgo"), "server")
	var place struct{ Addr, Hash string }
	if !server.next(&place) {
		t.Fatal("the server did not start")
	}
	hash, err := hex.DecodeString(place.Hash)
	if err != nil {
		t.Fatal(err)
	}
	for name, maxData := range map[string]int64{"without flow control": 0, "with flow control": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			checkServer(t, server, place.Addr, wt.Dialer{
				CertificateHashes: [][32]byte{[32]byte(hash)},
				Subprotocols:      []string{"interop.v1", "other"},
				MaxSessionData:    maxData,
			})
		})
	}
}

func checkServer(t *testing.T, server *peer, addr string, dialer wt.Dialer) {
	ctx := t.Context()
	session, err := dialer.Dial(ctx, "https://"+addr+"/echo")
	if err != nil {
		t.Fatal(err)
	}
	if session.Draft() != wt.Draft16 || session.Subprotocol() != "interop.v1" {
		t.Errorf("negotiated %v and subprotocol %q", session.Draft(), session.Subprotocol())
	}
	for name, check := range map[string]func() error{
		"bidirectional stream": func() error { return checkStream(session, []byte("both ways")) },
		"1 MB":                 func() error { return checkStream(session, bytes.Repeat([]byte("0123456789abcdef"), 1<<16)) },
		"100 streams at once":  func() error { return checkManyStreams(session, 100) },
		"unidirectional":       func() error { return checkUniStream(session, []byte("one way")) },
		"200 datagrams":        func() error { return checkDatagrams(session, 200) },
	} {
		if err := check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := session.CloseWithError(17, "client's reason"); err != nil {
		t.Error(err)
	}
	var end ending
	if want := (ending{Remote: true, Code: 17, Reason: "client's reason"}); !server.next(&end) || end != want {
		t.Errorf("the server saw the session end with %+v, want %+v", end, want)
	}

	session, err = dialer.Dial(ctx, "https://"+addr+"/close")
	if err != nil {
		t.Fatal(err)
	}
	<-session.Context().Done()
	wantClosed(t, context.Cause(session.Context()), wt.Peer, 4711, "low water")
	if err := session.Close(); err != nil {
		t.Error(err)
	}

	_, err = dialer.Dial(ctx, "https://"+addr+"/nothing")
	var rejected *wt.RejectedError
	if !errors.As(err, &rejected) || rejected.Status != 404 {
		t.Errorf("dial of a path that is not there: %v", err)
	}
}

func wantClosed(t *testing.T, err error, by wt.Party, code uint32, reason string) {
	t.Helper()
	var ended *wt.SessionError
	if !errors.As(err, &ended) || ended.By != by || ended.Code != code || ended.Reason != reason {
		t.Errorf("session ended with %v; want a close by %v with %d, %q", err, by, code, reason)
	}
}

// echo sends back all that the peer sends, until the session ends. A stream that
// the peer resets is reset with the same code.
func echo(session *wt.Session) {
	ctx := session.Context()
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		for {
			stream, err := session.AcceptUniStream(ctx)
			if err != nil {
				return
			}
			work.Go(func() {
				if back, err := session.OpenUniStream(ctx); err == nil {
					if _, err := io.Copy(back, stream); err == nil {
						_ = back.Close()
					}
				}
			})
		}
	})
	work.Go(func() {
		for {
			b, err := session.ReceiveDatagram(ctx)
			if err != nil || session.SendDatagram(ctx, b) != nil {
				return
			}
		}
	})
	for {
		stream, err := session.AcceptStream(ctx)
		if err != nil {
			return
		}
		work.Go(func() {
			_, err := io.Copy(stream, stream)
			var reset *wt.StreamError
			if errors.As(err, &reset) {
				stream.CancelWrite(reset.Code)
			} else if err == nil {
				_ = stream.Close()
			}
		})
	}
}

func checkStream(session *wt.Session, b []byte) error {
	stream, err := session.OpenStream(session.Context())
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	var sending sync.WaitGroup
	sending.Go(func() {
		_, err := stream.Write(b)
		sent <- errors.Join(err, stream.Close())
	})
	got, err := io.ReadAll(stream)
	if err == nil && !bytes.Equal(got, b) {
		err = fmt.Errorf("echo of %d bytes differs from the %d sent", len(got), len(b))
	}
	sending.Wait()
	return errors.Join(err, <-sent)
}

func checkManyStreams(session *wt.Session, n int) error {
	results := make(chan error, n)
	var streams sync.WaitGroup
	for i := range n {
		streams.Go(func() { results <- checkStream(session, bytes.Repeat([]byte{byte(i)}, 1000)) })
	}
	streams.Wait()
	var all error
	for range n {
		all = errors.Join(all, <-results)
	}
	return all
}

func checkUniStream(session *wt.Session, b []byte) error {
	stream, err := session.OpenUniStream(session.Context())
	if err != nil {
		return err
	}
	if _, err := stream.Write(b); err != nil {
		return err
	}
	if err := stream.Close(); err != nil {
		return err
	}
	back, err := session.AcceptUniStream(session.Context())
	if err != nil {
		return err
	}
	got, err := io.ReadAll(back)
	if err == nil && !bytes.Equal(got, b) {
		err = fmt.Errorf("got %q, want %q", got, b)
	}
	return err
}

func checkDatagrams(session *wt.Session, n int) error {
	for i := range n {
		b := bytes.Repeat([]byte{byte(i)}, i)
		if err := session.SendDatagram(session.Context(), b); err != nil {
			return err
		}
		got, err := session.ReceiveDatagram(session.Context())
		if err != nil {
			return err
		}
		if !bytes.Equal(got, b) {
			return fmt.Errorf("datagram %d came back as %d bytes", i, len(got))
		}
	}
	return nil
}
