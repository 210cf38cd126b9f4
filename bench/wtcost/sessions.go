package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// atOnce is how many sessions are opened at the same time.
const atOnce = 4

// keepAlive is longer than that of servers that have one, and keeps the
// connections of others.
const keepAlive = 20 * time.Second

// sessionClient opens sessions, each on a connection of its own. It is made by
// hand on bare quic-go, and is the same for every server, so that servers alone
// differ.
type sessionClient struct {
	bare      bool // connections alone, without HTTP/3
	stream    bool // with a stream, on bare connections
	addr      net.Addr
	tls       *tls.Config
	transport *quic.Transport
	control   []byte // control stream with SETTINGS
	connect   []byte // HEADERS of CONNECT

	mu    sync.Mutex
	conns []*quic.Conn // guarded by mu
}

func newSessionClient(t task, hash [sha256.Size]byte) (*sessionClient, error) {
	addr, err := net.ResolveUDPAddr("udp", t.Addr)
	if err != nil {
		return nil, err
	}
	packets, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	c := &sessionClient{
		bare:      t.Library == libQUIC,
		stream:    t.Work.Stream,
		addr:      addr,
		tls:       clientTLS(hash),
		transport: &quic.Transport{Conn: packets},
	}
	// HTTP datagrams, and WebTransport of draft-16.
	settings := varints(0x33, 1, 0x2c7cf000, 1)
	c.control = append(varints(0x00, 0x04, uint64(len(settings))), settings...)
	var fields bytes.Buffer
	encoder := qpack.NewEncoder(&fields)
	for _, f := range []qpack.HeaderField{
		{Name: ":method", Value: "CONNECT"},
		{Name: ":protocol", Value: "webtransport-h3"},
		{Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: t.Addr},
		{Name: ":path", Value: "/"},
	} {
		if err := encoder.WriteField(f); err != nil {
			return nil, err
		}
	}
	c.connect = append(varints(0x01, uint64(fields.Len())), fields.Bytes()...)
	return c, nil
}

func varints(values ...uint64) []byte {
	var b []byte
	for _, v := range values {
		b = quicvarint.Append(b, v)
	}
	return b
}

// open opens count sessions, and keeps them or closes each at once.
func (c *sessionClient) open(ctx context.Context, count int, closing bool) error {
	errs := make([]error, atOnce)
	var opening sync.WaitGroup
	for i := range atOnce {
		opening.Go(func() {
			for range (count + i) / atOnce {
				if errs[i] = c.openOne(ctx, closing); errs[i] != nil {
					return
				}
			}
		})
	}
	opening.Wait()
	return errors.Join(errs...)
}

// openOne opens a session as a client of draft-16 does: with the server's
// SETTINGS awaited, then CONNECT, then its answer.
func (c *sessionClient) openOne(ctx context.Context, closing bool) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	config := quicConfig()
	config.KeepAlivePeriod = keepAlive
	conn, err := c.transport.Dial(ctx, c.addr, c.tls, config)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.conns = append(c.conns, conn)
	c.mu.Unlock()
	if c.bare {
		// The server's connection is accepted once its handshake is complete; its
		// first packet after that says so.
		select {
		case <-conn.HandshakeComplete():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if c.stream {
			stream, err := conn.OpenStream()
			if err != nil {
				return err
			}
			if _, err := stream.Write([]byte{0}); err != nil {
				return err
			}
		}
	} else if err := c.request(ctx, conn, closing); err != nil {
		return err
	}
	if closing {
		c.mu.Lock()
		c.conns = slices.DeleteFunc(c.conns, func(other *quic.Conn) bool { return other == conn })
		c.mu.Unlock()
		return conn.CloseWithError(0x100, "") // H3_NO_ERROR
	}
	return nil
}

// request makes the request of a session, and closes it if told so.
func (c *sessionClient) request(ctx context.Context, conn *quic.Conn, closing bool) error {
	control, err := conn.OpenUniStream()
	if err != nil {
		return err
	}
	if _, err := control.Write(c.control); err != nil {
		return err
	}
	theirs, err := conn.AcceptUniStream(ctx)
	if err != nil {
		return fmt.Errorf("waiting for SETTINGS: %w", err)
	}
	if _, err := theirs.Read(make([]byte, 128)); err != nil {
		return fmt.Errorf("reading SETTINGS: %w", err)
	}
	stream, err := conn.OpenStream()
	if err != nil {
		return err
	}
	if _, err := stream.Write(c.connect); err != nil {
		return err
	}
	if err := readAnswer(stream); err != nil {
		return err
	}
	if !closing {
		return nil
	}
	// WT_CLOSE_SESSION with code 0 in a DATA frame, and FIN. The server answers
	// with FIN, or, as webtransport-go does, with a reset.
	capsule := append(varints(0x2843, 4), 0, 0, 0, 0)
	if _, err := stream.Write(append(varints(0x00, uint64(len(capsule))), capsule...)); err != nil {
		return err
	}
	if err := stream.Close(); err != nil {
		return err
	}
	_ = stream.SetReadDeadline(time.Now().Add(5 * time.Second))
	var reset *quic.StreamError
	if _, err := io.Copy(io.Discard, stream); err != nil && !errors.As(err, &reset) {
		return fmt.Errorf("waiting for the session's end: %w", err)
	}
	return nil
}

// readAnswer reads the HEADERS of an answer, which must be 200.
func readAnswer(stream *quic.Stream) error {
	r := quicvarint.NewReader(stream)
	typ, err := quicvarint.Read(r)
	if err != nil {
		return err
	}
	length, err := quicvarint.Read(r)
	if err != nil {
		return err
	}
	if typ != 0x01 || length > 4096 {
		return fmt.Errorf("answer begins with frame %#x of %d bytes", typ, length)
	}
	section := make([]byte, length)
	if _, err := io.ReadFull(stream, section); err != nil {
		return err
	}
	status, err := qpack.NewDecoder().Decode(section)()
	if err != nil || status.Name != ":status" || status.Value != "200" {
		return fmt.Errorf("answer begins with %q, error %w", status, err)
	}
	return nil
}
