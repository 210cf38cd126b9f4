package wt_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// Codes as they are on the wire, written down here again so that a wrong
// constant in the package does not prove itself right.
const (
	h3NoError           = 0x100
	h3StreamCreation    = 0x103
	h3ClosedCritical    = 0x104
	h3FrameUnexpected   = 0x105
	h3FrameError        = 0x106
	h3ExcessiveLoad     = 0x107
	h3IDError           = 0x108
	h3SettingsError     = 0x109
	h3MissingSettings   = 0x10a
	h3RequestRejected   = 0x10b
	h3RequestIncomplete = 0x10d
	h3MessageError      = 0x10e
	h3DatagramError     = 0x33
	qpackDecompression  = 0x200
	wtBufferedRejected  = 0x3994bd84
	wtSessionGone       = 0x170d7b68
	wtALPNError         = 0x0817b3dd
)

// network is a simulated network with one address for each side.
type network struct {
	client, server *simnet.SimConn
}

var serverAddr = net.UDPAddr{IP: net.IP{127, 0, 0, 2}, Port: 4433}

const serverURL = "https://127.0.0.2:4433/"

func newNetwork(t *testing.T, latency time.Duration) network {
	t.Helper()
	n := &simnet.Simnet{Router: &simnet.PerfectRouter{}}
	link := simnet.NodeBiDiLinkSettings{Latency: latency}
	result := network{
		client: n.NewEndpoint(&net.UDPAddr{IP: net.IP{127, 0, 0, 1}, Port: 4432}, link),
		server: n.NewEndpoint(&serverAddr, link),
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = result.client.Close()
		_ = result.server.Close()
		_ = n.Close()
	})
	return result
}

// serve runs a server of the package until the test ends, and returns it with
// its identity.
func serve(t *testing.T, packets net.PacketConn, config wt.ServerConfig) (*wt.Server, *wt.Identity) {
	t.Helper()
	identity, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if config.TLSConfig == nil {
		config.TLSConfig = identity.TLSConfig()
	}
	server, err := wt.NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(packets); !errors.Is(err, wt.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		serving.Wait()
	})
	return server, identity
}

// accepting is a handler that accepts each request, hands the session over, and
// keeps it until it ends.
func accepting(sessions chan<- *wt.Session) wt.Handler {
	return wt.HandlerFunc(func(ctx context.Context, r *wt.Request) {
		if session, err := r.Accept(nil); err == nil {
			sessions <- session
			<-ctx.Done()
		}
	})
}

// peer is a client or a server made by hand on bare QUIC, which sends exactly
// the bytes that a test asks for.
type peer struct {
	t    *testing.T
	conn *quic.Conn
	// ctrl is the peer's control stream, once it is open.
	ctrl *quic.SendStream
	// received are the QUIC frames that came, where a test asks for them.
	received *frameLog
}

// quicCode is a code of a connection's close.
func quicCode(code uint64) quic.ApplicationErrorCode { return quic.ApplicationErrorCode(code) }

// dialPeer connects a client made by hand to a server of the package.
func dialPeer(t *testing.T, config wt.ServerConfig) *peer {
	t.Helper()
	p, _ := dialPeerOf(t, config)
	return p
}

// dialPeerOf is dialPeer, and returns the server as well.
func dialPeerOf(t *testing.T, config wt.ServerConfig) (*peer, *wt.Server) {
	t.Helper()
	return dialPeerWith(t, config, peerQUIC())
}

// dialPeerWith is dialPeerOf with a configuration of the client's QUIC.
func dialPeerWith(t *testing.T, config wt.ServerConfig, quicConfig *quic.Config) (*peer, *wt.Server) {
	t.Helper()
	n := newNetwork(t, 0)
	server, _ := serve(t, n.server, config)
	transport := &quic.Transport{Conn: n.client}
	received := &frameLog{}
	conn, err := transport.Dial(t.Context(), &serverAddr,
		&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}, ServerName: "localhost"},
		received.trace(quicConfig))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.CloseWithError(h3NoError, "")
		_ = transport.Close()
	})
	return &peer{t: t, conn: conn, received: received}, server
}

// peerOf connects a client made by hand, at end, to a server.
func peerOf(t *testing.T, end net.PacketConn, host *wttest.Server) *peer {
	t.Helper()
	return peerWith(t, end, host, peerQUIC())
}

// peerWith is peerOf with a configuration of QUIC.
func peerWith(t *testing.T, end net.PacketConn, host *wttest.Server, config *quic.Config) *peer {
	t.Helper()
	transport := &quic.Transport{Conn: end}
	p := dialBare(t, transport, host, config)
	t.Cleanup(func() {
		_ = p.conn.CloseWithError(h3NoError, "")
		_ = transport.Close()
	})
	return p
}

