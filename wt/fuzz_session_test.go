package wt_test

import (
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
	"unicode/utf8"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// play is a session of which both ends follow a schedule: who calls what, and
// what the network does in between.
type play struct {
	t       *testing.T
	network *wttest.Network
	sockets [2]*wttest.Endpoint
	players [2]*player // client and server
	calls   sync.WaitGroup
}

// player is one end.
type player struct {
	*play
	side    int
	session *wt.Session
	// intents are the ends that the player has asked for.
	intents []wt.SessionError

	// Guarded by mu.
	mu      sync.Mutex
	streams []*playedStream
}

// playedStream is a stream as one end has it. Its bytes in each direction follow
// a pattern, so that the reader knows what is to come.
type playedStream struct {
	id      int64
	receive interface {
		io.Reader
		CancelRead(uint32)
		CancelReadHTTP(uint64)
		SetReadDeadline(time.Time) error
		OnReceiveEnd(func())
	}
	send interface {
		io.Writer
		TryWriteAll([]byte) error
		Close() error
		CancelWrite(uint32)
		CancelWriteHTTP(uint64)
		SetWriteDeadline(time.Time) error
		SetPriority(int8, bool)
	}

	reading sync.Mutex
	read    int
	// Guarded by writing.
	writing sync.Mutex
	written int
	closed  bool
}

// pattern is the byte at an offset of what a side writes on a stream.
func pattern(id int64, side, offset int) byte {
	return byte(int(id)*7 + side*101 + offset*31 + offset>>8)
}

// playEvents are what a schedule is made of. Each takes the player whose turn it is
// and an argument, and must not block.
var playEvents = []func(p *player, arg int){
	func(p *player, _ int) {
		if stream, err := p.session.OpenStream(p.brief()); p.judge(err) {
			p.add(&playedStream{id: stream.StreamID(), receive: stream, send: stream})
		}
	},
	func(p *player, _ int) {
		if stream, err := p.session.OpenUniStream(p.brief()); p.judge(err) {
			p.add(&playedStream{id: stream.StreamID(), send: stream})
		}
	},
	func(p *player, _ int) {
		p.call(func() error {
			stream, err := p.session.AcceptStream(p.brief())
			if err == nil {
				p.add(&playedStream{id: stream.StreamID(), receive: stream, send: stream})
			}
			return err
		})
	},
	func(p *player, _ int) {
		p.call(func() error {
			stream, err := p.session.AcceptUniStream(p.brief())
			if err == nil {
				p.add(&playedStream{id: stream.StreamID(), receive: stream})
			}
			return err
		})
	},
	(*player).write,
	func(p *player, arg int) { // write a little, often
		for range arg % 8 {
			p.write(arg)
		}
	},
	func(p *player, arg int) {
		p.sending(arg, func(s *playedStream) error {
			b := s.next(p.side, sizes[arg%len(sizes)])
			err := s.send.TryWriteAll(b)
			if err == nil {
				s.written += len(b)
			}
			return err
		})
	},
	func(p *player, arg int) {
		p.sending(arg, func(s *playedStream) error {
			s.closed = true
			return s.send.Close()
		})
	},
	func(p *player, arg int) {
		if s := p.stream(arg); s != nil && s.send != nil {
			s.send.CancelWrite(uint32(arg))
		}
	},
	func(p *player, arg int) {
		if s := p.stream(arg); s != nil && s.receive != nil {
			s.receive.CancelRead(uint32(arg))
		}
	},
	func(p *player, arg int) {
		if s := p.stream(arg); s != nil && s.send != nil {
			s.send.CancelWriteHTTP(uint64(arg))
		}
	},
	func(p *player, arg int) {
		if s := p.stream(arg); s != nil && s.receive != nil {
			s.receive.CancelReadHTTP(uint64(arg))
		}
	},
	(*player).read,
	(*player).read,
	func(p *player, arg int) {
		if s := p.stream(arg); s != nil && s.receive != nil {
			s.receive.OnReceiveEnd(func() {})
		}
	},
	func(p *player, arg int) {
		if s := p.stream(arg); s != nil && s.send != nil {
			s.send.SetPriority(int8(arg%8), arg%2 == 0)
		}
	},
	func(p *player, arg int) {
		p.call(func() error { return p.session.SendDatagram(p.brief(), p.datagram(arg)) })
	},
	func(p *player, arg int) {
		for range arg {
			if !p.judge(p.session.TrySendDatagram(p.datagram(arg))) {
				break
			}
		}
	},
	func(p *player, arg int) {
		for range arg {
			if !p.judge(p.session.PushDatagram(p.datagram(arg))) {
				break
			}
		}
	},
	(*player).receive,
	(*player).receive,
	func(p *player, _ int) { p.judge(p.session.Drain()) },
	func(p *player, arg int) {
		reason := []string{"", "enough", "\xff", "größe"}[arg%4]
		p.end(wt.SessionError{Via: wt.ViaCapsule, Code: uint32(arg)}, func() error { return p.session.CloseWithError(uint32(arg), reason) })
	},
	func(p *player, _ int) { p.end(wt.SessionError{Via: wt.ViaFIN}, p.session.Finish) },
	func(p *player, arg int) {
		code := uint64(0x10c + arg)
		p.end(wt.SessionError{Via: wt.ViaReset, HTTPCode: code}, func() error { return p.session.Reset(code) })
	},
	func(p *player, arg int) {
		code := uint64(0x10c + arg)
		p.end(wt.SessionError{Via: wt.ViaConnection, HTTPCode: code}, func() error { return p.session.CloseConnection(code, "enough") })
	},
	// The network's part.
	func(p *player, _ int) { p.socket().Hold() },
	func(p *player, _ int) { p.socket().Release() },
	func(p *player, _ int) { p.socket().ReleaseReversed() },
	func(p *player, _ int) { p.socket().Partition() },
	func(p *player, _ int) { p.socket().Heal() },
	func(p *player, arg int) {
		p.socket().SetLink([]wttest.Link{
			{},
			{Latency: 20 * time.Millisecond},
			{Latency: 20 * time.Millisecond, Jitter: 50 * time.Millisecond},
			{Loss: 0.3, Duplicate: 0.3},
			{Reorder: 0.5, ReorderBy: time.Second},
			{Rate: 20_000, Queue: 5_000},
		}[arg%6])
	},
	func(_ *player, arg int) { time.Sleep(time.Duration(arg) * time.Millisecond) },
	func(_ *player, arg int) { time.Sleep(time.Duration(arg) * 100 * time.Millisecond) },
}

// endingEvents are those of playEvents that end the session or silence the network.
var endingEvents = []int{22, 23, 24, 25, 29}

// sizes of writes: none, one byte, around the first chunk, several packets, more
// than a stream's window at first.
var sizes = []int{0, 1, 1000, 1100, 10_000, 600_000}

// brief is a context that ends soon.
func (p *player) brief() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func (p *player) socket() *wttest.Endpoint { return p.sockets[p.side] }

func (p *player) add(s *playedStream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams = append(p.streams, s)
}

// stream picks one of the player's streams.
func (p *player) stream(arg int) *playedStream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.streams) == 0 {
		return nil
	}
	return p.streams[arg%len(p.streams)]
}

