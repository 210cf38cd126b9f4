package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/webtransport-go"
)

// serve serves every case, at the path of its name, until in ends.
func serve(in io.Reader, out *lines) error {
	certificate, hash, err := selfSigned()
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	server := &webtransport.Server{
		H3: &http3.Server{
			TLSConfig:  http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{certificate}}),
			QUICConfig: &quic.Config{MaxIncomingStreams: 1000, MaxIncomingUniStreams: 1000},
			Handler:    mux,
		},
		ApplicationProtocols: known(),
		Config:               flowControl(),
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if name == "reject" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		session, err := server.Upgrade(w, r)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), caseTimeout)
		defer cancel()
		seen := report{Case: name, Subprotocol: session.SessionState().ApplicationProtocol}
		err = serverSide(ctx, session, &seen)
		if err == nil {
			// The session's end is an error of the next call.
			_, end := session.AcceptStream(ctx)
			seen.Closed = endOf(end)
		} else {
			seen.Error = err.Error()
		}
		out.print(seen)
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(packets) }()
	out.print(hello{Peer: name(), Addr: packets.LocalAddr().String(), Hash: hex.EncodeToString(hash[:])})
	_, err = io.Copy(io.Discard, in)
	_ = server.Close()
	<-served
	_ = packets.Close()
	return err
}

// serverSide does what the server does in the case while the session is open.
func serverSide(ctx context.Context, session *webtransport.Session, r *report) (err error) {
	switch r.Case {
	case "bidi":
		if err := echoOne(ctx, session); err != nil {
			return err
		}
		return askEcho(ctx, session, textDown)
	case "server-streams":
		r.Count, err = manyStreams(ctx, session)
		return errors.Join(err, session.CloseWithError(0, ""))
	case "reset-by-client":
		return eachAccepted(ctx, session, func(stream *webtransport.Stream, _ streamError) error {
			_, err := stream.Read(make([]byte, 1))
			return errors.Join(r.note(err), stream.Close())
		})
	case "reset-by-server":
		return eachAccepted(ctx, session, func(stream *webtransport.Stream, code streamError) error {
			if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
				return err
			}
			stream.CancelWrite(code)
			return nil
		})
	case "stop-by-client":
		return eachAccepted(ctx, session, func(stream *webtransport.Stream, _ streamError) error {
			if err := r.note(stopped(ctx, stream)); err != nil {
				return err
			}
			return say(ctx, session, "seen")
		})
	case "stop-by-server":
		return eachAccepted(ctx, session, func(stream *webtransport.Stream, code streamError) error {
			if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
				return err
			}
			stream.CancelRead(code)
			return stream.Close()
		})
	case "drain-by-server":
		if _, err := session.AcceptUniStream(ctx); err != nil {
			return err
		}
		// There is no way to ask for it: the session ends unasked.
		return session.CloseWithError(0, "")
	case "close-by-server":
		if _, err := session.AcceptUniStream(ctx); err != nil {
			return err
		}
		return session.CloseWithError(serverCode, serverReason)
	default:
		_ = echo(session)
		return nil
	}
}

// eachAccepted accepts a stream for each code, echoes a byte on it, and calls f.
func eachAccepted(ctx context.Context, session *webtransport.Session, f func(*webtransport.Stream, streamError) error) error {
	for _, code := range streamCodes() {
		stream, err := session.AcceptStream(ctx)
		if err != nil {
			return err
		}
		b := make([]byte, 1)
		if _, err := io.ReadFull(stream, b); err != nil {
			return err
		}
		if _, err := stream.Write(b); err != nil {
			return err
		}
		if err := f(stream, code); err != nil {
			return err
		}
	}
	return nil
}

// selfSigned makes a certificate that may be trusted by its hash.
func selfSigned() (tls.Certificate, [sha256.Size]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, [sha256.Size]byte{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, [sha256.Size]byte{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, sha256.Sum256(der), nil
}
