package wt_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// draft §3.2, RFC 9220 §3, RFC 8441 §4: a request for a session is an extended CONNECT with
// scheme, authority, path and the draft's token.
func TestClientRequest(t *testing.T) {
	for url, path := range map[string]string{
		"https://127.0.0.2:4433":              "/",
		"https://127.0.0.2:4433/":             "/",
		"https://127.0.0.2:4433/a%20b?c=d%26": "/a%20b?c=d%26",
		"https://127.0.0.2:4433?":             "/?",
	} {
		p, result := listenPeerWith(t.Context(), t, wt.Dialer{
			Origin:       "https://app.example",
			Header:       http.Header{"User-Agent": {"tide"}},
			Subprotocols: []string{"b", "a"},
		}, func(d *wt.Dialer, ctx context.Context, _ string) (*wt.Session, error) { return d.Dial(ctx, url) })
		p.control(serverSettings())
		stream := must(p.conn.AcceptStream(t.Context()))(t)
		if stream.StreamID() != 0 {
			t.Errorf("the request is on stream %d", stream.StreamID())
		}
		got := p.readHeaders(stream)
		for name, want := range map[string]string{
			":method": "CONNECT", ":scheme": "https", ":authority": "127.0.0.2:4433", ":path": path, ":protocol": "webtransport-h3",
			"origin": "https://app.example", "user-agent": "tide", "wt-available-protocols": `"b", "a"`,
		} {
			if got[name] != want {
				t.Errorf("%s of %s is %q, want %q", name, url, got[name], want)
			}
		}
		p.write(stream, headers(":status", "200"))
		answer := <-result
		must(answer.session, answer.err)(t)
	}
}

// draft §3.2: any status of 2xx establishes the session, after any number of
// interim answers, and no other does. Redirects are not followed.
func TestStatuses(t *testing.T) {
	for _, status := range []int{200, 201, 202, 204, 226, 299} {
		p, stream, result := answerPeer(t, wt.Dialer{})
		p.write(stream, slices.Concat(headers(":status", "103"), frame(0x21, nil), headers(":status", "100"),
			headers(":status", strconv.Itoa(status))))
		answer := <-result
		session := must(answer.session, answer.err)(t)
		check(t, write(must(session.OpenUniStream(t.Context()))(t), "x"))
		p.acceptUni(4)

		// A server's.
		sessions := make(chan *wt.Session, 1)
		p = dialPeer(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
			session, err := r.Accept(&wt.AcceptOptions{Status: status})
			if err != nil {
				t.Error(err)
				return
			}
			sessions <- session
			<-ctx.Done()
		})})
		p.control(usualSettings())
		p.wantStatus(p.bidi(connectHead()), strconv.Itoa(status))
		check(t, write(must((<-sessions).OpenUniStream(t.Context()))(t), "x"))
		p.acceptUni(4)
	}
	for _, status := range []int{300, 301, 302, 307, 308, 400, 404, 405, 429, 500, 599} {
		p, stream, result := answerPeer(t, wt.Dialer{})
		p.write(stream, headers(":status", strconv.Itoa(status), "location", "https://127.0.0.2:4433/other"))
		var rejected *wt.RejectedError
		if err := (<-result).err; !errors.As(err, &rejected) || rejected.Status != status || rejected.Header.Get("Location") == "" {
			t.Errorf("status %d: dial returned %v", status, err)
		}
		p.wantClosed(h3NoError)
		if stream, err := p.conn.AcceptStream(context.Background()); err == nil {
			t.Errorf("status %d: the client opened stream %d", status, stream.StreamID())
		}
	}
}

// draft §3.2: the Origin is verified, and one that is not welcome gets 403 before
// the handler sees the request.
func TestOriginIsVerified(t *testing.T) {
	p := dialPeer(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
		t.Errorf("the handler got a request with Origin %q", r.Origin)
	})})
	p.control(usualSettings())
	for _, origin := range []string{"https://evil.example", "null", "http://localhost:4433", "https://localhost", "localhost:4433"} {
		p.wantStatus(p.bidi(connectHead("origin", origin)), "403")
	}
}

