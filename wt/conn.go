package wt

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// limits are the bounds that a connection holds its peer to.
type limits struct {
	maxSessions         int
	maxPendingStreams   int
	maxPendingDatagrams int
	maxQueuedDatagrams  int
	maxDatagramAge      time.Duration // 0: none

	maxOutgoingDatagrams   int
	maxOutgoingDatagramAge time.Duration // 0: none

	maxHeaderBytes      int
	maxSettingsBytes    int
	maxSessionData      int64
	maxStreams          int64
	maxUniStreams       int64
	handshakeTimeout    time.Duration
	streamHeaderTimeout time.Duration
	answerTimeout       time.Duration // on a client
	closeTimeout        time.Duration
}

// conn is one HTTP/3 connection. It owns the requests and sessions on it, and
// every goroutine that serves them; run returns after the last of these.
//
// Its goroutines: run accepts bidirectional streams; each session has one that
// reads its CONNECT stream; each request of a client has one that runs the
// handler; the watchers are there while the connection is awake. Short-lived ones
// read headers of streams and send datagrams.
type conn struct {
	// Static after construction.
	quic     *quic.Conn
	isClient bool
	shared   bool // a client's: its pool closes it
	limits   limits
	logger   *slog.Logger
	// addrValidated reports whether a client's first packet proved its address.
	addrValidated bool
	// serve answers a request on a server, on a goroutine of its own. If it reports
	// true, another goroutine has the request, and will remove it.
	serve     func(c *conn, stream *quic.Stream, frames *frameReader) (kept bool)
	onEnd     func()
	sender    datagramSender
	receiver  datagramReceiver
	datagrams datagramWatch
	control   *quic.SendStream // our control stream; set by start

	// settled is closed when peer holds the peer's SETTINGS.
	settled chan struct{}
	peer    settings
	// goneAway is closed when the peer sent GOAWAY.
	goneAway chan struct{}

	goroutines sync.WaitGroup

	// maxPushID is the one in the peer's last MAX_PUSH_ID. Owned by the reader of
	// the peer's control stream.
	maxPushID uint64

	// Guarded by mu.
	mu       sync.Mutex
	watchers watchers
	// requests are the request streams that have no end yet, each with its
	// session once it has one.
	requests map[uint64]*Session
	// plain are the streams of those requests that are none for a session.
	plain map[uint64]*quic.Stream
	// asking are the sessions of a client that wait for the server's answer.
	asking map[uint64]*Session
	// nextRequest is above the id of every request stream there has been. A
	// smaller id that is not in requests is that of an ended one.
	nextRequest uint64
	sessions    int // of requests, those that count as sessions
	pending     pending
	strays      uint64 // datagrams that were dropped because they were for no session
	// idle closes the connection when it has had no request for handshakeTimeout.
	// It exists on servers, and is stopped while there are requests.
	idle *time.Timer
	// answered is when the last answer was sent that began no session. Nothing
	// tells when it has arrived. A client that has it closes the connection after
	// our GOAWAY (RFC 9114 §5.2), and has closeTimeout for it.
	answered time.Time
	// refuseFrom is the id of the first request that is refused, because our
	// GOAWAY named it; goingAway says whether there was one.
	refuseFrom uint64
	goingAway  bool
	ended      bool  // no goroutine is started any more
	cause      error // why it has ended
	// Critical streams of the peer that have been seen, as a set of types.
	critical   map[uint64]bool
	lastGoAway uint64 // the id in the peer's last GOAWAY, +1; 0 before
}

func newConn(q *quic.Conn, isClient bool, l limits, logger *slog.Logger) *conn {
	c := &conn{
		quic:     q,
		isClient: isClient,
		limits:   l,
		logger:   logger,
		settled:  make(chan struct{}),
		goneAway: make(chan struct{}),
		requests: make(map[uint64]*Session),
		pending:  pending{maxStreams: l.maxPendingStreams, maxDatagrams: l.maxPendingDatagrams},
		critical: make(map[uint64]bool),
	}
	c.sender.init(c)
	c.receiver.init(c)
	c.datagrams.conn = c
	return c
}

