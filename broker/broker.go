package broker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// ErrClosed is returned by calls to a Broker that is shut down.
var ErrClosed = errors.New("broker: closed")

// Broker routes messages between the sessions of its clients. Its methods may be
// called concurrently. Make one with New, and end it with Shutdown or Close.
type Broker struct {
	// Static after New.
	config     Config
	configs    *topicConfigs
	store      Store
	log        *slog.Logger
	base       time.Time // where the broker's clock begins (PROTOCOL §4.3)
	resume     *resumeKey
	router     *router
	topics     *topicTable
	publishers *publishers
	recentIDs  atomic.Int64 // the idempotency keys that all topics remember
	idTurns    *idTurns
	bus        Bus
	joined     bool // the bus distributes to groups
	groups     *groups
	requests   *requests
	budget     *budget
	counters   counters

	presences *presences

	disconnects atomic.Uint64 // calls of Disconnect

	closeBus sync.Once
	busErr   error // static after closeBus

	mu       sync.Mutex
	sessions map[*session]struct{} // guarded by mu
	// registered is how many sessions have begun. Guarded by mu.
	registered uint64
	byClient   map[codec.ID]*session // welcomed sessions, which have a principal; guarded by mu
	closing    bool                  // no session begins any more; guarded by mu
	closed     bool                  // nothing is published any more; guarded by mu
	wg         sync.WaitGroup        // sessions and drains; Add under mu, while not closing
}

// New makes a broker. The error tells what is wrong with the configuration, or
// why the bus could not be opened.
func New(config Config) (*Broker, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	configs, err := newTopicConfigs(config.Topics, config.Limits.Payload)
	if err != nil {
		return nil, err
	}
	b := &Broker{
		config:   config,
		configs:  configs,
		store:    config.Store,
		log:      config.Logger,
		base:     time.Now().Truncate(time.Millisecond),
		resume:   newResumeKey(),
		router:   new(router),
		budget:   &budget{limit: config.MaxBytes},
		sessions: make(map[*session]struct{}),
		byClient: make(map[codec.ID]*session),
	}
	if b.store == nil {
		b.store = NewMemoryStore(config.MaxHistoryBytes)
	}
	b.publishers = newPublishers(b)
	b.idTurns = newIDTurns()
	b.topics = &topicTable{max: config.MaxTopics, broker: b, byName: make(map[string]*topic)}
	b.presences = newPresences(b)
	b.groups = &groups{broker: b, pools: make(map[poolKey]*pool)}
	b.requests = newRequests(b)
	b.bus, err = config.Bus((*sink)(b))
	if err != nil {
		return nil, errors.Join(err, b.store.Close())
	}
	b.joined = b.bus.Joined()
	return b, nil
}

// isClosed reports whether nothing is published any more.
func (b *Broker) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// maxFrame is the longest body of a frame that a client may send after HELLO.
func (b *Broker) maxFrame() int { return int(b.config.Limits.Payload) + codec.FrameOverhead }

// hold lets Shutdown wait until wg.Done is called. It reports false once Shutdown has
// begun.
func (b *Broker) hold() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closing {
		b.wg.Add(1)
	}
	return !b.closing
}

// background runs f on a goroutine that Shutdown waits for. It reports false, and
// does not run it, once Shutdown has begun.
func (b *Broker) background(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return false
	}
	b.wg.Go(f)
	return true
}

// sessionCount returns the sessions that were welcomed.
func (b *Broker) sessionCount() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(len(b.byClient))
}

// maxRefused bounds the sessions beyond Config.MaxSessions that are told in band
// why they are refused; further ones are only told by the close of the connection.
const maxRefused = 64

// register takes note of a session that begins. One beyond the bound is let in to
// be refused in band, since a browser sees nothing else (PROTOCOL §5.2).
func (b *Broker) register(s *session) (refusal, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return nil, codec.Errorf(codec.CodeShuttingDown, "the broker is shutting down")
	}
	if n := len(b.sessions); n >= b.config.MaxSessions {
		refusal = codec.Errorf(codec.CodeTooManySessions, "the broker has its %d sessions", b.config.MaxSessions)
		if n >= b.config.MaxSessions+maxRefused {
			return nil, refusal
		}
	}
	b.sessions[s] = struct{}{}
	b.registered++
	s.turn = b.registered
	b.wg.Add(1)
	return refusal, nil
}

// unregister forgets a session that has ended.
func (b *Broker) unregister(s *session) {
	b.mu.Lock()
	delete(b.sessions, s)
	if b.byClient[s.id] == s {
		delete(b.byClient, s.id)
	}
	b.mu.Unlock()
	b.wg.Done()
}

// claim makes s the session of its client id, and returns the one that was. It fails if
// that began after s: the client has given s up, which took long to be welcomed.
func (b *Broker) claim(s *session) (replaced *session, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	replaced = b.byClient[s.id]
	switch {
	case s.ctx.Err() != nil:
		return nil, context.Cause(s.ctx)
	case replaced != nil && replaced.turn > s.turn:
		return nil, errReplaced
	}
	b.byClient[s.id] = s
	return replaced, nil
}

// errReplaced ends a session whose client has connected again.
var errReplaced = &codec.Error{Code: codec.CodeReplaced, Reason: "the client has connected again"}

// Shutdown ends the broker gracefully: it takes no new session, tells each one,
// lets its queues drain and its streams end, and then closes the bus. When ctx
// ends first, what is left is ended at once, and Shutdown returns ctx's error.
func (b *Broker) Shutdown(ctx context.Context) error {
	b.mu.Lock()
	b.closing = true
	sessions := make([]*session, 0, len(b.sessions))
	for s := range b.sessions {
		sessions = append(sessions, s)
	}
	b.mu.Unlock()
	b.topics.flush()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(b.config.TokenGrace)
	}
	for _, s := range sessions {
		s.drain(deadline)
	}
	ended := make(chan struct{})
	go func() { // ends when the sessions have: Shutdown waits for it below
		b.wg.Wait()
		close(ended)
	}()
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		err = ctx.Err()
		for _, s := range sessions {
			s.fail(codec.Errorf(codec.CodeShuttingDown, "the broker has stopped"))
		}
		<-ended
	}
	b.presences.close()
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.requests.close()
	// Others wait for it. The bus calls the store as long as it is open.
	b.closeBus.Do(func() { b.busErr = errors.Join(b.bus.Close(ctx), b.store.Close()) })
	return errors.Join(err, b.busErr)
}

// Close ends the broker at once: sessions end with CodeShuttingDown, and what is
// queued is lost. It waits until everything has ended.
func (b *Broker) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.Shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
