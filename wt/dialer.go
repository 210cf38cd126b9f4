package wt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/quic-go/quic-go"
)

// Dialer opens sessions, each on a connection of its own. Its zero value is
// usable and trusts the system's certificate authorities. A Dialer must not be
// changed while it is in use; Dial is safe for concurrent use, except where
// PacketConn is set.
type Dialer struct {
	// TLSConfig, where it is not nil, is cloned; it may give RootCAs, client
	// certificates, the server's name. Its NextProtos are replaced.
	TLSConfig *tls.Config
	// CertificateHashes are SHA-256 hashes of certificates in DER. If there are
	// any, they replace certificate authorities: the server's certificate must
	// have one of them, be of an ECDSA P-256 key, valid now and for at most 14
	// days. These are the rules of browsers. The name is not checked.
	CertificateHashes [][32]byte
	// InsecureSkipVerify accepts any certificate, so that anybody on the path can
	// read and change everything. It is for tests. With CertificateHashes it is an
	// error.
	InsecureSkipVerify bool
	// QUICConfig, where it is not nil, is cloned and gives windows, keep-alive and
	// timeouts; without it the keep-alive is 15 seconds, and the rest is quic-go's
	// default. What WebTransport needs is set on top.
	QUICConfig *quic.Config
	// Header holds further fields of the request.
	Header http.Header
	// Origin, if it is not "", is sent as the field Origin, as browsers do.
	Origin string
	// Subprotocols are offered to the server, most preferred first.
	Subprotocols []string
	// MaxSessionData, if it is not 0, offers flow control to the server, and then
	// bounds the bytes on all streams of the session that the application has not
	// read. Without it, QUIC's windows do the same for the connection, which one
	// session has for itself, at less cost: under flow control a small write waits
	// until it is packed. A negative number is an error.
	MaxSessionData int64
	// PacketConn, where it is not nil, carries the connection in place of a new
	// UDP socket. It serves one session at a time, and is not closed.
	PacketConn net.PacketConn
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
	// default is 24; more are reset with WT_BUFFERED_STREAM_REJECTED.
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
	// StreamHeaderTimeout bounds how long a stream of the server may take to say
	// what it is, and to wait for the answer. The default is 5 seconds.
	StreamHeaderTimeout time.Duration
}

// RejectedError says that the server answered a request with a status other
// than 2xx.
type RejectedError struct {
	// Status is the answer's status, 300 to 599.
	Status int
	// Header holds the answer's fields, with canonical names.
	Header http.Header
}

// Error implements error.
func (e *RejectedError) Error() string {
	return fmt.Sprintf("wt: server rejected the session with status %d", e.Status)
}

// Dial opens a session at an https URL, for example
// "https://example.com:4433/chat?room=1". It waits for the server's answer until
// ctx ends; without a deadline of ctx, QUIC's timeouts apply to the handshake
// alone. ctx does not bound the session.
//
// It speaks the newest draft that the server declares. The error is a
// *[RejectedError] if the server answered with another status than 2xx, matches
// [ErrUnsupported] if the server has no WebTransport, and is otherwise that of
// the network, QUIC or TLS.
func (d *Dialer) Dial(ctx context.Context, rawURL string) (*Session, error) {
	session, err := d.DialEarly(ctx, rawURL)
	if err != nil {
		return nil, err
	}
	if err := session.Ready(ctx); err != nil {
		if ctx.Err() != nil && !session.answered() {
			err = fmt.Errorf("wt: waiting for the server's answer: %w", err)
		}
		session.forget(err)
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
	target, err := parseTarget(rawURL)
	if err != nil {
		return nil, err
	}
	bounds, err := d.limits()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := d.tlsConfig(target.Hostname())
	if err != nil {
		return nil, err
	}
	head, err := d.requestHead(target)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bounds.handshakeTimeout,
		fmt.Errorf("not connected within %v: %w", bounds.handshakeTimeout, context.DeadlineExceeded))
	defer cancel()
	addr, err := resolve(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("wt: dial: %w", err)
	}
	packets := d.PacketConn
	if packets == nil {
		if packets, err = net.ListenUDP("udp", nil); err != nil {
			return nil, fmt.Errorf("wt: dial: %w", err)
		}
	}
	transport := &quic.Transport{Conn: packets}
	release := func() error {
		err := transport.Close()
		if d.PacketConn == nil {
			err = errors.Join(err, packets.Close())
		}
		return err
	}
	streams := bounds.maxStreams
	if streams == 0 {
		streams = -1 // none, in quic-go's terms
	}
	q, err := transport.Dial(ctx, addr, tlsConfig, quicConfig(d.QUICConfig, streams, bounds.maxUniStreams))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wt: dial: %w", err), release())
	}

	logger := d.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	c := newConn(q, true, bounds, logger)
	if err := c.start(); err != nil {
		_ = q.CloseWithError(codeInternalError, "")
		return nil, errors.Join(err, release())
	}
	released := make(chan struct{})
	go func() { // the session's Close waits for released, and so does a failed Dial
		defer close(released)
		c.run()
		if err := release(); err != nil {
			logger.Debug("socket not closed", slog.Any("error", err))
		}
	}()
	session, err := c.request(ctx, head, slices.Clone(d.Subprotocols), released)
	if err != nil {
		c.closeUnused(err)
		<-released
		return nil, err
	}
	return session, nil
}

