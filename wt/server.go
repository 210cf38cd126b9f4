package wt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// ServerConfig configures a [Server]. TLSConfig and Handler are required, and
// the zero value of everything else is its default. A negative limit is an
// error.
type ServerConfig struct {
	// Addr is the UDP address that ListenAndServe binds. The default is
	// "127.0.0.1:4433". ":4433" binds all interfaces, for IPv4 and IPv6 where the
	// machine has both. For several addresses, call [Server.Serve] for each.
	Addr string
	// TLSConfig gives the certificates, as [Identity.TLSConfig],
	// [Rotation.TLSConfig] and [CertificateFiles.TLSConfig] do. It is cloned; its
	// NextProtos are replaced, and TLS 1.3 is required.
	//
	// ClientAuth and ClientCAs ask for client certificates; [Request.TLS] has them.
	// KeyLogWriter gets the keys with which a recording of the packets can be read.
	TLSConfig *tls.Config
	// QUICConfig, where it is not nil, is cloned and gives windows, keep-alive,
	// idle timeout and tracing. Without it the keep-alive is 15 seconds, so that
	// idle sessions live, and the rest is quic-go's default. The same goes for what
	// its GetConfigForClient returns, where nil stands for QUICConfig itself.
	// Datagrams, partial resets and stream limits are set on top. 0-RTT is off,
	// because CONNECT is not safe to replay (draft-ietf-webtrans-http3-16 §3.2).
	QUICConfig *quic.Config
	// IdleTimeout, if it is not 0, takes the place of QUICConfig.MaxIdleTimeout:
	// after how long without a packet a connection is given up. The default is 30
	// seconds; the client's own, if it is shorter, prevails.
	IdleTimeout time.Duration
	// KeepAlive, if it is not 0, takes the place of QUICConfig.KeepAlivePeriod:
	// after how long without a packet one is sent, at most half of the idle
	// timeout. The default is 15 seconds without a QUICConfig.
	KeepAlive time.Duration
	// QlogDir, if it is not "", is a directory into which a trace of each
	// connection is written, as the file <connection id>_server.sqlog in the format
	// qlog (JSON-SEQ). It is made if it is missing. Each connection costs a
	// goroutine more, and each packet some hundred bytes on the disk. With a Tracer
	// of QUICConfig it is an error.
	QlogDir string
	// Handler answers the requests for sessions. A [Mux] chooses among several by
	// their paths.
	Handler Handler
	// HTTPHandler answers the ordinary requests: those that are no CONNECT. The
	// default answers them with 404. It runs on a goroutine of its own for each
	// request. What net/http documents of its servers holds for it, trailers,
	// interim responses, [http.ResponseController]'s deadlines and flushes, and
	// panics included, with these differences: the request's context has no
	// [http.ServerContextKey]; a request whose scheme is not https is answered with
	// 421; and a body is read as it arrives, without a deadline of its own. A
	// request counts against MaxIncomingStreams until its handler has returned.
	//
	// If it is an *[http.ServeMux], or has that type's method Handler, a session
	// that nobody accepts is refused with 405 where a plain request would find a
	// handler, and with 404 elsewhere. With another handler it is always 405.
	HTTPHandler http.Handler
	// CheckOrigin decides whether a request's Origin is welcome; if not, it is
	// answered with 403. It must be safe for concurrent use. The default welcomes
	// requests without Origin, which come from no browser, and those whose origin
	// is the requested authority itself. A page that is served from another port
	// or host needs a CheckOrigin that names it.
	CheckOrigin func(*Request) bool
	// Subprotocols are what the server supports, in order of preference.
	Subprotocols []string
	// Logger gets what happens to connections, at level Debug: refused origins and
	// requests that no handler answered among it, of which a browser's page learns
	// nothing. It gets panics of handlers at level Error. The default discards both.
	Logger *slog.Logger

	// RetryThreshold says when a client has to validate its address by Retry (RFC
	// 9000 §8.1.2) before it costs more than a packet: if its handshake would be at
	// least the RetryThreshold-th that is under way. Retry takes a round trip, and
	// seconds when many clients come at once, so 1, which demands it of every client,
	// is for servers under attack. Clients that bring a token of an earlier
	// connection need none. The default is 1024, or half of MaxConnections if that is
	// less.
	RetryThreshold int
	// MaxConnections bounds the connections of the server, over all its sockets,
	// those in their handshake included. More are refused with CONNECTION_REFUSED.
	// The default is none.
	MaxConnections int
	// MaxConnectionsPerAddr bounds the connections from one IPv4 address, or from
	// the /64 of an IPv6 address. More are refused with CONNECTION_REFUSED, and from
	// half of it on, Retry is demanded, so that one who forges addresses cannot take
	// the places of those who own them. A connection counts for the address that it
	// began at. The default is none, because thousands of clients may be behind one
	// address translator.
	MaxConnectionsPerAddr int
	// MaxSessionsPerConnection bounds the sessions that share a connection at a
	// time, if the client negotiates flow control; else it is 1, as the drafts
	// demand. A further request is reset with H3_REQUEST_REJECTED. The default is 1.
	// [Pool] is the client that makes use of more.
	MaxSessionsPerConnection int
	// MaxSessionData bounds the bytes on all streams of a session that the
	// application has not read, if the client negotiates flow control; else QUIC's
	// windows do so for the connection. The default is 16 MiB, which is more than
	// QUIC's own default, divided by MaxSessionsPerConnection. If that is more than
	// 1, QUIC's window for a connection is raised to what all sessions may have.
	MaxSessionData int64
	// MaxIncomingStreams bounds the bidirectional streams that a client may have
	// open at a time, its CONNECT included. The default is 1024. Sessions that share
	// a connection have equal parts of these and of MaxIncomingUniStreams.
	MaxIncomingStreams int64
	// MaxIncomingUniStreams bounds the unidirectional streams that a client may
	// have open at a time, its control streams included. The default is 1024, and
	// less than 3 is an error.
	MaxIncomingUniStreams int64
	// MaxPendingStreams bounds the streams of a connection that wait for their
	// session. The default is 24; more are reset with WT_BUFFERED_STREAM_REJECTED.
	MaxPendingStreams int
	// MaxPendingDatagrams bounds the datagrams of a connection that wait for their
	// session. The default is 16; more are dropped.
	MaxPendingDatagrams int
	// MaxQueuedDatagrams bounds the datagrams of a session that the application
	// has not received. The default is 128; beyond it the oldest are dropped.
	MaxQueuedDatagrams int
	// MaxDatagramAge is how long a received datagram waits for the application at
	// most; then it is dropped. The default is without limit.
	MaxDatagramAge time.Duration
	// MaxOutgoingDatagrams bounds the datagrams of a session that wait for the
	// network, in front of the 32 that QUIC holds for a connection. The default is
	// 32; see [Session.SendDatagram], [Session.TrySendDatagram] and
	// [Session.PushDatagram] for what happens beyond it.
	MaxOutgoingDatagrams int
	// MaxOutgoingDatagramAge is how long a datagram waits there at most; then it is
	// dropped. The default is without limit.
	MaxOutgoingDatagramAge time.Duration
	// MaxHeaderBytes bounds the fields of a request: encoded, and decoded with 32
	// bytes a field more. The default is 16 KiB; more is answered with 431.
	MaxHeaderBytes int
	// MaxSettingsBytes bounds the payload of the client's SETTINGS. The default is 8
	// KiB; more ends the connection with H3_EXCESSIVE_LOAD.
	MaxSettingsBytes int
	// HandshakeTimeout bounds how long a connection may have no request, first
	// after its handshake and then after the last one has ended, and how long a
	// request waits for the client's SETTINGS. The default is 10 seconds.
	HandshakeTimeout time.Duration
	// StreamHeaderTimeout bounds how long a stream may take to say what it is, a
	// request to send its fields, and a stream to wait for its session. The
	// default is 5 seconds.
	StreamHeaderTimeout time.Duration
	// CloseTimeout bounds the wait for the client's answer to a close, and for what
	// is under way when a connection ends. The default is 2 seconds.
	CloseTimeout time.Duration
}

