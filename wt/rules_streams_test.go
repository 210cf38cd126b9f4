package wt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"

	"github.com/tidewire/tidewire/wt"
)

// draft §4.2, §4.3: a stream begins with 0x54 or 0x41 and the session's id, both
// of which a peer may encode at any length, and the rest is the application's.
func TestStreamHeaders(t *testing.T) {
	bothRoles(t, func(t *testing.T, p *peer, _ *quic.Stream, session *wt.Session) {
		ctx := t.Context()
		out := must(session.OpenUniStream(ctx))(t)
		check(t, write(out, "uni"))
		if _, b := p.acceptUni(6); !bytes.Equal(b, []byte("\x40\x54\x00uni")) {
			t.Errorf("unidirectional stream begins with %x", b)
		}
		both := must(session.OpenStream(ctx))(t)
		check(t, write(both, "bidi"))
		if _, b := p.acceptBidi(7); !bytes.Equal(b, []byte("\x40\x41\x00bidi")) {
			t.Errorf("bidirectional stream begins with %x", b)
		}
		for _, header := range []string{"\x40%\x00", "\x80\x00\x00%\x40\x00", "\xc0\x00\x00\x00\x00\x00\x00%\xc0\x00\x00\x00\x00\x00\x00\x00"} {
			typed := func(typ string) []byte { return bytes.ReplaceAll([]byte(header), []byte("%"), []byte(typ)) }
			check(t, p.uni(append(typed("\x54"), "uni"...)).Close())
			if b, err := io.ReadAll(must(session.AcceptUniStream(ctx))(t)); err != nil || string(b) != "uni" {
				t.Errorf("header %x: read %q, %v", typed("\x54"), b, err)
			}
			check(t, p.bidi(append(typed("\x41"), "bidi"...)).Close())
			if b, err := io.ReadAll(must(session.AcceptStream(ctx))(t)); err != nil || string(b) != "bidi" {
				t.Errorf("header %x: read %q, %v", typed("\x41"), b, err)
			}
		}
		// A stream of header and FIN alone is one.
		check(t, p.uni(varints(0x54, 0)).Close())
		if b, err := io.ReadAll(must(session.AcceptUniStream(ctx))(t)); err != nil || len(b) != 0 {
			t.Errorf("empty stream: read %q, %v", b, err)
		}
	})
}

// draft §4: a session's id is that of a client-initiated bidirectional stream.
func TestSessionIDs(t *testing.T) {
	for _, id := range []uint64{1, 2, 3, 4*1000 + 1, 1<<62 - 1} {
		bothRoles(t, func(_ *testing.T, p *peer, _ *quic.Stream, session *wt.Session) {
			p.uni(varints(0x54, id))
			p.wantClosed(h3IDError)
			<-session.Context().Done()
		})
		bothRoles(t, func(_ *testing.T, p *peer, _ *quic.Stream, session *wt.Session) {
			p.bidi(varints(0x41, id))
			p.wantClosed(h3IDError)
			<-session.Context().Done()
		})
	}
}

// draft §4: the id of a session that is over is no error; what names it is told
// that the session is gone (§6). RFC 9297 §2.1: a datagram is dropped in silence.
func TestIDOfEndedSession(t *testing.T) {
	sessions := make(chan *wt.Session, 2)
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
	connect := p.session()
	first := <-sessions
	check(t, connect.Close())
	<-first.Context().Done()
	must(io.ReadAll(connect))(t)

	bidi := p.bidi(append(varints(0x41, 0), "late"...))
	p.wantReset(bidi, wtSessionGone)
	p.wantStopped(bidi.Context(), wtSessionGone)
	p.wantStopped(p.uni(append(varints(0x54, 0), "late"...)).Context(), wtSessionGone)
	check(t, p.conn.SendDatagram([]byte("\x00late")))

	// The connection goes on, and the datagram is nobody else's.
	connect = p.bidi(connectHead())
	p.wantStatus(connect, "200")
	second := <-sessions
	check(t, p.conn.SendDatagram(append(varints(uint64(connect.StreamID()/4)), "on time"...)))
	if b := must(second.ReceiveDatagram(t.Context()))(t); string(b) != "on time" {
		t.Errorf("datagram %q", b)
	}
}

// draft §4.3: the signal of a bidirectional stream anywhere but at its start is a
// connection error.
func TestStreamSignalElsewhere(t *testing.T) {
	signal := varints(0x41, 0)
	t.Run("on the CONNECT stream", func(t *testing.T) {
		bothRoles(t, func(_ *testing.T, p *peer, connect *quic.Stream, _ *wt.Session) {
			p.write(connect, signal)
			p.wantClosed(h3FrameError)
		})
	})
	t.Run("after another frame on the CONNECT stream", func(t *testing.T) {
		bothRoles(t, func(_ *testing.T, p *peer, connect *quic.Stream, _ *wt.Session) {
			p.write(connect, append(data(frame(0x1234, nil)), signal...))
			p.wantClosed(h3FrameError)
		})
	})
	t.Run("after another frame on a request stream", func(t *testing.T) {
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
		p.bidi(append(frame(0x21, nil), signal...))
		p.wantClosed(h3FrameError)
	})
	t.Run("in place of an answer", func(t *testing.T) {
		p, stream, result := answerPeer(t, wt.Dialer{})
		p.write(stream, signal)
		p.wantClosed(h3FrameError)
		if (<-result).err == nil {
			t.Error("dial succeeded")
		}
	})
	t.Run("on a server's control stream", func(t *testing.T) {
		p, result := listenPeer(t.Context(), t, wt.Dialer{})
		p.uni(append(append(varints(0), serverSettings()...), signal...))
		p.wantClosed(h3FrameError)
		if answer := <-result; answer.err == nil {
			<-answer.session.Context().Done()
		}
	})
	t.Run("on a client's control stream", func(t *testing.T) {
		p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
		p.uni(append(append(varints(0), usualSettings()...), signal...))
		p.wantClosed(h3FrameError)
	})
}