// draft §3.2, RFC 9220 §3, RFC 8441 §4: an unknown :protocol is answered with 501, and
// pseudo-headers that an extended CONNECT lacks make it malformed.
func TestExtendedConnect(t *testing.T) {
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(nil)})
	p.control(usualSettings())
	for _, token := range []string{"websocket", "webtransport-h4", "WEBTRANSPORT", "connect-udp"} {
		p.wantStatus(p.bidi(headers(":method", "CONNECT", ":scheme", "https", ":authority", "localhost", ":path", "/", ":protocol", token)), "501")
	}
	whole := []string{":method", "CONNECT", ":scheme", "https", ":authority", "localhost", ":path", "/", ":protocol", "webtransport-h3"}
	for i := 0; i < 8; i += 2 {
		p.wantReset(p.bidi(headers(slices.Concat(whole[:i], whole[i+2:])...)), h3MessageError)
		empty := slices.Clone(whole)
		empty[i+1] = ""
		p.wantReset(p.bidi(headers(empty...)), h3MessageError)
	}
}

// draft §3.3: WT-Available-Protocols is a list of strings. A member of another
// type makes the whole field nothing; parameters say nothing.
func TestAvailableProtocols(t *testing.T) {
	cases := []struct {
		fields []string
		want   []string
	}{
		{nil, nil},
		{[]string{`"a"`}, []string{"a"}},
		{[]string{`"b", "a"`}, []string{"b", "a"}},
		{[]string{`"b"`, `"a"`}, []string{"b", "a"}},
		{[]string{`"a";q=1;x="y", "b";z`}, []string{"a", "b"}},
		{[]string{`"a \"quoted\" \\ one"`}, []string{`a "quoted" \ one`}},
		{[]string{`"a", b`}, nil},
		{[]string{`"a", 1`}, nil},
		{[]string{`"a", 1.5`}, nil},
		{[]string{`"a", ?1`}, nil},
		{[]string{`"a", :YQ==:`}, nil},
		{[]string{`"a", ("b")`}, nil},
		{[]string{`"a", @1659578233`}, nil},
		{[]string{`"a", %"b"`}, nil},
		{[]string{`"a",`}, nil},
		{[]string{`"a" "b"`}, nil},
		{[]string{`"a`}, nil},
		{[]string{`"a"`, `b`}, nil},
		{[]string{`"é"`}, nil},
		{[]string{``}, nil},
	}
	for _, c := range cases {
		requests := make(chan *wt.Request, 1)
		p := dialPeer(t, wt.ServerConfig{Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) { requests <- r })})
		p.control(usualSettings())
		var fields []string
		for _, value := range c.fields {
			fields = append(fields, "wt-available-protocols", value)
		}
		p.bidi(connectHead(fields...))
		if got := (<-requests).Subprotocols; !slices.Equal(got, c.want) {
			t.Errorf("%q offers %q, want %q", c.fields, got, c.want)
		}
	}
}

// draft §3.3: WT-Protocol is a string of the client's offer, or the session ends
// with WT_ALPN_ERROR. A field of another type is none; parameters say nothing.
func TestChosenProtocol(t *testing.T) {
	cases := []struct {
		fields  []string
		want    string
		refused bool
	}{
		{fields: nil},
		{fields: []string{`"a"`}, want: "a"},
		{fields: []string{`"b";q="a"`}, want: "b"},
		{fields: []string{`"c"`}, refused: true},
		{fields: []string{`"A"`}, refused: true},
		{fields: []string{`""`}, refused: true},
		{fields: []string{`a`}},
		{fields: []string{`c`}},
		{fields: []string{`1`}},
		{fields: []string{`?1`}},
		{fields: []string{`("a")`}},
		{fields: []string{`"a", "b"`}},
		{fields: []string{`"a"`, `"b"`}},
		{fields: []string{`"a`}},
		{fields: []string{``}},
	}
	for _, c := range cases {
		p, stream, result := answerPeer(t, wt.Dialer{Subprotocols: []string{"a", "b"}})
		fields := []string{":status", "200"}
		for _, value := range c.fields {
			fields = append(fields, "wt-protocol", value)
		}
		p.write(stream, headers(fields...))
		answer := <-result
		switch {
		case c.refused:
			if answer.err == nil {
				t.Errorf("%q: dial succeeded", c.fields)
			}
			p.wantClosed(wtALPNError)
		case answer.err != nil:
			t.Errorf("%q: %v", c.fields, answer.err)
		case answer.session.Subprotocol() != c.want:
			t.Errorf("%q: subprotocol %q, want %q", c.fields, answer.session.Subprotocol(), c.want)
		}
	}
	// One that offers nothing takes nothing.
	p, stream, result := answerPeer(t, wt.Dialer{})
	p.write(stream, headers(":status", "200", "wt-protocol", `"a"`))
	if (<-result).err == nil {
		t.Error("dial succeeded with a subprotocol that was not offered")
	}
	p.wantClosed(wtALPNError)
}

