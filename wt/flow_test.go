package wt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

const h3FlowControl = 0x045d4487

// Flow control between two ends of the package: windows far smaller than what
// passes through them.

func tightPair(t *testing.T, data, streams int64) (client, server *wt.Session) {
	return wttest.PairWith(t, wttest.Options{
		Server: wt.ServerConfig{MaxSessionData: data, MaxIncomingStreams: streams + 1, MaxIncomingUniStreams: streams + 3},
		Dialer: wt.Dialer{MaxSessionData: data},
	})
}

func TestFlowControlEcho(t *testing.T) {
	client, server := tightPair(t, 5000, 4)
	var work sync.WaitGroup
	work.Go(func() { echo(server) })
	check(t, roundTrip(client, bytes.Repeat([]byte("0123456789"), 20000)))
	var streams sync.WaitGroup
	for i := range 50 {
		streams.Go(func() {
			if err := roundTrip(client, bytes.Repeat([]byte{byte(i)}, 700)); err != nil {
				t.Error(err)
			}
		})
	}
	streams.Wait()
	for range 50 {
		out := must(client.OpenUniStream(t.Context()))(t)
		check(t, write(out, "one way"))
		check(t, out.Close())
		if b, err := io.ReadAll(must(client.AcceptUniStream(t.Context()))(t)); err != nil || string(b) != "one way" {
			t.Fatalf("read %q, %v", b, err)
		}
	}
	check(t, client.Close())
	work.Wait()
}

// Streams that are reset, by either side and at any point, give back what they
// held: 300 of them pass through a window of 4000 bytes and 4 streams.
func TestFlowControlOfResets(t *testing.T) {
	client, server := tightPair(t, 4000, 4)
	ctx := t.Context()
	for i := range 300 {
		out := must(client.OpenUniStream(ctx))(t)
		check(t, out.SetWriteDeadline(time.Now().Add(time.Minute)))
		if i%3 != 0 || errors.Is(out.TryWriteAll(make([]byte, 900)), wt.ErrWouldBlock) {
			must(out.Write(make([]byte, 900)))(t) // or waits for what is under way
		}
		in := must(server.AcceptUniStream(ctx))(t)
		switch i % 4 {
		case 0:
			out.CancelWrite(1)
			_, err := io.Copy(io.Discard, in)
			wantStreamError(t, err, true, 1)
		case 1:
			in.CancelRead(2)
			<-out.Context().Done()
			_, err := out.Write([]byte("x"))
			wantStreamError(t, err, true, 2)
		case 2:
			must(in.Read(make([]byte, 10)))(t)
			check(t, out.Close())
			in.CancelRead(3)
		case 3:
			must(in.Read(make([]byte, 10)))(t)
			out.CancelWrite(4)
			in.CancelRead(4)
		}
	}
}

func TestFlowControlDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := tightPair(t, 1000, 4)
		out := must(client.OpenUniStream(t.Context()))(t)
		check(t, out.SetWriteDeadline(time.Now().Add(time.Minute)))
		began := time.Now()
		n, err := out.Write(make([]byte, 1500))
		if n != 1000 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("Write returned %d, %v after %v", n, err, time.Since(began))
		}
		check(t, out.SetWriteDeadline(time.Time{}))
		if err := out.TryWriteAll([]byte("x")); !errors.Is(err, wt.ErrWouldBlock) {
			t.Errorf("TryWriteAll without credit returned %v", err)
		}

		// A write that waits goes on when the deadline is moved, and ends with the
		// session.
		written := make(chan error, 1)
		var writing sync.WaitGroup
		writing.Go(func() {
			_, err := out.Write([]byte("x"))
			written <- err
		})
		synctest.Wait()
		check(t, out.SetWriteDeadline(time.Now().Add(time.Hour)))
		time.Sleep(time.Minute)
		check(t, server.CloseWithError(6, "full"))
		writing.Wait()
		wantSessionError(t, <-written, wt.Peer, 6, "full")
	})
}

func TestFlowControlOnReceiveEnd(t *testing.T) {
	client, server := tightPair(t, 1000, 4)
	out := must(client.OpenUniStream(t.Context()))(t)
	check(t, write(out, "unread"))
	in := must(server.AcceptUniStream(t.Context()))(t)
	ended := make(chan struct{}, 2)
	in.OnReceiveEnd(func() { t.Error("a callback that was replaced ran") })
	in.OnReceiveEnd(func() { ended <- struct{}{} })
	check(t, out.Close())
	<-ended
	in.OnReceiveEnd(func() { ended <- struct{}{} })
	<-ended
}

