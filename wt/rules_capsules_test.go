package wt_test

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// RFC 9297 §3.2: capsules are read off the payloads of all DATA frames, wherever
// these are cut, and unknown ones are skipped, of any length and as they come.
func TestCapsules(t *testing.T) {
	closing := closeCapsule(42, "cut in pieces")
	each := make([][]byte, 0, len(closing))
	for i := range closing {
		each = append(each, data(closing[i:i+1]))
	}
	cases := map[string][]byte{
		"one DATA":             data(closing),
		"a DATA for each byte": bytes.Join(each, nil),
		"empty DATA between":   bytes.Join([][]byte{data(closing[:3]), data(), frame(0x40, []byte("unknown")), data(closing[3:])}, nil),
		"unknown of 1 MB":      data(frame(0x1234567, make([]byte, 1<<20)), closing),
		"unknown over DATA":    bytes.Join([][]byte{data(varints(0x99, 10), make([]byte, 4)), data(make([]byte, 6), closing)}, nil),
		"empty unknown":        data(frame(0x99, nil), frame(0x99, nil), closing),
		"GREASE first":         data(frame(0x17+0x29*9, []byte("grease")), closing),
		"long varints":         data([]byte{0xc0, 0, 0, 0, 0, 0, 0x28, 0x43, 0x80, 0, 0, byte(len(closing) - 3)}, closing[3:]),
		"DATAGRAM":             data(frame(0, []byte("dropped")), closing),
		"frame of GREASE":      append(frame(0x21+0x1f*5, make([]byte, 3000)), data(closing)...),
	}
	for name, b := range cases {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				p.write(connect, b)
				<-session.Context().Done()
				wantSessionError(t, context.Cause(session.Context()), wt.Peer, 42, "cut in pieces")
			})
		})
	}
}

// RFC 9297 §3.3: a capsule holds its fields and nothing else, and is whole when
// the stream ends; else the CONNECT stream is reset with H3_MESSAGE_ERROR.
func TestMalformedCapsules(t *testing.T) {
	cases := map[string]struct {
		b   []byte
		fin bool
	}{
		"end within a value":  {b: data(varints(0x99, 100), make([]byte, 50)), fin: true},
		"end within a length": {b: data(varints(0x99), []byte{0x80}), fin: true},
		"end before a length": {b: data(varints(0x99)), fin: true},
		"end within a type":   {b: data([]byte{0x80}), fin: true},
		"end within a close":  {b: data(varints(0x2843, 10), make([]byte, 9)), fin: true},
		"DRAIN with a value":  {b: data(frame(0x78ae, []byte{0}))},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				p.write(connect, c.b)
				if c.fin {
					check(t, connect.Close())
				}
				p.wantReset(connect, h3MessageError)
				<-session.Context().Done()
				wantSessionError(t, context.Cause(session.Context()), wt.Us, 0, "")
			})
		})
	}
}

// RFC 9114 §4.4, RFC 9220 §3: after the headers of a CONNECT there is DATA alone.
// What else is known there ends the connection.
func TestConnectStreamErrors(t *testing.T) {
	cases := map[string]struct {
		b    []byte
		fin  bool
		code uint64
	}{
		"RFC 9114 §4.4: HEADERS":            {b: headers("x", "y"), code: h3FrameUnexpected},
		"RFC 9114 §7.2.3: CANCEL_PUSH":      {b: frame(3, varints(0)), code: h3FrameUnexpected},
		"RFC 9114 §7.2.4: SETTINGS":         {b: usualSettings(), code: h3FrameUnexpected},
		"RFC 9114 §7.2.5: PUSH_PROMISE":     {b: frame(5, varints(0)), code: h3FrameUnexpected},
		"RFC 9114 §7.2.6: GOAWAY":           {b: frame(7, varints(0)), code: h3FrameUnexpected},
		"RFC 9114 §7.2.7: MAX_PUSH_ID":      {b: frame(13, varints(0)), code: h3FrameUnexpected},
		"RFC 9114 §7.2.8: frame of HTTP/2":  {b: frame(6, nil), code: h3FrameUnexpected},
		"RFC 9114 §7.1: end in a frame":     {b: varints(0, 10), fin: true, code: h3FrameError},
		"RFC 9114 §7.1: end before content": {b: varints(0), fin: true, code: h3FrameError},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				p.write(connect, c.b)
				if c.fin {
					check(t, connect.Close())
				}
				p.wantClosed(quicCode(c.code))
				<-session.Context().Done()
			})
		})
	}
}

