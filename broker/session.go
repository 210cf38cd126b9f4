package broker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/tidewire/tidewire/codec"
)

// session is one client's connection and all that goes over it.
//
// Its life: ServeConn accepts streams until HELLO has come on one of them, which
// becomes the control stream; the goroutine that read it then reads control
// frames (control.go). fail ends the session from anywhere; run tears down.
type session struct {
	// Static after construction.
	broker   *Broker
	conn     Conn
	ctx      context.Context // ends with the session; the cause is a *codec.Error
	cancel   context.CancelCauseFunc
	welcomed chan struct{} // closed after WELCOME was queued
	refusal  error         // what HELLO is answered with; nil: it is looked at
	finished chan struct{} // closed when the client has ended the control stream
	limiter  *rate.Limiter // nil: no bound
	wg       sync.WaitGroup

	// Static after welcomed was closed.
	id  codec.ID
	log *slog.Logger

	slot datagramSlot // has its own owner: see datagram.go

	mu        sync.Mutex
	changed   sync.Cond                 // signalled when the writer ends, a stream was served, or the session ends
	hello     bool                      // HELLO has come; guarded by mu
	streams   int                       // streams whose first frame has not been served; guarded by mu
	principal Principal                 // nil before HELLO was accepted; guarded by mu
	tenure    uint64                    // grows with each principal; guarded by mu
	expiry    *time.Timer               // of the token; guarded by mu
	graceEnd  *time.Timer               // of drain; guarded by mu
	control   *outlet                   // nil before HELLO; guarded by mu
	subs      map[uint64]*subscription  // by the client's number; guarded by mu
	pubs      map[string]*publication   // by topic; guarded by mu
	ending    map[*publication]struct{} // those whose END waits to be written; guarded by mu
	draining  bool                      // nothing new begins; guarded by mu
	stopped   bool                      // the writer and the datagram sender end; guarded by mu
	ready     [ranks][]*outlet          // what the writer takes next; guarded by mu
	queued    int                       // bytes that wait for the subscriptions; guarded by mu
	writing   bool                      // the writer lives; guarded by mu
	current   Stream                    // the stream that the writer is writing to; guarded by mu
	// Bytes given to streams and to datagrams since both were busy; guarded by mu.
	streamed, datagrammed int
}

const (
	// maxOpening bounds the streams of a session whose first frame has not come.
	maxOpening = 64 // after WELCOME
	// maxControlQueue bounds the frames that wait for the control stream.
	maxControlQueue = 4096
	// farewell is how long the end of a session may take to be written.
	farewell = time.Second
	// authTimeout bounds one call of the authenticator.
	authTimeout = 10 * time.Second
)

// ServeConn serves one client until its session has ended, and closes the
// connection. It returns nil if the client ended the session, and otherwise what
// ended it: a *codec.Error, unless the connection was lost.
func (b *Broker) ServeConn(ctx context.Context, conn Conn) error {
	s := &session{
		broker:   b,
		conn:     conn,
		welcomed: make(chan struct{}),
		finished: make(chan struct{}),
		subs:     make(map[uint64]*subscription),
		pubs:     make(map[string]*publication),
		ending:   make(map[*publication]struct{}),
	}
	s.changed.L = &s.mu
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	defer s.cancel(nil)
	if r := b.config.PublishRate; r > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(r), max(1, int(r)))
	}
	refused, err := b.register(s)
	if err != nil {
		b.counters.sessionsRefused.Add(1)
		return errors.Join(err, conn.CloseWithError(uint32(codec.CodeOf(err)), reasonOf(err)))
	}
	s.refusal = refused
	defer b.unregister(s)
	return s.run()
}