// Defaults of limits that client and server share.
const (
	defaultIncomingStreams     = 1024
	defaultSessionData         = 16 << 20
	defaultPendingStreams      = 24
	defaultPendingDatagrams    = 16
	defaultQueuedDatagrams     = 128
	defaultOutgoingDatagrams   = 32
	defaultHeaderBytes         = 16 << 10
	defaultSettingsBytes       = 8 << 10
	defaultHandshakeTimeout    = 10 * time.Second
	defaultStreamHeaderTimeout = 5 * time.Second
	defaultAnswerTimeout       = 30 * time.Second
	defaultCloseTimeout        = 2 * time.Second
	minIncomingUniStreams      = 3 // control, QPACK encoder and decoder (RFC 9114 §6.2)
)

// Server accepts WebTransport sessions. Its methods are safe for concurrent use.
type Server struct {
	// Static after construction.
	config ServerConfig // defaults filled in
	limits limits
	// configFor is QUICConfig.GetConfigForClient.
	configFor func(*quic.ClientInfo) (*quic.Config, error)

	// connections counts what runs for the server: Serve calls and connections.
	connections sync.WaitGroup
	admissions  *admissions

	// Guarded by mu.
	mu        sync.Mutex
	closing   bool // no connection is added any more
	serving   map[*quic.Transport]*quic.EarlyListener
	conns     map[*conn]struct{}
	addr      net.Addr
	listening chan struct{} // closed when addr is set
}

