package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt"
)

// tidewireLoader speaks the protocol itself: the Go client's conveniences would
// take CPU from the broker on a small machine.
type tidewireLoader struct {
	session *wt.Session
	control *wt.Stream
	out     *coalescer
	next    uint64
	credit  chan uint64 // the newest limit of the publication
	limit   uint64
	sent    uint64
}

func dialTidewire(ctx context.Context, s *process) (loader, error) {
	d := wt.Dialer{CertificateHashes: [][32]byte{s.hash}}
	session, err := d.Dial(ctx, "https://"+s.addr+"/tidewire")
	if err != nil {
		return nil, err
	}
	l := &tidewireLoader{session: session, credit: make(chan uint64, 1)}
	if l.control, err = session.OpenStream(ctx); err != nil {
		return nil, err
	}
	if _, err := l.control.Write(codec.AppendHello(nil, codec.Hello{Version: codec.Version, Capabilities: codec.CapDatagrams})); err != nil {
		return nil, err
	}
	r := codec.NewReader(l.control, codec.DefaultMaxFrame)
	f, err := r.Next()
	if err != nil {
		return nil, err
	}
	if _, err := codec.ParseWelcome(f); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *tidewireLoader) subscribe(ctx context.Context, topic string, got func([]byte)) error {
	stream, err := l.session.OpenStream(ctx)
	if err != nil {
		return err
	}
	const credit = 1 << 20
	if _, err := stream.Write(codec.AppendSubscribe(nil, codec.Subscribe{Number: 1, Pattern: topic, Priority: 3, Credit: credit})); err != nil {
		return err
	}
	r := codec.NewReader(stream, codec.DefaultMaxFrame)
	f, err := r.Next()
	if err != nil {
		return err
	}
	if _, err := codec.ParseSubscribed(f); err != nil {
		return err
	}
	go func() { // ends with the connection
		var received, told uint64
		for {
			f, err := r.Next()
			if err != nil {
				return
			}
			m, err := codec.ParseMessage(f)
			if err != nil {
				panic(fmt.Sprintf("no message but %s", f.Type)) // a gap would falsify the figures
			}
			got(m.Payload.Data)
			received += uint64(f.Size())
			if received-told > credit/2 {
				told = received
				if _, err := l.control.Write(codec.AppendFlow(nil, codec.Flow{Subscription: 1, Limit: received + credit})); err != nil {
					return
				}
			}
		}
	}()
	return nil
}

func (l *tidewireLoader) publisher(ctx context.Context, topic string) error {
	stream, err := l.session.OpenStream(ctx)
	if err != nil {
		return err
	}
	if _, err := stream.Write(codec.AppendPublication(nil, codec.Publication{Topic: topic, First: 1})); err != nil {
		return err
	}
	l.limit = codec.DefaultPublicationCredit
	l.out = newCoalescer(func(b []byte) error { _, err := stream.Write(b); return err })
	go func() { // ends with the connection
		defer close(l.credit)
		r := codec.NewReader(stream, codec.DefaultMaxFrame)
		for {
			f, err := r.Next()
			if err != nil {
				return
			}
			a, err := codec.ParseAck(f)
			if err != nil {
				return
			}
			select {
			case <-l.credit:
			default:
			}
			l.credit <- a.Limit.Value
		}
	}()
	return nil
}

func (l *tidewireLoader) publish(payload []byte) error {
	for {
		select {
		case limit, ok := <-l.credit:
			if !ok {
				return errors.New("the publication has ended")
			}
			l.limit = limit
			continue
		default:
		}
		if l.sent < l.limit {
			break
		}
		limit, ok := <-l.credit
		if !ok {
			return errors.New("the publication has ended")
		}
		l.limit = limit
	}
	return l.out.add(func(b []byte) []byte {
		l.next++
		before := len(b)
		b = codec.AppendPublish(b, codec.Publish{Sequence: l.next, Payload: codec.Bytes(payload)})
		l.sent += uint64(len(b) - before)
		return b
	})
}

func (l *tidewireLoader) close() { _ = l.session.Close() }
