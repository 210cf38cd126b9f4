package codec

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// Code is an error code of the registry in PROTOCOL §11. It is the same in every
// frame that carries one, and the code with which a connection is closed.
type Code uint32

// The registry (PROTOCOL §11).
const (
	CodeOK        Code = 0
	CodeReplaced  Code = 1
	CodeDuplicate Code = 2
	CodeForgotten Code = 3

	CodeProtocolViolation  Code = 100
	CodeFrameTooLarge      Code = 101
	CodeMalformedFrame     Code = 102
	CodeUnknownFrame       Code = 103
	CodeUnexpectedFrame    Code = 104
	CodeUnsupportedVersion Code = 105
	CodeInvalidTopic       Code = 106
	CodeInvalidPattern     Code = 107
	CodeUnsupportedClass   Code = 108
	CodeDuplicateNumber    Code = 109
	CodeCreditExceeded     Code = 110
	CodePayloadTooLarge    Code = 111
	CodeInvalidOption      Code = 112
	CodeNotOffered         Code = 113

	CodeUnauthorized      Code = 200
	CodeTokenExpired      Code = 201
	CodePublishDenied     Code = 202
	CodeSubscribeDenied   Code = 203
	CodeSystemTopic       Code = 204
	CodeResumeDenied      Code = 205
	CodePermissionRevoked Code = 206

	CodeTooManySubscriptions Code = 300
	CodeTooManyPublications  Code = 301
	CodeTooManyStreams       Code = 302
	CodeTooManySessions      Code = 303
	CodeRateLimited          Code = 304
	CodeSlowSubscriber       Code = 305
	CodeStreamTimeout        Code = 306
	CodeHelloTimeout         Code = 307
	CodeTooManyRequests      Code = 308
	CodeTooManyPresences     Code = 309

	CodeShuttingDown   Code = 400
	CodeInternal       Code = 401
	CodeBusUnavailable Code = 402
	CodeOverloaded     Code = 403
	CodeNoResponders   Code = 404
	CodeRequestTimeout Code = 405

	CodeConnectionLost Code = 500
	CodeConnectTimeout Code = 501
	CodeConnectFailed  Code = 502
	CodeUnsupported    Code = 503
	CodeClosed         Code = 504
	CodeAborted        Code = 505
	CodeQueueFull      Code = 506
	CodeOffline        Code = 507
	CodeExpired        Code = 508
)

var codeNames = map[Code]string{
	CodeOK:                   "ok",
	CodeReplaced:             "replaced",
	CodeDuplicate:            "duplicate",
	CodeForgotten:            "forgotten",
	CodeProtocolViolation:    "protocol_violation",
	CodeFrameTooLarge:        "frame_too_large",
	CodeMalformedFrame:       "malformed_frame",
	CodeUnknownFrame:         "unknown_frame",
	CodeUnexpectedFrame:      "unexpected_frame",
	CodeUnsupportedVersion:   "unsupported_version",
	CodeInvalidTopic:         "invalid_topic",
	CodeInvalidPattern:       "invalid_pattern",
	CodeUnsupportedClass:     "unsupported_class",
	CodeDuplicateNumber:      "duplicate_number",
	CodeCreditExceeded:       "credit_exceeded",
	CodePayloadTooLarge:      "payload_too_large",
	CodeStreamTimeout:        "stream_timeout",
	CodeHelloTimeout:         "hello_timeout",
	CodeInvalidOption:        "invalid_option",
	CodeNotOffered:           "not_offered",
	CodeUnauthorized:         "unauthorized",
	CodeTokenExpired:         "token_expired",
	CodePublishDenied:        "publish_denied",
	CodeSubscribeDenied:      "subscribe_denied",
	CodeSystemTopic:          "system_topic",
	CodeResumeDenied:         "resume_denied",
	CodePermissionRevoked:    "permission_revoked",
	CodeTooManySubscriptions: "too_many_subscriptions",
	CodeTooManyPublications:  "too_many_publications",
	CodeTooManyStreams:       "too_many_streams",
	CodeTooManySessions:      "too_many_sessions",
	CodeRateLimited:          "rate_limited",
	CodeSlowSubscriber:       "slow_subscriber",
	CodeTooManyRequests:      "too_many_requests",
	CodeTooManyPresences:     "too_many_presences",
	CodeShuttingDown:         "shutting_down",
	CodeInternal:             "internal",
	CodeBusUnavailable:       "bus_unavailable",
	CodeOverloaded:           "overloaded",
	CodeNoResponders:         "no_responders",
	CodeRequestTimeout:       "request_timeout",
	CodeConnectionLost:       "connection_lost",
	CodeConnectTimeout:       "connect_timeout",
	CodeConnectFailed:        "connect_failed",
	CodeUnsupported:          "unsupported",
	CodeClosed:               "closed",
	CodeAborted:              "aborted",
	CodeQueueFull:            "queue_full",
	CodeOffline:              "offline",
	CodeExpired:              "expired",
}

// String returns the name that the registry gives, or code_N for a code that it
// does not have.
func (c Code) String() string {
	if s, ok := codeNames[c]; ok {
		return s
	}
	return fmt.Sprintf("code_%d", uint32(c))
}

// Range is the hundred of a code; it tells what to do (PROTOCOL §11).
type Range uint32

// The ranges of PROTOCOL §11.
const (
	RangeClean      Range = 0 // an end that is no error
	RangeRequest    Range = 1 // the request is wrong; repeating it is of no use
	RangePermission Range = 2 // not permitted with this token
	RangeLimit      Range = 3 // try again later, with backoff
	RangeBroker     Range = 4 // try again, with backoff
	RangeClient     Range = 5 // made by a client, never sent
)

// Range returns the range of c.
func (c Code) Range() Range { return Range(c / 100) }

// Temporary reports whether the same request may succeed later: the ranges 300
// to 499, and connection faults that a client met.
func (c Code) Temporary() bool {
	switch c.Range() {
	case RangeLimit, RangeBroker:
		return true
	case RangeClient:
		return c == CodeConnectionLost || c == CodeConnectTimeout || c == CodeConnectFailed
	}
	return false
}

// Error is a coded error: one that this side found in what the peer sent or in
// what its caller asked, or, with Remote set, one that the peer told.
type Error struct {
	Code   Code
	Reason string // for people; at most MaxReason bytes on the wire
	Remote bool   // the peer said it
	// Retry is the least time to wait before trying again, if the peer named
	// one; 0 otherwise.
	Retry time.Duration
}

// Errorf makes a local error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// Error returns the code's name and the reason.
func (e *Error) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("tidewire: %s (%d)", e.Code, uint32(e.Code))
	}
	return fmt.Sprintf("tidewire: %s (%d): %s", e.Code, uint32(e.Code), e.Reason)
}

// Is makes errors.Is match on the code, so that &Error{Code: c} is a sentinel.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Reason == "" || t.Reason == e.Reason)
}

// CodeOf returns the code of the first *Error in err's tree; CodeOK for nil, and
// CodeInternal for any other error.
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// cutReason cuts a reason to MaxReason bytes, at the border of a character.
func cutReason(s string) string {
	if len(s) <= MaxReason {
		return s
	}
	s = s[:MaxReason]
	for len(s) > 0 {
		r, n := utf8.DecodeLastRuneInString(s)
		if r != utf8.RuneError || n > 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return s
}
