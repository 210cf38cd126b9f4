package wt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/quic-go/quic-go"
)

// Dialer opens sessions, each on a connection of its own. Its zero value is
// usable and trusts the system's certificate authorities. A Dialer must not be
// changed while it is in use; Dial is safe for concurrent use, except where
// PacketConn is set.
type Dialer struct {
	// TLSConfig, where it is not nil, is cloned; it may give RootCAs, a client's
	// certificate, the server's name, a session cache, a KeyLogWriter. Its
	// NextProtos are replaced.
	// Without RootCAs the system's authorities are trusted.
	TLSConfig *tls.Config
	// CertificateHashes are SHA-256 hashes of certificates in DER. If there are
	// any, they replace certificate authorities: the server's certificate must
	// have one of them, be of an ECDSA P-256 key, valid now and for at most 14
	// days. These are the rules of browsers. The name is not checked, and no TLS
	// session is resumed, so the certificate is that of the moment.
	CertificateHashes [][32]byte
	// InsecureSkipVerify accepts any certificate, so that anybody on the path can
	// read and change everything. It is for tests. With CertificateHashes it is an
	// error.
	InsecureSkipVerify bool
	// QUICConfig, where it is not nil, is cloned and gives windows, keep-alive and
	// timeouts; without it the keep-alive is 15 seconds, and the rest is quic-go's
	// default. What WebTransport needs is set on top.
	QUICConfig *quic.Config
	// IdleTimeout, KeepAlive and QlogDir are as in [ServerConfig]. The file of a
	// trace is <connection id>_client.sqlog.
	IdleTimeout time.Duration
	KeepAlive   time.Duration
	QlogDir     string
	// Header holds further fields of the request.
	Header http.Header
	// Origin, if it is not "", is sent as the field Origin, as browsers do. Servers
	// then check it. Clients that are no browsers need none.
	Origin string
	// Subprotocols are offered to the server, most preferred first.
	Subprotocols []string
	// MaxSessionData, if it is not 0, offers flow control to the server, and then
	// bounds the bytes on all streams of the session that the application has not
	// read. Without it, QUIC's windows do the same for the connection, which one
	// session has for itself, at less cost: under flow control a small write waits
	// until it is packed. A negative number is an error.
	MaxSessionData int64
	// Resolver looks up names. The default is net.DefaultResolver.
	Resolver Resolver
	// PacketConn, where it is not nil, carries the connection in place of a new
	// UDP socket. It serves one session at a time, and is not closed.
	PacketConn net.PacketConn
	// Transport, where it is not nil, carries all connections in place of a new UDP
	// socket for each. It is not closed, and must outlive the sessions. With
	// PacketConn it is an error.
	Transport *quic.Transport
	// Logger gets what happens to the connection, at level Debug. The default
	// discards.
	Logger *slog.Logger

	// HandshakeTimeout bounds the way to the request: the resolution of the name,
	// the handshake, and the wait for the server's SETTINGS. The default is 10
	// seconds.
	HandshakeTimeout time.Duration
	// AnswerTimeout bounds the wait for the server's answer to the request, whether
	// in Dial or after DialEarly. Then the request is cancelled and the session
	// ends. The default is 30 seconds.
	AnswerTimeout time.Duration
	// MaxIncomingStreams bounds the bidirectional streams that the server may have
	// open at a time. The default is that of QUICConfig, or 1024.
	MaxIncomingStreams int64
	// MaxIncomingUniStreams bounds the unidirectional streams that the server may
	// have open at a time, its control streams included. The default is that of
	// QUICConfig, or 1024, and less than 3 is an error.
	MaxIncomingUniStreams int64
	// MaxPendingStreams bounds the server's streams that wait for its answer. The
	// default is 256, because those that a server opens right behind its answer may
	// be here before the answer has been read; more are reset with
	// WT_BUFFERED_STREAM_REJECTED.
	MaxPendingStreams int
	// MaxPendingDatagrams bounds the server's datagrams that wait for its answer.
	// The default is 16; more are dropped.
	MaxPendingDatagrams int
	// MaxQueuedDatagrams bounds the datagrams of a session that the application
	// has not received. The default is 128; beyond it the oldest are dropped.
	MaxQueuedDatagrams int
	// MaxDatagramAge, MaxOutgoingDatagrams and MaxOutgoingDatagramAge are as in
	// [ServerConfig].
	MaxDatagramAge         time.Duration
	MaxOutgoingDatagrams   int
	MaxOutgoingDatagramAge time.Duration
	// MaxHeaderBytes bounds the fields of an answer: encoded, and decoded with 32
	// bytes a field more. The default is 16 KiB; with more the dial fails.
	MaxHeaderBytes int
	// MaxSettingsBytes bounds the payload of the server's SETTINGS. The default is 8
	// KiB; more ends the connection with H3_EXCESSIVE_LOAD.
	MaxSettingsBytes int
	// StreamHeaderTimeout bounds how long a stream of the server may take to say
	// what it is, and to wait for the answer. The default is 5 seconds.
	StreamHeaderTimeout time.Duration
	// CloseTimeout bounds the wait for the server's answer to a close, and for what
	// is under way when a connection ends. The default is 2 seconds.
	CloseTimeout time.Duration
}