// NewServer checks the configuration, copies it, and returns a server that does
// not listen yet.
func NewServer(config ServerConfig) (*Server, error) {
	if config.TLSConfig == nil {
		return nil, errors.New("wt: ServerConfig.TLSConfig is required; Identity.TLSConfig gives one for development")
	}
	if config.Handler == nil {
		return nil, errors.New("wt: ServerConfig.Handler is required")
	}
	if config.Addr == "" {
		config.Addr = "127.0.0.1:4433"
	}
	if config.CheckOrigin == nil {
		config.CheckOrigin = sameOrigin
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	config.Subprotocols = slices.Clone(config.Subprotocols)
	for _, protocol := range config.Subprotocols {
		if _, err := formatProtocol(protocol); err != nil || protocol == "" {
			return nil, fmt.Errorf("wt: subprotocol %q is not a non-empty string of printable ASCII", protocol)
		}
	}
	if config.QlogDir != "" && config.QUICConfig != nil && config.QUICConfig.Tracer != nil {
		return nil, errors.New("wt: ServerConfig has both QlogDir and a QUICConfig.Tracer")
	}
	retryThreshold := defaultRetryThreshold
	if config.MaxConnections > 0 {
		retryThreshold = min(retryThreshold, max(1, config.MaxConnections/2))
	}
	err := errors.Join(
		setDefault("IdleTimeout", &config.IdleTimeout, 0),
		setDefault("KeepAlive", &config.KeepAlive, 0),
		setDefault("RetryThreshold", &config.RetryThreshold, retryThreshold),
		setDefault("MaxConnections", &config.MaxConnections, 0),
		setDefault("MaxConnectionsPerAddr", &config.MaxConnectionsPerAddr, 0),
		setDefault("MaxSessionsPerConnection", &config.MaxSessionsPerConnection, 1),
		setDefault("MaxSessionData", &config.MaxSessionData, defaultSessionData/int64(max(1, config.MaxSessionsPerConnection))),
		setDefault("MaxIncomingStreams", &config.MaxIncomingStreams, defaultIncomingStreams),
		setDefault("MaxIncomingUniStreams", &config.MaxIncomingUniStreams, defaultIncomingStreams),
		setDefault("MaxPendingStreams", &config.MaxPendingStreams, defaultPendingStreams),
		setDefault("MaxPendingDatagrams", &config.MaxPendingDatagrams, defaultPendingDatagrams),
		setDefault("MaxQueuedDatagrams", &config.MaxQueuedDatagrams, defaultQueuedDatagrams),
		setDefault("MaxDatagramAge", &config.MaxDatagramAge, 0),
		setDefault("MaxOutgoingDatagrams", &config.MaxOutgoingDatagrams, defaultOutgoingDatagrams),
		setDefault("MaxOutgoingDatagramAge", &config.MaxOutgoingDatagramAge, 0),
		setDefault("MaxHeaderBytes", &config.MaxHeaderBytes, defaultHeaderBytes),
		setDefault("MaxSettingsBytes", &config.MaxSettingsBytes, defaultSettingsBytes),
		setDefault("HandshakeTimeout", &config.HandshakeTimeout, defaultHandshakeTimeout),
		setDefault("StreamHeaderTimeout", &config.StreamHeaderTimeout, defaultStreamHeaderTimeout),
		setDefault("CloseTimeout", &config.CloseTimeout, defaultCloseTimeout),
	)
	if err != nil {
		return nil, err
	}
	if config.MaxIncomingUniStreams < minIncomingUniStreams {
		return nil, fmt.Errorf("wt: MaxIncomingUniStreams is %d, less than the %d that HTTP/3 needs",
			config.MaxIncomingUniStreams, minIncomingUniStreams)
	}
	config.TLSConfig = serverTLS(config.TLSConfig)
	var configFor func(*quic.ClientInfo) (*quic.Config, error)
	if config.QUICConfig != nil {
		configFor = config.QUICConfig.GetConfigForClient
	}
	server := &Server{
		config: config,
		limits: limits{
			maxSessions:         config.MaxSessionsPerConnection,
			maxPendingStreams:   config.MaxPendingStreams,
			maxPendingDatagrams: config.MaxPendingDatagrams,
			maxQueuedDatagrams:  config.MaxQueuedDatagrams,
			maxDatagramAge:      config.MaxDatagramAge,

			maxOutgoingDatagrams:   config.MaxOutgoingDatagrams,
			maxOutgoingDatagramAge: config.MaxOutgoingDatagramAge,

			maxHeaderBytes:      config.MaxHeaderBytes,
			maxSettingsBytes:    config.MaxSettingsBytes,
			maxSessionData:      config.MaxSessionData,
			maxStreams:          config.MaxIncomingStreams,
			maxUniStreams:       config.MaxIncomingUniStreams,
			handshakeTimeout:    config.HandshakeTimeout,
			streamHeaderTimeout: config.StreamHeaderTimeout,
			closeTimeout:        config.CloseTimeout,
		},
		configFor: configFor,
		serving:   make(map[*quic.Transport]*quic.EarlyListener),
		conns:     make(map[*conn]struct{}),
		listening: make(chan struct{}),
	}
	server.limits.shareStreams()
	server.config.QUICConfig = server.quicConfig(config.QUICConfig)
	server.admissions = newAdmissions(&server.config, &server.connections)
	return server, nil
}

// quicConfig sets what the server needs on top of base, which may be nil.
func (s *Server) quicConfig(base *quic.Config) *quic.Config {
	q := quicConfig(base, s.config.MaxIncomingStreams, s.config.MaxIncomingUniStreams)
	shareWindow(q, s.config.MaxSessionsPerConnection, s.config.MaxSessionData)
	setTimeouts(q, s.config.IdleTimeout, s.config.KeepAlive)
	if s.config.QlogDir != "" {
		q.Tracer = qlogTracer(s.config.QlogDir, s.config.Logger)
	}
	return q
}

// setDefault replaces the zero value of a limit and refuses a negative one.
func setDefault[N int | int64 | time.Duration](name string, value *N, standard N) error {
	if *value < 0 {
		return fmt.Errorf("wt: ServerConfig.%s is negative", name)
	}
	if *value == 0 {
		*value = standard
	}
	return nil
}

// ListenAndServe binds [ServerConfig.Addr] and serves it as [Server.Serve] does.
func (s *Server) ListenAndServe() error {
	packets, err := net.ListenPacket("udp", s.config.Addr)
	if err != nil {
		return fmt.Errorf("wt: %w", err)
	}
	return s.Serve(packets)
}

// Serve accepts sessions on a packet connection, usually a *net.UDPConn, which
// it owns and closes. It returns [ErrServerClosed] when Close or Shutdown has
// finished with all connections on it, and another error if the socket fails. It
// may be called for several sockets, whose connections share the server's limits.
func (s *Server) Serve(packets net.PacketConn) error {
	transport := &quic.Transport{Conn: packets, VerifySourceAddress: s.VerifySourceAddress}
	err := s.ServeTransport(transport)
	return errors.Join(err, transport.Close(), packets.Close())
}

// ServeTransport accepts sessions on a transport as [Server.Serve] does on a
// packet connection. The transport may have other uses at the same time: clients
// may dial from it, but one server alone can serve it. It remains the caller's,
// who closes it, and its socket, after ServeTransport has returned. It gives what
// [Server.Serve] has no fields for, such as keys for stateless resets and tokens
// that several processes share.
//
// Its fields are not changed, so [ServerConfig.RetryThreshold] holds only if its
// VerifySourceAddress is, or calls, [Server.VerifySourceAddress].
func (s *Server) ServeTransport(transport *quic.Transport) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.connections.Add(1)
	s.mu.Unlock()
	defer s.connections.Done()

	config := s.config.QUICConfig.Clone()
	config.GetConfigForClient = s.admit
	listener, err := transport.ListenEarly(s.config.TLSConfig, config)
	if err != nil {
		return fmt.Errorf("wt: listen: %w", err)
	}
	s.mu.Lock()
	closing := s.closing
	if !closing {
		s.serving[transport] = listener
		if s.addr == nil {
			s.addr = listener.Addr()
			close(s.listening)
		}
	}
	s.mu.Unlock()
	if closing {
		_ = listener.Close() // and with it what it has accepted
	}

	var own, rousing sync.WaitGroup
	rouser := newRouser()
	rousing.Go(rouser.run)
	for {
		var q *quic.Conn
		if q, err = listener.Accept(context.Background()); err != nil {
			break
		}
		own.Add(1)
		go s.serveConn(q, rouser, own.Done)
	}
	if errors.Is(err, quic.ErrServerClosed) {
		err = ErrServerClosed
	} else {
		err = fmt.Errorf("wt: accept: %w", err)
	}
	own.Wait()
	rouser.stop()
	rousing.Wait()
	s.mu.Lock()
	delete(s.serving, transport)
	s.mu.Unlock()
	return err
}