// call runs f, which may block, beside the rest of the schedule.
func (p *player) call(f func() error) {
	ended := p.session.Context().Err() != nil
	p.calls.Go(func() {
		if err := f(); p.judge(err) && ended {
			p.t.Error("a call on an ended session succeeded")
		}
	})
}

// judge reports whether err is nil, and refuses errors that no call may return.
func (p *player) judge(err error) bool {
	var ended *wt.SessionError
	var cancelled *wt.StreamError
	switch {
	case err == nil:
		return true
	case errors.As(err, &ended):
		<-p.session.Context().Done() // it may come a moment later
		if !errors.Is(err, wt.ErrSessionClosed) || !errors.Is(context.Cause(p.session.Context()), ended) {
			p.t.Errorf("%v is not how the session ended: %v", err, context.Cause(p.session.Context()))
		}
	case errors.As(err, &cancelled), errors.Is(err, io.EOF), errors.Is(err, wt.ErrWouldBlock),
		errors.Is(err, wt.ErrStreamClosed), errors.Is(err, wt.ErrDatagramTooLarge),
		errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
	default:
		p.t.Errorf("a call returned %v (%T)", err, err)
	}
	return false
}

// next is what a side writes next on a stream.
func (s *playedStream) next(side, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = pattern(s.id, side, s.written+i)
	}
	return b
}

// sending calls f on a stream unless another call is sending on it.
func (p *player) sending(arg int, f func(*playedStream) error) {
	s := p.stream(arg)
	if s == nil || s.send == nil || !s.writing.TryLock() {
		return
	}
	p.calls.Go(func() {
		defer s.writing.Unlock()
		p.judge(f(s))
	})
}