// dialBare connects a client made by hand to a server, and leaves it to the
// caller to end transport.
func dialBare(t *testing.T, transport *quic.Transport, host *wttest.Server, config *quic.Config) *peer {
	t.Helper()
	conn, err := transport.Dial(t.Context(), host.Endpoint.LocalAddr(),
		&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}, ServerName: "localhost"}, config)
	if err != nil {
		t.Fatal(err)
	}
	return &peer{t: t, conn: conn}
}

func peerQUIC() *quic.Config {
	return &quic.Config{EnableDatagrams: true, EnableStreamResetPartialDelivery: true, MaxIncomingStreams: 1000, MaxIncomingUniStreams: 1000}
}

// dialed is what a dial of the package returned.
type dialed struct {
	session *wt.Session
	err     error
}

// listenPeer dials a server made by hand with a client of the package, and
// returns the server's end and what the dial will return. The dial ends with ctx.
func listenPeer(ctx context.Context, t *testing.T, dialer wt.Dialer) (*peer, <-chan dialed) {
	t.Helper()
	return listenPeerWith(ctx, t, dialer, (*wt.Dialer).Dial)
}

// listenPeerWith is listenPeer with another method of the dialer.
func listenPeerWith(ctx context.Context, t *testing.T, dialer wt.Dialer, dial func(*wt.Dialer, context.Context, string) (*wt.Session, error)) (*peer, <-chan dialed) {
	t.Helper()
	return listenPeerQUIC(ctx, t, dialer, dial, peerQUIC())
}

// listenPeerQUIC is listenPeerWith with a configuration of the server's QUIC.
func listenPeerQUIC(ctx context.Context, t *testing.T, dialer wt.Dialer, dial func(*wt.Dialer, context.Context, string) (*wt.Session, error), quicConfig *quic.Config) (*peer, <-chan dialed) {
	t.Helper()
	n := newNetwork(t, 0)
	identity, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	config := identity.TLSConfig()
	config.NextProtos = []string{"h3"}
	transport := &quic.Transport{Conn: n.server}
	received := &frameLog{}
	listener, err := transport.Listen(config, received.trace(quicConfig))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = listener.Close()
		_ = transport.Close()
	})
	dialer.CertificateHashes, dialer.PacketConn = [][32]byte{identity.Hash()}, n.client
	result := make(chan dialed, 1)
	var dialing sync.WaitGroup
	dialing.Go(func() {
		session, err := dial(&dialer, ctx, serverURL)
		result <- dialed{session, err}
	})
	conn, err := listener.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.CloseWithError(h3NoError, "")
		dialing.Wait()
	})
	return &peer{t: t, conn: conn, received: received}, result
}

// varints encodes numbers one after another.
func varints(values ...uint64) []byte {
	var b []byte
	for _, v := range values {
		b = quicvarint.Append(b, v)
	}
	return b
}

// frame encodes an HTTP/3 frame, or a capsule.
func frame(typ uint64, payload []byte) []byte {
	return append(varints(typ, uint64(len(payload))), payload...)
}

// data encodes a DATA frame.
func data(payload ...[]byte) []byte { return frame(0, bytes.Join(payload, nil)) }

// settingsFrame encodes SETTINGS of pairs of identifier and value.
func settingsFrame(pairs ...uint64) []byte { return frame(4, varints(pairs...)) }

// usualSettings are those of a client of draft 16.
func usualSettings() []byte { return settingsFrame(0x33, 1, 0x2c7cf000, 1) }

// headers encodes a HEADERS frame of pairs of name and value.
func headers(pairs ...string) []byte {
	var section bytes.Buffer
	encoder := qpack.NewEncoder(&section)
	for i := 0; i < len(pairs); i += 2 {
		if err := encoder.WriteField(qpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
			panic(err) // a bytes.Buffer does not fail
		}
	}
	return frame(1, section.Bytes())
}

// connectHead encodes the HEADERS of a request for a session.
func connectHead(more ...string) []byte {
	return headers(append([]string{":method", "CONNECT", ":scheme", "https", ":authority", "localhost:4433",
		":path", "/", ":protocol", "webtransport-h3"}, more...)...)
}

// uni opens a unidirectional stream and writes b.
func (p *peer) uni(b []byte) *quic.SendStream {
	p.t.Helper()
	stream, err := p.conn.OpenUniStream()
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := stream.Write(b); err != nil {
		p.t.Fatal(err)
	}
	return stream
}

// bidi opens a bidirectional stream and writes b.
func (p *peer) bidi(b []byte) *quic.Stream {
	p.t.Helper()
	stream, err := p.conn.OpenStream()
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(stream, b)
	return stream
}

