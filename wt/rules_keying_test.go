package wt_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// wantSecret checks the keying material of a session against what the peer
// derives by the letter of draft §4.8.
func (p *peer) wantSecret(session *wt.Session, id uint64, label, context string) []byte {
	p.t.Helper()
	b := binary.BigEndian.AppendUint64(nil, id)
	b = append(append(b, byte(len(label))), label...)
	b = append(append(b, byte(len(context))), context...)
	state := p.conn.ConnectionState().TLS
	want := must(state.ExportKeyingMaterial("EXPORTER-WebTransport", b, 48))(p.t)
	got := must(session.ExportKeyingMaterial(label, []byte(context), 48))(p.t)
	if !bytes.Equal(got, want) {
		p.t.Errorf("secret %x for %q and %q, want %x", got, label, context, want)
	}
	return got
}

// draft §4.8: keying material is that of TLS with the draft's label, and a context
// that names session, label and context.
func TestKeyingMaterial(t *testing.T) {
	bothRoles(t, func(_ *testing.T, p *peer, _ *quic.Stream, session *wt.Session) {
		for _, label := range []string{"x", "label", string(make([]byte, 255))} {
			for _, context := range []string{"", "context", string(make([]byte, 255))} {
				p.wantSecret(session, 0, label, context)
			}
		}
	})
}

// draft §4.8: sessions of one connection have secrets of their own.
func TestKeyingMaterialOfSessions(t *testing.T) {
	sessions := make(chan *wt.Session, 2)
	p := dialPeer(t, wt.ServerConfig{Handler: accepting(sessions), MaxSessionsPerConnection: 2})
	p.control(settingsFrame(0x33, 1, 0x2c7cf000, 1, 0x2b61, 1000))
	var secrets [][]byte
	for id := range uint64(2) {
		p.wantStatus(p.bidi(connectHead()), "200")
		secrets = append(secrets, p.wantSecret(<-sessions, 4*id, "label", "context"))
	}
	if bytes.Equal(secrets[0], secrets[1]) {
		t.Error("two sessions have one secret")
	}
}