// run serves the connection from now on. It does not wait: onEnd is called, on a
// goroutine of its own, when the connection has ended and nothing is left of it.
func (c *conn) run(onEnd func()) {
	c.onEnd = onEnd
	c.wake()
	c.startPump()
	if !c.isClient {
		c.mu.Lock()
		c.idle = time.AfterFunc(c.limits.handshakeTimeout, c.closeIdle)
		c.mu.Unlock()
	}
	c.spawn(c.acceptStream)
}

// acceptStream accepts one bidirectional stream, and then goes on as its reader,
// while another goroutine accepts the next. So whoever waits has done nothing yet,
// and its stack is as small as it was; it matters, because it waits as long as the
// connection lives. The last one ends the connection.
func (c *conn) acceptStream() {
	stream, err := c.quic.AcceptStream(context.Background())
	if err != nil {
		c.end(err)
		return
	}
	id := uint64(stream.StreamID())
	if !c.isClient {
		c.addRequest(id)
	}
	c.goroutines.Go(c.acceptStream)
	c.readStreamHeader(stream, id)
}

// end lets go of what is on the connection, which has ended with err.
func (c *conn) end(err error) {
	c.mu.Lock()
	c.ended, c.cause = true, err
	if c.idle != nil {
		c.idle.Stop()
	}
	sessions := make([]*Session, 0, len(c.requests))
	for _, session := range c.requests {
		if session != nil {
			sessions = append(sessions, session)
		}
	}
	c.mu.Unlock()
	c.datagrams.stop()
	for _, session := range sessions {
		session.end(lostConnection(err))
	}
	c.sleep()
	go func() { // whoever called run waits for onEnd
		c.goroutines.Wait()
		<-c.quic.Context().Done() // its packets have been sent and its trace is written
		c.onEnd()
	}()
}

// closeIdle ends a connection that has had no request for long. A client that was
// answered before may have sent another one, so it gets GOAWAY first, and knows
// that this one can be sent again elsewhere (RFC 9114 §5.2).
func (c *conn) closeIdle() {
	c.mu.Lock()
	if len(c.requests) > 0 { // one has come just now
		c.mu.Unlock()
		return
	}
	gently := !c.goingAway && !c.answered.IsZero()
	if gently {
		c.answered = time.Now() // for another closeTimeout
	}
	c.mu.Unlock()
	if gently {
		c.goAway()
		return
	}
	_ = c.quic.CloseWithError(codeNoError, "no request")
}

// noteAnswer notes that an answer has been sent that begins no session.
func (c *conn) noteAnswer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered = time.Now()
}

// maxSessions is how many sessions the connection may carry at a time: one,
// unless both sides declared flow control (draft-ietf-webtrans-http3-16 §5.1).
// The peer's SETTINGS have arrived.
func (c *conn) maxSessions() int {
	if c.localSettings().flowControl() && c.peer.flowControl() {
		return c.limits.maxSessions
	}
	return 1
}

// spawn runs f on a goroutine that run waits for. It reports false, and does
// not run f, when the connection has ended.
func (c *conn) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.goroutines.Go(f)
	return true
}

// endCause returns why the connection has ended, nil if it has not. QUIC's context
// says so later than its streams do.
func (c *conn) endCause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// fail ends the connection if err is a connection error, and returns err.
func (c *conn) fail(err error) error {
	var broken *protocolError
	if errors.As(err, &broken) && broken.connection {
		c.logger.Debug("closing connection", slog.String("reason", broken.text),
			slog.Uint64("code", broken.code), slog.Any("remote", c.quic.RemoteAddr()))
		_ = c.quic.CloseWithError(quic.ApplicationErrorCode(broken.code), broken.text)
	}
	return err
}

// addRequest registers a bidirectional stream that a client opened, which is a
// request unless its first bytes say otherwise.
func (c *conn) addRequest(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nextRequest = max(c.nextRequest, id+4)
	c.requests[id] = nil
	if c.idle != nil {
		c.idle.Stop()
	}
}

// refuses reports whether our GOAWAY refuses the request.
func (c *conn) refuses(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.goingAway && id >= c.refuseFrom
}

