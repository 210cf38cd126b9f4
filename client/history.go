package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// HistoryOptions say which page of a topic's history is meant. nil is the oldest
// one.
type HistoryOptions struct {
	// From is where the page begins: behind FromPosition, or FromLast, FromTime or
	// FromBeginning, which is the default. Backward only FromPosition is possible,
	// and the default is the end.
	From From
	// Backward lists the newest messages first: those before From.
	Backward bool
	// Limit is the most messages of the page, up to 1,000; 0 is 100. A page may have
	// fewer: it ends at 1 MiB.
	Limit int
}

// HistoryPage is a page of a topic's history.
type HistoryPage struct {
	// Messages are the messages in the order that was asked for. As in a
	// subscription, an item whose Gap is set is a place where some are missing.
	Messages []Message
	// First is the position of the oldest message that is kept, Last that of the last
	// one that the topic has given out. First has offset 0 if nothing is kept.
	First, Last Position
	// More tells that the history goes on; the next page is From FromPosition(Next).
	More bool
	Next Position
}

// History reads a page of a topic's history, without a subscription. It needs the
// permission to subscribe. The error is the broker's refusal, such as
// CodeNotOffered for a topic that keeps none, or CodeConnectionLost.
func (c *Client) History(ctx context.Context, topic string, opts *HistoryOptions) (HistoryPage, error) {
	if opts == nil {
		opts = &HistoryOptions{}
	}
	if err := checkTopic(topic); err != nil {
		return HistoryPage{}, err
	}
	if err := opts.From.check(); err != nil {
		return HistoryPage{}, err
	}
	limit := opts.Limit
	if limit == 0 {
		limit = 100
	}
	kind := opts.From.kind
	if limit < 1 || limit > codec.MaxPage || kind == codec.FromPositions ||
		opts.Backward && kind != codec.FromNow && kind != codec.FromPosition {
		return HistoryPage{}, codec.Errorf(codec.CodeInvalidOption, "a page has 1 to %d messages, and begins at a position, or forward with the last ones, at a time or at the beginning", codec.MaxPage)
	}
	conn, err := c.reach(ctx)
	if err != nil {
		return HistoryPage{}, err
	}
	select {
	case conn.pages <- struct{}{}:
		defer func() { <-conn.pages }()
	case <-ctx.Done():
		return HistoryPage{}, ctx.Err()
	case <-conn.ctx.Done():
		return HistoryPage{}, conn.interrupted()
	}
	page, err := conn.page(ctx, codec.Fetch{
		Topic:    topic,
		From:     opts.From.wire(conn.base),
		Backward: opts.Backward,
		Limit:    uint64(limit),
	})
	switch _, coded := errors.AsType[*Error](err); {
	case err == nil:
	case ctx.Err() != nil:
		err = ctx.Err()
	case conn.ctx.Err() != nil:
		err = conn.interrupted()
	case !coded:
		err = lost(err)
	}
	return page, err
}

// page fetches a page on a stream of its own.
func (n *connection) page(ctx context.Context, f codec.Fetch) (HistoryPage, error) {
	stream, err := n.openStream(ctx)
	if err != nil {
		return HistoryPage{}, err
	}
	defer func() {
		_ = stream.Close()
		stream.CancelRead(uint32(codec.CodeOK))
	}()
	stop := context.AfterFunc(ctx, func() { setDeadline(stream, time.Unix(1, 0)) })
	defer stop()
	if _, err := stream.Write(codec.AppendFetch(nil, f)); err != nil {
		return HistoryPage{}, err
	}
	r := codec.NewReader(stream, int(n.welcome.Limits.Payload)+codec.FrameOverhead)
	var page HistoryPage
	q := &sequencer{base: n.base, client: n.client}
	t := &topicSequence{name: f.Topic, replay: math.MaxUint64}
	for {
		frame, err := r.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the page ended without END")
			}
			return HistoryPage{}, err
		}
		if frame.Type == codec.TypeEnd {
			end, err := codec.ParseEnd(frame)
			if err != nil {
				return HistoryPage{}, err
			}
			if end.Code != codec.CodeOK {
				return HistoryPage{}, remote(end.Code, end.Reason, end.Retry)
			}
			page.More = end.Epoch.Set && end.Offset.Set
			page.Next = Position{end.Epoch.Value, end.Offset.Value}
			return page, nil
		}
		if (frame.Type == codec.TypePage) != (t.num == 0) {
			return HistoryPage{}, codec.Errorf(codec.CodeUnexpectedFrame, "%s on a page of history", frame.Type)
		}
		if len(page.Messages) > 2*codec.MaxPage {
			return HistoryPage{}, codec.Errorf(codec.CodeProtocolViolation, "a page of more than %d messages and gaps", 2*codec.MaxPage)
		}
		switch frame.Type {
		case codec.TypePage:
			p, err := codec.ParsePage(frame)
			if err != nil {
				return HistoryPage{}, err
			}
			t.num, t.epoch = p.Topic, p.Epoch
			page.First, page.Last = Position{p.Epoch, p.First}, Position{p.Epoch, p.Last}
		case codec.TypeMessage:
			m, err := codec.ParseMessage(frame)
			if err != nil {
				return HistoryPage{}, err
			}
			m.Payload.Data = bytes.Clone(m.Payload.Data)
			m.Reply = nil // nobody waits any more
			page.Messages = append(page.Messages, q.message(t, m))
		case codec.TypeGap:
			g, err := codec.ParseGap(frame)
			if err != nil {
				return HistoryPage{}, err
			}
			gap := Gap{Topic: t.name, Reason: g.Reason, Count: g.Count.Value}
			if g.From.Set {
				gap.From = &Position{t.epoch, g.From.Value}
			}
			if g.To.Set {
				gap.To = &Position{t.epoch, g.To.Value}
			}
			page.Messages = append(page.Messages, gapItem(gap).message)
		default:
			return HistoryPage{}, codec.Errorf(codec.CodeUnexpectedFrame, "%s on a page of history", frame.Type)
		}
	}
}
