package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/codec"
)

// Error is what calls of this package return for everything that a broker
// refused, or that the client gave up: see PROTOCOL §11. Match a code with
// errors.Is(err, &client.Error{Code: codec.CodePublishDenied}).
type Error = codec.Error

// ErrClosed is returned after Close.
var ErrClosed error = &Error{Code: codec.CodeClosed, Reason: "the client was closed"}

// Config configures a Client. The zero value works with brokers that ask for no
// token and have a certificate that the system trusts. Dial copies it.
type Config struct {
	// Token is shown to the broker. GetToken, if set, is asked for one instead:
	// before each connection, and when four fifths of the life of a token are over,
	// less a little jitter. If it fails, or the broker refuses the token, it is asked
	// again, with Backoff, unless its error is an *Error that says that there is no use
	// in it, as CodeUnauthorized does: then the client ends when the token does.
	Token    string
	GetToken func(ctx context.Context) (string, error)

	// TLSConfig may name root certificates. CertificateHashes, if there are any,
	// replace authorities: the SHA-256 of certificates, under the rules of
	// browsers, as for a development identity. InsecureSkipVerify trusts every
	// certificate, so anybody on the path can read and change everything.
	TLSConfig          *tls.Config
	CertificateHashes  [][32]byte
	InsecureSkipVerify bool

	// Dial makes the connection; nil is WebTransport. ctx bounds the attempt.
	Dial func(ctx context.Context, url string) (Conn, error)
	// ConnectTimeout bounds one attempt, WELCOME included. 0 is 10 s.
	ConnectTimeout time.Duration
	// Backoff is the wait between attempts.
	Backoff Backoff
	// PingAfter is after how much silence the client asks whether the broker is still
	// there; 0 is 5 s, and below 0 it never asks. If nothing at all comes for
	// PingTimeout more, 5 s by default, the connection is lost.
	PingAfter, PingTimeout time.Duration
	// Offline says what becomes of messages while there is no connection.
	Offline Offline
	// OnState is called with each change of the state, in order and never
	// concurrently, with the error that led to it, if any. It must not block, and
	// must not call Close.
	OnState func(State, error)
	// OnNotice is called when the broker tells that the session will end. It must not
	// block.
	OnNotice func(Notice)
	// OnPresenceLost is called for each topic that could not be entered again after a
	// reconnect, with the broker's refusal: the client is not present there any more.
	// It may be called concurrently, and must not block.
	OnPresenceLost func(topic string, err error)
	// Agent names the program in the broker's log; at most 128 bytes.
	Agent string
	// Logger gets what goes on with the connection, at level debug. nil discards.
	Logger *slog.Logger
}

// Offline says what becomes of messages that are published while there is no
// connection.
type Offline struct {
	// MaxBytes bounds the messages without an answer, in bytes, a few for the
	// overhead of each included. What is published beyond it while there is no
	// connection is refused with CodeQueueFull; 0 is 1 MiB. With a connection
	// PublishAsync refuses more than 16 MiB, or than MaxBytes, if that is more.
	MaxBytes int
	// Refuse lets nothing wait for a connection: without one, publishing and every
	// other call that asks the broker fails at once with CodeOffline. Only Subscribe
	// waits all the same.
	Refuse bool
}

// Notice tells that the session will end (PROTOCOL §5.4).
type Notice struct {
	Code     codec.Code // the one with which it will end
	Reason   string     // for people
	Deadline time.Time  // when, by the broker's clock; the zero time if that is not known
}

// State is the state of a client.
type State int32

// The states. A client begins connecting, and never leaves StateClosed.
const (
	StateConnecting   State = iota // an attempt is under way
	StateConnected                 // the broker has said WELCOME
	StateDisconnected              // waiting before the next attempt
	StateClosed                    // by Close, or by a refusal that is final
)

// String returns the state's name.
func (s State) String() string {
	names := [...]string{"connecting", "connected", "disconnected", "closed"}
	return names[s]
}

// Client is a session with a broker. Make one with Dial.
type Client struct {
	// Static after Dial.
	config Config
	url    string
	log    *slog.Logger
	ctx    context.Context // ends with Close, or with a final refusal
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // run

	numbers atomic.Uint64 // of subscriptions
	state   atomic.Int32

	unknownTopic, badDatagrams, unsent atomic.Uint64 // see Stats
	publishers                         publishers
	presences                          presences

	mu      sync.Mutex
	current *connection                // nil while there is none that was welcomed; guarded by mu
	changed chan struct{}              // closed and replaced when current changes; guarded by mu
	subs    map[*Subscription]struct{} // guarded by mu
	resume  codec.Resume               // guarded by mu
	token   string                     // the one in force; guarded by mu
}