func (p *player) write(arg int) {
	p.sending(arg, func(s *playedStream) error {
		if err := s.send.SetWriteDeadline(time.Now().Add(900 * time.Millisecond)); err != nil {
			return err
		}
		n, err := s.send.Write(s.next(p.side, sizes[arg/8%len(sizes)]))
		s.written += n
		return err
	})
}

func (p *player) read(arg int) {
	s := p.stream(arg)
	if s == nil || s.receive == nil || !s.reading.TryLock() {
		return
	}
	p.calls.Go(func() {
		defer s.reading.Unlock()
		if err := s.receive.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			p.judge(err)
			return
		}
		b := make([]byte, 100_000)
		n, err := s.receive.Read(b)
		for i, c := range b[:n] {
			if c != pattern(s.id, 1-p.side, s.read+i) {
				p.t.Errorf("stream %d: byte %d is wrong", s.id, s.read+i)
				break
			}
		}
		s.read += n
		if errors.Is(err, io.EOF) {
			p.wantWritten(s)
		}
		p.judge(err)
	})
}

// wantWritten checks that a stream which was read to its end was written so far
// and closed.
func (p *player) wantWritten(s *playedStream) {
	other := p.players[1-p.side]
	other.mu.Lock()
	streams := slices.Clone(other.streams)
	other.mu.Unlock()
	for _, o := range streams {
		if o.id != s.id {
			continue
		}
		o.writing.Lock()
		defer o.writing.Unlock()
		if !o.closed || o.written != s.read {
			p.t.Errorf("stream %d ended after %d bytes; %d were written, closed %v", s.id, s.read, o.written, o.closed)
		}
	}
}

// datagram is a payload that the receiver can check.
func (p *player) datagram(arg int) []byte {
	b := make([]byte, arg*8)
	for i := range b {
		b[i] = pattern(int64(arg), p.side, i)
	}
	return b
}

func (p *player) receive(int) {
	p.calls.Go(func() {
		b, err := p.session.ReceiveDatagram(p.brief())
		for i, c := range b {
			if c != pattern(int64(len(b)/8), 1-p.side, i) {
				p.t.Errorf("datagram of %d bytes: byte %d is wrong", len(b), i)
				break
			}
		}
		p.judge(err)
	})
}

// end asks for an end of the session.
func (p *player) end(intent wt.SessionError, f func() error) {
	p.intents = append(p.intents, intent)
	p.calls.Go(func() {
		if err := f(); err != nil {
			p.t.Errorf("ending the session: %v", err)
		}
		if p.session.Context().Err() == nil {
			p.t.Error("a session goes on after its end")
		}
	})
}

// run follows a schedule: pairs of an event and its argument, whose lowest bit is
// the player. Unless the event has its highest bit set, all that it causes at
// once happens before the next.
func (p *play) run(schedule []byte) {
	for len(schedule) >= 2 {
		event, arg := schedule[0], int(schedule[1])
		schedule = schedule[2:]
		playEvents[int(event&0x7f)%len(playEvents)](p.players[arg&1], arg>>1)
		if event&0x80 == 0 {
			synctest.Wait()
		}
	}
}

// finish ends the session if it goes on, and checks that both ends agree on how
// it ended.
func (p *play) finish() {
	late := time.AfterFunc(2*time.Minute, func() {
		stacks := make([]byte, 1<<20)
		panic(fmt.Sprintf("a call hangs:\n%s", stacks[:runtime.Stack(stacks, true)]))
	})
	defer late.Stop()
	for _, socket := range p.sockets {
		socket.Heal()
		socket.SetLink(wttest.Link{})
		socket.Release()
	}
	for _, one := range p.players {
		one.end(wt.SessionError{Via: wt.ViaCapsule}, one.session.Close)
		synctest.Wait()
	}
	p.calls.Wait()
	for _, one := range p.players {
		one.wantEnd(p.players[1-one.side])
	}
	// Nobody broke a rule, so no connection ended for one.
	var closed *quic.ApplicationError
	<-p.players[0].session.Conn().Context().Done()
	if err := context.Cause(p.players[0].session.Conn().Context()); errors.As(err, &closed) &&
		closed.ErrorCode != h3NoError && (closed.ErrorCode < 0x10c || closed.ErrorCode > 0x10c+127) {
		p.t.Errorf("the connection ended with %v", err)
	}
}

