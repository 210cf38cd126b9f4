package wt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// A server, driven by a client made by hand. Where a rule is tested, its section
// stands beside it; "draft" is draft-ietf-webtrans-http3-16.

// closeCapsule encodes WT_CLOSE_SESSION.
func closeCapsule(code uint32, reason string) []byte {
	return frame(0x2843, append(binary.BigEndian.AppendUint32(nil, code), reason...))
}

// connectPeer returns a client made by hand with a session, its CONNECT stream,
// and the server's end of the session.
func connectPeer(t *testing.T) (*peer, io.ReadWriter, *wt.Session) {
	t.Helper()
	sessions := make(chan *wt.Session, 1)
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
	return p, p.session(), <-sessions
}

// draft §3.1, §5.5, §7.1: what a server declares, so that clients of every draft
// connect.
func TestServerSettings(t *testing.T) {
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), MaxHeaderBytes: 5000, MaxSessionData: 7000, MaxIncomingStreams: 80, MaxIncomingUniStreams: 90})
	stream := must(p.conn.AcceptUniStream(t.Context()))(t)
	if typ := must(readVarint(stream))(t); typ != 0 {
		t.Fatalf("stream of type %#x, want control", typ)
	}
	typ, payload := p.readFrame(stream)
	if typ != 4 {
		t.Fatalf("frame %#x, want SETTINGS", typ)
	}
	got := make(map[uint64]uint64)
	for r := bytes.NewReader(payload); r.Len() > 0; {
		got[must(readVarint(r))(t)] = must(readVarint(r))(t)
	}
	want := map[uint64]uint64{6: 5000, 8: 1, 0x33: 1, 0x2b603742: 1, 0xc671706a: 1, 0x14e9cd29: 1, 0x2c7cf000: 1,
		0x2b61: 7000, 0x2b65: 80, 0x2b64: 90}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("SETTINGS %x, want %x", got, want)
	}
	if !p.conn.ConnectionState().SupportsStreamResetPartialDelivery.Remote {
		t.Error("transport parameter reset_stream_at is missing")
	}
}

func readVarint(r io.Reader) (uint64, error) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(r, first); err != nil {
		return 0, err
	}
	rest := make([]byte, 1<<(first[0]>>6)-1)
	_, err := io.ReadFull(r, rest)
	v := uint64(first[0] & 0x3f)
	for _, c := range rest {
		v = v<<8 | uint64(c)
	}
	return v, err
}

// draft §7.1: clients of every draft are recognised by settings and token.
func TestDraftsOfClients(t *testing.T) {
	cases := map[string]struct {
		settings []uint64
		token    string
		draft    wt.Draft
	}{
		"Chromium":       {[]uint64{1, 65536, 7, 100, 0x33, 1, 0x2b603742, 1, 0xffd277, 1}, "webtransport", wt.Draft02},
		"no declaration": {[]uint64{0x33, 1}, "webtransport", wt.Draft02},
		"-07":            {[]uint64{0x33, 1, 0xc671706a, 1}, "webtransport", wt.Draft07},
		"-14":            {[]uint64{0x33, 1, 0x14e9cd29, 1}, "webtransport", wt.Draft14},
		"-16":            {[]uint64{0x33, 1, 0x2c7cf000, 1}, "webtransport-h3", wt.Draft16},
		"both tokens":    {[]uint64{0x33, 1, 0x14e9cd29, 1, 0x2c7cf000, 1}, "webtransport", wt.Draft14},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sessions := make(chan *wt.Session, 1)
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
			p.control(settingsFrame(c.settings...))
			stream := p.bidi(headers(":method", "CONNECT", ":scheme", "https", ":authority", "localhost", ":path", "/",
				":protocol", c.token, "sec-webtransport-http3-draft02", "1"))
			answer := p.readHeaders(stream)
			if answer[":status"] != "200" {
				t.Fatalf("answer %v", answer)
			}
			if c.draft == wt.Draft02 && answer["sec-webtransport-http3-draft"] != "draft02" {
				t.Errorf("answer %v lacks the draft", answer)
			}
			if s := <-sessions; s.Draft() != c.draft {
				t.Errorf("draft %v, want %v", s.Draft(), c.draft)
			}
		})
	}
}

