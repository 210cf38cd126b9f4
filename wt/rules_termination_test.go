package wt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// endings are the ways in which a session ends while its connection lives (draft
// §6). Those of the package do not wait for the peer.
var endings = map[string]func(*testing.T, *peer, *quic.Stream, *wt.Session){
	"close received": func(t *testing.T, p *peer, connect *quic.Stream, _ *wt.Session) {
		p.write(connect, data(closeCapsule(1, "")))
		check(t, connect.Close())
	},
	"FIN received": func(t *testing.T, _ *peer, connect *quic.Stream, _ *wt.Session) {
		check(t, connect.Close())
	},
	"reset received": func(_ *testing.T, _ *peer, connect *quic.Stream, _ *wt.Session) {
		connect.CancelWrite(0x10c)
	},
	"stop received": func(_ *testing.T, _ *peer, connect *quic.Stream, _ *wt.Session) {
		connect.CancelRead(0x10c)
	},
	"reset and stop received": func(_ *testing.T, _ *peer, connect *quic.Stream, _ *wt.Session) {
		connect.CancelWrite(0x10c)
		connect.CancelRead(0x10c)
	},
	"close sent": func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
		closing(t, session, 1, "")
		p.wantClose(connect, 1, "")
		check(t, connect.Close())
	},
	"close sent, unanswered": func(t *testing.T, _ *peer, _ *quic.Stream, session *wt.Session) {
		closing(t, session, 1, "")
	},
	"rule broken": func(_ *testing.T, p *peer, connect *quic.Stream, _ *wt.Session) {
		p.write(connect, data(closeCapsule(1, "\xff")))
	},
}

// closing closes a session in the background, and waits for it at the test's end.
func closing(t *testing.T, session *wt.Session, code uint32, reason string) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = session.CloseWithError(code, reason)
	}()
	t.Cleanup(func() { <-closed })
}

// wantClose reads capsules up to WT_CLOSE_SESSION, and FIN right after it.
func (p *peer) wantClose(connect io.Reader, code uint32, reason string) {
	p.t.Helper()
	typ, payload := p.readFrame(connect)
	if typ != 0 || !bytes.Equal(payload, closeCapsule(code, reason)) {
		p.t.Fatalf("got frame %#x with %x, want a close with %d and %q", typ, payload, code, reason)
	}
	if rest, err := io.ReadAll(connect); err != nil || len(rest) > 0 {
		p.t.Fatalf("after the close: %x, %v; want FIN", rest, err)
	}
}

// draft §6: when a session ends, both directions of all its streams are reset and
// stopped with WT_SESSION_GONE, and nothing can be opened any more.
func TestStreamsEndWithSession(t *testing.T) {
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				ctx := t.Context()
				check(t, write(must(session.OpenUniStream(ctx))(t), "x"))
				ourUni, _ := p.acceptUni(4)
				check(t, write(must(session.OpenStream(ctx))(t), "x"))
				ourBidi, _ := p.acceptBidi(4)
				theirUni := p.uni(append(varints(0x54, 0), "x"...))
				theirBidi := p.bidi(append(varints(0x41, 0), "x"...))
				must(session.AcceptUniStream(ctx))(t)
				must(session.AcceptStream(ctx))(t)
				untaken := p.bidi(append(varints(0x41, 0), "x"...)) // by the application
				synctest.Wait()

				end(t, p, connect, session)
				if session.Request() == nil && strings.HasPrefix(name, "close sent") {
					// The end of a client's own connection tells as much of its streams.
					p.wantClosed(h3NoError)
					return
				}
				p.wantReset(ourUni, wtSessionGone)
				p.wantReset(ourBidi, wtSessionGone)
				p.wantStopped(ourBidi.Context(), wtSessionGone)
				p.wantStopped(theirUni.Context(), wtSessionGone)
				for _, stream := range []*quic.Stream{theirBidi, untaken} {
					p.wantReset(stream, wtSessionGone)
					p.wantStopped(stream.Context(), wtSessionGone)
				}
				<-session.Context().Done()
				if _, err := session.OpenStream(ctx); !errors.Is(err, wt.ErrSessionClosed) {
					t.Errorf("OpenStream returned %v", err)
				}
				if _, err := session.OpenUniStream(ctx); !errors.Is(err, wt.ErrSessionClosed) {
					t.Errorf("OpenUniStream returned %v", err)
				}
			})
		})
	}
}

