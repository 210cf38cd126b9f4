package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// BenchmarkFanOut is what the broker itself does for a delivery: from a publisher in
// its process to the writes of its sessions, which cost nothing here.
func BenchmarkFanOut(b *testing.B) {
	for _, subscribers := range []int{1, 100} {
		for _, pattern := range []string{"bench.topic", "bench.*"} {
			b.Run(fmt.Sprintf("%d %s", subscribers, pattern), func(b *testing.B) {
				br, err := broker.New(broker.Config{Limits: codec.Limits{SubscriptionCredit: 1 << 50}})
				if err != nil {
					b.Fatal(err)
				}
				defer br.Close()
				for range subscribers {
					conn := newSink(pattern)
					done := make(chan struct{})
					go func() {
						_ = br.ServeConn(context.Background(), conn)
						close(done)
					}()
					defer func() {
						conn.cancel(errors.New("done"))
						<-done
					}()
				}
				for br.Stats().Subscriptions < int64(subscribers) {
					time.Sleep(time.Millisecond)
				}
				payload := make([]byte, 128)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := br.Publish(context.Background(), "bench.topic", payload, nil); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(subscribers), "ns/delivery")
			})
		}
	}
}

// sink is a connection of a client that subscribes, and takes everything at once.
type sink struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	streams chan *sinkStream
}

func newSink(pattern string) *sink {
	c := &sink{streams: make(chan *sinkStream, 2)}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.streams <- &sinkStream{conn: c, in: codec.AppendHello(nil, codec.Hello{Version: codec.Version})}
	c.streams <- &sinkStream{conn: c, in: codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: pattern, Priority: 3, Credit: 1 << 50})}
	return c
}

func (c *sink) AcceptStream(ctx context.Context) (broker.Stream, error) {
	select {
	case s := <-c.streams:
		return s, nil
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *sink) SendDatagram(context.Context, []byte) error { return broker.ErrNoDatagrams }
func (c *sink) ReceiveDatagram(context.Context) ([]byte, error) {
	return nil, broker.ErrNoDatagrams
}
func (c *sink) MaxDatagramSize() int                { return 0 }
func (c *sink) Stats() broker.ConnStats             { return broker.ConnStats{} }
func (c *sink) CloseWithError(uint32, string) error { c.cancel(errors.New("closed")); return nil }
func (c *sink) Context() context.Context            { return c.ctx }
func (c *sink) RemoteAddr() net.Addr                { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)} }

type sinkStream struct {
	conn *sink
	in   []byte
}

func (s *sinkStream) Read(p []byte) (int, error) {
	if len(s.in) == 0 {
		<-s.conn.ctx.Done()
		return 0, io.EOF
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}
func (s *sinkStream) Write(p []byte) (int, error)    { return len(p), nil }
func (*sinkStream) Close() error                     { return nil }
func (*sinkStream) CancelRead(uint32)                {}
func (*sinkStream) CancelWrite(uint32)               {}
func (*sinkStream) SetReadDeadline(time.Time) error  { return nil }
func (*sinkStream) SetWriteDeadline(time.Time) error { return nil }
func (*sinkStream) SetPriority(int8, bool)           {}
func (*sinkStream) OnReceiveEnd(func())              {}
