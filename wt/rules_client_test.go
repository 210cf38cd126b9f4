package wt_test

import (
	"errors"
	"io"
	"testing"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// A client, driven by a server made by hand. "draft" is
// draft-ietf-webtrans-http3-16.

func serverSettings() []byte { return settingsFrame(8, 1, 0x33, 1, 0x2c7cf000, 1) }

// answerPeer dials a server made by hand and returns its end of the connection,
// the CONNECT stream with its request read, and what the dial will return.
func answerPeer(t *testing.T, dialer wt.Dialer) (*peer, *quic.Stream, <-chan dialed) {
	t.Helper()
	p, result := listenPeer(t.Context(), t, dialer)
	p.control(serverSettings())
	stream := must(p.conn.AcceptStream(t.Context()))(t)
	p.readHeaders(stream)
	return p, stream, result
}

// RFC 9114 §4.1, §4.3, RFC 9204 §2.2, draft §3.3: answers that are none, and what
// they end.
func TestAnswers(t *testing.T) {
	cases := map[string]struct {
		answer []byte
		status int    // of the *RejectedError
		reset  uint64 // else the code that the CONNECT stream or the connection ends with
	}{
		"refused":                    {answer: headers(":status", "429"), status: 429},
		"no status":                  {answer: headers("x", "y"), reset: h3MessageError},
		"bad status":                 {answer: headers(":status", "20"), reset: h3MessageError},
		"two statuses":               {answer: headers(":status", "200", ":status", "200"), reset: h3MessageError},
		"foreign pseudo-header":      {answer: headers(":status", "200", ":path", "/"), reset: h3MessageError},
		"protocol was not offered":   {answer: headers(":status", "200", "wt-protocol", `"c"`), reset: wtALPNError},
		"fields too large":           {answer: varints(1, 1<<20), reset: h3ExcessiveLoad},
		"DATA before the answer":     {answer: data([]byte("x")), reset: h3FrameUnexpected},
		"GOAWAY before the answer":   {answer: frame(7, varints(0)), reset: h3FrameUnexpected},
		"section of a dynamic table": {answer: frame(1, []byte{2, 0, 0x80}), reset: qpackDecompression},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p, stream, result := answerPeer(t, wt.Dialer{Subprotocols: []string{"a"}})
			p.write(stream, c.answer)
			answer := <-result
			if answer.err == nil {
				t.Fatal("dial succeeded")
			}
			var rejected *wt.RejectedError
			if c.status != 0 {
				if !errors.As(answer.err, &rejected) || rejected.Status != c.status {
					t.Errorf("dial returned %v, want rejection with %d", answer.err, c.status)
				}
				p.wantClosed(h3NoError)
				return
			}
			p.wantClosed(quicCode(c.reset))
		})
	}
	t.Run("reset", func(t *testing.T) {
		_, stream, result := answerPeer(t, wt.Dialer{})
		stream.CancelWrite(h3RequestRejected)
		var cancelled *wt.StreamError
		if err := (<-result).err; !errors.As(err, &cancelled) || cancelled.HTTPCode != h3RequestRejected {
			t.Errorf("dial returned %v", err)
		}
	})
}

// draft §4.6: a server's streams and datagrams may overtake its answer.
func TestArrivesBeforeAnswer(t *testing.T) {
	p, stream, result := answerPeer(t, wt.Dialer{})
	p.bidi(append(varints(0x41, 0), "bidi"...))
	check(t, p.uni(append(varints(0x54, 0), "uni"...)).Close())
	check(t, p.conn.SendDatagram(append([]byte{0}, "datagram"...)))
	p.write(stream, headers(":status", "200"))
	answer := <-result
	session := must(answer.session, answer.err)(t)
	ctx := t.Context()
	b := make([]byte, 4)
	must(io.ReadFull(must(session.AcceptStream(ctx))(t), b))(t)
	uni := must(io.ReadAll(must(session.AcceptUniStream(ctx))(t)))(t)
	datagram := must(session.ReceiveDatagram(ctx))(t)
	if string(b) != "bidi" || string(uni) != "uni" || string(datagram) != "datagram" {
		t.Errorf("got %q, %q, %q", b, uni, datagram)
	}
	check(t, stream.Close())
	check(t, session.Close())
}

// draft §4.7: the capsule and GOAWAY, before and after the answer, are one
// signal.
func TestClientDrains(t *testing.T) {
	goaway := frame(7, varints(4))
	t.Run("GOAWAY before the answer", func(t *testing.T) {
		p, result := listenPeer(t.Context(), t, wt.Dialer{})
		control := p.control(serverSettings())
		stream := must(p.conn.AcceptStream(t.Context()))(t)
		p.readHeaders(stream)
		must(control.Write(goaway))(t)
		p.write(stream, headers(":status", "200"))
		answer := <-result
		session := must(answer.session, answer.err)(t)
		<-session.Draining()
		check(t, stream.Close())
		check(t, session.Close())
	})
}
