package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"sync"

	"github.com/quic-go/quic-go"
)

// The hub is the least that fans out over bare QUIC: one stream a client, frames
// of two bytes of length and a payload, every message to every subscriber, no
// topics, no credit, no acknowledgements. It is the floor for a broker on quic-go.

const alpn = "hub"

// hub is the server.
type hub struct {
	mu   sync.RWMutex
	subs []*coalescer
}

func listenHub(t *tls.Config) (net.Addr, error) {
	t = t.Clone()
	t.NextProtos = []string{alpn}
	l, err := quic.ListenAddr("127.0.0.1:0", t, nil)
	if err != nil {
		return nil, err
	}
	h := new(hub)
	go func() { // ends with the process
		for {
			c, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			go h.serve(c)
		}
	}()
	return l.Addr(), nil
}

func (h *hub) serve(c *quic.Conn) {
	s, err := c.AcceptStream(context.Background())
	if err != nil {
		return
	}
	r := bufio.NewReaderSize(s, 16<<10)
	kind, err := r.ReadByte()
	if err != nil {
		return
	}
	out := newCoalescer(func(b []byte) error { _, err := s.Write(b); return err })
	if kind == 's' {
		h.mu.Lock()
		h.subs = append(h.subs, out)
		h.mu.Unlock()
		_ = out.add(func(b []byte) []byte { return append(b, 0, 0) }) // confirmed
	}
	frame := make([]byte, 64<<10)
	for {
		if _, err := io.ReadFull(r, frame[:2]); err != nil {
			return
		}
		n := 2 + int(binary.BigEndian.Uint16(frame))
		if _, err := io.ReadFull(r, frame[2:n]); err != nil {
			return
		}
		h.mu.RLock()
		for _, sub := range h.subs {
			_ = sub.add(func(b []byte) []byte { return append(b, frame[:n]...) })
		}
		h.mu.RUnlock()
	}
}

// hubLoader is a client of the hub.
type hubLoader struct {
	conn *quic.Conn
	out  *coalescer
}

func dialHub(ctx context.Context, s *process) (loader, error) {
	c, err := quic.DialAddr(ctx, s.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}}, nil)
	if err != nil {
		return nil, err
	}
	return &hubLoader{conn: c}, nil
}

func (l *hubLoader) open(ctx context.Context, kind byte) (*quic.Stream, error) {
	s, err := l.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	_, err = s.Write([]byte{kind})
	return s, err
}

func (l *hubLoader) subscribe(ctx context.Context, _ string, got func([]byte)) error {
	s, err := l.open(ctx, 's')
	if err != nil {
		return err
	}
	r := bufio.NewReaderSize(s, 32<<10)
	frame := make([]byte, 64<<10)
	next := func() ([]byte, error) {
		if _, err := io.ReadFull(r, frame[:2]); err != nil {
			return nil, err
		}
		n := int(binary.BigEndian.Uint16(frame))
		_, err := io.ReadFull(r, frame[:n])
		return frame[:n], err
	}
	if _, err := next(); err != nil {
		return err
	}
	go func() { // ends with the connection
		for {
			payload, err := next()
			if err != nil {
				return
			}
			got(payload)
		}
	}()
	return nil
}

func (l *hubLoader) publisher(ctx context.Context, _ string) error {
	s, err := l.open(ctx, 'p')
	if err != nil {
		return err
	}
	l.out = newCoalescer(func(b []byte) error { _, err := s.Write(b); return err })
	return nil
}

func (l *hubLoader) publish(payload []byte) error {
	return l.out.add(func(b []byte) []byte {
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
		return append(b, payload...)
	})
}

func (l *hubLoader) close() { _ = l.conn.CloseWithError(0, "") }