// run accepts streams until the session ends, then tears it down.
func (s *session) run() error {
	hello := time.AfterFunc(s.broker.config.HelloTimeout, func() {
		s.fail(codec.Errorf(codec.CodeHelloTimeout, "no HELLO within %v", s.broker.config.HelloTimeout))
	})
	defer hello.Stop()
	stop := context.AfterFunc(s.conn.Context(), func() {
		s.cancel(context.Cause(s.conn.Context()))
	})
	defer stop()
	wake := context.AfterFunc(s.ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer wake()
	s.wg.Go(func() {
		select {
		case <-s.welcomed:
			hello.Stop()
			s.receiveDatagrams()
		case <-s.ctx.Done():
		}
	})
	s.acceptStreams()
	return s.tearDown()
}

// acceptStreams serves each stream in a goroutine of its own until the session
// ends; that of a subscription ends at once.
func (s *session) acceptStreams() {
	for {
		stream, err := s.conn.AcceptStream(s.ctx)
		if err != nil {
			s.cancel(err)
			return
		}
		if !s.admit() {
			s.refuse(stream, codec.Errorf(codec.CodeTooManyStreams, "more streams than may come before WELCOME"))
			continue
		}
		s.wg.Go(func() { s.serveStream(stream) })
	}
}

// admit counts a stream whose first frame is awaited. Before WELCOME there is a
// bound beyond which it reports false; after it, it waits for room: the streams
// wait in the transport, whose own limit bounds them.
func (s *session) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.principal != nil && s.streams >= maxOpening && s.ctx.Err() == nil {
		s.changed.Wait()
	}
	if s.principal == nil && s.streams > codec.MaxEarlyStreams { // and the control stream
		return false
	}
	s.streams++
	return true
}

// served counts a stream whose first frame has come, or never will.
func (s *session) served() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams--
	s.changed.Broadcast()
}

// serveStream reads a stream's first frame, which tells what it is (PROTOCOL §1).
func (s *session) serveStream(stream Stream) {
	served := sync.OnceFunc(s.served)
	defer served()
	r := codec.NewReader(stream, codec.MaxFirstFrame)
	_ = stream.SetReadDeadline(time.Now().Add(s.broker.config.StreamTimeout))
	f, err := r.Next()
	if err != nil {
		if isTimeout(err) {
			err = codec.Errorf(codec.CodeStreamTimeout, "no frame within %v", s.broker.config.StreamTimeout)
		}
		s.refuse(stream, asCoded(err, codec.CodeMalformedFrame))
		return
	}
	_ = stream.SetReadDeadline(time.Time{})
	if f.Type == codec.TypeHello {
		if err := s.greet(stream, f); err != nil {
			s.fail(err)
			return
		}
		served()
		s.readControl(r)
		return
	}
	// Early streams wait for WELCOME (PROTOCOL §5).
	select {
	case <-s.welcomed:
	case <-s.ctx.Done():
		return
	}
	served() // the numbers of subscriptions and publications bound the rest
	switch f.Type {
	case codec.TypeSubscribe:
		if r.Buffered() > 0 {
			err = codec.Errorf(codec.CodeUnexpectedFrame, "only FIN may follow SUBSCRIBE")
		} else {
			err = s.subscribe(stream, f)
		}
	case codec.TypePublication:
		var p *publication
		if p, err = s.openPublication(stream, f); err == nil {
			p.read(r)
		}
	default:
		err = unexpected(f.Type)
	}
	if err != nil {
		s.refuse(stream, err)
	}
}

// unexpected is the error for a frame where it must not be.
func unexpected(t codec.Type) error {
	if t.String() == "unknown" {
		return codec.Errorf(codec.CodeUnknownFrame, "frame type %d is not known", t)
	}
	return codec.Errorf(codec.CodeUnexpectedFrame, "%s must not be here", t)
}

// refuse ends a stream that did not become one of the session's: END and FIN. The
// session's writer does it, as it does all writing.
func (s *session) refuse(stream Stream, err error) {
	e := endOf(err)
	s.broker.counters.streamEnd(e.Code)
	out := newOutlet(stream, rankControl)
	out.done = func(err error) { s.letGo(stream, err) }
	out.end = true
	out.queue.push(entry{frame: codec.AppendEnd(nil, e)})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scheduleLocked(out)
}

// letGo ends the reading of a stream that has got its END and FIN, or whose writing
// has failed. Nobody else may read it. A goroutine of the session calls it.
//
// STOP_SENDING goes only where the client's FIN does not come: Firefox drops at
// STOP_SENDING what it has received on the stream and not given to the page, and
// with it the END that went just before.
func (s *session) letGo(stream Stream, err error) {
	if err != nil {
		stream.CancelRead(uint32(codec.CodeOK))
		return
	}
	s.wg.Go(func() {
		_ = stream.SetReadDeadline(time.Now().Add(farewell))
		_, _ = io.Copy(io.Discard, stream)
		stream.CancelRead(uint32(codec.CodeOK))
	})
}

