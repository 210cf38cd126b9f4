package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/webtransport-go"
)

// task is a case to try.
type task struct{ Case, URL, Hash string }

// try tries the cases that in names, until in ends.
func try(in io.Reader, out *lines) error {
	transport := &webtransport.Transport{ApplicationProtocols: offered(), Config: flowControl()}
	defer transport.Close()
	out.print(hello{Peer: name()})
	scanner := bufio.NewScanner(in)
	for scanner.Scan() {
		var t task
		if err := json.Unmarshal(scanner.Bytes(), &t); err != nil {
			return err
		}
		r := report{Case: t.Case}
		if err := tryCase(transport, t, &r); err != nil {
			r.Error = err.Error()
		}
		out.print(r)
	}
	return scanner.Err()
}

// tryCase opens a session on a connection of its own, and does the client's part.
func tryCase(transport *webtransport.Transport, t task, r *report) error {
	ctx, cancel := context.WithTimeout(context.Background(), caseTimeout)
	defer cancel()
	hash, err := hex.DecodeString(t.Hash)
	if err != nil || len(hash) != sha256.Size {
		return fmt.Errorf("hash %q is not a SHA-256 in hex", t.Hash)
	}
	target, err := url.Parse(t.URL)
	if err != nil {
		return err
	}
	// With a connection of its own the end of the session does not end the
	// connection, as it does with Transport.Dial, which loses the close.
	conn, err := quic.DialAddr(ctx, target.Host, &tls.Config{
		NextProtos:         []string{"h3"},
		InsecureSkipVerify: true, // the hash is checked in its place
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) == 0 || sha256.Sum256(raw[0]) != [sha256.Size]byte(hash) {
				return errors.New("certificate has another hash")
			}
			return nil
		},
	}, &quic.Config{
		EnableDatagrams: true, EnableStreamResetPartialDelivery: true,
		MaxIncomingStreams: 1000, MaxIncomingUniStreams: 1000,
	})
	if err != nil {
		return err
	}
	client, err := transport.NewClientConn(conn)
	if err != nil {
		return errors.Join(err, conn.CloseWithError(0x100, ""))
	}
	response, session, err := client.Dial(ctx, t.URL, nil)
	if response != nil && response.StatusCode != 200 {
		r.Status = response.StatusCode
		return conn.CloseWithError(0x100, "")
	}
	if err != nil {
		return errors.Join(err, conn.CloseWithError(0x100, ""))
	}
	r.Subprotocol = session.SessionState().ApplicationProtocol
	err = clientSide(ctx, session, r)
	if t.Case == "close-by-client" {
		err = errors.Join(err, session.CloseWithError(clientCode, clientReason))
	} else {
		err = errors.Join(err, session.CloseWithError(0, ""))
	}
	// The connection lives until the server has seen the close.
	go func() {
		time.Sleep(caseTimeout)
		_ = conn.CloseWithError(0x100, "")
	}()
	return err
}

// clientSide does what the client does in the case while the session is open.
func clientSide(ctx context.Context, session *webtransport.Session, r *report) (err error) {
	switch r.Case {
	case "bidi":
		if err := exchange(ctx, session, []byte(textUp)); err != nil {
			return err
		}
		return echoOne(ctx, session)
	case "uni":
		return exchangeUni(ctx, session, []byte("one way"))
	case "megabyte":
		return exchange(ctx, session, bytes.Repeat([]byte("0123456789abcdef"), megabyte/16))
	case "streams":
		r.Count, err = manyStreams(ctx, session)
		return err
	case "server-streams":
		_ = echo(session)
		return nil
	case "turnover":
		for ; r.Count < turnover; r.Count++ {
			if err := exchangeUni(ctx, session, fmt.Appendf(nil, "stream %d", r.Count)); err != nil {
				return err
			}
		}
		return nil
	case "datagrams":
		r.Count, err = exchangeDatagrams(ctx, session)
		return err
	case "reset-by-client":
		return eachOpened(ctx, session, func(stream *webtransport.Stream, code streamError) error {
			stream.CancelWrite(code)
			_, err := io.ReadAll(stream)
			return err
		})
	case "reset-by-server":
		return eachOpened(ctx, session, func(stream *webtransport.Stream, _ streamError) error {
			if _, err := stream.Write([]byte{2}); err != nil {
				return err
			}
			_, err := stream.Read(make([]byte, 1))
			return r.note(err)
		})
	case "stop-by-client":
		return eachOpened(ctx, session, func(stream *webtransport.Stream, code streamError) error {
			stream.CancelRead(code)
			seen, err := session.AcceptUniStream(ctx)
			if err != nil {
				return err
			}
			_, err = io.ReadAll(seen)
			return err
		})
	case "stop-by-server":
		return eachOpened(ctx, session, func(stream *webtransport.Stream, _ streamError) error {
			if _, err := stream.Write([]byte{2}); err != nil {
				return err
			}
			return r.note(stopped(ctx, stream))
		})
	case "close-by-server":
		_, err := session.AcceptStream(ctx)
		r.Closed = endOf(err)
		return nil
	case "drain-by-server", "drain-by-client":
		// There is no way to learn of it, or to ask for it. The session goes on.
		return exchange(ctx, session, []byte("to the end"))
	default:
		return nil
	}
}

// exchangeDatagrams returns how many came back.
func exchangeDatagrams(ctx context.Context, session *webtransport.Session) (int, error) {
	count := 0
	for i := range datagrams {
		b := bytes.Repeat([]byte{byte(i)}, i+1)
		if err := session.SendDatagram(b); err != nil {
			return count, err
		}
		late, cancel := context.WithTimeout(ctx, datagramTimeout)
		got, err := session.ReceiveDatagram(late)
		cancel()
		if err == nil && bytes.Equal(got, b) {
			count++
		}
	}
	return count, nil
}

// eachOpened opens a stream for each code, has a byte echoed on it, and calls f.
func eachOpened(ctx context.Context, session *webtransport.Session, f func(*webtransport.Stream, streamError) error) error {
	for _, code := range streamCodes() {
		stream, err := session.OpenStreamSync(ctx)
		if err != nil {
			return err
		}
		if _, err := stream.Write([]byte{1}); err != nil {
			return err
		}
		if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
			return err
		}
		if err := f(stream, code); err != nil {
			return fmt.Errorf("code %d: %w", code, err)
		}
	}
	return nil
}