// VerifySourceAddress reports whether a client that sends from addr has to show
// first that it receives there, for [ServerConfig.RetryThreshold] and
// [ServerConfig.MaxConnectionsPerAddr]. It is for the field of the same name of a
// transport that is given to [Server.ServeTransport].
func (s *Server) VerifySourceAddress(addr net.Addr) bool { return s.admissions.validate(addr) }

// Stats returns what the server has done with connections so far.
func (s *Server) Stats() ServerStats { return s.admissions.snapshot() }

// admit decides about a client's first packet. It is the GetConfigForClient of
// listeners.
func (s *Server) admit(info *quic.ClientInfo) (*quic.Config, error) {
	admission, err := s.admissions.admit(info)
	if err != nil {
		s.config.Logger.Debug("connection refused", slog.Any("remote", info.RemoteAddr))
		return nil, err
	}
	base := s.config.QUICConfig
	if s.configFor != nil {
		chosen, err := s.configFor(info)
		if err != nil {
			return nil, err
		}
		if chosen != nil {
			base = s.quicConfig(chosen)
		}
	}
	config := base.Clone()
	config.GetConfigForClient = nil
	admission.tracer, config.Tracer = config.Tracer, admission.begin
	return config, nil
}

// serveConn serves one connection to its end.
func (s *Server) serveConn(q *quic.Conn, rouser *rouser, onEnd func()) {
	place := admissionOf(q)
	place.disarm() // from here on the place is held until the handlers have returned
	c := newConn(q, false, s.limits, s.config.Logger)
	c.serve = s.serveRequest
	c.addrValidated = place.addrValidated
	// Before anyone can find it and send GOAWAY.
	if err := c.start(); err != nil {
		s.config.Logger.Debug("connection not started", slog.Any("error", err))
		_ = q.CloseWithError(codeInternalError, "")
		place.end()
		onEnd()
		return
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		_ = q.CloseWithError(codeNoError, "server closed")
		place.end()
		onEnd()
		return
	}
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	// The client's streams come after its handshake, because 0-RTT is off.
	select {
	case <-q.HandshakeComplete():
		place.established()
	case <-q.Context().Done():
	}
	rouser.add(c)
	c.run(func() {
		rouser.remove(c)
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		place.end()
		onEnd()
	})
}