// A connection without a request is closed.
func TestHandshakeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), HandshakeTimeout: 4 * time.Second})
		began := time.Now()
		p.control(usualSettings())
		p.wantClosed(h3NoError)
		if took := time.Since(began); took < 4*time.Second || took > 5*time.Second {
			t.Errorf("closed after %v, want 4s", took)
		}
	})
}

// Requests that are not for WebTransport, and malformed ones (RFC 9114 §4, draft
// §3.2).
func TestOtherRequests(t *testing.T) {
	answered := map[string]struct {
		fields []string
		status string
	}{
		"GET":               {[]string{":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/"}, "404"},
		"plain CONNECT":     {[]string{":method", "CONNECT", ":authority", "localhost:22"}, "405"},
		"unknown :protocol": {[]string{":method", "CONNECT", ":scheme", "https", ":authority", "localhost", ":path", "/", ":protocol", "websocket"}, "501"},
		"fields too large":  {[]string{":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/", "x", strings.Repeat("x", 17000)}, "431"},
		"many fields": {append([]string{":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/"},
			slices.Repeat([]string{"x", "y"}, 500)...), "431"},
	}
	for name, c := range answered {
		t.Run(name, func(t *testing.T) {
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
			p.control(usualSettings())
			stream := p.bidi(headers(c.fields...))
			p.wantStatus(stream, c.status)
			if rest, err := io.ReadAll(stream); err != nil || len(rest) != 0 {
				t.Errorf("after the answer: %x, %v", rest, err)
			}
		})
	}
	malformed := map[string][]string{
		"uppercase name":            {":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/", "X-Up", "1"},
		"pseudo-header twice":       {":method", "GET", ":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/"},
		"pseudo-header after field": {":method", "GET", ":scheme", "https", "x", "1", ":authority", "localhost", ":path", "/"},
		"unknown pseudo-header":     {":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/", ":x", "1"},
		"connection field":          {":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/", "connection", "close"},
		"te":                        {":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/", "te", "gzip"},
		"no path":                   {":method", "GET", ":scheme", "https", ":authority", "localhost"},
		"no method":                 {":scheme", "https", ":authority", "localhost", ":path", "/"},
		"no authority":              {":method", "GET", ":scheme", "https", ":path", "/"},
		"host differs":              {":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/", "host", "other"},
		":protocol with GET":        {":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/", ":protocol", "webtransport"},
		"CONNECT with path":         {":method", "CONNECT", ":authority", "localhost", ":path", "/"},
		"line break in value":       {":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/", "x", "a\nb"},
		"scheme http":               {":method", "CONNECT", ":scheme", "http", ":authority", "localhost", ":path", "/", ":protocol", "webtransport"},
		"path without slash":        {":method", "CONNECT", ":scheme", "https", ":authority", "localhost", ":path", "x", ":protocol", "webtransport"},
		"path with bad escape":      {":method", "CONNECT", ":scheme", "https", ":authority", "localhost", ":path", "/%zz", ":protocol", "webtransport"},
	}
	for name, fields := range malformed {
		t.Run(name, func(t *testing.T) {
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
			p.control(usualSettings())
			p.wantReset(p.bidi(headers(fields...)), h3MessageError)
		})
	}
}

