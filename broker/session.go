package broker

import (
	"context"
	"errors"
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
	turn     uint64        // the how many'th session of the broker it is
	finished chan struct{} // closed when the client has ended the control stream
	limiter  *rate.Limiter // nil: no bound
	wg       sync.WaitGroup

	// Static after welcomed was closed.
	id  codec.ID
	log *slog.Logger

	absent bool // its presences have ended; guarded by the presences' mu

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
	pages     int                       // page streams; guarded by mu
	subs      map[uint64]*subscription  // by the client's number; guarded by mu
	pubs      map[string]*publication   // by topic; guarded by mu
	ending    map[*publication]struct{} // those whose END waits to be written; guarded by mu
	requests  map[uint64]*request       // without DONE, by the client's number; nil before the first; guarded by mu
	draining  bool                      // nothing new begins; guarded by mu
	stopped   bool                      // the writer and the datagram sender end; guarded by mu
	ready     [ranks][]*outlet          // what the writer takes next; guarded by mu
	queued    int                       // bytes that wait for the subscriptions, with rests; guarded by mu
	rests     int                       // bytes that wait in rests of batches; guarded by mu
	waiting   [ranks]int                // these bytes by rank; guarded by mu
	debts     int                       // topics that are owed to subscriptions; guarded by mu
	writing   bool                      // the writer lives; guarded by mu
	current   Stream                    // the stream that the writer is writing to; guarded by mu
	// Bytes given to streams and to datagrams since both were busy; guarded by mu.
	streamed, datagrammed int

	authenticating bool // an AUTH is with the authenticator; guarded by mu
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
	case codec.TypeFetch:
		if r.Buffered() > 0 {
			err = codec.Errorf(codec.CodeUnexpectedFrame, "only FIN may follow FETCH")
		} else {
			err = s.servePage(stream, f)
		}
	default:
		err = unexpected(f.Type)
	}
	if err != nil {
		s.refuse(stream, err)
	}
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
	b := s.broker
	disconnects := b.disconnects.Load()
	p, err := s.authenticate(h.Token)
	if err != nil {
		return err
	}
	s.id = codec.ID(uuid.New())
	if !h.Resume.Client.IsZero() {
		switch known, ok := b.resume.check(h.Resume, p.ID()); {
		case ok:
			s.id = h.Resume.Client
		case known:
			return codec.Errorf(codec.CodeResumeDenied, "the secret does not belong to this client id and principal: connect without resume")
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
	s.setPrincipal(p)
	replaced, err := b.claim(s)
	if err != nil {
		return err
	}
	if replaced != nil {
		replaced.fail(errReplaced)
		b.presences.ended(replaced, false)
	}
	if b.disconnects.Load() != disconnects {
		// It was not there yet to be disconnected, but may have been let in before.
		if _, err := s.authenticate(h.Token); err != nil {
			return err
		}
	}
	b.counters.sessionsTotal.Add(1)
	s.sendControl(codec.AppendWelcome(nil, w))
	close(s.welcomed)
	s.log.Debug("session begins", slog.String("remote", s.conn.RemoteAddr().String()), slog.String("agent", h.Agent), slog.String("principal", p.ID()))
	return nil
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
