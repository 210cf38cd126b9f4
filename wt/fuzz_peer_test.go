package wt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// puppet is a peer on bare QUIC that follows a script: which bytes go on which
// stream, which streams end how, and in which order its packets arrive.
type puppet struct {
	t      *testing.T
	conn   *quic.Conn
	socket *wttest.Endpoint

	reading sync.WaitGroup

	// Guarded by mu.
	mu      sync.Mutex
	streams []puppetStream
	resets  []*quic.StreamError // of the side under test
}

// puppetStream has one direction or both.
type puppetStream struct {
	send interface {
		io.WriteCloser
		CancelWrite(quic.StreamErrorCode)
		SetWriteDeadline(time.Time) error
		SetReliableBoundary()
	}
	receive *quic.Stream
}

// puppetChunks are pieces of HTTP/3 and WebTransport, well-formed and not, so that
// scripts get far.
var puppetChunks = [][]byte{
	append(varints(0), usualSettings()...),
	append(varints(0), serverSettings()...),
	append(varints(0), settingsFrame(8, 1, 0x33, 1, 0x2c7cf000, 1, 0x2b61, 1000, 0x2b64, 2, 0x2b65, 2)...),
	append(varints(0), settingsFrame(8, 1, 0x33, 1, 0x2b603742, 1)...),
	append(varints(0), settingsFrame(0x33, 2)...),
	varints(0),
	varints(2),
	varints(3),
	usualSettings(),
	frame(7, varints(0)),
	frame(7, varints(8)),
	frame(0x21, []byte("grease")),
	connectHead(),
	connectHead("wt-available-protocols", `"a"`),
	headers(":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/"),
	headers(":status", "200"),
	headers(":status", "103"),
	headers(":status", "404"),
	headers(":status", "200", "wt-protocol", `"b"`),
	varints(0x41, 0),
	varints(0x41, 4),
	varints(0x41, 1),
	varints(0x54, 0),
	varints(0x54, 8),
	{0},
	{1, 'x'},
	{0, 'x'},
	data(closeCapsule(3, "over")),
	data(closeCapsule(0, string(make([]byte, 1025)))),
	data(frame(0x78ae, nil)),
	data(frame(0x190b4d3d, varints(5000))),
	data(frame(0x190b4d3f, varints(5))),
	data(frame(0x190b4d40, varints(0))),
	data(frame(0x190b4d41, varints(1))),
	data(frame(0x1234, bytes.Repeat([]byte{1}, 50))),
	data([]byte{0x68}),
	data([]byte{0x43, 4, 0}),
	varints(0x4040),
	bytes.Repeat([]byte("data"), 500),
}

// puppetMoves are what a script is made of. What is returned is what the move
// left of the script.
var puppetMoves = []func(p *puppet, arg int, rest []byte) []byte{
	func(p *puppet, arg int, rest []byte) []byte { return p.uni(puppetChunks[arg%len(puppetChunks)], rest) },
	func(p *puppet, arg int, rest []byte) []byte { return p.bidi(puppetChunks[arg%len(puppetChunks)], rest) },
	func(p *puppet, arg int, rest []byte) []byte {
		return p.uni(rest[:min(arg%16, len(rest))], rest[min(arg%16, len(rest)):])
	},
	func(p *puppet, arg int, rest []byte) []byte {
		return p.bidi(rest[:min(arg%16, len(rest))], rest[min(arg%16, len(rest)):])
	},
	(*puppet).more,
	(*puppet).more,
	(*puppet).more,
	func(p *puppet, arg int, rest []byte) []byte {
		n := min(arg/16, len(rest))
		if s := p.stream(arg); s != nil {
			p.write(*s, rest[:n])
		}
		return rest[n:]
	},
	func(p *puppet, arg int, rest []byte) []byte {
		if s := p.stream(arg); s != nil {
			_ = s.send.Close()
		}
		return rest
	},
	func(p *puppet, arg int, rest []byte) []byte {
		if s := p.stream(arg); s != nil {
			s.send.CancelWrite(quic.StreamErrorCode(0x52e4a40fa8db + arg))
		}
		return rest
	},
	func(p *puppet, arg int, rest []byte) []byte {
		if s := p.stream(arg); s != nil {
			s.send.SetReliableBoundary()
		}
		return rest
	},
	func(p *puppet, arg int, rest []byte) []byte {
		if s := p.stream(arg); s != nil && s.receive != nil {
			s.receive.CancelRead(quic.StreamErrorCode(arg))
		}
		return rest
	},
	func(p *puppet, arg int, rest []byte) []byte {
		_ = p.conn.SendDatagram(puppetChunks[arg%len(puppetChunks)])
		return rest
	},
	func(p *puppet, arg int, rest []byte) []byte {
		n := min(arg%8, len(rest))
		_ = p.conn.SendDatagram(rest[:n])
		return rest[n:]
	},
	func(p *puppet, _ int, rest []byte) []byte { p.socket.Hold(); return rest },
	func(p *puppet, _ int, rest []byte) []byte { p.socket.ReleaseReversed(); return rest },
	func(_ *puppet, arg int, rest []byte) []byte {
		time.Sleep(time.Duration(arg) * 40 * time.Millisecond)
		return rest
	},
	func(_ *puppet, _ int, rest []byte) []byte { synctest.Wait(); return rest },
}