// wantEnd checks one end's word on how the session ended against the other's.
func (p *player) wantEnd(other *player) {
	t := p.t
	var ended, counterpart *wt.SessionError
	if !errors.As(context.Cause(p.session.Context()), &ended) || !errors.As(context.Cause(other.session.Context()), &counterpart) {
		t.Fatalf("ended with %v and %v", context.Cause(p.session.Context()), context.Cause(other.session.Context()))
	}
	if ended.Remote != (ended.By == wt.Peer) || len(ended.Reason) > 1024 || !utf8.ValidString(ended.Reason) || !errors.Is(ended, wt.ErrSessionClosed) {
		t.Errorf("malformed: %+v", ended)
	}
	asked := func(by *player) bool {
		return slices.ContainsFunc(by.intents, func(i wt.SessionError) bool {
			return i.Via == ended.Via && i.Code == ended.Code && i.HTTPCode == ended.HTTPCode
		})
	}
	switch ended.By {
	case wt.Us:
		if !asked(p) {
			t.Errorf("side %d ended the session without being asked: %+v", p.side, ended)
		}
	case wt.Peer:
		// A close that the peer could not deliver in time ends as a reset.
		if undelivered := ended.Via == wt.ViaReset && counterpart.By == wt.Us; !undelivered && !asked(other) {
			t.Errorf("side %d did not end the session so: %+v", other.side, ended)
		}
	case wt.Transport:
		if ended.Via != wt.ViaConnection && ended.Via != wt.ViaLoss {
			t.Errorf("lost in an impossible way: %+v", ended)
		}
	}
}

// FuzzSession interprets its input as a schedule of calls, deliveries and losses,
// in virtual time. Under every one, calls return, errors are what the
// documentation says, data arrives whole or not at all, both sides agree on how
// the session ended, and nothing is left of it.
func FuzzSession(f *testing.F) {
	for _, schedule := range [][]byte{
		{},
		{0, 0, 4, 0x20, 2, 1, 12, 1, 7, 0, 12, 1},                   // a stream, read to its end
		{0, 0, 4, 0x50, 22, 0x0a, 2, 1, 12, 1},                      // a close behind data
		{26, 0, 0, 0, 4, 0x20, 8, 0, 28, 0, 2, 1, 12, 1},            // a reset overtakes
		{26, 1, 16, 0x11, 21, 1, 22, 3, 28, 1, 19, 0, 19, 0},        // a close overtakes a datagram
		{0x80 | 22, 2, 0x80 | 22, 5},                                // both close
		{29, 0, 22, 2, 32, 0xfe, 30, 0, 33, 0xff},                   // a close into the void
		{29, 0, 29, 1, 33, 0xff, 33, 0xff, 33, 0xff, 33, 0xff},      // silence
		{17, 0xff, 17, 0xfe, 18, 0xff, 18, 0xfe, 19, 0, 19, 1},      // floods
		{0, 0, 5, 0x2f, 31, 6, 4, 0x28, 2, 1, 12, 1, 12, 1, 23, 1},  // FIN by a server in a flow
		{1, 1, 4, 0x21, 24, 1, 3, 0, 12, 0}, {25, 0, 0, 0}, {25, 1}, // raw ends
	} {
		f.Add(schedule)
	}
	f.Fuzz(func(t *testing.T, schedule []byte) {
		follow(t, schedule[:min(len(schedule), 200)])
	})
}

// follow plays a schedule on a session of its own.
func follow(t *testing.T, schedule []byte) {
	synctest.Test(t, func(t *testing.T) {
		config := &quic.Config{MaxIdleTimeout: 20 * time.Second, KeepAlivePeriod: 8 * time.Second}
		j := join(t, wttest.Link{}, 1, wt.ServerConfig{QUICConfig: config}, wt.Dialer{QUICConfig: config})
		p := &play{t: t, network: j.network, sockets: [2]*wttest.Endpoint{j.clientEnd, j.host.Endpoint}}
		for side, session := range []*wt.Session{j.client, j.server} {
			p.players[side] = &player{play: p, side: side, session: session}
		}
		p.run(schedule)
		p.finish()
	})
}

// Long schedules by chance, whose sessions live long enough for much to happen.
func TestRandomSchedules(t *testing.T) {
	everySeed(20, func(t *testing.T, seed uint64) {
		schedule := noise(400, seed)
		for i := 0; i < len(schedule)-40; i += 2 {
			if event := int(schedule[i]&0x7f) % len(playEvents); slices.Contains(endingEvents, event) {
				schedule[i] = schedule[i]&0x80 | byte(i%22)
			}
		}
		follow(t, schedule)
	})(t)
}