// Addr waits until the server serves its first socket, and returns the address
// it is bound to. It returns nil if ctx ends before.
func (s *Server) Addr(ctx context.Context) net.Addr {
	select {
	case <-s.listening:
	case <-ctx.Done():
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// Shutdown ends the server gently: no connection and no session is accepted any
// more, every session is asked to drain, by GOAWAY and by capsule, and then
// Shutdown waits for the handlers to return, until ctx ends. It then closes what
// is left and waits, as [Server.Close] does, and returns the cause of ctx if it
// ended early. So ctx should have a deadline: a client need not heed the request
// to drain.
//
// Handlers learn of it by [Session.Draining]; their context goes on. One that closes
// its session then, with a code that says so, spares the client the loss of its
// connection at the deadline; see the example.
//
// There is one GOAWAY, which names the first request that is not served (RFC 9114
// §5.2). A request that the handler has may still be accepted, and is then asked
// to drain at once. A later one is reset with H3_REQUEST_REJECTED, so that the
// client knows that it may try elsewhere: to take it in would gain it a session
// that has to end. Connections without a request stay for two round trips for
// that. Handshakes that are under way are refused with CONNECTION_REFUSED.
func (s *Server) Shutdown(ctx context.Context) error {
	for _, c := range s.stop() {
		c.goAway()
	}
	finished := make(chan struct{})
	var waiter sync.WaitGroup
	waiter.Go(func() {
		s.connections.Wait()
		close(finished)
	})
	var err error
	select {
	case <-finished:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	err = errors.Join(err, s.Close())
	waiter.Wait()
	return err
}

// Close ends all sessions and connections at once, and waits until all handlers
// have returned. Peers see their connection closed.
func (s *Server) Close() error {
	for _, c := range s.stop() {
		_ = c.quic.CloseWithError(codeNoError, "server closed")
	}
	s.connections.Wait()
	return nil
}

// stop ends the listeners, so that no connection is added, and returns those
// there are.
func (s *Server) stop() []*conn {
	s.mu.Lock()
	s.closing = true
	listeners := make([]*quic.EarlyListener, 0, len(s.serving))
	for _, listener := range s.serving {
		listeners = append(listeners, listener)
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, listener := range listeners {
		_ = listener.Close()
	}
	return conns
}
