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

// watch asks the broker for a sign of life after silence, and ends the connection
// if none comes (PROTOCOL §5.9).
func (n *connection) watch() {
	after, timeout := n.client.config.PingAfter, n.client.config.PingTimeout
	if after < 0 {
		return
	}
	timer := time.NewTimer(after)
	defer timer.Stop()
	var asked time.Time // zero: nothing was asked since something came
	for {
		select {
		case <-timer.C:
		case <-n.ctx.Done():
			return
		}
		heard := time.Unix(0, n.heard.Load())
		if !heard.Before(asked) {
			asked = time.Time{}
		}
		switch silence := time.Since(heard); {
		case silence < after:
			timer.Reset(after - silence)
		case asked.IsZero():
			asked = time.Unix(0, time.Now().UnixNano()) // as heard is
			number := n.ask(func(answer) {})
			n.send(codec.AppendPing(nil, codec.Ping{Number: number}))
			timer.Reset(timeout)
		default:
			n.cancel(lost(fmt.Errorf("nothing has come for %v", silence.Round(time.Millisecond))))
			return
		}
	}
}
