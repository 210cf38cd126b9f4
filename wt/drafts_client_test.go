package wt_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// A client with servers of every draft, made by hand.

// draftServers are servers as they are met, by what they declare in SETTINGS.
var draftServers = map[string]struct {
	settings []uint64
	quic     func(*quic.Config) // nil: all that a server may have
	draft    wt.Draft
	token    string
	asks     string // the field by which draft 02 was asked for, "" if it is not
}{
	"-02, as aioquic": {[]uint64{8, 1, 0x33, 1, 0x2b603742, 1}, noPartialReset, wt.Draft02, "webtransport", "1"},
	// SETTINGS of the first drafts imply extended CONNECT.
	"-02 by the letter": {[]uint64{0x33, 1, 0x2b603742, 1}, noPartialReset, wt.Draft02, "webtransport", "1"},
	// wtransport 0.7 adds its number of sessions under another identifier.
	"-02, as wtransport": {[]uint64{1, 0, 7, 0, 8, 1, 0x33, 1, 0x2b603742, 1, 0x2b603743, 1}, noPartialReset, wt.Draft02, "webtransport", "1"},
	// Chromium's server stack also declares datagrams under their old identifier.
	"-02 and -07, as quiche": {
		[]uint64{6, 16384, 8, 1, 0x33, 1, 0xffd277, 1, 0x2b603742, 1, 0xc671706a, 16}, noPartialReset, wt.Draft07, "webtransport", "",
	},
	"-07": {[]uint64{8, 1, 0x33, 1, 0xc671706a, 5}, noPartialReset, wt.Draft07, "webtransport", ""},
	"-14": {[]uint64{8, 1, 0x33, 1, 0x14e9cd29, 5, 0xc671706a, 1}, nil, wt.Draft14, "webtransport", ""},
	"-16": {[]uint64{8, 1, 0x33, 1, 0x2c7cf000, 1}, nil, wt.Draft16, "webtransport-h3", ""},
	"all": {
		[]uint64{8, 1, 0x33, 1, 0x2b603742, 1, 0xc671706a, 1, 0x14e9cd29, 1, 0x2c7cf000, 1}, nil, wt.Draft16, "webtransport-h3", "",
	},
	// draft-16 §3.1: a draft whose requirements the server does not meet is not
	// spoken; an older one that it declares as well is.
	"all without reset_stream_at": {
		[]uint64{8, 1, 0x33, 1, 0x2b603742, 1, 0xc671706a, 1, 0x14e9cd29, 1, 0x2c7cf000, 1}, noPartialReset, wt.Draft07, "webtransport", "",
	},
	"all without ENABLE_CONNECT_PROTOCOL": {
		[]uint64{0x33, 1, 0x2b603742, 1, 0xc671706a, 1, 0x14e9cd29, 1, 0x2c7cf000, 1}, nil, wt.Draft02, "webtransport", "1",
	},
}

func noPartialReset(config *quic.Config) { config.EnableStreamResetPartialDelivery = false }

// The client speaks the newest draft that the server declares and meets the
// requirements of: request, streams and datagrams both ways, and both closes.
func TestClientWithServersOfDrafts(t *testing.T) {
	for name, c := range draftServers {
		t.Run(name, func(t *testing.T) {
			config := peerQUIC()
			if c.quic != nil {
				c.quic(config)
			}
			p, result := listenPeerQUIC(t.Context(), t, wt.Dialer{}, (*wt.Dialer).Dial, config)
			p.control(settingsFrame(c.settings...))
			ctx := t.Context()
			stream := must(p.conn.AcceptStream(ctx))(t)
			request := p.readHeaders(stream)
			if request[":protocol"] != c.token || request["sec-webtransport-http3-draft02"] != c.asks {
				t.Errorf("request %q, want :protocol %q", request, c.token)
			}
			p.write(stream, headers(":status", "200", "sec-webtransport-http3-draft", "draft02"))
			answer := <-result
			session := must(answer.session, answer.err)(t)
			if session.Draft() != c.draft {
				t.Errorf("draft %v, want %v", session.Draft(), c.draft)
			}

			bidi := must(session.OpenStream(ctx))(t)
			must(bidi.Write([]byte("ebb")))(t)
			check(t, bidi.Close())
			theirs := must(p.conn.AcceptStream(ctx))(t)
			if b := must(io.ReadAll(theirs))(t); !bytes.Equal(b, append(varints(0x41, 0), "ebb"...)) {
				t.Errorf("stream of the client is %q", b)
			}
			p.write(theirs, []byte("flood"))
			check(t, theirs.Close())
			if b := must(io.ReadAll(bidi))(t); string(b) != "flood" {
				t.Errorf("read %q", b)
			}
			check(t, p.uni(append(varints(0x54, 0), "uni"...)).Close())
			if b := must(io.ReadAll(must(session.AcceptUniStream(ctx))(t)))(t); string(b) != "uni" {
				t.Errorf("read %q", b)
			}
			check(t, session.SendDatagram(ctx, []byte("tide")))
			if b := must(p.conn.ReceiveDatagram(ctx))(t); string(b) != "\x00tide" {
				t.Errorf("datagram %q", b)
			}
			check(t, p.conn.SendDatagram([]byte("\x00wave")))
			if b := must(session.ReceiveDatagram(ctx))(t); string(b) != "wave" {
				t.Errorf("datagram %q", b)
			}

			closed := make(chan error, 1)
			go func() { closed <- session.CloseWithError(9, "calm") }()
			if b := must(io.ReadAll(stream))(t); !bytes.Equal(b, data(closeCapsule(9, "calm"))) {
				t.Errorf("close is %x", b)
			}
			check(t, stream.Close())
			check(t, <-closed)
			p.wantClosed(h3NoError)
		})
	}
}

