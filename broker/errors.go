package broker

import (
	"errors"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// unexpected is the error for a frame where it must not be.
func unexpected(t codec.Type) error {
	if t.String() == "unknown" {
		return codec.Errorf(codec.CodeUnknownFrame, "frame type %d is not known", t)
	}
	return codec.Errorf(codec.CodeUnexpectedFrame, "%s must not be here", t)
}

// errDone ends a session that the client has ended.
var errDone = &codec.Error{Code: codec.CodeOK}

// asCoded returns err if it has a code, and else err's text under code.
func asCoded(err error, code codec.Code) error {
	if _, ok := errors.AsType[*codec.Error](err); ok {
		return err
	}
	return &codec.Error{Code: code, Reason: err.Error()}
}

// endOf returns the END frame for an error. What has no code is not told to the
// client.
func endOf(err error) codec.End {
	e, ok := errors.AsType[*codec.Error](err)
	if !ok {
		e = &codec.Error{Code: codec.CodeInternal, Reason: "internal error"}
	}
	end := codec.End{Code: e.Code, Reason: e.Reason}
	if e.Retry > 0 || e.Code.Temporary() {
		end.Retry = codec.Some(uint64(e.Retry / time.Millisecond))
	}
	return end
}

// errorOf is the error that an END frame tells.
func errorOf(e codec.End) *codec.Error {
	return &codec.Error{Code: e.Code, Reason: e.Reason, Retry: time.Duration(e.Retry.Value) * time.Millisecond}
}

// reasonOf returns the reason of a coded error.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*codec.Error](err); ok {
		return e.Reason
	}
	return ""
}
