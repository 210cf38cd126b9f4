package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// link is a session, or a bare QUIC connection, as far as it is measured.
type link interface {
	OpenUni(ctx context.Context) (io.Writer, error)
	AcceptUni(ctx context.Context) (io.Reader, error)
	SendDatagram(ctx context.Context, b []byte) error
	ReceiveDatagram(ctx context.Context) ([]byte, error)
}

// alpn is the application protocol of both, so that handshakes are alike.
const alpn = "h3"

// quicConfig is what package wt makes of its defaults.
func quicConfig() *quic.Config {
	return &quic.Config{
		KeepAlivePeriod:                  15 * time.Second,
		MaxIncomingStreams:               1024,
		MaxIncomingUniStreams:            1024,
		EnableDatagrams:                  true,
		EnableStreamResetPartialDelivery: true,
	}
}

// listenWT serves sessions until the process ends. serve returns soon; the
// session goes on.
func listenWT(identity *wt.Identity, serve func(context.Context, link)) (net.Addr, error) {
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig: identity.TLSConfig(),
		Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
			session, err := r.Accept(nil)
			if err != nil {
				return
			}
			serve(ctx, sessionLink{session})
			<-ctx.Done()
		}),
	})
	if err != nil {
		return nil, err
	}
	go func() { _ = server.Serve(packets) }() // ends with the process
	return packets.LocalAddr(), nil
}

func dialWT(ctx context.Context, addr string, hash [sha256.Size]byte) (link, error) {
	dialer := wt.Dialer{CertificateHashes: [][sha256.Size]byte{hash}}
	session, err := dialer.Dial(ctx, "https://"+addr+"/")
	if err != nil {
		return nil, err
	}
	return sessionLink{session}, nil
}

type sessionLink struct{ *wt.Session }

func (l sessionLink) OpenUni(ctx context.Context) (io.Writer, error) { return l.OpenUniStream(ctx) }

func (l sessionLink) AcceptUni(ctx context.Context) (io.Reader, error) { return l.AcceptUniStream(ctx) }

// listenQUIC serves bare connections, each with a goroutine of the application,
// as a session has with package wt: hold, which returns with the connection.
func listenQUIC(ctx context.Context, hold func(*quic.Conn), identity *wt.Identity, serve func(context.Context, link)) (net.Addr, error) {
	config := identity.TLSConfig()
	config.NextProtos = []string{alpn}
	config.MinVersion = tls.VersionTLS13
	listener, err := quic.ListenAddr("127.0.0.1:0", config, quicConfig())
	if err != nil {
		return nil, err
	}
	go func() { // ends with the process
		for {
			conn, err := listener.Accept(ctx)
			if err != nil {
				return
			}
			go func() {
				serve(conn.Context(), connLink{conn})
				hold(conn)
			}()
		}
	}()
	return listener.Addr(), nil
}

// holdConn waits for the end of a connection.
func holdConn(conn *quic.Conn) { <-conn.Context().Done() }

// holdStream reads the first stream of a connection to its end, with the smallest
// of buffers.
func holdStream(conn *quic.Conn) {
	stream, err := conn.AcceptStream(conn.Context())
	for b := make([]byte, 1); err == nil; {
		_, err = stream.Read(b)
	}
}

func dialQUIC(ctx context.Context, addr string, hash [sha256.Size]byte) (link, error) {
	conn, err := quic.DialAddr(ctx, addr, clientTLS(hash), quicConfig())
	if err != nil {
		return nil, err
	}
	return connLink{conn}, nil
}

// clientTLS trusts one certificate.
func clientTLS(hash [sha256.Size]byte) *tls.Config {
	return &tls.Config{
		NextProtos:         []string{alpn},
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // the hash is checked in its place
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) == 0 || sha256.Sum256(raw[0]) != hash {
				return errors.New("the certificate has another hash")
			}
			return nil
		},
	}
}

type connLink struct{ *quic.Conn }

func (l connLink) OpenUni(ctx context.Context) (io.Writer, error) { return l.OpenUniStreamSync(ctx) }

func (l connLink) AcceptUni(ctx context.Context) (io.Reader, error) { return l.AcceptUniStream(ctx) }

func (l connLink) SendDatagram(_ context.Context, b []byte) error { return l.Conn.SendDatagram(b) }