func (p *puppet) uni(b, rest []byte) []byte {
	if stream, err := p.conn.OpenUniStream(); err == nil {
		p.add(puppetStream{send: stream}, b)
	}
	return rest
}

func (p *puppet) bidi(b, rest []byte) []byte {
	if stream, err := p.conn.OpenStream(); err == nil {
		p.add(puppetStream{send: stream, receive: stream}, b)
		p.discard(stream)
	}
	return rest
}

// more writes a chunk, which the next byte of the script names, on a stream.
func (p *puppet) more(arg int, rest []byte) []byte {
	if s := p.stream(arg); s != nil && len(rest) > 0 {
		p.write(*s, puppetChunks[int(rest[0])%len(puppetChunks)])
		return rest[1:]
	}
	return rest
}

func (p *puppet) add(s puppetStream, b []byte) {
	p.mu.Lock()
	p.streams = append(p.streams, s)
	p.mu.Unlock()
	p.write(s, b)
}

func (p *puppet) stream(arg int) *puppetStream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.streams) == 0 {
		return nil
	}
	s := p.streams[arg%len(p.streams)]
	return &s
}

func (p *puppet) write(s puppetStream, b []byte) {
	_ = s.send.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = s.send.Write(b)
}

// discard reads a stream to its end, and keeps how it was reset.
func (p *puppet) discard(stream io.Reader) {
	p.reading.Go(func() {
		_, err := io.Copy(io.Discard, stream)
		var reset *quic.StreamError
		if errors.As(err, &reset) && reset.Remote {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.resets = append(p.resets, reset)
		}
	})
}

// accept takes the streams of the other side, answers those that go both ways,
// and takes its datagrams.
func (p *puppet) accept() {
	ctx := p.conn.Context()
	p.reading.Go(func() {
		for {
			stream, err := p.conn.AcceptUniStream(ctx)
			if err != nil {
				return
			}
			p.discard(stream)
		}
	})
	p.reading.Go(func() {
		for {
			stream, err := p.conn.AcceptStream(ctx)
			if err != nil {
				return
			}
			p.discard(stream)
			p.mu.Lock()
			p.streams = append(p.streams, puppetStream{send: stream, receive: stream})
			p.mu.Unlock()
		}
	})
	p.reading.Go(func() {
		for {
			if _, err := p.conn.ReceiveDatagram(ctx); err != nil {
				return
			}
		}
	})
}

// knownCodes are those that the side under test may end streams and connections
// with; an error of its own, 0x102, is not among them.
var knownCodes = []uint64{
	h3NoError, h3StreamCreation, h3ClosedCritical, h3FrameUnexpected, h3FrameError, h3ExcessiveLoad, h3IDError,
	h3SettingsError, h3MissingSettings, h3RequestRejected, 0x10c, h3RequestIncomplete, h3MessageError, h3DatagramError,
	qpackDecompression, 0x201, 0x202, wtBufferedRejected, wtSessionGone, wtALPNError, 0x045d4487, 0x212c0d48,
}