// removeRequest forgets a request, and whatever waited for its session.
func (c *conn) removeRequest(id uint64) {
	c.mu.Lock()
	session, known := c.requests[id]
	delete(c.requests, id)
	c.freeLocked(session)
	waiters, datagrams := c.pending.takeLocked(id)
	c.strays += uint64(len(datagrams))
	last := known && len(c.requests) == 0 && !c.ended
	// A client's connection lives as long as its session, unless a pool has it, and
	// that of a server that is shutting down as long as its requests.
	over := last && session != nil && (c.isClient && !c.shared || c.goingAway)
	if last && !over && c.idle != nil {
		if c.goingAway {
			c.idle.Reset(c.limits.closeTimeout)
		} else {
			c.idle.Reset(c.limits.handshakeTimeout)
		}
	}
	c.mu.Unlock()
	for _, waiter := range waiters {
		waiter <- nil
	}
	if over {
		c.closeAfter(session)
	}
}

// freeSession makes room for another session in place of one that has ended and
// whose end the peer is about to learn.
func (c *conn) freeSession(session *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.freeLocked(session)
}

func (c *conn) freeLocked(session *Session) {
	if session != nil && session.counted {
		session.counted = false
		c.sessions--
	}
}

// addSession makes the request its session. It reports false if the connection
// has ended, or has as many sessions as it may have.
func (c *conn) addSession(session *Session) bool {
	c.mu.Lock()
	if _, known := c.requests[session.id]; !known || c.ended || !c.isClient && c.sessions >= c.maxSessions() {
		c.mu.Unlock()
		return false
	}
	c.sessions++
	session.counted = true
	c.requests[session.id] = session
	late, draining := c.goingAway, c.lastGoAway != 0
	waiters, datagrams := c.pending.takeLocked(session.id)
	c.mu.Unlock()
	if late { // goAway has told those that there were
		session.outbox.sendDrain()
	}
	if late || draining { // and so has handleGoAway
		session.markDraining()
	}
	for _, payload := range datagrams {
		session.incoming.add(payload, &c.limits)
	}
	for _, waiter := range waiters {
		waiter <- session
	}
	return true
}

// full reports whether a further session would exceed the limit.
func (c *conn) full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions >= c.maxSessions()
}

// readStreamHeader reads the first bytes of a bidirectional stream and hands it
// to a session, or serves the request on it.
func (c *conn) readStreamHeader(stream *quic.Stream, id uint64) {
	_ = stream.SetReadDeadline(time.Now().Add(c.limits.streamHeaderTimeout))
	frames := newFrameReader(stream)
	typ, err := frames.varints.read()
	switch {
	case err != nil:
		if session := c.sessionOfReset(err); session != nil {
			c.removeRequest(id) // it is none
			_ = stream.SetReadDeadline(time.Time{})
			session.receiveStream(stream, 0)
			return
		}
		err = streamError(codeRequestIncomplete, "stream without header: %v", err)
	case typ == frameWebTransport:
		c.removeRequest(id) // it is none
		var session uint64
		if session, err = readSessionID(&frames.varints); err == nil {
			_ = stream.SetReadDeadline(time.Time{})
			c.dispatchStream(stream, session, frames.varints.count)
			return
		}
		if session := c.sessionOfReset(err); session != nil {
			_ = stream.SetReadDeadline(time.Time{})
			session.receiveStream(stream, frames.varints.count)
			return
		}
	case c.isClient:
		// RFC 9114 §6.1
		err = connectionError(codeStreamCreationError, "server opened a bidirectional stream of type %#x", typ)
	default:
		if _, err = frames.length(typ); err == nil {
			// frames goes on with the first frame, whose header has been read.
			c.serveRequest(stream, id, typ, frames)
			return
		}
	}
	c.refuseStream(stream, err)
	c.removeRequest(id)
}