func (p *peer) write(stream *quic.Stream, b []byte) {
	p.t.Helper()
	if _, err := stream.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// control opens the control stream with the settings.
func (p *peer) control(settings []byte) *quic.SendStream {
	p.t.Helper()
	p.ctrl = p.uni(append(varints(0), settings...))
	return p.ctrl
}

// session opens the control stream and a session.
func (p *peer) session() *quic.Stream {
	p.t.Helper()
	p.control(usualSettings())
	stream := p.bidi(connectHead())
	p.wantStatus(stream, "200")
	return stream
}

// readFrame reads one frame off a stream.
func (p *peer) readFrame(stream io.Reader) (typ uint64, payload []byte) {
	p.t.Helper()
	r := quicvarint.NewReader(stream)
	typ, err := quicvarint.Read(r)
	if err != nil {
		p.t.Fatalf("type of frame: %v", err)
	}
	length, err := quicvarint.Read(r)
	if err != nil {
		p.t.Fatalf("length of frame: %v", err)
	}
	payload = make([]byte, length)
	if _, err := io.ReadFull(stream, payload); err != nil {
		p.t.Fatalf("payload of frame: %v", err)
	}
	return typ, payload
}

// readHeaders reads a HEADERS frame.
func (p *peer) readHeaders(stream io.Reader) map[string]string {
	p.t.Helper()
	typ, payload := p.readFrame(stream)
	if typ != 1 {
		p.t.Fatalf("got frame %#x, want HEADERS", typ)
	}
	fields := make(map[string]string)
	decode := qpack.NewDecoder().Decode(payload)
	for {
		field, err := decode()
		if errors.Is(err, io.EOF) {
			return fields
		}
		if err != nil {
			p.t.Fatal(err)
		}
		fields[field.Name] = field.Value
	}
}

func (p *peer) wantStatus(stream io.Reader, status string) {
	p.t.Helper()
	if got := p.readHeaders(stream)[":status"]; got != status {
		p.t.Fatalf("got status %q, want %q", got, status)
	}
}

// wantClosed waits for the end of the connection, with code.
func (p *peer) wantClosed(code quic.ApplicationErrorCode) {
	p.t.Helper()
	<-p.conn.Context().Done()
	var closed *quic.ApplicationError
	if err := context.Cause(p.conn.Context()); !errors.As(err, &closed) || closed.ErrorCode != code || !closed.Remote {
		p.t.Fatalf("connection ended with %v, want code %#x", err, uint64(code))
	}
}

// wantReset reads until the stream is reset, with code.
func (p *peer) wantReset(stream io.Reader, code quic.StreamErrorCode) {
	p.t.Helper()
	_, err := io.Copy(io.Discard, stream)
	var reset *quic.StreamError
	if !errors.As(err, &reset) || reset.ErrorCode != code || !reset.Remote {
		p.t.Fatalf("stream ended with %v, want reset with %#x", err, uint64(code))
	}
}

// wantStopped waits until the peer's sending is stopped, with code.
func (p *peer) wantStopped(ctx context.Context, code quic.StreamErrorCode) {
	p.t.Helper()
	<-ctx.Done()
	var stopped *quic.StreamError
	if err := context.Cause(ctx); !errors.As(err, &stopped) || stopped.ErrorCode != code || !stopped.Remote {
		p.t.Fatalf("stream ended with %v, want stop with %#x", err, uint64(code))
	}
}

// must returns v, and ends the test if there is an error.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// check ends the test if there is an error.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantSessionError checks that err says how a session ended.
func wantSessionError(t testing.TB, err error, by wt.Party, code uint32, reason string) {
	t.Helper()
	var ended *wt.SessionError
	if !errors.As(err, &ended) {
		t.Fatalf("got error %v, want a *SessionError", err)
	}
	if ended.By != by || ended.Code != code || ended.Reason != reason || ended.Remote != (by == wt.Peer) {
		t.Fatalf("session ended by %v (remote %v) with code %d, reason %q (%v); want by %v, %d, %q",
			ended.By, ended.Remote, ended.Code, ended.Reason, ended.Err, by, code, reason)
	}
	if !errors.Is(err, wt.ErrSessionClosed) {
		t.Fatalf("%v does not match ErrSessionClosed", err)
	}
}

// wantStreamError checks that err is a stream's end with an application's code.
func wantStreamError(t testing.TB, err error, remote bool, code uint32) {
	t.Helper()
	var cancelled *wt.StreamError
	if !errors.As(err, &cancelled) || cancelled.Remote != remote || cancelled.Code != code || !cancelled.IsApplication() {
		t.Fatalf("got error %v, want *StreamError with code %d, remote %v", err, code, remote)
	}
}
