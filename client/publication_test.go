package client

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// gatedStream is a stream whose writes wait for the gate.
type gatedStream struct {
	Stream
	writing chan struct{} // gets a token with each write
	gate    chan struct{}
	closed  atomic.Int32
}

func newGatedStream() *gatedStream {
	return &gatedStream{writing: make(chan struct{}, 16), gate: make(chan struct{})}
}

func (s *gatedStream) Write(b []byte) (int, error) {
	s.writing <- struct{}{}
	<-s.gate
	return len(b), nil
}

func (s *gatedStream) Close() error {
	s.closed.Add(1)
	return nil
}

// gatedPublication is a publication that is writing.
func gatedPublication() (*publication, *gatedStream, <-chan struct{}) {
	stream := newGatedStream()
	p := &publication{topic: "x", changed: make(chan struct{}), stream: stream, writing: true, out: []byte("frame")}
	p.idle = time.NewTimer(time.Hour)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.write()
	}()
	<-stream.writing
	return p, stream, done
}

// A publication that closes while it is writing sends FIN behind that, once.
func TestPublicationClosesBehindWhatIsWritten(t *testing.T) {
	p, stream, done := gatedPublication()
	p.retire(0)
	if p.state != publicationClosing || stream.closed.Load() != 0 {
		t.Fatalf("state %d, %d times FIN", p.state, stream.closed.Load())
	}
	p.retire(0)
	close(stream.gate)
	<-done
	if n := stream.closed.Load(); n != 1 {
		t.Errorf("%d times FIN", n)
	}
}

// Nothing closes a publication whose messages have no answer yet, whether or not
// somebody still waits for it, or that is in use.
func TestPublicationInUseStaysOpen(t *testing.T) {
	for name, use := range map[string]func(*publication){
		"unanswered frames":     func(p *publication) { p.answers = make([]chan answer, 1) },
		"single messages":       func(p *publication) { p.singles = 1 },
		"a stream being opened": func(p *publication) { p.opening = true },
		"a message just now":    func(p *publication) { p.usedLocked() },
	} {
		p, stream, done := gatedPublication()
		use(p)
		p.retire(idleAfter)
		close(stream.gate)
		<-done
		if p.state != publicationOpen || stream.closed.Load() != 0 {
			t.Errorf("%s: state %d, %d times FIN", name, p.state, stream.closed.Load())
		}
		p.stopTimer()
	}
}

func TestUnansweredFrames(t *testing.T) {
	for _, c := range []struct {
		end  codec.Code
		sent bool
		want codec.Code
	}{
		{codec.CodeOverloaded, true, codec.CodeConnectionLost},
		{codec.CodeOK, true, codec.CodeConnectionLost},
		{codec.CodeConnectionLost, true, codec.CodeConnectionLost},
		{codec.CodePublishDenied, true, codec.CodePublishDenied},
		{codec.CodeOverloaded, false, codec.CodeOverloaded},
		{codec.CodePublishDenied, false, codec.CodePublishDenied},
	} {
		if got := codec.CodeOf(unanswered(&Error{Code: c.end}, c.sent)); got != c.want {
			t.Errorf("END %s, sent %v: %s, want %s", c.end, c.sent, got, c.want)
		}
	}
	if err := unanswered(&Error{Code: codec.CodeOK}, false); !errors.Is(err, errEnded) {
		t.Errorf("what was not sent before a clean end: %v", err)
	}
}

// Messages wait for room on a control stream that is not read, at most as long as
// their context; other frames go into the queue at once.
func TestControlStreamNotRead(t *testing.T) {
	c := &Client{ctx: t.Context()}
	n := newConnection(c, nil)
	stream := newGatedStream()
	n.control = stream
	frame := make([]byte, 100<<10)
	if err := n.sendMessage(t.Context(), frame); err != nil {
		t.Fatal(err)
	}
	<-stream.writing // has taken the first one
	for range 3 {
		if err := n.sendMessage(t.Context(), frame); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.sendMessage(ctx, frame); !errors.Is(err, context.Canceled) {
		t.Errorf("above the bound: %v", err)
	}
	for range 1000 {
		n.send(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: 1}))
	}
	waiting := make(chan error)
	go func() { waiting <- n.sendMessage(t.Context(), frame) }()
	close(stream.gate)
	if err := <-waiting; err != nil {
		t.Errorf("when there is room: %v", err)
	}
	if n.ctx.Err() != nil {
		t.Errorf("the connection has ended: %v", context.Cause(n.ctx))
	}
	n.wg.Wait()
}