// RejectedError says that the server answered a request with a status other
// than 2xx.
type RejectedError struct {
	// Status is the answer's status, 300 to 599.
	Status int
	// Header holds the answer's fields, with canonical names.
	Header http.Header
}

// Error implements error. The text names the status, and where a redirect leads,
// which a [Dialer] does not follow.
func (e *RejectedError) Error() string {
	text := fmt.Sprintf("wt: server rejected the session with status %d", e.Status)
	if name := http.StatusText(e.Status); name != "" {
		text += " " + name
	}
	if location := e.Header.Get("Location"); location != "" && e.Status < 400 {
		text += fmt.Sprintf(", to %q", location)
	}
	return text
}

// Dial opens a session at an https URL, for example
// "https://example.com:4433/chat?room=1". It waits for the server's answer until
// ctx ends, and no longer than HandshakeTimeout and AnswerTimeout together. ctx
// does not bound the session.
//
// A name's addresses of both families are tried side by side, IPv6 first, 250 ms
// apart, and the first whose handshake completes is taken (RFC 8305).
//
// It speaks the newest draft that the server declares. The error is a
// *[RejectedError] if the server answered with another status than 2xx, matches
// [ErrUnsupported] if the server has no WebTransport, and is otherwise a
// *[DialError], unless the URL or the Dialer is at fault.
func (d *Dialer) Dial(ctx context.Context, rawURL string) (*Session, error) {
	session, err := d.DialEarly(ctx, rawURL)
	if err != nil {
		return nil, err
	}
	if err := session.awaitReady(ctx); err != nil {
		return nil, err
	}
	return session, nil
}

// DialEarly opens a session as [Dialer.Dial] does, but does not wait for the
// server's answer: it returns once the request has been sent, a round trip
// earlier. Streams can be opened and written on and datagrams sent at once
// (draft-ietf-webtrans-http3-16 §4). [Session.Ready] tells what the server
// answered, and until then [Session.Subprotocol] and [Session.Response] are not
// known.
//
// What is sent before the answer is lost if the server refuses: the session then
// ends with a *[SessionError] whose Err is what Ready returns. A server holds only
// so many streams and datagrams for a session that it has not accepted, 24 and 16
// usually; it resets further streams and drops further datagrams. So send early
// what is little and may be sent again.
func (d *Dialer) DialEarly(ctx context.Context, rawURL string) (*Session, error) {
	p, err := d.plan(rawURL)
	if err != nil {
		return nil, err
	}
	ctx, cancel := p.handshakeContext(ctx)
	defer cancel()
	c, released, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	session, err := c.request(ctx, clientRequest{head: p.head, offered: p.subprotocols, released: released})
	if err != nil {
		c.closeUnused(err)
		<-released
		return nil, err
	}
	return session, nil
}