// greet answers HELLO with WELCOME, or returns why not.
func (s *session) greet(stream Stream, f codec.Frame) error {
	s.mu.Lock()
	again := s.hello
	s.hello = true
	if !again {
		stream.SetPriority(0, true)
		s.control = newOutlet(stream, rankControl)
		s.control.done = func(err error) {
			if err != nil {
				s.fail(codec.Errorf(codec.CodeProtocolViolation, "the control stream was not read"))
			}
		}
	}
	s.mu.Unlock()
	if again {
		return codec.Errorf(codec.CodeUnexpectedFrame, "a second control stream")
	}
	stream.OnReceiveEnd(func() { close(s.finished) })
	if s.refusal != nil {
		return s.refusal
	}
	h, err := codec.ParseHello(f)
	if err != nil {
		return err
	}
	if h.Version != codec.Version {
		return codec.Errorf(codec.CodeUnsupportedVersion, "version %d is not spoken here; %d is", h.Version, codec.Version)
	}
	p, err := s.authenticate(h.Token)
	if err != nil {
		return err
	}
	b := s.broker
	s.id = codec.ID(uuid.New())
	if !h.Resume.Client.IsZero() {
		switch known, ok := b.resume.check(h.Resume, p.ID()); {
		case ok:
			s.id = h.Resume.Client
		case known:
			return codec.Errorf(codec.CodeResumeDenied, "the secret does not belong to this client id and principal")
		}
	}
	s.log = b.log.With(slog.String("client", s.id.String()))
	w := codec.Welcome{
		Version: codec.Version,
		Client:  s.id,
		Secret:  b.resume.secret(s.id, p.ID()),
		Limits:  b.config.Limits,
		Base:    uint64(b.base.UnixMilli()),
		Expires: s.expires(p),
		Server:  b.config.Name,
	}
	if size := s.conn.MaxDatagramSize(); size > 0 {
		w.Capabilities |= codec.CapDatagrams
		if h.Capabilities&codec.CapDatagrams != 0 {
			s.slot.max.Store(int64(size))
		}
	}
	if replaced := b.claim(s); replaced != nil {
		replaced.fail(&codec.Error{Code: codec.CodeReplaced, Reason: "the client has connected again"})
	}
	b.counters.sessionsTotal.Add(1)
	s.setPrincipal(p)
	s.sendControl(codec.AppendWelcome(nil, w))
	close(s.welcomed)
	s.log.Debug("session begins", slog.String("remote", s.conn.RemoteAddr().String()), slog.String("agent", h.Agent), slog.String("principal", p.ID()))
	return nil
}

// authenticate asks the authenticator; the error is coded.
func (s *session) authenticate(token string) (Principal, error) {
	ctx, cancel := context.WithTimeout(s.ctx, authTimeout)
	defer cancel()
	p, err := s.broker.config.Authenticator.Authenticate(ctx, Credentials{Token: token, RemoteAddr: s.conn.RemoteAddr()})
	if err == nil {
		if e := p.Expires(); !e.IsZero() && !time.Now().Before(e) {
			err = codec.Errorf(codec.CodeTokenExpired, "the token has expired")
		}
	}
	if err != nil {
		if _, coded := errors.AsType[*codec.Error](err); !coded {
			s.broker.log.Warn("authentication failed", slog.String("remote", s.conn.RemoteAddr().String()), slog.Any("error", err))
			err = codec.Errorf(codec.CodeUnauthorized, "the token was not accepted")
		}
		return nil, err
	}
	return p, nil
}

// expires returns when a principal's permission ends, on the broker's clock.
func (s *session) expires(p Principal) codec.Optional {
	e := p.Expires()
	if e.IsZero() {
		return codec.Optional{}
	}
	return codec.Some(uint64(max(0, e.Sub(s.broker.base)) / time.Millisecond))
}

// setPrincipal puts p in force, and watches its expiry.
func (s *session) setPrincipal(p Principal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.principal = p
	s.tenure++
	tenure := s.tenure
	if s.expiry != nil {
		s.expiry.Stop()
		s.expiry = nil
	}
	if e := p.Expires(); !e.IsZero() && !s.stopped {
		s.expiry = time.AfterFunc(time.Until(e), func() { s.expired(tenure) })
	}
}

