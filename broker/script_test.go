package broker_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt"
)

// peer is a client that sends exactly what a test tells it to.
type peer struct {
	t       *testing.T
	conn    client.Conn
	control *line
}

// line is one stream of a peer.
type line struct {
	t      *testing.T
	stream client.Stream
	reader *codec.Reader
}

func (n *wtNetwork) raw(t *testing.T) client.Conn {
	t.Helper()
	d := wt.Dialer{CertificateHashes: [][32]byte{n.identity.Hash()}}
	session, err := d.Dial(within(t), n.url())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	return wtClient{session}
}

func (n *memNetwork) raw(t *testing.T) client.Conn {
	t.Helper()
	c, err := n.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseWithError(0, "") })
	return c
}

type wtClient struct{ *wt.Session }

func (c wtClient) OpenStream(ctx context.Context) (client.Stream, error) {
	return c.Session.OpenStream(ctx)
}

// newPeer connects without a word.
func newPeer(t *testing.T, n network) *peer {
	t.Helper()
	return &peer{t: t, conn: n.(interface {
		raw(*testing.T) client.Conn
	}).raw(t)}
}

// welcomedPeer connects and says HELLO.
func welcomedPeer(t *testing.T, n network) (*peer, codec.Welcome) {
	t.Helper()
	p := newPeer(t, n)
	p.control = p.open()
	p.control.send(codec.AppendHello(nil, codec.Hello{Version: codec.Version, Capabilities: codec.CapDatagrams}))
	w, err := codec.ParseWelcome(p.control.want(codec.TypeWelcome))
	if err != nil {
		t.Fatal(err)
	}
	w.Secret = append([]byte(nil), w.Secret...)
	return p, w
}

func (p *peer) open() *line {
	p.t.Helper()
	stream, err := p.conn.OpenStream(within(p.t))
	if err != nil {
		p.t.Fatal(err)
	}
	_ = stream.SetReadDeadline(time.Now().Add(deadline))
	return &line{p.t, stream, codec.NewReader(stream, codec.DefaultMaxFrame)}
}

// send writes bytes, which need not be frames.
func (l *line) send(b []byte) {
	l.t.Helper()
	if _, err := l.stream.Write(b); err != nil {
		l.t.Fatalf("send: %v", err)
	}
}

// sendBad writes bytes that the broker may refuse before it has taken them all.
func (l *line) sendBad(b []byte) { _, _ = l.stream.Write(b) }

func (l *line) fin() { _ = l.stream.Close() }

// want reads the next frame, which must be of a type.
func (l *line) want(typ codec.Type) codec.Frame {
	l.t.Helper()
	f, err := l.reader.Next()
	if err != nil {
		l.t.Fatalf("want %s, got %v", typ, err)
	}
	if f.Type != typ {
		if e, err := codec.ParseEnd(f); err == nil {
			l.t.Fatalf("want %s, got END %s: %s", typ, e.Code, e.Reason)
		}
		l.t.Fatalf("want %s, got %s", typ, f.Type)
	}
	return f
}

// wantEnd reads END with a code, skipping what comes before it, and then FIN.
func (l *line) wantEnd(code codec.Code) codec.End {
	l.t.Helper()
	for {
		f, err := l.reader.Next()
		if err != nil {
			l.t.Fatalf("want END %s, got %v", code, err)
		}
		if f.Type != codec.TypeEnd {
			continue
		}
		e, err := codec.ParseEnd(f)
		if err != nil {
			l.t.Fatal(err)
		}
		if e.Code != code {
			l.t.Fatalf("END %s: %s; want %s", e.Code, e.Reason, code)
		}
		if _, err := l.reader.Next(); !errors.Is(err, io.EOF) {
			l.t.Fatalf("after END: %v, want FIN", err)
		}
		l.fin()
		return e
	}
}

// wantClosed waits for the end of the connection, and checks its code where the
// transport tells it.
func (p *peer) wantClosed(code codec.Code) {
	p.t.Helper()
	select {
	case <-p.conn.Context().Done():
	case <-within(p.t).Done():
		p.t.Fatal("the connection is still open")
	}
	if e, ok := errors.AsType[*wt.SessionError](context.Cause(p.conn.Context())); ok && (e.Code != uint32(code) || !e.Remote) {
		p.t.Errorf("the session was closed with code %d by %s, want %d", e.Code, e.By, code)
	}
}

// wantAlive checks that the session still works: it publishes on the control
// stream and gets the answer.
func (p *peer) wantAlive() {
	p.t.Helper()
	p.control.send(codec.AppendPublish(nil, codec.Publish{Sequence: 4711, Topic: "alive", Payload: codec.Text("?")}))
	for {
		f, err := p.control.reader.Next()
		if err != nil {
			p.t.Fatalf("the session has ended: %v", err)
		}
		if f.Type == codec.TypeAck {
			if a, err := codec.ParseAck(f); err == nil && a.Sequence == 4711 {
				return
			}
		}
	}
}