// codesOnWire are codes of applications, and what §4.4 of the draft makes of
// them: 30 skips the reserved 0x52e4a40fa8f9.
var codesOnWire = map[uint32]quic.StreamErrorCode{
	0:          0x52e4a40fa8db,
	1:          0x52e4a40fa8dc,
	29:         0x52e4a40fa8f8,
	30:         0x52e4a40fa8fa,
	59:         0x52e4a40fa917,
	60:         0x52e4a40fa919,
	1 << 31:    0x52e52853ed1f,
	0xffffffff: 0x52e5ac983162,
}

// draft §4.4: resets and stops carry the application's code unchanged, in the
// range that is set aside for them.
func TestStreamCodes(t *testing.T) {
	for code, wire := range codesOnWire {
		bothRoles(t, func(t *testing.T, p *peer, _ *quic.Stream, session *wt.Session) {
			ctx := t.Context()
			// Ours.
			out := must(session.OpenStream(ctx))(t)
			check(t, write(out, "x"))
			theirs, _ := p.acceptBidi(4)
			out.CancelWrite(code)
			out.CancelRead(code)
			p.wantReset(theirs, wire)
			p.wantStopped(theirs.Context(), wire)

			// Theirs.
			in := p.bidi(append(varints(0x41, 0), "x"...))
			ours := must(session.AcceptStream(ctx))(t)
			must(ours.Read(make([]byte, 1)))(t)
			in.CancelWrite(wire)
			in.CancelRead(wire)
			_, err := ours.Read(make([]byte, 1))
			wantStreamError(t, err, true, code)
			<-ours.Context().Done()
			_, err = ours.Write([]byte("x"))
			wantStreamError(t, err, true, code)

			uni := p.uni(append(varints(0x54, 0), "x"...))
			in2 := must(session.AcceptUniStream(ctx))(t)
			in2.CancelRead(code)
			p.wantStopped(uni.Context(), wire)
			out2 := must(session.OpenUniStream(ctx))(t)
			check(t, write(out2, "x"))
			uni2, _ := p.acceptUni(4)
			uni2.CancelRead(wire)
			<-out2.Context().Done()
			_, err = out2.Write([]byte("x"))
			wantStreamError(t, err, true, code)
		})
	}
}

// draft §4.4: a code outside the range, or reserved within it, still resets or
// stops the stream, without an application's code.
func TestForeignStreamCodes(t *testing.T) {
	foreign := []quic.StreamErrorCode{0, h3NoError, 0x10c, wtFirstCode - 1, wtFirstCode + 0x1e, wtLastCode + 1, 1<<62 - 1}
	for _, wire := range foreign {
		bothRoles(t, func(t *testing.T, p *peer, _ *quic.Stream, session *wt.Session) {
			in := p.bidi(append(varints(0x41, 0), "x"...))
			ours := must(session.AcceptStream(t.Context()))(t)
			must(ours.Read(make([]byte, 1)))(t)
			in.CancelWrite(wire)
			in.CancelRead(wire)
			_, readErr := ours.Read(make([]byte, 1))
			<-ours.Context().Done()
			_, writeErr := ours.Write([]byte("x"))
			for _, err := range []error{readErr, writeErr} {
				var cancelled *wt.StreamError
				if !errors.As(err, &cancelled) || cancelled.IsApplication() || cancelled.Code != 0 ||
					cancelled.HTTPCode != uint64(wire) || !cancelled.Remote {
					t.Errorf("code %#x arrived as %#v", uint64(wire), err)
				}
			}
			if err := context.Cause(session.Context()); err != nil {
				t.Errorf("the session ended with %v", err)
			}
		})
	}
}

const (
	wtFirstCode = 0x52e4a40fa8db
	wtLastCode  = 0x52e5ac983162
)

// draft §4.4: a reset leaves the stream's header to be delivered. The frames are
// RESET_STREAM_AT, with a reliable size of the header at least.
func TestReliableResets(t *testing.T) {
	bothRoles(t, func(t *testing.T, p *peer, _ *quic.Stream, session *wt.Session) {
		ctx := t.Context()
		type cancellable interface {
			io.Writer
			CancelWrite(uint32)
			StreamID() int64
		}
		streams := []cancellable{
			must(session.OpenUniStream(ctx))(t), must(session.OpenUniStream(ctx))(t),
			must(session.OpenStream(ctx))(t), must(session.OpenStream(ctx))(t),
		}
		for i, stream := range streams {
			if i%2 == 0 { // the others are reset before their first write
				must(stream.Write(make([]byte, 100)))(t)
			}
			stream.CancelWrite(7)
		}
		for range 2 {
			in, _ := p.acceptUni(3)
			p.wantReset(in, 0x52e4a40fa8e2)
			both, _ := p.acceptBidi(3)
			p.wantReset(both, 0x52e4a40fa8e2)
		}
		synctest.Wait()
		resets := framesOf[qlog.ResetStreamFrame](p.received)
		if len(resets) != len(streams) {
			t.Fatalf("%d resets, want %d", len(resets), len(streams))
		}
		for _, reset := range resets {
			if reset.ReliableSize < 3 || reset.FinalSize < reset.ReliableSize {
				t.Errorf("stream %d: reset with reliable size %d, final size %d", reset.StreamID, reset.ReliableSize, reset.FinalSize)
			}
		}
	})
}
