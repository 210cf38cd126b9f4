package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/webtransport-go"
)

// clientTimeout bounds all checks together.
const clientTimeout = 30 * time.Second

// result is that of one check; the error is empty where it passed.
type result struct {
	Check string `json:"check"`
	Error string `json:"error"`
}

// checkServer tries a server that echoes at /echo and closes at /close. It keeps
// its connections until in ends: the close of a session would else be lost with
// the connection, as it is with Transport.Dial.
func checkServer(url string, hash [sha256.Size]byte, in io.Reader, out *lines) error {
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	transport := &webtransport.Transport{ApplicationProtocols: []string{"interop.v1", "other"}, Config: flowControl()}
	defer transport.Close()

	session, conn, err := dial(ctx, transport, url, "/echo", hash)
	if err != nil {
		return err
	}
	defer conn.CloseWithError(0x100, "")
	report := func(check string, err error) {
		r := result{Check: check}
		if err != nil {
			r.Error = err.Error()
		}
		out.print(r)
	}
	report("subprotocol", want("interop.v1", session.SessionState().ApplicationProtocol))
	report("bidirectional stream", checkStream(ctx, session, []byte("both ways")))
	report("unidirectional stream", checkUniStream(ctx, session, []byte("one way")))
	report("1 MB", checkStream(ctx, session, bytes.Repeat([]byte("0123456789abcdef"), 1<<16)))
	report("100 streams at once", checkManyStreams(ctx, session, 100))
	report("200 datagrams", checkDatagrams(ctx, session, 200))
	report("reset code", checkReset(ctx, session))
	report("close", session.CloseWithError(17, "client's reason"))

	closed, closedConn, err := dial(ctx, transport, url, "/close", hash)
	if err != nil {
		return err
	}
	defer closedConn.CloseWithError(0x100, "")
	_, err = closed.AcceptStream(ctx)
	report("server's close", want(ending{Remote: true, Code: 4711, Reason: "low water"}, endingOf(err)))
	_, err = io.Copy(io.Discard, in)
	return err
}

// dial opens a session on a connection of its own, which the caller closes.
func dial(ctx context.Context, transport *webtransport.Transport, url, path string, hash [sha256.Size]byte) (*webtransport.Session, *quic.Conn, error) {
	conn, err := quic.DialAddr(ctx, strings.TrimPrefix(url, "https://"), &tls.Config{
		NextProtos:         []string{"h3"},
		InsecureSkipVerify: true, // the hash is checked in its place
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) == 0 || sha256.Sum256(raw[0]) != hash {
				return errors.New("certificate has another hash")
			}
			return nil
		},
	}, &quic.Config{
		EnableDatagrams: true, EnableStreamResetPartialDelivery: true,
		MaxIncomingStreams: 1000, MaxIncomingUniStreams: 1000,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("connection for %s: %w", path, err)
	}
	client, err := transport.NewClientConn(conn)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("client for %s: %w", path, err), conn.CloseWithError(0x100, ""))
	}
	_, session, err := client.Dial(ctx, url+path, nil)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("session at %s: %w", path, err), conn.CloseWithError(0x100, ""))
	}
	return session, conn, nil
}

func want[T comparable](want, got T) error {
	if got != want {
		return fmt.Errorf("got %+v, want %+v", got, want)
	}
	return nil
}

func checkStream(ctx context.Context, session *webtransport.Session, b []byte) error {
	stream, err := session.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := stream.Write(b)
		sent <- errors.Join(err, stream.Close())
	}()
	got, err := io.ReadAll(stream)
	if err == nil && !bytes.Equal(got, b) {
		err = fmt.Errorf("echo of %d bytes differs from the %d sent", len(got), len(b))
	}
	return errors.Join(err, <-sent)
}

func checkManyStreams(ctx context.Context, session *webtransport.Session, n int) error {
	results := make(chan error, n)
	for i := range n {
		go func() { results <- checkStream(ctx, session, bytes.Repeat([]byte{byte(i)}, 1000)) }()
	}
	var all error
	for range n {
		all = errors.Join(all, <-results)
	}
	return all
}

func checkUniStream(ctx context.Context, session *webtransport.Session, b []byte) error {
	stream, err := session.OpenUniStreamSync(ctx)
	if err != nil {
		return err
	}
	if _, err := stream.Write(b); err != nil {
		return err
	}
	if err := stream.Close(); err != nil {
		return err
	}
	back, err := session.AcceptUniStream(ctx)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(back)
	if err != nil {
		return err
	}
	return want(string(b), string(got))
}

func checkDatagrams(ctx context.Context, session *webtransport.Session, n int) error {
	for i := range n {
		b := bytes.Repeat([]byte{byte(i)}, i)
		if err := session.SendDatagram(b); err != nil {
			return err
		}
		got, err := session.ReceiveDatagram(ctx)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, b) {
			return fmt.Errorf("datagram %d came back as %d bytes", i, len(got))
		}
	}
	return nil
}

// checkReset resets a stream, which the server answers with a reset of its own.
func checkReset(ctx context.Context, session *webtransport.Session) error {
	stream, err := session.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	if _, err := stream.Write([]byte("x")); err != nil {
		return err
	}
	if _, err := stream.Read(make([]byte, 1)); err != nil {
		return err
	}
	stream.CancelWrite(31)
	_, err = stream.Read(make([]byte, 1))
	var reset *webtransport.StreamError
	if !errors.As(err, &reset) {
		return fmt.Errorf("read returned %v", err)
	}
	return want(31, int(reset.ErrorCode))
}
