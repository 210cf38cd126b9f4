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

	// credit holds a token for every creditStep datagrams that may be sent.
	credit chan struct{}
}

// creditStep is how many received datagrams the receiver confirms at a time, by
// a datagram of its own.
const creditStep = 16

// newTransfer makes the transfer of a connected link. Datagrams are received
// from then on.
func newTransfer(ctx context.Context, l link, t task, count *atomic.Int64) *transfer {
	tr := &transfer{link: l, work: t.Work, count: count, batch: make([]byte, t.Work.Size*max(1, t.Work.Batch))}
	if t.Work.Kind != kindDatagram {
		return tr
	}
	if t.Server != t.Work.Down {
		go tr.receiveDatagrams(ctx) // ends with the process
	} else if t.Work.Window > 0 {
		tr.credit = make(chan struct{}, t.Work.Window/creditStep)
		for range cap(tr.credit) {
			tr.credit <- struct{}{}
		}
		go tr.receiveCredit(ctx) // ends with the process
	}
	return tr
}

func (t *transfer) receiveDatagrams(ctx context.Context) {
	confirmation := make([]byte, 1)
	for {
		b, err := t.link.ReceiveDatagram(ctx)
		if err != nil || len(b) != t.work.Size {
			return
		}
		if n := t.count.Add(1); t.work.Window > 0 && n%creditStep == 0 {
			if err := t.link.SendDatagram(ctx, confirmation); err != nil {
				return
			}
		}
	}
}

func (t *transfer) receiveCredit(ctx context.Context) {
	for {
		if _, err := t.link.ReceiveDatagram(ctx); err != nil {
			return
		}
		t.giveCredit()
	}
}

func (t *transfer) giveCredit() {
	select {
	case t.credit <- struct{}{}:
	default:
	}
}

// stall is how long a sender waits before it takes a datagram, or its
// confirmation, for lost.
const stall = 50 * time.Millisecond

// takeCredit waits until a further creditStep datagrams may be sent.
func (t *transfer) takeCredit() {
	select {
	case <-t.credit:
		return
	default:
	}
	select {
	case <-t.credit:
	case <-time.After(stall):
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
			if t.credit != nil && sent%creditStep == 0 {
				t.takeCredit()
			}
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