// sessionOfReset returns the session of a stream whose header was overtaken by a
// reset, as happens with peers that have no reset_stream_at, or nil. The code must
// be one that only an application can have given, and the connection have one
// session, or it would be a guess.
func (c *conn) sessionOfReset(err error) *Session {
	var reset *quic.StreamError
	if !errors.As(err, &reset) || !reset.Remote {
		return nil
	}
	if _, ok := applicationCode(uint64(reset.ErrorCode)); !ok {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var only *Session
	for _, session := range c.requests {
		switch {
		case session == nil:
		case only != nil:
			return nil
		default:
			only = session
		}
	}
	return only
}

// serveRequest finds the HEADERS that a request begins with.
func (c *conn) serveRequest(stream *quic.Stream, id, typ uint64, frames *frameReader) {
	err := skipToHeaders(typ, frames)
	if err == nil && c.refuses(id) {
		err = streamError(codeRequestRejected, "request after GOAWAY")
	}
	if err != nil {
		c.refuseStream(stream, err)
		c.removeRequest(id)
		return
	}
	if !c.serve(c, stream, frames) {
		c.removeRequest(id)
	}
}

// skipToHeaders skips unknown frames, the current one of type typ among them,
// until the current frame is HEADERS.
func skipToHeaders(typ uint64, frames *frameReader) error {
	for typ != frameHeaders {
		if typ == frameData {
			return connectionError(codeFrameUnexpected, "DATA before HEADERS")
		}
		err := requestStreamFrame(typ)
		if err == nil {
			err = frames.skip()
		}
		if err == nil {
			typ, _, err = frames.next()
		}
		if errors.Is(err, io.EOF) {
			err = streamError(codeRequestIncomplete, "request without HEADERS")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// refuseStream ends a stream that broke a rule, with the code of the rule.
func (c *conn) refuseStream(stream *quic.Stream, err error) {
	code := quic.StreamErrorCode(codeRequestIncomplete)
	var broken *protocolError
	if errors.As(err, &broken) {
		if broken.connection {
			_ = c.fail(err)
			return
		}
		code = quic.StreamErrorCode(broken.code)
	}
	stream.CancelRead(code)
	stream.CancelWrite(code)
}

// dispatchStream hands a stream to its session.
func (c *conn) dispatchStream(stream *quic.Stream, id uint64, header int) {
	session, code := c.awaitSession(id)
	if session != nil {
		session.receiveStream(stream, header)
		return
	}
	stream.CancelRead(code)
	stream.CancelWrite(code)
}

// acceptUniStream accepts one unidirectional stream and goes on as its reader,
// while another goroutine accepts the next, until ctx or the connection ends.
func (c *conn) acceptUniStream(ctx context.Context) {
	stream, err := c.quic.AcceptUniStream(ctx)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.watchers.uniRunning = false
		if ctx.Err() != nil {
			c.acceptUniLocked() // it may have been wanted again, just then
		}
		return
	}
	c.goroutines.Go(func() { c.acceptUniStream(ctx) })
	c.readUniStreamHeader(stream)
}

// readUniStreamHeader reads the type of a unidirectional stream and gives it to
// whom it concerns.
func (c *conn) readUniStreamHeader(stream *quic.ReceiveStream) {
	_ = stream.SetReadDeadline(time.Now().Add(c.limits.streamHeaderTimeout))
	varints := &varintReader{r: stream}
	typ, err := varints.read()
	if err != nil {
		if session := c.sessionOfReset(err); session != nil {
			_ = stream.SetReadDeadline(time.Time{})
			session.receiveUniStream(stream, 0)
			return
		}
		// A stream that ends or stalls before its type means nothing (RFC 9114 §6.2).
		stream.CancelRead(codeStreamCreationError)
		return
	}
	switch typ {
	case streamWebTransport:
		id, err := readSessionID(varints)
		if session := c.sessionOfReset(err); session != nil {
			_ = stream.SetReadDeadline(time.Time{})
			session.receiveUniStream(stream, varints.count)
			return
		}
		if err != nil {
			_ = c.fail(err)
			stream.CancelRead(codeStreamCreationError)
			return
		}
		_ = stream.SetReadDeadline(time.Time{})
		session, code := c.awaitSession(id)
		if session == nil {
			stream.CancelRead(code)
			return
		}
		session.receiveUniStream(stream, varints.count)
	case streamControl, streamQPACKEncoder, streamQPACKDecoder:
		c.addCritical(typ, stream)
	case streamPush:
		if c.isClient {
			_ = c.fail(connectionError(codeIDError, "push without MAX_PUSH_ID"))
		} else {
			_ = c.fail(connectionError(codeStreamCreationError, "push stream from a client"))
		}
	default:
		stream.CancelRead(codeStreamCreationError)
	}
}
