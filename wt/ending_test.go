package wt_test

import (
	"context"
	"errors"
	"testing"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// Each way to end a session, and what either side knows of it.
func TestEndings(t *testing.T) {
	for name, c := range map[string]struct {
		end   func(*wt.Session) error
		here  wt.SessionError
		there wt.SessionError
	}{
		"close": {
			func(s *wt.Session) error { return s.CloseWithError(7, "seven") },
			wt.SessionError{Code: 7, Reason: "seven", By: wt.Us, Via: wt.ViaCapsule},
			wt.SessionError{Code: 7, Reason: "seven", By: wt.Peer, Remote: true, Via: wt.ViaCapsule},
		},
		"finish": {
			(*wt.Session).Finish,
			wt.SessionError{By: wt.Us, Via: wt.ViaFIN},
			wt.SessionError{By: wt.Peer, Remote: true, Via: wt.ViaFIN},
		},
		"reset": {
			func(s *wt.Session) error { return s.Reset(0x102) },
			wt.SessionError{By: wt.Us, Via: wt.ViaReset, HTTPCode: 0x102},
			wt.SessionError{By: wt.Peer, Remote: true, Via: wt.ViaReset, HTTPCode: 0x102},
		},
		"connection": {
			func(s *wt.Session) error { return s.CloseConnection(0x1234, "why") },
			wt.SessionError{Reason: "why", By: wt.Us, Via: wt.ViaConnection, HTTPCode: 0x1234},
			wt.SessionError{By: wt.Transport, Via: wt.ViaConnection, HTTPCode: 0x1234},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, side := range []string{"client", "server"} {
				t.Run(side, func(t *testing.T) {
					ending, other := wttest.Pair(t)
					if side == "server" {
						ending, other = other, ending
					}
					check(t, c.end(ending))
					<-other.Context().Done()
					wantEnding(t, context.Cause(ending.Context()), c.here)
					wantEnding(t, context.Cause(other.Context()), c.there)
					// A second end of any kind changes nothing.
					check(t, ending.CloseWithError(1, "again"))
					check(t, ending.Finish())
					check(t, ending.Reset(1))
					wantEnding(t, context.Cause(ending.Context()), c.here)
				})
			}
		})
	}
	client, _ := wttest.Pair(t)
	if err := client.Reset(1 << 62); err == nil || context.Cause(client.Context()) != nil {
		t.Errorf("a reset with a code that QUIC cannot carry gave %v", err)
	}
	if err := client.CloseConnection(1<<62, ""); err == nil || context.Cause(client.Context()) != nil {
		t.Errorf("a close of the connection with a code that QUIC cannot carry gave %v", err)
	}
}

func wantEnding(t *testing.T, err error, want wt.SessionError) {
	t.Helper()
	var got *wt.SessionError
	if !errors.As(err, &got) {
		t.Fatalf("got error %v, want a *SessionError", err)
	}
	bare := *got
	bare.Err = nil
	if bare != want {
		t.Errorf("session ended with %+v, want %+v", bare, want)
	}
	if !errors.Is(err, wt.ErrSessionClosed) {
		t.Errorf("%v does not match ErrSessionClosed", err)
	}
}

// Codes of HTTP/3 on streams arrive as they are, and are none of an application.
func TestHTTPCodesOnStreams(t *testing.T) {
	client, server := wttest.Pair(t)
	stream := must(client.OpenStream(t.Context()))(t)
	check(t, write(stream, "x"))
	accepted := must(server.AcceptStream(t.Context()))(t)
	accepted.CancelReadHTTP(0x10c)
	accepted.CancelWriteHTTP(0x1<<63 | 0x102) // the uppermost bits do not fit
	wantCancelled := func(err error, code uint64) {
		t.Helper()
		var cancelled *wt.StreamError
		if !errors.As(err, &cancelled) || cancelled.HTTPCode != code || cancelled.IsApplication() || !cancelled.Remote {
			t.Errorf("got %v, want HTTP/3 code %#x of the peer", err, code)
		}
	}
	_, err := stream.Read(make([]byte, 1))
	wantCancelled(err, 0x102)
	<-stream.Context().Done()
	_, err = stream.Write([]byte("x"))
	wantCancelled(err, 0x10c)

	out := must(server.OpenUniStream(t.Context()))(t)
	check(t, write(out, "x"))
	in := must(client.AcceptUniStream(t.Context()))(t)
	in.CancelReadHTTP(0x33)
	<-out.Context().Done()
	_, err = out.Write([]byte("x"))
	wantCancelled(err, 0x33)
}