// Dial connects to the broker at an https URL and waits for its WELCOME. ctx and
// Config.ConnectTimeout bound the attempt; it is not repeated. The error is an
// *Error: CodeConnectFailed, CodeConnectTimeout, or the broker's refusal.
func Dial(ctx context.Context, url string, config Config) (*Client, error) {
	if config.Dial == nil {
		config.Dial = config.dialWebTransport
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 10 * time.Second
	}
	if config.Backoff.Min == 0 {
		config.Backoff.Min = 500 * time.Millisecond
	}
	if config.Backoff.Max == 0 {
		config.Backoff.Max = 20 * time.Second
	}
	if config.Offline.MaxBytes == 0 {
		config.Offline.MaxBytes = 1 << 20
	}
	if config.PingAfter == 0 {
		config.PingAfter = 5 * time.Second
	}
	if config.PingTimeout == 0 {
		config.PingTimeout = 5 * time.Second
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Agent == "" {
		config.Agent = "tidewire-go"
	}
	if len(config.Agent) > codec.MaxAgent || len(config.Token) > codec.MaxToken {
		return nil, errors.New("client: Config.Agent or Config.Token is too long")
	}
	c := &Client{
		config:    config,
		url:       url,
		log:       config.Logger,
		token:     config.Token,
		changed:   make(chan struct{}),
		subs:      make(map[*Subscription]struct{}),
		presences: presences{byTopic: make(map[string]*entered)},
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.setState(StateConnecting, nil)
	conn, err := c.connect(ctx)
	if err != nil {
		c.cancel(err)
		c.setState(StateClosed, err)
		return nil, err
	}
	c.begin(conn)
	c.wg.Go(func() { c.run(conn) })
	return c, nil
}

// State returns the state of this moment.
func (c *Client) State() State { return State(c.state.Load()) }

// ID returns the client id, which the broker gives out and which survives
// reconnects. It is public and grants nothing.
func (c *Client) ID() uuid.UUID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return uuid.UUID(c.resume.Client)
}

// Close ends the session, waits for what it has started, and makes every
// iteration end with ErrClosed. It is idempotent.
func (c *Client) Close() error {
	c.cancel(ErrClosed)
	c.wg.Wait()
	return nil
}

// Err returns why the client is closed; nil if it is not.
func (c *Client) Err() error { return context.Cause(c.ctx) }

// setState is called by Dial and run only.
func (c *Client) setState(s State, err error) {
	c.state.Store(int32(s))
	c.log.Debug("client state", slog.String("state", s.String()), slog.Any("error", err))
	if c.config.OnState != nil {
		c.config.OnState(s, err)
	}
}

// begin makes a connection the one that is used.
func (c *Client) begin(conn *connection) {
	c.setCurrent(conn)
	c.enterAgain(conn)
	c.setState(StateConnected, nil)
}

// stable is how long a connection, or the stream of a subscription, stands that was a
// good one: the waits before the next one begin anew.
const stable = 5 * time.Second

// run keeps the client connected until it is closed.
func (c *Client) run(conn *connection) {
	attempt := 0
	for {
		began := time.Now()
		err := conn.wait()
		c.setCurrent(nil)
		if time.Since(began) >= stable {
			attempt = 0
		}
		for ; ; attempt++ {
			if c.ctx.Err() == nil && c.isFinal(err) {
				c.cancel(err)
			}
			if c.ctx.Err() != nil {
				c.finish()
				return
			}
			c.setState(StateDisconnected, err)
			var least time.Duration
			if e, ok := errors.AsType[*Error](err); ok {
				least = e.Retry
			}
			select {
			case <-time.After(c.config.Backoff.wait(attempt, least)):
			case <-c.ctx.Done():
				continue
			}
			c.setState(StateConnecting, nil)
			if conn, err = c.connect(c.ctx); err == nil {
				c.begin(conn)
				attempt++
				break
			}
		}
	}
}

// finish ends all iterations when the client is closed.
func (c *Client) finish() {
	err := context.Cause(c.ctx)
	c.mu.Lock()
	subs := c.subs
	c.subs = nil
	c.mu.Unlock()
	for sub := range subs {
		sub.finish(err)
	}
	c.publishers.end(err)
	if errors.Is(err, ErrClosed) {
		err = nil
	}
	c.setState(StateClosed, err)
}

// isFinal reports whether connecting again is of no use (PROTOCOL §11).
func (c *Client) isFinal(err error) bool {
	code := codec.CodeOf(err)
	switch code {
	case codec.CodeInternal, codec.CodeResumeDenied:
		return false
	case codec.CodeTokenExpired:
		return c.config.GetToken == nil
	}
	return !code.Temporary()
}

// connect makes one attempt, and begins the subscriptions anew.
func (c *Client) connect(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.ConnectTimeout)
	defer cancel()
	stop := context.AfterFunc(c.ctx, cancel)
	defer stop()
	hello, err := c.hello(ctx)
	if err != nil {
		return nil, err
	}
	transport, err := c.config.Dial(ctx, c.url)
	if err != nil {
		return nil, c.connectError(ctx, err)
	}
	if transport.MaxDatagramSize() > 0 {
		hello.Capabilities |= codec.CapDatagrams
	}
	conn := newConnection(c, transport)
	conn.shown = hello.Token
	c.mu.Lock()
	subs := make([]*Subscription, 0, len(c.subs))
	for sub := range c.subs {
		subs = append(subs, sub)
	}
	c.mu.Unlock()
	// Subscriptions need not wait for WELCOME (PROTOCOL §5), as far as the broker
	// takes streams before it.
	if err := conn.open(ctx, hello, subs[:min(len(subs), codec.MaxEarlyStreams)]); err != nil {
		return nil, c.connectError(ctx, err)
	}
	for _, sub := range subs[min(len(subs), codec.MaxEarlyStreams):] {
		conn.serve(sub)
	}
	c.mu.Lock()
	c.resume = codec.Resume{Client: conn.welcome.Client, Secret: conn.welcome.Secret}
	c.mu.Unlock()
	return conn, nil
}