// draft §6: a close is a code of 32 bits and a message, and FIN follows at once,
// whatever the peer does.
func TestCloseSent(t *testing.T) {
	long := strings.Repeat("é", 600)
	for name, c := range map[string]struct {
		code         uint32
		reason, sent string
	}{
		"nothing":                    {0, "", ""},
		"code and reason":            {0xffffffff, "because", "because"},
		"1024 bytes":                 {1, strings.Repeat("x", 1024), strings.Repeat("x", 1024)},
		"cut at 1024":                {1, strings.Repeat("x", 1025), strings.Repeat("x", 1024)},
		"cut at 1024, of two bytes":  {1, long, long[:1024]},
		"cut within a character":     {1, "x" + long, "x" + long[:1022]},
		"cut within one of four":     {1, strings.Repeat("x", 1021) + "😀", strings.Repeat("x", 1021)},
		"one of four that fits":      {1, strings.Repeat("x", 1020) + "😀", strings.Repeat("x", 1020) + "😀"},
		"made valid":                 {1, "a\xffb", "a\uFFFDb"},
		"valid only within the peer": {1, "\x00", "\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				if !utf8.ValidString(c.sent) || len(c.sent) > 1024 {
					t.Fatal("the test is wrong")
				}
				began := time.Now()
				closing(t, session, c.code, c.reason)
				p.wantClose(connect, c.code, c.sent)
				if time.Since(began) != 0 {
					t.Errorf("FIN after %v", time.Since(began))
				}
				check(t, connect.Close())
			})
		})
	}
}

// draft §6: the recipient of a close ends its side of the CONNECT stream, before
// or after the closer's FIN, and learns code and message.
func TestCloseReceived(t *testing.T) {
	for name, c := range map[string]struct {
		code   uint32
		reason string
		fin    bool
	}{
		"with FIN":    {0xffffffff, strings.Repeat("é", 512), true},
		"without FIN": {5, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				p.write(connect, data(closeCapsule(c.code, c.reason)))
				<-session.Context().Done()
				wantSessionError(t, context.Cause(session.Context()), wt.Peer, c.code, c.reason)
				if c.fin {
					check(t, connect.Close())
					if rest, err := io.ReadAll(connect); err != nil || len(rest) > 0 {
						t.Errorf("answer %x, %v; want FIN", rest, err)
					}
					return
				}
				p.wantReset(connect, wtSessionGone)
			})
		})
	}
}

// draft §6: a close that is too long, not UTF-8, or cut resets the CONNECT stream
// with H3_MESSAGE_ERROR; so does data after a close.
func TestBadCloses(t *testing.T) {
	for name, b := range map[string][]byte{
		"1025 bytes":              data(closeCapsule(1, strings.Repeat("x", 1025))),
		"2^62-1 bytes":            data(varints(0x2843, 1<<62-1)),
		"not UTF-8":               data(closeCapsule(1, "a\xff")),
		"a character cut":         data(closeCapsule(1, "\xe2\x82")),
		"a surrogate":             data(closeCapsule(1, "\xed\xa0\x80")),
		"three bytes":             data(frame(0x2843, []byte{0, 0, 1})),
		"empty":                   data(frame(0x2843, nil)),
		"then a capsule":          data(closeCapsule(1, ""), frame(0x99, nil)),
		"then a second close":     data(closeCapsule(1, ""), closeCapsule(2, "")),
		"then one byte":           data(closeCapsule(1, ""), []byte{0x80}),
		"then a byte in its DATA": append(data(closeCapsule(1, "")), data([]byte{0})...),
	} {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
				began := time.Now()
				p.write(connect, b)
				p.wantReset(connect, h3MessageError)
				<-session.Context().Done()
				if time.Since(began) != 0 {
					t.Errorf("reset after %v", time.Since(began))
				}
			})
		})
	}
}

// draft §6: a peer that closes may stop reading as well, which does not take code
// and reason from the close, whichever is seen first.
func TestCloseBesideStop(t *testing.T) {
	for _, code := range []quic.StreamErrorCode{wtSessionGone, h3NoError} {
		bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
			connect.CancelRead(code)
			synctest.Wait()
			p.write(connect, data(closeCapsule(9, "done")))
			check(t, connect.Close())
			<-session.Context().Done()
			wantSessionError(t, context.Cause(session.Context()), wt.Peer, 9, "done")
		})
		bothRoles(t, func(t *testing.T, _ *peer, connect *quic.Stream, session *wt.Session) {
			began := time.Now()
			connect.CancelRead(code)
			<-session.Context().Done()
			// A server looks for stops every quarter of a second.
			if took := time.Since(began); took < 2*time.Second || took > 2*time.Second+roused {
				t.Errorf("the session of a stream that was stopped ended after %v, want 2s", took)
			}
			wantSessionError(t, context.Cause(session.Context()), wt.Peer, 0, "")
		})
	}
}

