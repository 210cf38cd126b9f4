package main

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// transfers reports whether the work is about what goes through a session.
func (w work) transfers() bool { return w.Kind == kindStream || w.Kind == kindDatagram }

// transfer sends or receives messages on one stream, or datagrams.
type transfer struct {
	link  link
	work  work
	count *atomic.Int64
	// batch is what goes into one write.
	batch []byte

	out io.Writer // opened with the first send
	in  io.Reader // accepted with the first receive
	buf []byte
}

// newTransfer makes the transfer of a connected link. Datagrams are received
// from then on.
func newTransfer(ctx context.Context, l link, t task, count *atomic.Int64) *transfer {
	tr := &transfer{link: l, work: t.Work, count: count, batch: make([]byte, t.Work.Size*max(1, t.Work.Batch))}
	if receives := t.Server != t.Work.Down; receives && t.Work.Kind == kindDatagram {
		go tr.receiveDatagrams(ctx) // ends with the process
	}
	return tr
}

func (t *transfer) receiveDatagrams(ctx context.Context) {
	for {
		b, err := t.link.ReceiveDatagram(ctx)
		if err != nil || len(b) != t.work.Size {
			return
		}
		t.count.Add(1)
	}
}

// send sends count messages or datagrams.
func (t *transfer) send(ctx context.Context, count int) error {
	if t.work.Kind == kindDatagram {
		return t.sendDatagrams(ctx, count)
	}
	if t.out == nil {
		var err error
		if t.out, err = t.link.OpenUni(ctx); err != nil {
			return err
		}
	}
	batch := max(1, t.work.Batch)
	for sent := 0; sent < count; sent += batch {
		if _, err := t.out.Write(t.batch[:min(batch, count-sent)*t.work.Size]); err != nil {
			return err
		}
	}
	t.count.Add(int64(count))
	return nil
}

// tick is how often datagrams that are due are sent.
const tick = time.Millisecond

func (t *transfer) sendDatagrams(ctx context.Context, count int) error {
	var ticks <-chan time.Time
	if t.work.Rate > 0 {
		ticker := time.NewTicker(tick)
		defer ticker.Stop()
		ticks = ticker.C
	}
	start := time.Now()
	for sent := 0; sent < count; {
		due := count
		if ticks != nil {
			now := <-ticks
			due = min(count, int(now.Sub(start).Seconds()*float64(t.work.Rate)))
		}
		for ; sent < due; sent++ {
			if err := t.link.SendDatagram(ctx, t.batch); err != nil {
				return err
			}
			t.count.Add(1)
		}
	}
	return nil
}

// receive receives count messages on a stream.
func (t *transfer) receive(count int) error {
	if t.in == nil {
		var err error
		if t.in, err = t.link.AcceptUni(context.Background()); err != nil {
			return err
		}
		t.buf = make([]byte, 64<<10)
	}
	for left := count * t.work.Size; left > 0; {
		n, err := t.in.Read(t.buf[:min(left, len(t.buf))])
		left -= n
		if err != nil && left > 0 {
			return fmt.Errorf("%d bytes before the end: %w", left, err)
		}
	}
	t.count.Add(int64(count))
	return nil
}