// expired tells the client that its token has expired, and ends the session when
// the grace is over (PROTOCOL §5.4).
func (s *session) expired(tenure uint64) {
	grace := s.broker.config.TokenGrace
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tenure != tenure || s.stopped {
		return // AUTH came in time
	}
	s.sendControlLocked(codec.AppendNotice(nil, codec.Notice{
		Code: codec.CodeTokenExpired, Reason: "send AUTH with a new token",
		Deadline: codec.Some(s.broker.now() + uint64(grace/time.Millisecond)),
	}))
	s.expiry = time.AfterFunc(grace, func() {
		s.mu.Lock()
		old := s.tenure == tenure
		s.mu.Unlock()
		if old {
			s.fail(codec.Errorf(codec.CodeTokenExpired, "the token has expired: connect with a new one"))
		}
	})
}

// permitSubscribe reports why the session may not subscribe to a pattern.
func (s *session) permitSubscribe(pattern string) error {
	if codec.IsSystem(pattern) {
		return codec.Errorf(codec.CodeSystemTopic, "topics that begin with $ or _ belong to the system")
	}
	if !s.who().CanSubscribe(pattern) {
		return codec.Errorf(codec.CodeSubscribeDenied, "the token does not permit to subscribe to %q", pattern)
	}
	return nil
}

// permitPublish reports why the session may not publish to a topic.
func (s *session) permitPublish(topic string) error {
	if codec.IsSystem(topic) {
		return codec.Errorf(codec.CodeSystemTopic, "topics that begin with $ or _ belong to the system")
	}
	if !s.who().CanPublish(topic) {
		return codec.Errorf(codec.CodePublishDenied, "the token does not permit to publish to %q", topic)
	}
	return nil
}

// who returns the principal in force.
func (s *session) who() Principal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.principal
}

// publish brings a client's message to the bus.
func (s *session) publish(topic string, m codec.Publish) (Position, error) {
	if err := s.broker.checkPayload(m.Payload); err != nil {
		return Position{}, err
	}
	if s.limiter != nil && !s.limiter.Allow() {
		return Position{}, &codec.Error{Code: codec.CodeRateLimited, Reason: "above the session's rate", Retry: time.Second}
	}
	m.Payload.Data = append([]byte(nil), m.Payload.Data...) // it refers to the reader's buffer
	pos, err := s.broker.bus.Publish(s.ctx, Message{Topic: topic, Mode: m.Mode, Payload: m.Payload, Publisher: s.id})
	if err != nil {
		return Position{}, asCoded(err, codec.CodeBusUnavailable)
	}
	return pos, nil
}

// sendControl queues a frame on the control stream.
func (s *session) sendControl(frame []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sendControlLocked(frame)
}

func (s *session) sendControlLocked(frame []byte) {
	if s.control == nil || s.control.gone {
		return
	}
	if s.control.queue.len() >= maxControlQueue {
		s.cancel(codec.Errorf(codec.CodeOverloaded, "the control stream is not read"))
		return
	}
	s.control.queue.push(entry{frame: frame})
	s.scheduleLocked(s.control)
}

// fail ends the session. The first call decides with what.
func (s *session) fail(err error) { s.cancel(err) }

// drain ends the session gracefully: the client is told, queues are written as
// far as there is credit, streams end, and the session does when they have, at
// the latest at the deadline.
func (s *session) drain(deadline time.Time) {
	s.mu.Lock()
	if s.principal == nil {
		s.mu.Unlock()
		s.fail(codec.Errorf(codec.CodeShuttingDown, "the broker is shutting down"))
		return
	}
	if s.draining {
		s.mu.Unlock()
		return
	}
	s.draining = true
	wait := time.Until(deadline)
	s.sendControlLocked(codec.AppendNotice(nil, codec.Notice{
		Code: codec.CodeShuttingDown, Reason: "the broker is shutting down",
		Deadline: codec.Some(s.broker.now() + uint64(max(0, wait)/time.Millisecond)),
	}))
	end := codec.End{Code: codec.CodeShuttingDown, Reason: "the broker is shutting down", Retry: codec.Some(0)}
	for _, sub := range s.subs {
		s.endLocked(sub, end)
	}
	pubs := make([]*publication, 0, len(s.pubs))
	for _, p := range s.pubs {
		pubs = append(pubs, p)
	}
	if !s.stopped {
		s.graceEnd = time.AfterFunc(wait, func() {
			s.fail(codec.Errorf(codec.CodeShuttingDown, "the broker is shutting down"))
		})
	}
	s.mu.Unlock()
	for _, p := range pubs {
		p.end(end)
	}
	s.checkDrained()
}