// plan is a dial whose parameters have been checked.
type plan struct {
	dialer       *Dialer
	server       string // host and port as the URL has them
	race         race
	tls          *tls.Config
	quic         *quic.Config
	limits       limits
	head         requestHead
	subprotocols []string
	shared       bool // by sessions of a pool
	logger       *slog.Logger
}

func (d *Dialer) plan(rawURL string) (*plan, error) {
	target, err := parseTarget(rawURL)
	if err != nil {
		return nil, err
	}
	p := &plan{
		dialer:       d,
		server:       target.Host,
		subprotocols: slices.Clone(d.Subprotocols),
		logger:       d.Logger,
	}
	p.race = race{resolver: d.Resolver, host: target.Hostname(), port: 443}
	if port := target.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("wt: URL %q has port %q", rawURL, port)
		}
		p.race.port = uint16(n)
	}
	// The zone of an address means something on this machine alone.
	name, _, zoned := strings.Cut(target.Hostname(), "%")
	if zoned {
		target.Host = net.JoinHostPort(name, strconv.Itoa(int(p.race.port)))
	}
	if d.Transport != nil && d.PacketConn != nil {
		return nil, errors.New("wt: Dialer has both Transport and PacketConn")
	}
	if p.race.resolver == nil {
		p.race.resolver = net.DefaultResolver
	}
	if p.logger == nil {
		p.logger = slog.New(slog.DiscardHandler)
	}
	if p.limits, err = d.limits(); err != nil {
		return nil, err
	}
	if p.tls, err = d.tlsConfig(name); err != nil {
		return nil, err
	}
	if p.head, err = d.requestHead(target); err != nil {
		return nil, err
	}
	streams := p.limits.maxStreams
	if streams == 0 {
		streams = -1 // none, in quic-go's terms
	}
	p.quic = quicConfig(d.QUICConfig, streams, p.limits.maxUniStreams)
	setTimeouts(p.quic, d.IdleTimeout, d.KeepAlive)
	if d.QlogDir != "" {
		if p.quic.Tracer != nil {
			return nil, errors.New("wt: Dialer has both QlogDir and a QUICConfig.Tracer")
		}
		p.quic.Tracer = qlogTracer(d.QlogDir, p.logger)
	}
	if p.quic.HandshakeIdleTimeout == 0 {
		p.quic.HandshakeIdleTimeout = p.limits.handshakeTimeout
	}
	return p, nil
}

// handshakeContext bounds ctx by HandshakeTimeout.
func (p *plan) handshakeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, p.limits.handshakeTimeout,
		fmt.Errorf("not done within %v: %w", p.limits.handshakeTimeout, context.DeadlineExceeded))
}

// connect returns a running connection, and what is closed when nothing is left
// of it.
func (p *plan) connect(ctx context.Context) (*conn, <-chan struct{}, error) {
	transport, release, err := p.transport()
	if err != nil {
		return nil, nil, &DialError{Step: StepConnect, Server: p.server, Err: err}
	}
	p.race.dial = func(ctx context.Context, addr netip.AddrPort) (*quic.Conn, error) {
		return transport.Dial(ctx, net.UDPAddrFromAddrPort(addr), p.tls, p.quic)
	}
	q, resolved, err := p.race.run(ctx)
	if err != nil {
		step := StepConnect
		if !resolved {
			step = StepResolve
		}
		return nil, nil, errors.Join(&DialError{Step: step, Server: p.server, Err: err}, release())
	}
	c := newConn(q, true, p.limits, p.logger)
	c.shared = p.shared
	if err := c.start(); err != nil {
		_ = q.CloseWithError(codeInternalError, "")
		return nil, nil, errors.Join(&DialError{Step: StepSettings, Server: p.server, Err: err}, release())
	}
	released := make(chan struct{})
	c.run(func() { // the session's Close waits for released, and so does a failed Dial
		if err := release(); err != nil {
			p.logger.Debug("socket not closed", slog.Any("error", err))
		}
		close(released)
	})
	return c, released, nil
}