// draft §6: the ways in which a CONNECT stream ends a session.
func TestConnectStreamEnds(t *testing.T) {
	t.Run("FIN alone", func(t *testing.T) {
		sessions := make(chan *wt.Session, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
		stream := p.session()
		check(t, stream.Close())
		session := <-sessions
		<-session.Context().Done()
		wantSessionError(t, context.Cause(session.Context()), wt.Peer, 0, "")
		if rest, err := io.ReadAll(stream); err != nil || len(rest) != 0 {
			t.Errorf("server's side ended with %x, %v; want FIN", rest, err)
		}
	})
	t.Run("reset", func(t *testing.T) {
		sessions := make(chan *wt.Session, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
		stream := p.session()
		stream.CancelWrite(0x10c)
		session := <-sessions
		<-session.Context().Done()
		wantSessionError(t, context.Cause(session.Context()), wt.Peer, 0, "")
		p.wantReset(stream, wtSessionGone)
	})
	t.Run("server's close unanswered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sessions := make(chan *wt.Session, 1)
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
			stream := p.session()
			session := <-sessions
			began := time.Now()
			check(t, session.CloseWithError(7, "answer me"))
			if time.Since(began) != 2*time.Second {
				t.Errorf("Close returned after %v, want 2s", time.Since(began))
			}
			typ, payload := p.readFrame(stream)
			if typ != 0 || !bytes.Equal(payload, closeCapsule(7, "answer me")) {
				t.Errorf("got frame %#x with %x", typ, payload)
			}
			p.wantStopped(stream.Context(), wtSessionGone)
		})
	})
	// The close comes before anything that could make a browser drop it.
	t.Run("order of the server's close", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sessions := make(chan *wt.Session, 1)
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
			stream := p.session()
			session := <-sessions
			open := must(session.OpenStream(t.Context()))(t)
			check(t, write(open, "x"))
			theirs := must(p.conn.AcceptStream(t.Context()))(t)
			closed := make(chan error, 1)
			go func() { closed <- session.CloseWithError(7, "") }()
			p.readFrame(stream)
			if n, err := stream.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("after the capsule: %d bytes, %v; want FIN", n, err)
			}
			if stream.Context().Err() != nil || theirs.Context().Err() != nil {
				t.Error("a stream was stopped before the peer answered the close")
			}
			check(t, stream.Close())
			check(t, <-closed)
			p.wantStopped(theirs.Context(), wtSessionGone)
			p.wantReset(theirs, wtSessionGone)
		})
	})
}

// draft §4.6: what arrives before its session waits for it, within limits.
func TestArrivesBeforeSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sessions := make(chan *wt.Session, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions), MaxPendingStreams: 3, MaxPendingDatagrams: 2})
		p.control(usualSettings())
		connect := must(p.conn.OpenStream())(t) // id 0, not yet sent
		p.bidi(append(varints(0x41, 0), "first"...))
		synctest.Wait()
		p.uni(append(varints(0x54, 0), "second"...))
		synctest.Wait()
		p.bidi(append(varints(0x41, 0), "third"...))
		synctest.Wait()
		excess := p.bidi(append(varints(0x41, 0), "fourth"...))
		p.wantReset(excess, wtBufferedRejected)
		p.wantStopped(excess.Context(), wtBufferedRejected)
		for _, text := range []string{"one", "two", "three"} {
			check(t, p.conn.SendDatagram(append([]byte{0}, text...)))
			synctest.Wait()
		}

		p.write(connect, connectHead())
		p.wantStatus(connect, "200")
		session := <-sessions
		ctx := t.Context()
		got := make(map[string]bool)
		for range 2 {
			b := make([]byte, 10)
			n := must(must(session.AcceptStream(ctx))(t).Read(b))(t)
			got[string(b[:n])] = true
		}
		b := make([]byte, 10)
		n := must(must(session.AcceptUniStream(ctx))(t).Read(b))(t)
		got[string(b[:n])] = true
		if !got["first"] || !got["second"] || !got["third"] {
			t.Errorf("streams %v", got)
		}
		for _, want := range []string{"one", "two"} {
			if d := must(session.ReceiveDatagram(ctx))(t); string(d) != want {
				t.Errorf("datagram %q, want %q", d, want)
			}
		}
		check(t, p.conn.SendDatagram(append([]byte{0}, "four"...)))
		if d := must(session.ReceiveDatagram(ctx))(t); string(d) != "four" {
			t.Errorf("datagram %q after the excess one, want %q", d, "four")
		}
	})
}