// draft §3.2: what a client sends before the answer is no capsule until the
// session is accepted, and nothing at all if it is not.
func TestCapsulesBeforeAnswer(t *testing.T) {
	early := data(frame(0x78ae, nil), closeCapsule(6, "early"))
	malformed := headers("x", "y") // on the CONNECT stream of a session
	t.Run("accepted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			requests, answer, sessions := make(chan *wt.Request, 1), make(chan struct{}), make(chan *wt.Session, 1)
			p := dialPeer(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
				requests <- r
				<-answer
				if ctx.Err() != nil {
					t.Errorf("the request ended before its answer: %v", context.Cause(ctx))
				}
				session, err := r.Accept(nil)
				check(t, err)
				sessions <- session
				<-ctx.Done()
			})})
			p.control(usualSettings())
			connect := p.bidi(append(connectHead(), early...))
			check(t, connect.Close())
			<-requests
			time.Sleep(time.Minute)
			close(answer)
			p.wantStatus(connect, "200")
			session := <-sessions
			<-session.Draining()
			<-session.Context().Done()
			wantSessionError(t, context.Cause(session.Context()), wt.Peer, 6, "early")
		})
	})
	for name, b := range map[string][]byte{"close": early, "malformed": malformed, "cut": {0, 100, 1}} {
		t.Run("rejected, "+name, func(t *testing.T) {
			p := dialPeer(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) { _ = r.Reject(403, nil) })})
			p.control(usualSettings())
			p.wantStatus(p.bidi(append(connectHead(), b...)), "403")
			// The connection is none the worse for it.
			p.wantStatus(p.bidi(connectHead()), "403")
		})
	}
}

// draft §3.2, RFC 9297 §3.4: the field Capsule-Protocol is not needed, and says
// nothing, whatever its value.
func TestCapsuleProtocolField(t *testing.T) {
	for _, value := range []string{"?1", "?0", "1", "?1, ?1", "a;b=("} {
		sessions := make(chan *wt.Session, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
		p.control(usualSettings())
		p.wantStatus(p.bidi(connectHead("capsule-protocol", value)), "200")
		<-sessions

		_, stream, result := answerPeer(t, wt.Dialer{})
		must(stream.Write(headers(":status", "200", "capsule-protocol", value)))(t)
		if answer := <-result; answer.err != nil {
			t.Errorf("Capsule-Protocol %q: %v", value, answer.err)
		}
	}
}

// RFC 9297 §3.2: capsules do not follow a message with content, so fields that
// describe it make the message malformed, and are not sent.
func TestContentFields(t *testing.T) {
	for name, value := range map[string]string{"content-length": "0", "content-type": "text/plain", "transfer-encoding": "chunked"} {
		t.Run(name, func(t *testing.T) {
			p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
			p.control(usualSettings())
			p.wantReset(p.bidi(connectHead(name, value)), h3MessageError)

			p, stream, result := answerPeer(t, wt.Dialer{})
			p.write(stream, headers(":status", "200", name, value))
			p.wantClosed(h3MessageError)
			if (<-result).err == nil {
				t.Error("dial succeeded")
			}

			header := http.Header{}
			header.Set(name, value)
			refused := make(chan error, 1)
			p = dialPeer(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
				_, err := r.Accept(&wt.AcceptOptions{Header: header})
				refused <- err
			})})
			p.control(usualSettings())
			p.wantStatus(p.bidi(connectHead()), "404")
			if <-refused == nil {
				t.Error("Accept took the field")
			}
			if _, err := (&wt.Dialer{Header: header}).Dial(t.Context(), serverURL); err == nil || !strings.Contains(strings.ToLower(err.Error()), name) {
				t.Errorf("dial with the field returned %v", err)
			}
		})
	}
}
