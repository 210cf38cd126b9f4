package wt

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/quic-go/quic-go"
)

// Sentinels for states. They are matched with [errors.Is].
var (
	// ErrSessionClosed matches every error that a call on an ended session or
	// one of its streams returns. [errors.As] with *[SessionError] tells why.
	ErrSessionClosed = errors.New("wt: session closed")

	// ErrServerClosed is returned by [Server.Serve] and [Server.ListenAndServe]
	// after [Server.Close] or [Server.Shutdown].
	ErrServerClosed = errors.New("wt: server closed")

	// ErrStreamClosed is returned by writes on a stream after its Close.
	ErrStreamClosed = errors.New("wt: stream closed for writing")

	// ErrWouldBlock is returned by TryWriteAll if nothing was written because
	// not all bytes can be queued without waiting.
	ErrWouldBlock = errors.New("wt: operation would block")

	// ErrDatagramTooLarge is matched by the error of [Session.SendDatagram] for a
	// payload longer than [Session.MaxDatagramSize].
	ErrDatagramTooLarge = errors.New("wt: datagram too large")

	// ErrAnswered is returned by [Request.Accept] and [Request.Reject] if the
	// request has its answer already.
	ErrAnswered = errors.New("wt: request already answered")

	// ErrUnsupported is matched by the error of [Dialer.Dial] if the server does
	// not offer WebTransport in a draft that this package speaks.
	ErrUnsupported = errors.New("wt: server does not support WebTransport")
)

// Party says who ended a session.
type Party uint8

const (
	// Us means that this side closed the session, or ended it because the peer broke a rule
	// (then [SessionError.Err] says which).
	Us Party = iota + 1
	// Peer means that the peer closed the session, or reset its CONNECT stream (then
	// [SessionError.Err] holds the reset).
	Peer
	// Transport means that the QUIC connection ended under the session, which nobody had
	// closed: by loss of the network, or because the peer closed the whole connection;
	// [SessionError.Via] tells these apart, and [SessionError.Err] holds QUIC's error.
	Transport
)

// String returns "us", "peer" or "transport".
func (p Party) String() string {
	switch p {
	case Us:
		return "us"
	case Peer:
		return "peer"
	case Transport:
		return "transport"
	default:
		return fmt.Sprintf("Party(%d)", uint8(p))
	}
}

// Ending says by which means a session ended.
type Ending uint8

const (
	// ViaCapsule means that a close with code and reason, WT_CLOSE_SESSION, ended the session.
	ViaCapsule Ending = iota + 1
	// ViaFIN means that the CONNECT stream ended cleanly without a close, which counts as one
	// with code 0 (draft-ietf-webtrans-http3-16 §6).
	ViaFIN
	// ViaReset means that the CONNECT stream was reset or stopped. [SessionError.HTTPCode] is
	// the code of that.
	ViaReset
	// ViaConnection means that one side closed the whole connection.
	// [SessionError.HTTPCode] is the code of that.
	ViaConnection
	// ViaLoss means that the connection was lost: the peer fell silent, or QUIC failed.
	ViaLoss
	// ViaRule means that this side ended the session because the peer broke a rule.
	// [SessionError.HTTPCode] is the code that it was told.
	ViaRule
	// ViaAnswer means that there never was a session, because its request was refused or given
	// up. [SessionError.Err] says more.
	ViaAnswer
)

// String returns "capsule", "fin", "reset", "connection", "loss", "rule" or
// "answer".
func (v Ending) String() string {
	switch v {
	case ViaCapsule:
		return "capsule"
	case ViaFIN:
		return "fin"
	case ViaReset:
		return "reset"
	case ViaConnection:
		return "connection"
	case ViaLoss:
		return "loss"
	case ViaRule:
		return "rule"
	case ViaAnswer:
		return "answer"
	default:
		return fmt.Sprintf("Ending(%d)", uint8(v))
	}
}

// SessionError says how a session ended. It is the cause of [Session.Context],
// and every call on an ended session and its streams returns an error that
// matches it. It matches [ErrSessionClosed].
type SessionError struct {
	// Code is the application's code in the close, 0 where there was none.
	Code uint32
	// Reason is the application's text in the close, valid UTF-8 of at most 1024
	// bytes, empty where there was none.
	Reason string
	// Remote reports whether the peer ended the session. It equals By == Peer.
	Remote bool
	// By tells who ended the session.
	By Party
	// Via tells by which means.
	Via Ending
	// HTTPCode is the HTTP/3 code of a reset, of a closed connection or of a broken
	// rule, else 0.
	HTTPCode uint64
	// Err is the error underneath. It is nil if the session ended with a close.
	Err error
}

// Error implements error.
func (e *SessionError) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("wt: session ended by %s: %v", e.By, e.Err)
	case e.Via == ViaReset || e.Via == ViaConnection:
		return fmt.Sprintf("wt: session ended by %s with its %s, HTTP/3 code %s", e.By, e.Via, codeText(e.HTTPCode))
	case e.Reason != "":
		return fmt.Sprintf("wt: session closed by %s with code %d: %s", e.By, e.Code, e.Reason)
	default:
		return fmt.Sprintf("wt: session closed by %s with code %d", e.By, e.Code)
	}
}