// transport returns what carries the connection, and what releases it in the end.
func (p *plan) transport() (*quic.Transport, func() error, error) {
	switch d := p.dialer; {
	case d.Transport != nil:
		return d.Transport, func() error { return nil }, nil
	case d.PacketConn != nil:
		transport := &quic.Transport{Conn: d.PacketConn}
		return transport, transport.Close, nil
	}
	// One socket serves both families, where the machine has both.
	packets, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, nil, err
	}
	transport := &quic.Transport{Conn: packets}
	return transport, func() error { return errors.Join(transport.Close(), packets.Close()) }, nil
}

const defaultDialerPendingStreams = 256

// limits checks the limits of the dialer and fills in the defaults.
func (d *Dialer) limits() (limits, error) {
	var errs []error
	bounds := limits{
		maxSessions:         1,
		maxPendingStreams:   orDefault(&errs, "MaxPendingStreams", d.MaxPendingStreams, defaultDialerPendingStreams),
		maxPendingDatagrams: orDefault(&errs, "MaxPendingDatagrams", d.MaxPendingDatagrams, defaultPendingDatagrams),
		maxQueuedDatagrams:  orDefault(&errs, "MaxQueuedDatagrams", d.MaxQueuedDatagrams, defaultQueuedDatagrams),
		maxDatagramAge:      orDefault(&errs, "MaxDatagramAge", d.MaxDatagramAge, 0),

		maxOutgoingDatagrams:   orDefault(&errs, "MaxOutgoingDatagrams", d.MaxOutgoingDatagrams, defaultOutgoingDatagrams),
		maxOutgoingDatagramAge: orDefault(&errs, "MaxOutgoingDatagramAge", d.MaxOutgoingDatagramAge, 0),

		maxHeaderBytes:      orDefault(&errs, "MaxHeaderBytes", d.MaxHeaderBytes, defaultHeaderBytes),
		maxSettingsBytes:    orDefault(&errs, "MaxSettingsBytes", d.MaxSettingsBytes, defaultSettingsBytes),
		maxSessionData:      orDefault(&errs, "MaxSessionData", d.MaxSessionData, 0),
		handshakeTimeout:    orDefault(&errs, "HandshakeTimeout", d.HandshakeTimeout, defaultHandshakeTimeout),
		streamHeaderTimeout: orDefault(&errs, "StreamHeaderTimeout", d.StreamHeaderTimeout, defaultStreamHeaderTimeout),
		answerTimeout:       orDefault(&errs, "AnswerTimeout", d.AnswerTimeout, defaultAnswerTimeout),
		closeTimeout:        orDefault(&errs, "CloseTimeout", d.CloseTimeout, defaultCloseTimeout),
	}
	orDefault(&errs, "IdleTimeout", d.IdleTimeout, 0)
	orDefault(&errs, "KeepAlive", d.KeepAlive, 0)
	var streams, uniStreams int64 = defaultIncomingStreams, defaultIncomingStreams
	if q := d.QUICConfig; q != nil && q.MaxIncomingStreams != 0 {
		streams = max(q.MaxIncomingStreams, 0) // quic-go has a negative number for none
	}
	if q := d.QUICConfig; q != nil && q.MaxIncomingUniStreams != 0 {
		uniStreams = max(q.MaxIncomingUniStreams, minIncomingUniStreams)
	}
	bounds.maxStreams = orDefault(&errs, "MaxIncomingStreams", d.MaxIncomingStreams, streams)
	bounds.maxUniStreams = orDefault(&errs, "MaxIncomingUniStreams", d.MaxIncomingUniStreams, uniStreams)
	if bounds.maxUniStreams < minIncomingUniStreams {
		errs = append(errs, fmt.Errorf("wt: Dialer.MaxIncomingUniStreams is %d, less than the %d that HTTP/3 needs",
			bounds.maxUniStreams, minIncomingUniStreams))
	}
	return bounds, errors.Join(errs...)
}