// checkDrained ends a session that drains and has nothing left.
func (s *session) checkDrained() {
	s.mu.Lock()
	drained := s.draining && len(s.subs) == 0 && len(s.pubs) == 0 && len(s.ending) == 0
	s.mu.Unlock()
	if drained {
		s.fail(&codec.Error{Code: codec.CodeShuttingDown, Reason: "the broker is shutting down"})
	}
}

// tearDown says farewell, closes the connection, waits for every goroutine, and
// forgets the session.
func (s *session) tearDown() error {
	cause := context.Cause(s.ctx)
	e := endOf(cause)
	if s.conn.Context().Err() != nil {
		e.Code = codec.CodeConnectionLost // nobody is there to be told
	}

	s.mu.Lock()
	s.stopped = true
	control := s.control
	writing := s.current
	for _, t := range []*time.Timer{s.expiry, s.graceEnd} {
		if t != nil {
			t.Stop()
		}
	}
	var last []byte
	if control != nil && !control.gone {
		for control.queue.len() > 0 {
			last = append(last, control.queue.pop().frame...)
		}
		last = codec.AppendEnd(last, e)
	}
	s.mu.Unlock()
	if writing != nil {
		// The writer may be within a write that the client does not take.
		_ = writing.SetWriteDeadline(time.Now().Add(farewell))
	}
	s.wakeDatagrams()
	s.waitWriter()
	open := false // the client's side of the control stream
	select {
	case <-s.finished:
	default:
		open = true
	}
	if last != nil && s.conn.Context().Err() == nil {
		_ = control.stream.SetWriteDeadline(time.Now().Add(farewell))
		if _, err := control.stream.Write(last); err == nil {
			_ = control.stream.Close()
			s.linger(open)
		}
	}
	_ = s.conn.CloseWithError(uint32(e.Code), e.Reason)
	s.wg.Wait()
	s.mu.Lock()
	subs, pubs, ending := s.subs, s.pubs, s.ending
	s.subs, s.pubs, s.ending = nil, nil, nil
	for _, sub := range subs {
		s.discardLocked(sub.out)
		sub.out.gone = true
	}
	s.discardDatagramsLocked()
	s.mu.Unlock()
	for _, sub := range subs {
		sub.close()
	}
	for _, p := range pubs {
		p.close()
	}
	for p := range ending {
		p.close()
	}
	select {
	case <-s.welcomed:
		s.log.Debug("session ends", slog.String("code", e.Code.String()), slog.String("reason", e.Reason))
	default:
		s.broker.counters.sessionsRefused.Add(1)
	}
	if e.Code == codec.CodeOK {
		return nil
	}
	return cause
}

// linger waits, for a bounded time, until the client has read END, which closing
// the connection from this side could overtake: then the client closes the
// connection, or ends the control stream if it was still open.
func (s *session) linger(open bool) {
	var finished <-chan struct{}
	if open {
		finished = s.finished
	}
	timeout := time.NewTimer(farewell)
	defer timeout.Stop()
	select {
	case <-s.conn.Context().Done():
	case <-finished:
	case <-timeout.C:
	}
}

// waitWriter waits until the writer has ended, so that tearDown may write.
func (s *session) waitWriter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writing {
		s.changed.Wait()
	}
}

// errDone ends a session that the client has ended.
var errDone = &codec.Error{Code: codec.CodeOK}

// asCoded returns err if it has a code, and else err's text under code.
func asCoded(err error, code codec.Code) error {
	if _, ok := errors.AsType[*codec.Error](err); ok {
		return err
	}
	return &codec.Error{Code: code, Reason: err.Error()}
}

// endOf returns the END frame for an error. What has no code is not told to the
// client.
func endOf(err error) codec.End {
	e, ok := errors.AsType[*codec.Error](err)
	if !ok {
		e = &codec.Error{Code: codec.CodeInternal, Reason: "internal error"}
	}
	end := codec.End{Code: e.Code, Reason: e.Reason}
	if e.Retry > 0 || e.Code.Temporary() {
		end.Retry = codec.Some(uint64(e.Retry / time.Millisecond))
	}
	return end
}

// errorOf is the error that an END frame tells.
func errorOf(e codec.End) *codec.Error {
	return &codec.Error{Code: e.Code, Reason: e.Reason, Retry: time.Duration(e.Retry.Value) * time.Millisecond}
}

// reasonOf returns the reason of a coded error.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*codec.Error](err); ok {
		return e.Reason
	}
	return ""
}