// draft §6: the end of the CONNECT stream without a close is one with code 0.
func TestEndWithoutClose(t *testing.T) {
	bothRoles(t, func(t *testing.T, _ *peer, connect *quic.Stream, session *wt.Session) {
		check(t, connect.Close())
		<-session.Context().Done()
		wantSessionError(t, context.Cause(session.Context()), wt.Peer, 0, "")
		if rest, err := io.ReadAll(connect); err != nil || len(rest) > 0 {
			t.Errorf("answer %x, %v; want FIN", rest, err)
		}
	})
}

// draft §6: who closes waits for the peer's end of the CONNECT stream before the
// connection ends, but not for ever.
func TestCloseAwaitsPeer(t *testing.T) {
	bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
		began := time.Now()
		closed := make(chan time.Duration, 1)
		go func() {
			_ = session.CloseWithError(3, "wait")
			closed <- time.Since(began)
		}()
		p.wantClose(connect, 3, "wait")
		time.Sleep(time.Second)
		if p.conn.Context().Err() != nil || len(closed) > 0 {
			t.Fatal("closed before the peer answered")
		}
		check(t, connect.Close())
		if took := <-closed; took != time.Second {
			t.Errorf("Close returned after %v, want 1s", took)
		}
	})
	for want, o := range map[time.Duration]ruleOptions{
		2 * time.Second:        {},
		300 * time.Millisecond: {server: wt.ServerConfig{CloseTimeout: 300 * time.Millisecond}, dialer: wt.Dialer{CloseTimeout: 300 * time.Millisecond}},
	} {
		bothRolesWith(t, o, func(t *testing.T, _ *peer, _ *quic.Stream, session *wt.Session) {
			began := time.Now()
			check(t, session.CloseWithError(3, "wait"))
			if took := time.Since(began); took != want {
				t.Errorf("Close returned after %v, want %v", took, want)
			}
		})
	}
}

// draft §6, §5.1: a session that ends on a connection that others share, be it the
// client's pool or the last session after GOAWAY, tells so on its own streams and
// leaves the others alone.
func TestPooledSessionEnds(t *testing.T) {
	settings := settingsFrame(8, 1, 0x33, 1, 0x2c7cf000, 1, 0x2b61, 1000, 0x2b64, 10, 0x2b65, 10)
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, pool := listenPool(t, 2)
				control, first := p.accept(t, pool, settings)
				endHang(t, first.peer)
				result := p.dial(pool)
				connect := must(first.peer.conn.AcceptStream(t.Context()))(t)
				first.peer.readHeaders(connect)
				first.peer.write(connect, headers(":status", "200"))
				answer := <-result
				second := must(answer.session, answer.err)(t)
				if second.Conn() != first.session.Conn() {
					t.Fatal("the sessions do not share a connection")
				}
				must(control.Write(frame(7, varints(8))))(t) // and no more requests
				<-second.Draining()

				for _, s := range []struct {
					session *wt.Session
					connect *quic.Stream
				}{{first.session, first.stream}, {second, connect}} {
					id := byte(s.connect.StreamID())
					check(t, write(must(s.session.OpenStream(t.Context()))(t), "x"))
					ours, header := first.peer.acceptBidi(4)
					if header[2] != id {
						t.Fatalf("stream of session %d begins with %x", id, header)
					}
					theirs := first.peer.uni([]byte{0x40, 0x54, id, 'x'})
					must(s.session.AcceptUniStream(t.Context()))(t)
					end(t, first.peer, s.connect, s.session)
					if id != 0 && strings.HasPrefix(name, "close sent") {
						first.peer.wantClosed(h3NoError)
						return
					}
					first.peer.wantReset(ours, wtSessionGone)
					first.peer.wantStopped(theirs.Context(), wtSessionGone)
					<-s.session.Context().Done()
				}
				first.peer.wantClosed(h3NoError)
			})
		})
	}
}