// What the client declares, so that servers of every draft take it.
func TestClientSettings(t *testing.T) {
	p, result := listenPeer(t.Context(), t, wt.Dialer{MaxHeaderBytes: 5000})
	control := must(p.conn.AcceptUniStream(t.Context()))(t)
	must(readVarint(control))(t)
	_, payload := p.readFrame(control)
	got := parsePairs(t, payload)
	for id, want := range map[uint64]uint64{
		6: 5000, 0x33: 1, 0x2b603742: 1, 0xc671706a: 1, 0x14e9cd29: 1, 0x2c7cf000: 1,
		0x2b61: 0, 0x2b64: 0, 0x2b65: 0, // flow control is not offered
	} {
		if got[id] != want {
			t.Errorf("setting %#x is %d, want %d", id, got[id], want)
		}
	}
	state := p.conn.ConnectionState()
	if !state.SupportsDatagrams.Remote || !state.SupportsStreamResetPartialDelivery.Remote {
		t.Errorf("transport parameters: %+v", state)
	}
	check(t, p.conn.CloseWithError(h3NoError, ""))
	<-result
}

// draft-16 §3.1: no session with a server that declares a draft and does not meet
// its requirements. The connection is closed with WT_REQUIREMENTS_NOT_MET.
func TestRequirementsNotMet(t *testing.T) {
	for name, c := range map[string]struct {
		settings []uint64
		quic     func(*quic.Config)
	}{
		"-16 without ENABLE_CONNECT_PROTOCOL": {[]uint64{0x33, 1, 0x2c7cf000, 1}, nil},
		"-14 without ENABLE_CONNECT_PROTOCOL": {[]uint64{0x33, 1, 0x14e9cd29, 1}, nil},
		"-07 without ENABLE_CONNECT_PROTOCOL": {[]uint64{0x33, 1, 0xc671706a, 1}, nil},
		"-16 without H3_DATAGRAM":             {[]uint64{8, 1, 0x2c7cf000, 1}, nil},
		"-02 without H3_DATAGRAM":             {[]uint64{8, 1, 0x2b603742, 1}, nil},
		"-16 without reset_stream_at":         {[]uint64{8, 1, 0x33, 1, 0x2c7cf000, 1}, noPartialReset},
		"-14 without reset_stream_at":         {[]uint64{8, 1, 0x33, 1, 0x14e9cd29, 1}, noPartialReset},
		"-16 without QUIC datagrams": {
			[]uint64{8, 1, 0x33, 1, 0x2c7cf000, 1}, func(config *quic.Config) { config.EnableDatagrams = false },
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := peerQUIC()
			if c.quic != nil {
				c.quic(config)
			}
			p, result := listenPeerQUIC(t.Context(), t, wt.Dialer{}, (*wt.Dialer).Dial, config)
			p.control(settingsFrame(c.settings...))
			if err := (<-result).err; !errors.Is(err, wt.ErrUnsupported) {
				t.Errorf("dial returned %v", err)
			}
			p.wantClosed(0x212c0d48)
		})
	}
	t.Run("no draft", func(t *testing.T) {
		p, result := listenPeer(t.Context(), t, wt.Dialer{})
		p.control(settingsFrame(8, 1, 0x33, 1))
		if err := (<-result).err; !errors.Is(err, wt.ErrUnsupported) {
			t.Errorf("dial returned %v", err)
		}
		p.wantClosed(h3NoError)
	})
}

// Drafts 13 and 14: more than one session is an offer of flow control, whose
// limits are then 0 until capsules say otherwise.
func TestFlowControlBySessions(t *testing.T) {
	p, result := listenPeer(t.Context(), t, wt.Dialer{MaxSessionData: 1 << 20})
	p.control(settingsFrame(8, 1, 0x33, 1, 0x14e9cd29, 5))
	ctx := t.Context()
	stream := must(p.conn.AcceptStream(ctx))(t)
	p.readHeaders(stream)
	p.write(stream, headers(":status", "200"))
	answer := <-result
	session := must(answer.session, answer.err)(t)
	opened := make(chan error, 1)
	go func() {
		s, err := session.OpenUniStream(ctx)
		if err == nil {
			_, err = s.Write([]byte("x"))
		}
		opened <- err
	}()
	blocked := data(frame(0x190b4d44, varints(0))) // WT_STREAMS_BLOCKED, unidirectional
	b := make([]byte, len(blocked))
	must(io.ReadFull(stream, b))(t)
	if !bytes.Equal(b, blocked) {
		t.Errorf("got %x, want %x", b, blocked)
	}
	p.write(stream, data(frame(0x190b4d40, varints(1)), frame(0x190b4d3d, varints(1))))
	check(t, <-opened)
	check(t, p.conn.CloseWithError(h3NoError, ""))
	check(t, session.Close())
}