// limits checks the limits of the dialer and fills in the defaults.
func (d *Dialer) limits() (limits, error) {
	var errs []error
	bounds := limits{
		maxSessions:         1,
		maxPendingStreams:   orDefault(&errs, "MaxPendingStreams", d.MaxPendingStreams, defaultPendingStreams),
		maxPendingDatagrams: orDefault(&errs, "MaxPendingDatagrams", d.MaxPendingDatagrams, defaultPendingDatagrams),
		maxQueuedDatagrams:  orDefault(&errs, "MaxQueuedDatagrams", d.MaxQueuedDatagrams, defaultQueuedDatagrams),
		maxDatagramAge:      orDefault(&errs, "MaxDatagramAge", d.MaxDatagramAge, 0),

		maxOutgoingDatagrams:   orDefault(&errs, "MaxOutgoingDatagrams", d.MaxOutgoingDatagrams, defaultOutgoingDatagrams),
		maxOutgoingDatagramAge: orDefault(&errs, "MaxOutgoingDatagramAge", d.MaxOutgoingDatagramAge, 0),

		maxHeaderBytes:      orDefault(&errs, "MaxHeaderBytes", d.MaxHeaderBytes, defaultHeaderBytes),
		maxSessionData:      orDefault(&errs, "MaxSessionData", d.MaxSessionData, 0),
		handshakeTimeout:    orDefault(&errs, "HandshakeTimeout", d.HandshakeTimeout, defaultHandshakeTimeout),
		streamHeaderTimeout: orDefault(&errs, "StreamHeaderTimeout", d.StreamHeaderTimeout, defaultStreamHeaderTimeout),
		answerTimeout:       orDefault(&errs, "AnswerTimeout", d.AnswerTimeout, defaultAnswerTimeout),
		closeTimeout:        closeTimeout,
	}
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
		return nil, fmt.Errorf("wt: %w", err)
	case target.Scheme != "https":
		return nil, fmt.Errorf("wt: URL %q has scheme %q, not https", rawURL, target.Scheme)
	case target.Hostname() == "":
		return nil, fmt.Errorf("wt: URL %q has no host", rawURL)
	case target.Fragment != "" || target.User != nil:
		return nil, fmt.Errorf("wt: URL %q has a fragment or user information", rawURL)
	}
	return target, nil
}

// resolve returns the UDP address of the target. The first address of the name
// is taken.
func resolve(ctx context.Context, target *url.URL) (*net.UDPAddr, error) {
	service := target.Port()
	if service == "" {
		service = "443"
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", target.Hostname())
	if err != nil {
		return nil, err
	}
	// Loopback names resolve to ::1 first on many machines where servers bind
	// 127.0.0.1; both are this machine.
	chosen := addrs[0]
	for _, addr := range addrs {
		if chosen.IsLoopback() && addr.Unmap().Is4() {
			chosen = addr
		}
	}
	return &net.UDPAddr{IP: chosen.Unmap().AsSlice(), Port: port, Zone: chosen.Zone()}, nil
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
		config.VerifyConnection = verifyHash(slices.Clone(d.CertificateHashes))
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
	if d.Origin != "" {
		header.Set("Origin", d.Origin)
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
