package wt_test

import (
	"errors"
	"io"
	"testing"

	"github.com/tidewire/tidewire/wt"
)

// firstApplication is how the application's code 0 looks on the wire.
const firstApplication = 0x52e4a40fa8db

// A reset that overtakes the header of its stream, as from a peer without
// reset_stream_at, still reaches the application of the one session that there
// is.
func TestResetOvertakesUnsentHeader(t *testing.T) {
	sessions := make(chan *wt.Session, 1)
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions)})
	p.session()
	session := <-sessions

	bidi := must(p.conn.OpenStream())(t)
	bidi.CancelWrite(firstApplication + 5)
	accepted := must(session.AcceptStream(t.Context()))(t)
	_, err := accepted.Read(make([]byte, 1))
	wantReset(t, err, 5)
	// Its other direction works.
	check(t, write(accepted, "answer"))
	check(t, accepted.Close())
	if got := string(must(io.ReadAll(bidi))(t)); got != "answer" {
		t.Errorf("got %q", got)
	}

	uni := must(p.conn.OpenUniStream())(t)
	uni.CancelWrite(firstApplication + 6)
	_, err = must(session.AcceptUniStream(t.Context()))(t).Read(make([]byte, 1))
	wantReset(t, err, 6)

	// What is no application's code cannot be told from other streams.
	must(p.conn.OpenStream())(t).CancelWrite(0x10c)
	must(p.conn.OpenUniStream())(t).CancelWrite(0x10c)
	last := must(p.conn.OpenUniStream())(t)
	last.CancelWrite(firstApplication + 7)
	_, err = must(session.AcceptUniStream(t.Context()))(t).Read(make([]byte, 1))
	wantReset(t, err, 7)
}

func wantReset(t *testing.T, err error, code uint32) {
	t.Helper()
	var reset *wt.StreamError
	if !errors.As(err, &reset) || !reset.IsApplication() || reset.Code != code || !reset.Remote {
		t.Errorf("got %v, want a reset with code %d", err, code)
	}
}