// draft §3.3: a server answers with one of the offered subprotocols, or none.
func TestServerChoosesProtocol(t *testing.T) {
	for _, c := range []struct {
		offer string
		chose string
		want  string
		fails bool
	}{
		{offer: `"b", "a"`, want: `"a"`}, // the server's preference
		{offer: `"c", "b"`, want: `"b"`},
		{offer: `"c"`},
		{offer: `a`},
		{offer: `"c"`, chose: "c", want: `"c"`},
		{offer: `"c"`, chose: "a", fails: true},
	} {
		p := dialPeer(t, wt.ServerConfig{
			Subprotocols: []string{"a", "b"},
			Handler: wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
				if _, err := r.Accept(&wt.AcceptOptions{Subprotocol: c.chose}); (err != nil) != c.fails {
					t.Errorf("choosing %q of %s: %v", c.chose, c.offer, err)
				}
				if !c.fails {
					<-ctx.Done()
				}
			}),
		})
		p.control(usualSettings())
		answer := p.readHeaders(p.bidi(connectHead("wt-available-protocols", c.offer)))
		if !c.fails && (answer[":status"] != "200" || answer["wt-protocol"] != c.want) {
			t.Errorf("offer %s: answer %v, want %s", c.offer, answer, c.want)
		}
	}
}

// draft §3.3: an application that requires a subprotocol ends the session with
// WT_ALPN_ERROR.
func TestProtocolRequired(t *testing.T) {
	bothRoles(t, func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session) {
		if session.Subprotocol() != "" {
			t.Fatal("a subprotocol was chosen")
		}
		check(t, session.Reset(wtALPNError))
		p.wantReset(connect, wtALPNError)
		p.wantStopped(connect.Context(), wtALPNError)
	})
}

// draft §4: what a session sends may go as soon as the request has, on a client
// before the answer. draft §3.2: capsules as well.
func TestSendsBeforeAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, result := listenPeerWith(t.Context(), t, wt.Dialer{}, (*wt.Dialer).DialEarly)
		endHang(t, p)
		p.control(serverSettings())
		answer := <-result
		session := must(answer.session, answer.err)(t)
		connect := must(p.conn.AcceptStream(t.Context()))(t)
		p.readHeaders(connect)
		check(t, write(must(session.OpenUniStream(t.Context()))(t), "x"))
		check(t, write(must(session.OpenStream(t.Context()))(t), "x"))
		check(t, session.SendDatagram(t.Context(), []byte("x")))
		check(t, session.Drain())
		p.acceptUni(4)
		p.acceptBidi(4)
		must(p.conn.ReceiveDatagram(t.Context()))(t)
		if typ, payload := p.readFrame(connect); typ != 0 || string(payload) != string(varints(0x78ae, 0)) {
			t.Errorf("got frame %#x with %x, want WT_DRAIN_SESSION", typ, payload)
		}
		p.write(connect, headers(":status", "200"))
		check(t, session.Ready(t.Context()))
		closing(t, session, 1, "")
		p.wantClose(connect, 1, "")
		check(t, connect.Close())
		must(io.ReadAll(connect))(t)
	})
}
