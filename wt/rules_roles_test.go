package wt_test

import (
	"context"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"

	"github.com/tidewire/tidewire/wt"
)

// The files rules_*_test.go hold the rules of the drafts and RFCs as scripts: a
// peer made by hand sends exactly the bytes in question, and the answer is what
// the section names. Rules that bind both sides run in both roles. "draft" is
// draft-ietf-webtrans-http3-16; docs/conformance.md is their table of contents.

// ruleOptions change the session that a script runs on. The zero value is the
// default.
type ruleOptions struct {
	server   wt.ServerConfig // of the package, as a server
	dialer   wt.Dialer       // of the package, as a client
	settings []uint64        // of the peer, beyond the usual ones
	quic     func(*quic.Config)
}

// peerQUIC is the configuration of the peer's QUIC.
func (o ruleOptions) peerQUIC() *quic.Config {
	config := peerQUIC()
	if o.quic != nil {
		o.quic(config)
	}
	return config
}

// bothRoles runs a script on a session between this package and a peer made by
// hand: first with the package as server, then with it as client. p is the
// peer's connection, connect its end of the CONNECT stream after the answer,
// session the package's end. Time is virtual.
func bothRoles(t *testing.T, f func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session)) {
	t.Helper()
	bothRolesWith(t, ruleOptions{}, f)
}

// bothRolesWith is bothRoles with options.
func bothRolesWith(t *testing.T, o ruleOptions, f func(t *testing.T, p *peer, connect *quic.Stream, session *wt.Session)) {
	t.Helper()
	t.Run("server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sessions := make(chan *wt.Session, 1)
			config := o.server
			config.Handler = accepting(sessions)
			p, _ := dialPeerWith(t, config, o.peerQUIC())
			endHang(t, p)
			p.control(settingsFrame(append([]uint64{0x33, 1, 0x2c7cf000, 1}, o.settings...)...))
			connect := p.bidi(connectHead())
			p.wantStatus(connect, "200")
			f(t, p, connect, <-sessions)
		})
	})
	t.Run("client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, result := listenPeerQUIC(t.Context(), t, o.dialer, (*wt.Dialer).Dial, o.peerQUIC())
			endHang(t, p)
			p.control(settingsFrame(append([]uint64{8, 1, 0x33, 1, 0x2c7cf000, 1}, o.settings...)...))
			connect := must(p.conn.AcceptStream(t.Context()))(t)
			p.readHeaders(connect)
			p.write(connect, headers(":status", "200"))
			answer := <-result
			f(t, p, connect, must(answer.session, answer.err)(t))
		})
	})
}

// endHang ends the connection of a script that waits for what does not come.
// Time is virtual, and its keep-alives would go on for ever.
func endHang(t *testing.T, p *peer) {
	timer := time.AfterFunc(time.Hour, func() { _ = p.conn.CloseWithError(0, "the script hangs") })
	t.Cleanup(func() { timer.Stop() })
}

// frameLog holds the QUIC frames that a peer received.
type frameLog struct {
	mu     sync.Mutex
	frames []any // of package qlog
}

// trace returns the configuration with its frames going to the log.
func (l *frameLog) trace(config *quic.Config) *quic.Config {
	config = config.Clone()
	config.Tracer = func(context.Context, bool, quic.ConnectionID) qlogwriter.Trace { return l }
	return config
}

// AddProducer implements qlogwriter.Trace.
func (l *frameLog) AddProducer() qlogwriter.Recorder { return l }

// SupportsSchemas implements qlogwriter.Trace.
func (l *frameLog) SupportsSchemas(string) bool { return true }

// RecordEvent implements qlogwriter.Recorder.
func (l *frameLog) RecordEvent(e qlogwriter.Event) {
	packet, ok := e.(qlog.PacketReceived)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range packet.Frames {
		l.frames = append(l.frames, f.Frame)
	}
}

// Close implements qlogwriter.Recorder.
func (l *frameLog) Close() error { return nil }

// framesOf returns the frames of one type that came so far.
func framesOf[F any](l *frameLog) []*F {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []*F
	for _, f := range l.frames {
		if f, ok := f.(*F); ok {
			found = append(found, f)
		}
	}
	return found
}

// acceptUni accepts the next stream that the package opened for a session; its
// control stream is left out. first is how many bytes of the stream to read.
func (p *peer) acceptUni(first int) (stream *quic.ReceiveStream, b []byte) {
	p.t.Helper()
	for {
		stream := must(p.conn.AcceptUniStream(p.t.Context()))(p.t)
		b := make([]byte, 1)
		must(io.ReadFull(stream, b))(p.t)
		if b[0] == 0 {
			continue
		}
		b = slices.Grow(b, first)[:first]
		must(io.ReadFull(stream, b[1:]))(p.t)
		return stream, b
	}
}

// acceptBidi accepts a bidirectional stream and reads its first bytes.
func (p *peer) acceptBidi(first int) (stream *quic.Stream, b []byte) {
	p.t.Helper()
	stream = must(p.conn.AcceptStream(p.t.Context()))(p.t)
	b = make([]byte, first)
	must(io.ReadFull(stream, b))(p.t)
	return stream, b
}
