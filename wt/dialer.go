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
	// default. What WebTransport needs is set on top. If it leaves
	// MaxIncomingStreams or MaxIncomingUniStreams zero, these are 1024.
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
	target, err := parseTarget(rawURL)
	if err != nil {
		return nil, err
	}
	if d.MaxSessionData < 0 {
		return nil, errors.New("wt: Dialer.MaxSessionData is negative")
	}
	tlsConfig, err := d.tlsConfig(target.Hostname())
	if err != nil {
		return nil, err
	}
	head, err := d.requestHead(target)
	if err != nil {
		return nil, err
	}
	var streams, uniStreams int64 = defaultIncomingStreams, defaultIncomingStreams
	if d.QUICConfig != nil && d.QUICConfig.MaxIncomingStreams != 0 {
		streams = d.QUICConfig.MaxIncomingStreams
	}
	if d.QUICConfig != nil && d.QUICConfig.MaxIncomingUniStreams != 0 {
		uniStreams = max(d.QUICConfig.MaxIncomingUniStreams, minIncomingUniStreams)
	}
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
	q, err := transport.Dial(ctx, addr, tlsConfig, quicConfig(d.QUICConfig, streams, uniStreams))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wt: dial: %w", err), release())
	}

	logger := d.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	bounds := clientLimits()
	bounds.maxSessionData, bounds.maxStreams, bounds.maxUniStreams = d.MaxSessionData, max(streams, 0), uniStreams
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
	session, err := c.request(ctx, head, d.Subprotocols)
	if err != nil {
		code := quic.ApplicationErrorCode(codeNoError)
		var broken *protocolError
		if errors.As(err, &broken) {
			code = quic.ApplicationErrorCode(broken.code)
		}
		_ = q.CloseWithError(code, "")
		<-released
		return nil, err
	}
	session.released = released
	if !c.spawn(session.run) {
		<-released
		return nil, fmt.Errorf("wt: dial: %w", context.Cause(q.Context()))
	}
	return session, nil
}

func clientLimits() limits {
	return limits{
		maxSessions:         1,
		maxPendingStreams:   defaultPendingStreams,
		maxPendingDatagrams: defaultPendingDatagrams,
		maxQueuedDatagrams:  defaultQueuedDatagrams,
		maxHeaderBytes:      defaultHeaderBytes,
		handshakeTimeout:    defaultHandshakeTimeout,
		streamHeaderTimeout: defaultStreamHeaderTimeout,
		closeTimeout:        closeTimeout,
	}
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

// request opens a session on a client's connection. The caller starts its run.
func (c *conn) request(ctx context.Context, head requestHead, offered []string) (*Session, error) {
	if err := c.awaitSettings(ctx); err != nil {
		var broken *protocolError
		if errors.As(err, &broken) {
			return nil, unsupported("it declares no datagrams")
		}
		return nil, fmt.Errorf("wt: waiting for the server's SETTINGS: %w", err)
	}
	draft, ok := c.peer.newestDraft()
	switch {
	case !ok:
		return nil, unsupported("its SETTINGS name no draft of it")
	case !c.peer.connectProtocol && draft >= Draft07:
		return nil, unsupported("its SETTINGS do not enable extended CONNECT")
	}
	head.protocol = draft.token()
	if draft == Draft02 {
		head.header.Set(fieldDraft02Request, "1")
	}
	b, err := appendRequestHead(nil, head)
	if err != nil {
		return nil, err
	}
	stream, err := c.quic.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("wt: opening the CONNECT stream: %w", err)
	}
	c.addRequest(uint64(stream.StreamID()))
	// The wait for the answer ends with ctx.
	stop := afterFunc(ctx, func() {
		stream.CancelRead(codeRequestCancelled)
		stream.CancelWrite(codeRequestCancelled)
	})
	frames := newFrameReader(stream)
	var status int
	var header http.Header
	if _, err = stream.Write(b); err == nil {
		status, header, err = readResponse(frames, c.limits.maxHeaderBytes)
	}
	if !stop() {
		return nil, fmt.Errorf("wt: waiting for the server's answer: %w", context.Cause(ctx))
	}
	if err != nil {
		_ = c.fail(err)
		return nil, fmt.Errorf("wt: request: %w", answerError(err))
	}
	if status < 200 || status > 299 {
		return nil, &RejectedError{Status: status, Header: header}
	}
	subprotocol := parseProtocol(header)
	if subprotocol != "" && !slices.Contains(offered, subprotocol) {
		// draft-ietf-webtrans-http3-16 §3.3
		stream.CancelRead(codeALPNError)
		stream.CancelWrite(codeALPNError)
		return nil, streamError(codeALPNError, "wt: server chose subprotocol %q, which was not offered", subprotocol)
	}
	sessionCtx, cancel := context.WithCancelCause(context.Background())
	session := newSession(sessionCtx, cancel, c, stream, frames)
	session.draft, session.subprotocol = draft, subprotocol
	session.flow = newFlow(session, c.localSettings(), c.peer)
	if !c.addSession(session) {
		return nil, fmt.Errorf("wt: request: %w", context.Cause(c.quic.Context()))
	}
	select {
	case <-c.goneAway: // before the session was there to be told
		session.markDraining()
	default:
	}
	return session, nil
}

func unsupported(why string) error { return fmt.Errorf("%w: %s", ErrUnsupported, why) }

// answerError tells the reset of a request from other errors.
func answerError(err error) error {
	var cancelled *quic.StreamError
	if errors.As(err, &cancelled) {
		return newStreamError(cancelled)
	}
	return err
}

// readResponse reads the HEADERS of the final response.
func readResponse(frames *frameReader, limit int) (int, http.Header, error) {
	for {
		typ, _, err := frames.next()
		if err == nil {
			err = skipToHeaders(typ, frames)
		}
		if err != nil {
			return 0, nil, err
		}
		if frames.remaining > uint64(limit) {
			return 0, nil, streamError(codeExcessiveLoad, "response fields of %d bytes", frames.remaining)
		}
		section, err := frames.payload()
		if err != nil {
			return 0, nil, err
		}
		status, header, err := parseResponseHead(section, limit)
		if errors.Is(err, errHeadersTooLarge) {
			err = streamError(codeExcessiveLoad, "response fields too large")
		}
		if err != nil || status >= 200 {
			return status, header, err
		}
		// RFC 9114 §4.1: interim responses come before the final one.
	}
}
