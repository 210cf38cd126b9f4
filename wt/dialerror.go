package wt

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/quic-go/quic-go"
)

// DialStep is a step on a client's way to a session.
type DialStep uint8

// The steps, in their order.
const (
	// StepResolve is the resolution of the server's name.
	StepResolve DialStep = iota + 1
	// StepConnect is the handshake of QUIC and TLS.
	StepConnect
	// StepSettings is the wait for the server's SETTINGS, which tell whether it has
	// WebTransport.
	StepSettings
	// StepRequest is the request for the session, with the server's answer.
	StepRequest
)

// String returns "resolve", "connect", "settings" or "request".
func (s DialStep) String() string {
	switch s {
	case StepResolve:
		return "resolve"
	case StepConnect:
		return "connect"
	case StepSettings:
		return "settings"
	case StepRequest:
		return "request"
	default:
		return fmt.Sprintf("DialStep(%d)", uint8(s))
	}
}

// DialError says how far a dial came, and why no further.
type DialError struct {
	// Step is the step that failed.
	Step DialStep
	// Server is host and port of the URL.
	Server string
	// Err is the error underneath: that of the resolver, of QUIC or TLS, of the
	// context, or a *[StreamError] if the server reset the request. Where several
	// addresses were tried, it holds an error for each.
	Err error
}

// Error implements error. Where the error is a usual one, the text says what may
// help.
func (e *DialError) Error() string {
	text := fmt.Sprintf("wt: dial %s: %s: ", e.Server, e.Step)
	if advice := e.advice(); advice != "" {
		text += advice + ": "
	}
	return text + e.Err.Error()
}

// Unwrap returns Err.
func (e *DialError) Unwrap() error { return e.Err }

// Timeout reports whether the step took too long.
func (e *DialError) Timeout() bool {
	var timeout net.Error
	return errors.As(e.Err, &timeout) && timeout.Timeout()
}

// Alerts of TLS, as QUIC transports them (RFC 9001 §4.8, RFC 8446 §6, RFC 7301
// §3.2).
const (
	alertCertificateRequired   = 0x100 + 116
	alertNoApplicationProtocol = 0x100 + 120
)

// advice says what a usual error means to who reads it, "" for others.
func (e *DialError) advice() string {
	var (
		transport *quic.TransportError
		version   *quic.VersionNegotiationError
		authority x509.UnknownAuthorityError
	)
	switch {
	case errors.As(e.Err, &authority):
		return "the certificate is of no trusted authority; TLSConfig.RootCAs or CertificateHashes make it trusted"
	case errors.As(e.Err, &version):
		return "the server speaks no version of QUIC that this client does"
	case errors.As(e.Err, &transport) && transport.ErrorCode == alertNoApplicationProtocol:
		return "the server speaks no HTTP/3 (ALPN h3) here"
	case errors.As(e.Err, &transport) && transport.ErrorCode == alertCertificateRequired:
		return "the server wants a client's certificate; TLSConfig.Certificates gives one"
	case e.Step == StepConnect && e.Timeout() && !errors.Is(e.Err, context.Canceled):
		return "no answer over UDP; is the server there, and does no firewall stop UDP"
	case e.Step == StepRequest && e.Timeout():
		return "the server has not answered the request; a Handler calls Accept or Reject"
	default:
		return ""
	}
}
