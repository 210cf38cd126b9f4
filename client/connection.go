package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// connection is one connection to the broker, from HELLO to its end.
type connection struct {
	// Static after newConnection.
	client   *Client
	conn     Conn
	ctx      context.Context // ends with the connection; the cause is an *Error
	cancel   context.CancelCauseFunc
	welcomed chan struct{} // closed when welcome is there
	shown    string        // the token of HELLO
	wg       sync.WaitGroup

	// Static after welcomed was closed.
	welcome codec.Welcome
	base    time.Time // of the broker's clock

	notices chan struct{}  // holds a token when the broker has told that the token expires
	tokens  chan time.Time // holds when the token expires that was taken last
	pages   chan struct{}  // holds a token for each page stream

	heard atomic.Int64 // when something came last, ns since the Unix epoch

	control Stream // static after open

	mu       sync.Mutex
	out      []byte                   // waits for the control stream; guarded by mu
	messages int                      // bytes of out that are messages; guarded by mu
	room     chan struct{}            // closed and replaced when messages shrinks; guarded by mu
	writing  bool                     // writeControl lives; guarded by mu
	requests map[uint64]func(answer)  // who takes the answers, by number; guarded by mu
	request  uint64                   // the last number; guarded by mu
	calls    map[uint64]*call         // REQUESTs without DONE, by number; guarded by mu
	subs     map[uint64]*Subscription // by number, for datagrams and STREAM_END; guarded by mu
	lanes    map[*lane]struct{}       // guarded by mu
	slots    int                      // publication streams that are open or being opened; guarded by mu
	early    earlyDatagrams           // guarded by mu
	ended    bool                     // no goroutine begins any more; guarded by mu
}

// answer is what the broker says to one request.
type answer struct {
	position Position
	frame    any // AUTHENTICATED, PONG or COUNTS
	err      error
}

const (
	// closeTimeout bounds the farewell of a connection.
	closeTimeout = 2 * time.Second
	// maxMessages bounds the messages that wait for the control stream, in bytes: a
	// message waits for room while so many do. The last one may exceed it.
	maxMessages = 256 << 10
	// maxControl bounds what else waits for it, in bytes. Nothing of this waits for
	// room, since the subscriptions cannot go on without it. It grows with the
	// number of subscriptions, and only while the broker does not read.
	maxControl = 4 << 20
	// controlOverhead is what a control frame may be longer than the payload limit
	// (PROTOCOL §10).
	controlOverhead = 72 << 10
)

func newConnection(c *Client, conn Conn) *connection {
	n := &connection{
		client:   c,
		conn:     conn,
		welcomed: make(chan struct{}),
		room:     make(chan struct{}),
		requests: make(map[uint64]func(answer)),
		calls:    make(map[uint64]*call),
		notices:  make(chan struct{}, 1),
		tokens:   make(chan time.Time, 1),
		pages:    make(chan struct{}, codec.MaxPages),
		subs:     make(map[uint64]*Subscription),
		lanes:    make(map[*lane]struct{}),
		early:    earlyDatagrams{dropped: &c.unknownTopic},
	}
	n.ctx, n.cancel = context.WithCancelCause(context.Background())
	return n
}

// lost is the error for a connection that is gone without a word of the broker.
func lost(err error) *Error {
	return &Error{Code: codec.CodeConnectionLost, Reason: fmt.Sprintf("the connection to the broker was lost: %v", err)}
}

// gone is the error for a connection that has ended with err: what the broker said
// when it closed it, if it did.
func gone(err error) *Error {
	if e := told(err); e != nil {
		return e
	}
	return lost(err)
}

