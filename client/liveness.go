package client

import (
	"context"
	"fmt"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// heardStream takes note of everything that comes on a stream.
type heardStream struct {
	Stream
	conn *connection
}

func (s heardStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if n > 0 {
		s.conn.heardNow()
	}
	return n, err
}

// openStream opens a stream.
func (n *connection) openStream(ctx context.Context) (Stream, error) {
	stream, err := n.conn.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	return heardStream{stream, n}, nil
}

func (n *connection) heardNow() { n.heard.Store(time.Now().UnixNano()) }

// silence is how long nothing has come.
func (n *connection) silence() time.Duration { return time.Since(time.Unix(0, n.heard.Load())) }

// watch asks the broker for a sign of life after silence, and ends the connection
// if none comes (PROTOCOL §5.9).
func (n *connection) watch() {
	after, timeout := n.client.config.PingAfter, n.client.config.PingTimeout
	if after < 0 {
		return
	}
	timer := time.NewTimer(after)
	defer timer.Stop()
	asked := false
	for {
		select {
		case <-timer.C:
		case <-n.ctx.Done():
			return
		}
		switch silence := n.silence(); {
		case silence < after:
			asked = false
			timer.Reset(after - silence)
		case !asked:
			asked = true
			number := n.ask(func(answer) {})
			n.send(codec.AppendPing(nil, codec.Ping{Number: number}))
			timer.Reset(timeout)
		default:
			n.cancel(lost(fmt.Errorf("nothing has come for %v", silence.Round(time.Millisecond))))
			return
		}
	}
}