// draft §4.6: a stream whose session does not come is refused at a deadline.
func TestSessionNeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil), StreamHeaderTimeout: 3 * time.Second})
		p.control(usualSettings())
		began := time.Now()
		p.wantReset(p.bidi(varints(0x41, 400)), wtBufferedRejected)
		if time.Since(began) != 3*time.Second {
			t.Errorf("refused after %v, want 3s", time.Since(began))
		}
	})
}

// draft §6: streams of a session that has ended, or was refused, are told so.
func TestSessionGone(t *testing.T) {
	p, stream, session := connectPeer(t)
	open := p.bidi(append(varints(0x41, 0), "x"...))
	must(session.AcceptStream(t.Context()))(t)
	if _, err := stream.Write(data(closeCapsule(0, ""))); err != nil {
		t.Fatal(err)
	}
	check(t, stream.(io.Closer).Close())
	p.wantReset(open, wtSessionGone)
	p.wantStopped(open.Context(), wtSessionGone)
	p.wantReset(p.bidi(append(varints(0x41, 0), "late"...)), wtSessionGone)

	t.Run("refused", func(t *testing.T) {
		release := make(chan struct{})
		p := dialPeer(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(context.Context, *wt.Request) { <-release })})
		p.control(usualSettings())
		request := p.bidi(connectHead())
		early := p.bidi(append(varints(0x41, 0), "x"...))
		close(release)
		p.wantStatus(request, "404")
		p.wantReset(early, wtSessionGone)
	})
}

// RFC 9114 §6.2: a stream that stalls before or within its header blocks no other, and is
// refused at a deadline.
func TestStalledHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sessions := make(chan *wt.Session, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
		p.session()
		session := <-sessions
		began := time.Now()
		stalled := p.bidi([]byte{0x40}) // half of the signal
		stalledUni := p.uni([]byte{0x40})
		stalledRequest := p.bidi(varints(1, 100)) // HEADERS without its payload
		p.bidi(append(varints(0x41, 0), "on time"...))
		b := make([]byte, 10)
		n := must(must(session.AcceptStream(t.Context()))(t).Read(b))(t)
		if string(b[:n]) != "on time" || time.Since(began) != 0 {
			t.Errorf("read %q after %v", b[:n], time.Since(began))
		}
		p.wantReset(stalled, h3RequestIncomplete)
		p.wantStopped(stalledUni.Context(), h3StreamCreation)
		p.wantReset(stalledRequest, h3RequestIncomplete)
		if time.Since(began) != 5*time.Second {
			t.Errorf("refused after %v, want 5s", time.Since(began))
		}
	})
}

// RFC 9114 §4.1.1: a client that loses interest before the answer, or its connection, ends the
// handler's context, and then nothing can be answered.
func TestRequestAbandoned(t *testing.T) {
	for name, c := range map[string]struct {
		abandon func(*peer, *quic.Stream)
		by      wt.Party
	}{
		"stream":     {func(_ *peer, stream *quic.Stream) { stream.CancelRead(0x10c) }, wt.Peer},
		"connection": {func(p *peer, _ *quic.Stream) { _ = p.conn.CloseWithError(h3NoError, "") }, wt.Transport},
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 3)
			p := dialPeer(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
				ended <- nil
				<-ctx.Done()
				ended <- context.Cause(ctx)
				_, err := r.Accept(nil)
				ended <- err
			})})
			p.control(usualSettings())
			stream := p.bidi(connectHead())
			<-ended
			c.abandon(p, stream)
			wantSessionError(t, <-ended, c.by, 0, "")
			wantSessionError(t, <-ended, c.by, 0, "")
		})
	}
}