// open opens the control stream, begins the subscriptions, and waits for WELCOME.
// If it fails the connection has ended, and so have its goroutines.
func (n *connection) open(ctx context.Context, hello codec.Hello, subs []*Subscription) (err error) {
	stop := context.AfterFunc(n.conn.Context(), func() { n.cancel(gone(context.Cause(n.conn.Context()))) })
	defer func() {
		if err != nil {
			n.cancel(err)
			n.shut()
		}
	}()
	n.wg.Go(func() {
		<-n.ctx.Done()
		stop()
	})
	n.control, err = n.openStream(ctx)
	if err != nil {
		return err
	}
	n.send(codec.AppendHello(nil, hello))
	n.wg.Go(n.readControl)
	n.wg.Go(n.receiveDatagrams)
	for _, sub := range subs {
		n.serve(sub)
	}
	select {
	case <-n.welcomed:
	case <-n.ctx.Done():
		return context.Cause(n.ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
	n.wg.Go(n.watch)
	if n.client.config.GetToken != nil {
		n.wg.Go(n.keepToken)
	}
	return nil
}

// start runs f on a goroutine that shut waits for; false if the connection has
// ended.
func (n *connection) start(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return false
	}
	n.wg.Go(f)
	return true
}

// serve begins a subscription on this connection.
func (n *connection) serve(sub *Subscription) bool {
	return n.start(func() { sub.serve(n) })
}

// wait returns when the connection has ended and everything on it, with what
// ended it. The end of the client ends it, with a farewell.
func (n *connection) wait() error {
	select {
	case <-n.ctx.Done():
	case <-n.client.ctx.Done():
		n.farewell()
	}
	n.cancel(n.client.ctx.Err())
	n.shut()
	return context.Cause(n.ctx)
}

// farewell ends the session: FIN on the control stream, and the broker's END.
func (n *connection) farewell() {
	deadline := time.NewTimer(closeTimeout)
	defer deadline.Stop()
	n.mu.Lock()
	idle := !n.writing
	n.writing = true // nobody else writes any more
	n.mu.Unlock()
	if idle {
		_ = n.control.Close()
	} else {
		n.cancel(ErrClosed)
	}
	select {
	case <-n.ctx.Done():
	case <-deadline.C:
	}
}

// shut closes the connection and waits for its goroutines.
func (n *connection) shut() {
	n.mu.Lock()
	n.ended = true
	lanes := slices.Collect(maps.Keys(n.lanes))
	n.mu.Unlock()
	for _, l := range lanes {
		l.stopTimer()
	}
	code := codec.CodeOK
	if n.client.ctx.Err() == nil {
		code = codec.CodeReplaced // the session goes on: it has not left
	}
	_ = n.conn.CloseWithError(uint32(code), "")
	n.wg.Wait()
}

// send queues a frame that is no message for the control stream. It never waits.
func (n *connection) send(frame []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.out)-n.messages+len(frame) > maxControl {
		n.cancel(lost(errors.New("the broker does not read its control stream")))
		return
	}
	n.queueLocked(frame)
}

// sendMessage queues a PUBLISH for the control stream. It waits while too many wait
// there; an error means that the frame was not queued.
func (n *connection) sendMessage(ctx context.Context, frame []byte) error {
	n.mu.Lock()
	for n.messages >= maxMessages {
		room := n.room
		n.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		case <-n.ctx.Done():
			return n.interrupted()
		}
		n.mu.Lock()
	}
	defer n.mu.Unlock()
	if n.ended {
		return n.interrupted()
	}
	n.messages += len(frame)
	n.queueLocked(frame)
	return nil
}

func (n *connection) queueLocked(frame []byte) {
	if n.ended {
		return
	}
	n.out = append(n.out, frame...)
	if !n.writing {
		n.writing = true
		n.wg.Go(n.writeControl)
	}
}

// writeControl writes what waits for the control stream. It lives while
// something does.
func (n *connection) writeControl() {
	for {
		n.mu.Lock()
		b := n.out
		n.out = nil
		if n.messages > 0 {
			n.messages = 0
			close(n.room)
			n.room = make(chan struct{})
		}
		if len(b) == 0 {
			n.writing = false
			n.mu.Unlock()
			return
		}
		n.mu.Unlock()
		if _, err := n.control.Write(b); err != nil {
			// The reader of the control stream knows why.
			n.client.log.Debug("control stream not written", slog.Any("error", err))
			return
		}
	}
}

// readControl reads the control stream until it ends, and with it the connection.
func (n *connection) readControl() {
	r := codec.NewReader(n.control, codec.DefaultMaxFrame)
	for {
		f, err := r.Next()
		if err == nil {
			err = n.handleControl(f)
			if f.Type == codec.TypeWelcome && err == nil {
				r.SetMaxFrame(int(n.welcome.Limits.Payload) + controlOverhead)
			}
		}
		if err != nil {
			if _, coded := errors.AsType[*Error](err); !coded {
				err = n.controlEnded(err)
			}
			n.cancel(err)
			return
		}
	}
}

// controlEnded is the error for a control stream that has ended without END: that
// of the connection, which may end only after it.
func (n *connection) controlEnded(err error) error {
	if e := told(err); e != nil {
		return e
	}
	wait := time.NewTimer(closeTimeout)
	defer wait.Stop()
	select {
	case <-n.conn.Context().Done():
		return gone(context.Cause(n.conn.Context()))
	case <-n.ctx.Done():
	case <-wait.C:
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the broker has ended the session")
	}
	return lost(err)
}