// finish ends the connection, and checks how the other side ended what it ended.
func (p *puppet) finish() {
	p.socket.Release()
	synctest.Wait()
	time.Sleep(10 * time.Second) // every deadline of a header passes
	_ = p.conn.CloseWithError(h3NoError, "")
	<-p.conn.Context().Done()
	p.reading.Wait()
	var closed *quic.ApplicationError
	var idle *quic.IdleTimeoutError // a script can hold its packets for long
	if err := context.Cause(p.conn.Context()); !errors.As(err, &idle) &&
		(!errors.As(err, &closed) || closed.Remote && !slices.Contains(knownCodes, uint64(closed.ErrorCode))) {
		p.t.Errorf("the connection ended with %v", err)
	}
	for _, reset := range p.resets {
		code := uint64(reset.ErrorCode)
		if !slices.Contains(knownCodes, code) && (code < 0x52e4a40fa8db || code > 0x52e5ac983162) {
			p.t.Errorf("a stream was reset with %v", reset)
		}
	}
}

// run follows a script: a move, its argument, and what the move takes further.
func (p *puppet) run(script []byte) {
	for len(script) >= 2 {
		move, arg := script[0], int(script[1])
		script = puppetMoves[int(move&0x7f)%len(puppetMoves)](p, arg, script[2:])
		if move&0x80 == 0 {
			synctest.Wait()
		}
	}
}

// wantOrderlyEnd checks how a session ended.
func wantOrderlyEnd(t *testing.T, s *wt.Session) {
	t.Helper()
	<-s.Context().Done()
	var ended *wt.SessionError
	if err := context.Cause(s.Context()); !errors.As(err, &ended) || ended.Remote != (ended.By == wt.Peer) ||
		ended.Via < wt.ViaCapsule || ended.Via > wt.ViaAnswer || ended.Via == wt.ViaRule && ended.HTTPCode == 0 {
		t.Errorf("the session ended with %v (%+v)", err, ended)
	}
}

// use takes what comes on a session and answers it, and opens streams of its own.
func use(s *wt.Session) {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { echo(s) })
	if stream, err := s.OpenStream(s.Context()); err == nil {
		work.Go(func() {
			_, _ = stream.Write(make([]byte, 3000))
			_, _ = io.Copy(io.Discard, stream)
			_ = stream.Close()
		})
	}
	if uni, err := s.OpenUniStream(s.Context()); err == nil {
		work.Go(func() {
			_, _ = uni.Write(make([]byte, 3000))
			_ = uni.Close()
		})
	}
	<-s.Context().Done()
}

// hangs panics if a test takes long in virtual time. It returns what ends the
// watch.
func hangs() (stop func() bool) {
	return time.AfterFunc(10*time.Minute, func() {
		stacks := make([]byte, 1<<20)
		panic(fmt.Sprintf("a call hangs:\n%s", stacks[:runtime.Stack(stacks, true)]))
	}).Stop
}

// puppetSeeds are scripts that do all well, and some that do not.
func puppetSeeds(f *testing.F, hellos [][]byte) {
	for _, script := range [][]byte{
		{},
		{1, 19, 0, 22, 12, 26}, // streams and a datagram of the session
		{4, 1, 27, 8, 1},       // a close
		{4, 1, 29, 4, 1, 30, 4, 1, 31, 1, 19, 0, 22, 16, 1}, // drain, and more credit
		{4, 1, 33, 4, 1, 28}, // a limit that shrinks, and an endless reason
		{0, 6, 0, 7, 0, 5, 12, 24, 12, 38},
		{14, 0, 1, 19, 4, 2, 37, 9, 2, 0, 22, 8, 3, 15, 0},
		{1, 21}, {0, 23}, {4, 0, 8}, {4, 0, 9}, {8, 0}, {9, 1}, {11, 1},
	} {
		for _, hello := range hellos {
			f.Add(slices.Concat(hello, script))
		}
	}
}

// The beginnings of scripts: SETTINGS and a request, or its answer.
var (
	clientHellos = [][]byte{{0, 0, 1, 12}, {0, 2, 1, 12, 1, 12}}
	serverHellos = [][]byte{{0, 1, 17, 0, 4, 0, 15}, {0, 2, 17, 0, 4, 0, 16, 4, 0, 15}, {0, 3, 17, 0, 4, 0, 17}}
)

// FuzzServer interprets its input as the script of a client. Whatever it is, the
// server ends streams, sessions and connections with codes that have a meaning,
// keeps nothing of them, and serves others.
func FuzzServer(f *testing.F) {
	puppetSeeds(f, clientHellos)
	f.Fuzz(func(t *testing.T, script []byte) { serveScript(t, script[:min(len(script), 300)]) })
}