// A stream left unread that holds most of the window does not stop another.
func TestFlowControlBesideUnread(t *testing.T) {
	client, server := tightPair(t, 10000, 4)
	held := must(client.OpenUniStream(t.Context()))(t)
	must(held.Write(make([]byte, 8000)))(t)
	must(server.AcceptUniStream(t.Context()))(t)

	out := must(client.OpenUniStream(t.Context()))(t)
	b := bytes.Repeat([]byte("0123456789"), 5000)
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := out.Write(b); err == nil {
			_ = out.Close()
		}
	})
	got, err := io.ReadAll(must(server.AcceptUniStream(t.Context()))(t))
	writing.Wait()
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

// The rules of draft-ietf-webtrans-http3-16 §5, with a client made by hand that
// lets the server send 100 bytes and open one stream of each kind.

func flowPeer(t *testing.T, config wt.ServerConfig) (*peer, *quic.Stream, *wt.Session) {
	t.Helper()
	sessions := make(chan *wt.Session, 3)
	config.Handler = accepting(sessions)
	p := dialPeer(t, config)
	p.control(settingsFrame(0x33, 1, 0x2c7cf000, 1, 0x2b61, 100, 0x2b64, 1, 0x2b65, 1))
	stream := p.bidi(connectHead())
	p.wantStatus(stream, "200")
	return p, stream, <-sessions
}

// wantCapsule reads one DATA frame with one capsule of a varint.
func (p *peer) wantCapsule(stream io.Reader, typ, value uint64) {
	p.t.Helper()
	frameType, payload := p.readFrame(stream)
	if want := frame(typ, varints(value)); frameType != 0 || !bytes.Equal(payload, want) {
		p.t.Fatalf("got frame %#x with %x, want DATA with %x", frameType, payload, want)
	}
}