// hello makes the HELLO of an attempt.
func (c *Client) hello(ctx context.Context) (codec.Hello, error) {
	if c.config.GetToken != nil {
		token, err := c.config.GetToken(ctx)
		if err == nil {
			err = checkToken(token)
		}
		switch {
		case err != nil && noUse(err):
			return codec.Hello{}, err
		case err != nil:
			return codec.Hello{}, &Error{Code: codec.CodeConnectFailed, Reason: fmt.Sprintf("there is no token: %v", err)}
		}
		c.mu.Lock()
		c.token = token
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return codec.Hello{Version: codec.Version, Token: c.token, Resume: c.resume, Agent: c.config.Agent}, nil
}

// connectError gives a failed attempt its code.
func (c *Client) connectError(ctx context.Context, err error) error {
	if codec.CodeOf(err) == codec.CodeResumeDenied {
		c.mu.Lock()
		c.resume = codec.Resume{} // the next attempt begins anew
		c.mu.Unlock()
	}
	if e := told(err); e != nil {
		return e
	}
	e, coded := errors.AsType[*Error](err)
	switch {
	case coded && e.Code != codec.CodeConnectionLost:
		return err
	case c.ctx.Err() != nil:
		return context.Cause(c.ctx)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &Error{Code: codec.CodeConnectTimeout, Reason: fmt.Sprintf("no broker has answered at %s within the time; is it running, and does UDP get through?", c.url)}
	case ctx.Err() != nil:
		return &Error{Code: codec.CodeAborted, Reason: "cancelled while connecting to " + c.url}
	}
	return &Error{Code: codec.CodeConnectFailed, Reason: fmt.Sprintf("%s: %v", c.url, err)}
}

// setCurrent makes conn the one that calls use; nil is none. A token that was given to
// the client while conn was being made with another one is shown to the broker first.
func (c *Client) setCurrent(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = conn
	if conn != nil && c.token != conn.shown {
		conn.putToken(c.token)
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// standing returns the connection that was welcomed last; nil if it was found to have
// ended.
func (c *Client) standing() *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}

// connection returns the connection; nil if there is none just now. The error is
// CodeOffline, if that is refused, or why the client has ended.
func (c *Client) connection() (*connection, error) {
	if c.ctx.Err() != nil {
		return nil, context.Cause(c.ctx)
	}
	if conn := c.standing(); conn != nil && conn.ctx.Err() == nil {
		return conn, nil
	}
	if c.config.Offline.Refuse {
		return nil, codec.Errorf(codec.CodeOffline, "there is no connection to the broker, and Config.Offline.Refuse is set")
	}
	return nil, nil
}

// reach is connection for what waits for one.
func (c *Client) reach(ctx context.Context) (*connection, error) {
	conn, err := c.connection()
	if conn == nil && err == nil {
		conn, err = c.connected(ctx)
	}
	return conn, err
}

// connected waits for a connection.
func (c *Client) connected(ctx context.Context) (*connection, error) {
	for {
		c.mu.Lock()
		conn, changed := c.current, c.changed
		c.mu.Unlock()
		if conn != nil && conn.ctx.Err() == nil {
			return conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done(): // which may be that of the client
			if c.ctx.Err() == nil {
				return nil, ctx.Err()
			}
			return nil, context.Cause(c.ctx)
		case <-c.ctx.Done():
			return nil, context.Cause(c.ctx)
		}
	}
}