// FuzzClient interprets its input as the script of a server. Whatever it is, the
// dial returns a session or an error that is documented, and nothing is left.
func FuzzClient(f *testing.F) {
	puppetSeeds(f, serverHellos)
	f.Fuzz(func(t *testing.T, script []byte) { dialScript(t, script[:min(len(script), 300)]) })
}

// Long scripts by chance.
func TestRandomScripts(t *testing.T) {
	t.Run("server", everySeed(20, func(t *testing.T, seed uint64) {
		serveScript(t, slices.Concat(clientHellos[seed%2], noise(300, seed)))
	}))
	t.Run("client", everySeed(20, func(t *testing.T, seed uint64) {
		dialScript(t, slices.Concat(serverHellos[seed%3], noise(300, seed)))
	}))
}

// serveScript is a server to a client that follows a script.
func serveScript(t *testing.T, script []byte) {
	synctest.Test(t, func(t *testing.T) {
		defer hangs()()
		n := wttest.NewNetwork(t, wttest.Link{}, 1)
		host := wttest.Serve(t, n, wt.ServerConfig{
			MaxSessionsPerConnection: 2,
			Subprotocols:             []string{"a"},
			Handler: wt.HandlerFunc(func(_ context.Context, r *wt.Request) {
				if s, err := r.Accept(nil); err == nil {
					use(s)
					wantOrderlyEnd(t, s)
				}
			}),
		})
		end := n.NewEndpoint()
		transport := &quic.Transport{Conn: end}
		defer transport.Close()
		p := &puppet{t: t, conn: dialBare(t, transport, host, peerQUIC()).conn, socket: end}
		p.accept()
		p.run(script)
		p.finish()

		honest := must(host.Dialer(wt.Dialer{}).Dial(t.Context(), host.URL))(t)
		check(t, roundTrip(honest, []byte("still there")))
		check(t, honest.Close())
	})
}

// dialScript is a client to a server that follows a script.
func dialScript(t *testing.T, script []byte) {
	synctest.Test(t, func(t *testing.T) {
		defer hangs()()
		n := wttest.NewNetwork(t, wttest.Link{}, 1)
		identity := must(wt.NewDevIdentity())(t)
		config := identity.TLSConfig()
		config.NextProtos = []string{"h3"}
		end := n.NewEndpoint()
		transport := &quic.Transport{Conn: end}
		defer transport.Close()
		listener := must(transport.Listen(config, peerQUIC()))(t)
		defer listener.Close()

		var dialing sync.WaitGroup
		dialing.Go(func() {
			dialer := wt.Dialer{CertificateHashes: [][32]byte{identity.Hash()}, PacketConn: n.NewEndpoint(), Subprotocols: []string{"a"}}
			if len(script)%2 == 1 {
				dialer.MaxSessionData = 2000
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			s, err := dialer.Dial(ctx, "https://"+end.Addr().String()+"/")
			if err != nil {
				wantDialError(t, err)
				return
			}
			use(s)
			wantOrderlyEnd(t, s)
			check(t, s.Close())
		})
		conn := must(listener.Accept(t.Context()))(t)
		p := &puppet{t: t, conn: conn, socket: end}
		p.accept()
		p.run(script)
		p.finish()
		dialing.Wait()
	})
}

// wantDialError refuses errors that no dial may return.
func wantDialError(t *testing.T, err error) {
	t.Helper()
	var (
		rejected    *wt.RejectedError
		reset       *wt.StreamError
		ended       *wt.SessionError
		application *quic.ApplicationError
	)
	switch {
	case errors.As(err, &rejected):
		if rejected.Status < 300 || rejected.Status > 599 {
			t.Errorf("rejected with status %d", rejected.Status)
		}
	case errors.As(err, &application), errors.As(err, &reset), errors.As(err, &ended), errors.Is(err, wt.ErrUnsupported),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
	default:
		// What remains is a rule that the answer broke, which has a text of its own.
		if !bytes.Contains([]byte(err.Error()), []byte("(HTTP/3 code 0x")) {
			t.Errorf("dial: %v (%T)", err, err)
		}
	}
}