// orDefault returns the standard in place of a limit that is zero, and adds an
// error for one that is negative.
func orDefault[N int | int64 | time.Duration](errs *[]error, name string, value, standard N) N {
	if value < 0 {
		*errs = append(*errs, fmt.Errorf("wt: Dialer.%s is negative", name))
	}
	if value == 0 {
		return standard
	}
	return value
}

// parseTarget checks the URL of a session.
func parseTarget(rawURL string) (*url.URL, error) {
	target, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("wt: URL is not of the form https://host:port/path: %w", err)
	case target.Scheme != "https":
		return nil, fmt.Errorf("wt: URL %q does not begin with https://", rawURL)
	case target.Hostname() == "":
		return nil, fmt.Errorf("wt: URL %q has no host", rawURL)
	case strings.ContainsFunc(target.Host, func(r rune) bool { return r > unicode.MaxASCII }):
		return nil, fmt.Errorf("wt: URL %q has a host that is not ASCII; its form with xn-- is needed", rawURL)
	case target.Fragment != "" || target.User != nil:
		return nil, fmt.Errorf("wt: URL %q has a fragment or user information", rawURL)
	}
	return target, nil
}

func (d *Dialer) tlsConfig(host string) (*tls.Config, error) {
	config := &tls.Config{}
	if d.TLSConfig != nil {
		config = d.TLSConfig.Clone()
	}
	config.NextProtos = []string{alpn}
	config.MinVersion = tls.VersionTLS13
	if config.ServerName == "" {
		config.ServerName = host
	}
	if len(d.CertificateHashes) > 0 {
		if d.InsecureSkipVerify {
			return nil, errors.New("wt: Dialer has both CertificateHashes and InsecureSkipVerify")
		}
		// The check by hash takes the place of the usual one.
		config.InsecureSkipVerify = true
		// A resumed session has the certificate that it began with, which may have
		// been replaced, and its hash with it.
		config.ClientSessionCache = nil
		verify, more := verifyHash(slices.Clone(d.CertificateHashes)), config.VerifyConnection
		config.VerifyConnection = func(state tls.ConnectionState) error {
			if err := verify(state); err != nil || more == nil {
				return err
			}
			return more(state)
		}
	} else if d.InsecureSkipVerify {
		config.InsecureSkipVerify = true
	}
	return config, nil
}

func (d *Dialer) requestHead(target *url.URL) (requestHead, error) {
	header := d.Header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	if name := contentField(header); name != "" {
		return requestHead{}, fmt.Errorf("wt: Dialer.Header has field %q: no content follows", name)
	}
	if _, err := appendHeaders(nil, nil, header); err != nil {
		return requestHead{}, err
	}
	if d.Origin != "" {
		header.Set("Origin", d.Origin)
	}
	if slices.Contains(d.Subprotocols, "") {
		return requestHead{}, errors.New("wt: a subprotocol is empty")
	}
	if len(d.Subprotocols) > 0 {
		value, err := formatAvailableProtocols(d.Subprotocols)
		if err != nil {
			return requestHead{}, fmt.Errorf("wt: subprotocols: %w", err)
		}
		header.Set(fieldAvailableProtocols, value)
	}
	path := target.EscapedPath()
	if path == "" {
		path = "/"
	}
	if target.RawQuery != "" || target.ForceQuery {
		path += "?" + target.RawQuery
	}
	return requestHead{
		method:    http.MethodConnect,
		scheme:    target.Scheme,
		authority: target.Host,
		path:      path,
		header:    header,
	}, nil
}
