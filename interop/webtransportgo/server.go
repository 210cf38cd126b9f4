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
	"io"
	"math/big"
	"net"
	"net/http"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/webtransport-go"
)

// place is where a server is.
type place struct {
	Addr string `json:"addr"`
	Hash string `json:"hash"` // SHA-256 of its certificate, in hex
}

// subprotocols are those that both peers of a test know.
func subprotocols() []string { return []string{"interop.v2", "interop.v1"} }

// flowControl declares limits of a session that its checks exceed many times.
func flowControl() *webtransport.Config {
	return &webtransport.Config{MaxIncomingData: 64 << 10, MaxIncomingStreams: 10, MaxIncomingUniStreams: 10}
}

// serve echoes at /echo and closes at /close, until in ends.
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
		ApplicationProtocols: subprotocols(),
		Config:               flowControl(),
	}
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		session, err := server.Upgrade(w, r)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		out.print(endingOf(echo(session)))
	})
	mux.HandleFunc("/close", func(w http.ResponseWriter, r *http.Request) {
		session, err := server.Upgrade(w, r)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_ = session.CloseWithError(4711, "low water")
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(packets) }()
	out.print(place{Addr: packets.LocalAddr().String(), Hash: hex.EncodeToString(hash[:])})
	_, err = io.Copy(io.Discard, in)
	_ = server.Close()
	<-served
	_ = packets.Close()
	return err
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

// echo sends back all that the peer sends, until the session ends, and returns
// the error that says how.
func echo(session *webtransport.Session) error {
	ctx := session.Context()
	go func() {
		for {
			stream, err := session.AcceptUniStream(ctx)
			if err != nil {
				return
			}
			go func() {
				back, err := session.OpenUniStreamSync(ctx)
				if err != nil {
					return
				}
				if _, err := io.Copy(back, stream); err == nil {
					_ = back.Close()
				}
			}()
		}
	}()
	go func() {
		for {
			b, err := session.ReceiveDatagram(ctx)
			if err != nil || session.SendDatagram(b) != nil {
				return
			}
		}
	}()
	for {
		// The session's context carries no cause, so it is not used here.
		stream, err := session.AcceptStream(context.Background())
		if err != nil {
			return err
		}
		go func() {
			if _, err := io.Copy(stream, stream); err == nil {
				_ = stream.Close()
			}
		}()
	}
}