// Is reports whether target is [ErrSessionClosed].
func (e *SessionError) Is(target error) bool { return target == ErrSessionClosed }

// Unwrap returns the error underneath, if there is one.
func (e *SessionError) Unwrap() error { return e.Err }

// lostConnection returns the end of a session whose connection ended with err.
func lostConnection(err error) *SessionError {
	ended := &SessionError{By: Transport, Via: ViaLoss, Err: err}
	var closed *quic.ApplicationError
	if errors.As(err, &closed) {
		ended.Via, ended.HTTPCode = ViaConnection, uint64(closed.ErrorCode)
		if !closed.Remote {
			ended.By = Us
		}
	}
	return ended
}

// resetByPeer returns the end of a session whose CONNECT stream the peer reset or
// stopped.
func resetByPeer(err *quic.StreamError) *SessionError {
	return &SessionError{By: Peer, Remote: true, Via: ViaReset, HTTPCode: uint64(err.ErrorCode), Err: newStreamError(err)}
}

// brokenRule returns the end of a session whose peer broke a rule.
func brokenRule(rule *protocolError) *SessionError {
	return &SessionError{By: Us, Via: ViaRule, HTTPCode: rule.code, Err: rule}
}

// StreamError says that one direction of a stream was reset (by its sender) or
// stopped (by its receiver).
type StreamError struct {
	// Code is the application's code. It is 0 if HTTPCode is outside the range
	// for applications; IsApplication tells.
	Code uint32
	// Remote reports whether the peer reset or stopped the stream.
	Remote bool
	// HTTPCode is the code as it was on the wire.
	HTTPCode uint64
}

// Error implements error.
func (e *StreamError) Error() string {
	who := "locally"
	if e.Remote {
		who = "by peer"
	}
	if !e.IsApplication() {
		return fmt.Sprintf("wt: stream cancelled %s with HTTP/3 code %s", who, codeText(e.HTTPCode))
	}
	return fmt.Sprintf("wt: stream cancelled %s with code %d", who, e.Code)
}

// IsApplication reports whether the code is one that an application gave, and
// Code holds it.
func (e *StreamError) IsApplication() bool {
	_, ok := applicationCode(e.HTTPCode)
	return ok
}

// Is reports whether target is [ErrSessionClosed] and the stream was cancelled
// because its session had ended at the peer.
func (e *StreamError) Is(target error) bool {
	return target == ErrSessionClosed && e.HTTPCode == uint64(codeSessionGone)
}

// HTTP/3 error codes (RFC 9114 §8.1, RFC 9204 §6, RFC 9297 §2.1) and those of
// WebTransport (draft-ietf-webtrans-http3-16 §9.5). One number space serves
// streams and connections.
const (
	codeNoError              = 0x100
	codeGeneralProtocolError = 0x101
	codeInternalError        = 0x102
	codeStreamCreationError  = 0x103
	codeClosedCriticalStream = 0x104
	codeFrameUnexpected      = 0x105
	codeFrameError           = 0x106
	codeExcessiveLoad        = 0x107
	codeIDError              = 0x108
	codeSettingsError        = 0x109
	codeMissingSettings      = 0x10a
	codeRequestRejected      = 0x10b
	codeRequestCancelled     = 0x10c
	codeRequestIncomplete    = 0x10d
	codeMessageError         = 0x10e

	codeDatagramError = 0x33

	codeQPACKDecompressionFailed = 0x200
	codeQPACKEncoderStreamError  = 0x201
	codeQPACKDecoderStreamError  = 0x202

	codeBufferedStreamRejected = 0x3994bd84
	codeSessionGone            = 0x170d7b68
	codeFlowControlError       = 0x045d4487
	codeALPNError              = 0x0817b3dd
	codeRequirementsNotMet     = 0x212c0d48
)