func TestFlowControlSends(t *testing.T) {
	p, connect, session := flowPeer(t, wt.ServerConfig{})
	ctx := t.Context()
	must(p.conn.AcceptUniStream(ctx))(t) // the control stream
	out := must(session.OpenUniStream(ctx))(t)
	written := make(chan error, 1)
	go func() {
		_, err := out.Write(make([]byte, 150))
		written <- err
	}()
	in := must(p.conn.AcceptUniStream(ctx))(t)
	must(io.ReadFull(in, make([]byte, 3+100)))(t)
	p.wantCapsule(connect, 0x190b4d41, 100) // §5.6.5: WT_DATA_BLOCKED
	p.write(connect, data(frame(0x190b4d3d, varints(150))))
	must(io.ReadFull(in, make([]byte, 50)))(t)
	check(t, <-written)

	for _, kind := range []struct {
		blocked, more uint64
		open          func() (io.Writer, error)
	}{
		{0x190b4d44, 0x190b4d40, func() (io.Writer, error) { return session.OpenUniStream(ctx) }},
		{0x190b4d43, 0x190b4d3f, func() (io.Writer, error) { return session.OpenStream(ctx) }},
	} {
		if kind.blocked == 0x190b4d43 {
			must(session.OpenStream(ctx))(t) // the one that is allowed
		}
		opened := make(chan error, 1)
		go func() {
			_, err := kind.open()
			opened <- err
		}()
		p.wantCapsule(connect, kind.blocked, 1)
		p.write(connect, data(frame(kind.more, varints(2))))
		check(t, <-opened)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := session.OpenStream(short); !errors.Is(err, context.Canceled) {
		t.Errorf("OpenStream without allowance returned %v", err)
	}
}

func TestFlowControlGrants(t *testing.T) {
	p, connect, session := flowPeer(t, wt.ServerConfig{MaxSessionData: 1000, MaxIncomingStreams: 10, MaxIncomingUniStreams: 10})
	ctx := t.Context()
	out := p.bidi(append(varints(0x41, 0), make([]byte, 700)...))
	in := must(session.AcceptStream(ctx))(t)
	must(io.ReadFull(in, make([]byte, 700)))(t)
	p.wantCapsule(connect, 0x190b4d3d, 1700)
	// A reset returns what was sent, read or not. The header may be of any length.
	check(t, out.Close())
	for range 5 {
		b := append([]byte{0x40, 0x54, 0x80, 0, 0, 0}, make([]byte, 200)...)
		stream := p.uni(b)
		uni := must(session.AcceptUniStream(ctx))(t)
		uni.CancelRead(0)
		<-stream.Context().Done()
		stream.CancelWrite(0)
	}
	got := make(map[uint64]uint64)
	for len(got) < 2 { // the sum of data, and five of ten streams
		_, payload := p.readFrame(connect)
		r := bytes.NewReader(payload)
		typ := must(readVarint(r))(t)
		must(readVarint(r))(t)
		got[typ] = must(readVarint(r))(t)
	}
	if got[0x190b4d40] != 15 || got[0x190b4d3d] < 2300 || got[0x190b4d3d] > 2700 {
		t.Errorf("limits %v, want 15 streams and 2300 to 2700 bytes", got)
	}
}

func TestFlowControlViolations(t *testing.T) {
	capsules := map[string]struct {
		b    []byte
		code quic.StreamErrorCode
	}{
		"§5.6.4: data limit does not increase":   {frame(0x190b4d3d, varints(100)), h3FlowControl},
		"§5.6.2: stream limit does not increase": {frame(0x190b4d3f, varints(1)), h3FlowControl},
		"§5.6.2: stream limit decreases":         {frame(0x190b4d40, varints(0)), h3FlowControl},
		"§5.6.2: more than 2^60 streams":         {frame(0x190b4d3f, varints(1<<60+1)), h3FlowControl},
		"§5.6.3: blocked above 2^60 streams":     {frame(0x190b4d43, varints(1<<60+1)), h3FlowControl},
		"§5.4: WT_MAX_STREAM_DATA":               {frame(0x190b4d3e, varints(0, 1000)), h3FlowControl},
		"§5.4: WT_STREAM_DATA_BLOCKED":           {frame(0x190b4d42, varints(0, 1000)), h3FlowControl},
		"empty capsule":                          {frame(0x190b4d3d, nil), h3MessageError},
		"long capsule":                           {frame(0x190b4d3d, make([]byte, 9)), h3MessageError},
		"two varints":                            {frame(0x190b4d3d, varints(1, 2)), h3MessageError},
	}
	for name, c := range capsules {
		t.Run(name, func(t *testing.T) {
			p, connect, session := flowPeer(t, wt.ServerConfig{})
			p.write(connect, data(c.b))
			p.wantReset(connect, c.code)
			<-session.Context().Done()
			wantSessionError(t, context.Cause(session.Context()), wt.Us, 0, "")
		})
	}
	t.Run("§5.6.2: one stream too many", func(t *testing.T) {
		// A stream that is over frees QUIC's credit at once, but the session's limit
		// grows by capsule alone, which comes after two of four.
		p, connect, session := flowPeer(t, wt.ServerConfig{MaxIncomingUniStreams: 4})
		for range 3 { // with the control stream, all that QUIC allows
			check(t, p.uni(varints(0x54, 0)).Close())
		}
		for range 3 {
			must(session.AcceptUniStream(t.Context()))(t)
		}
		for range 2 {
			stream := must(p.conn.OpenUniStreamSync(t.Context()))(t)
			must(stream.Write(varints(0x54, 0)))(t)
		}
		p.wantReset(connect, h3FlowControl)
	})
	t.Run("§5.6.4: more data than allowed", func(t *testing.T) {
		p, connect, session := flowPeer(t, wt.ServerConfig{MaxSessionData: 1000})
		check(t, p.uni(append(varints(0x54, 0), make([]byte, 1001)...)).Close())
		p.wantReset(connect, h3FlowControl)
		<-session.Context().Done()
	})
	t.Run("§5.1: ignored where it is not negotiated", func(t *testing.T) {
		p, stream, session := connectPeer(t)
		if _, err := stream.Write(data(frame(0x190b4d3d, varints(0)), frame(0x190b4d44, nil), closeCapsule(5, ""))); err != nil {
			t.Fatal(err)
		}
		<-session.Context().Done()
		wantSessionError(t, context.Cause(session.Context()), wt.Peer, 5, "")
		check(t, p.conn.CloseWithError(h3NoError, ""))
	})
}

// §5.1, §5.2: with flow control a connection carries as many sessions as the
// server allows.
func TestSeveralSessions(t *testing.T) {
	p, first, s1 := flowPeer(t, wt.ServerConfig{MaxSessionsPerConnection: 2})
	second := p.bidi(connectHead())
	p.wantStatus(second, "200")
	p.wantReset(p.bidi(connectHead()), h3RequestRejected)

	// Streams and datagrams find their session.
	p.uni(append(varints(0x54, 0), "first"...))
	b := make([]byte, 5)
	must(io.ReadFull(must(s1.AcceptUniStream(t.Context()))(t), b))(t)
	check(t, p.conn.SendDatagram(append([]byte{0}, "datagram"...)))
	if d := must(s1.ReceiveDatagram(t.Context()))(t); string(d) != "datagram" {
		t.Errorf("datagram %q", d)
	}
	// One ends, the other goes on.
	check(t, first.Close())
	<-s1.Context().Done()
	if _, err := io.ReadAll(first); err != nil {
		t.Error(err)
	}
	p.write(second, data(closeCapsule(1, "")))
	check(t, second.Close())
	if _, err := io.ReadAll(second); err != nil {
		t.Error(err)
	}
}