// handleControl does what one frame says. An error ends the connection.
func (n *connection) handleControl(f codec.Frame) error {
	switch f.Type {
	case codec.TypeWelcome:
		w, err := codec.ParseWelcome(f)
		if err != nil {
			return err
		}
		select {
		case <-n.welcomed:
			return codec.Errorf(codec.CodeUnexpectedFrame, "a second WELCOME")
		default:
		}
		w.Secret = append([]byte(nil), w.Secret...)
		n.welcome = w
		n.base = time.UnixMilli(int64(w.Base))
		close(n.welcomed)
	case codec.TypeEnd:
		e, err := codec.ParseEnd(f)
		if err != nil {
			return err
		}
		if e.Code == codec.CodeOK {
			// An end that is no error, and yet not the client's: it stays away (PROTOCOL §11).
			return remote(codec.CodeClosed, "the broker has ended the session", codec.Optional{})
		}
		return remote(e.Code, e.Reason, e.Retry)
	case codec.TypeAck:
		a, err := codec.ParseAck(f)
		if err != nil {
			return err
		}
		if len(a.Offsets) > 0 {
			n.answer(a.Sequence, answer{position: Position{a.Epoch, a.Offsets[0]}})
		}
	case codec.TypeNack:
		a, err := codec.ParseNack(f)
		if err != nil {
			return err
		}
		n.answer(a.Sequence, answer{err: remote(a.Code, a.Reason, a.Retry)})
	case codec.TypeAuthenticated:
		a, err := codec.ParseAuthenticated(f)
		if err != nil {
			return err
		}
		n.answer(a.Number, answer{frame: a})
	case codec.TypePong:
		p, err := codec.ParsePong(f)
		if err != nil {
			return err
		}
		n.answer(p.Number, answer{frame: p})
	case codec.TypeCounts:
		c, err := codec.ParseCounts(f)
		if err != nil {
			return err
		}
		n.answer(c.Number, answer{frame: c})
	case codec.TypeResponse, codec.TypeDone:
		return n.replied(f)
	case codec.TypeNotice:
		notice, err := codec.ParseNotice(f)
		if err != nil {
			return err
		}
		n.noticed(notice)
	case codec.TypeStreamEnd:
		e, err := codec.ParseStreamEnd(f)
		if err != nil {
			return err
		}
		n.mu.Lock()
		sub := n.subs[e.Subscription]
		n.mu.Unlock()
		if sub != nil {
			sub.streamEnded(e.Subscription, remote(e.Code, e.Reason, e.Retry))
		}
	default:
		return codec.Errorf(codec.CodeUnexpectedFrame, "frame type %d on the control stream", f.Type)
	}
	return nil
}

// remote is an error that the broker told.
func remote(code codec.Code, reason string, retry codec.Optional) *Error {
	return &Error{Code: code, Reason: reason, Remote: true, Retry: time.Duration(retry.Value) * time.Millisecond}
}

// ask gives out the number of a request on the control stream. take is called once
// with its answer; it must not block.
func (n *connection) ask(take func(answer)) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.request++
	n.requests[n.request] = take
	return n.request
}

// question is a request on the control stream that somebody waits for.
type question struct {
	number uint64
	answer chan answer
}

// do sends a request on the control stream and waits for its answer. frame makes
// the request with its number.
func (n *connection) do(ctx context.Context, frame func(number uint64) []byte) (any, error) {
	return n.await(ctx, n.put(frame))
}

// put queues a request, whose answer await waits for. It never waits.
func (n *connection) put(frame func(number uint64) []byte) question {
	q := question{answer: make(chan answer, 1)}
	q.number = n.ask(func(a answer) { q.answer <- a })
	n.send(frame(q.number))
	return q
}

func (n *connection) await(ctx context.Context, q question) (any, error) {
	select {
	case a := <-q.answer:
		return a.frame, a.err
	case <-ctx.Done():
		n.answer(q.number, answer{}) // forgets it
		return nil, ctx.Err()
	case <-n.ctx.Done():
	}
	select {
	case a := <-q.answer: // came before the end
		return a.frame, a.err
	default:
		return nil, n.interrupted()
	}
}

// interrupted is the error of a request whose answer will not come.
func (n *connection) interrupted() error {
	cause := context.Cause(n.ctx)
	if n.client.ctx.Err() != nil {
		return context.Cause(n.client.ctx)
	}
	if e, ok := errors.AsType[*Error](cause); ok && e.Code == codec.CodeConnectionLost {
		return e
	}
	return lost(cause)
}

// answer hands an answer to who asked. One that nobody asked for is ignored.
func (n *connection) answer(number uint64, a answer) {
	n.mu.Lock()
	take := n.requests[number]
	delete(n.requests, number)
	n.mu.Unlock()
	if take != nil {
		take(a)
	}
}