// codeNames are the names of the codes in their documents.
var codeNames = map[uint64]string{
	codeNoError:                  "H3_NO_ERROR",
	codeGeneralProtocolError:     "H3_GENERAL_PROTOCOL_ERROR",
	codeInternalError:            "H3_INTERNAL_ERROR",
	codeStreamCreationError:      "H3_STREAM_CREATION_ERROR",
	codeClosedCriticalStream:     "H3_CLOSED_CRITICAL_STREAM",
	codeFrameUnexpected:          "H3_FRAME_UNEXPECTED",
	codeFrameError:               "H3_FRAME_ERROR",
	codeExcessiveLoad:            "H3_EXCESSIVE_LOAD",
	codeIDError:                  "H3_ID_ERROR",
	codeSettingsError:            "H3_SETTINGS_ERROR",
	codeMissingSettings:          "H3_MISSING_SETTINGS",
	codeRequestRejected:          "H3_REQUEST_REJECTED",
	codeRequestCancelled:         "H3_REQUEST_CANCELLED",
	codeRequestIncomplete:        "H3_REQUEST_INCOMPLETE",
	codeMessageError:             "H3_MESSAGE_ERROR",
	codeDatagramError:            "H3_DATAGRAM_ERROR",
	codeQPACKDecompressionFailed: "QPACK_DECOMPRESSION_FAILED",
	codeQPACKEncoderStreamError:  "QPACK_ENCODER_STREAM_ERROR",
	codeQPACKDecoderStreamError:  "QPACK_DECODER_STREAM_ERROR",
	codeBufferedStreamRejected:   "WT_BUFFERED_STREAM_REJECTED",
	codeSessionGone:              "WT_SESSION_GONE",
	codeFlowControlError:         "WT_FLOW_CONTROL_ERROR",
	codeALPNError:                "WT_ALPN_ERROR",
	codeRequirementsNotMet:       "WT_REQUIREMENTS_NOT_MET",
}

// codeText is a code as it stands in the text of an error, with its name if it
// has one.
func codeText(code uint64) string {
	if name, ok := codeNames[code]; ok {
		return fmt.Sprintf("%#x (%s)", code, name)
	}
	return fmt.Sprintf("%#x", code)
}

// The range of HTTP/3 codes that carries the codes of applications, of which
// those of the form 0x1f*N+0x21 are reserved and left out
// (draft-ietf-webtrans-http3-16 §4.4).
const (
	firstApplicationCode = 0x52e4a40fa8db
	lastApplicationCode  = 0x52e5ac983162
)

// httpCode maps an application's code to the wire.
func httpCode(code uint32) quic.StreamErrorCode {
	n := uint64(code)
	return quic.StreamErrorCode(firstApplicationCode + n + n/0x1e)
}

// maxHTTPCode is the largest code that QUIC can carry (RFC 9000 §16).
const maxHTTPCode = 1<<62 - 1

// rawCode is a code as QUIC carries it.
func rawCode(code uint64) quic.StreamErrorCode { return quic.StreamErrorCode(code & maxHTTPCode) }

// checkHTTPCode refuses what QUIC cannot carry as a code.
func checkHTTPCode(code uint64) error {
	if code > maxHTTPCode {
		return fmt.Errorf("wt: HTTP/3 code %#x is above %#x", code, uint64(maxHTTPCode))
	}
	return nil
}

// applicationCode maps a code on the wire back. It is false for a code that no
// application can have given.
func applicationCode(code uint64) (uint32, bool) {
	if code < firstApplicationCode || code > lastApplicationCode || (code-0x21)%0x1f == 0 {
		return 0, false
	}
	shifted := code - firstApplicationCode
	return uint32(shifted - shifted/0x1f), true
}

// newStreamError translates a cancelled QUIC stream.
func newStreamError(err *quic.StreamError) *StreamError {
	code, _ := applicationCode(uint64(err.ErrorCode))
	return &StreamError{Code: code, Remote: err.Remote, HTTPCode: uint64(err.ErrorCode)}
}

// cancellation turns the reset or the stop of a stream into a *StreamError, and
// leaves other errors as they are.
func cancellation(err error) error {
	var cancelled *quic.StreamError
	if errors.As(err, &cancelled) {
		return newStreamError(cancelled)
	}
	return err
}

// protocolError is a rule that the peer broke. It ends the stream it happened
// on, or the whole connection.
type protocolError struct {
	code       uint64
	text       string
	connection bool // whether the connection ends with it, else the stream
}

func (e *protocolError) Error() string {
	return fmt.Sprintf("%s (HTTP/3 code %#x)", e.text, e.code)
}

func connectionError(code uint64, format string, args ...any) *protocolError {
	return &protocolError{code: code, text: fmt.Sprintf(format, args...), connection: true}
}

func streamError(code uint64, format string, args ...any) *protocolError {
	return &protocolError{code: code, text: fmt.Sprintf(format, args...)}
}

// isTransportError reports whether err, which a call on a QUIC stream returned,
// means that the connection is gone rather than the stream.
func isTransportError(err error) bool {
	if err == nil {
		return false
	}
	var cancelled *quic.StreamError
	switch {
	case errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF),
		errors.As(err, &cancelled),
		errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, quic.ErrStreamClosed),
		errors.Is(err, quic.ErrWouldBlock):
		return false
	}
	var (
		application *quic.ApplicationError
		transport   *quic.TransportError
		idle        *quic.IdleTimeoutError
		handshake   *quic.HandshakeTimeoutError
		reset       *quic.StatelessResetError
		version     *quic.VersionNegotiationError
	)
	return errors.As(err, &application) || errors.As(err, &transport) || errors.As(err, &idle) ||
		errors.As(err, &handshake) || errors.As(err, &reset) || errors.As(err, &version) ||
		errors.Is(err, quic.ErrTransportClosed)
}
