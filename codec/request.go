package codec

// Request asks for replies to a message (PROTOCOL §7.7).
type Request struct {
	Number  uint64
	Topic   string // not checked by ParseRequest: see CheckTopic
	Timeout uint64 // ms, 1 to MaxTimeout
	Limit   uint64 // replies, 1 to MaxReplies
	Payload Payload
	Key     string // "" is nil
	Headers Headers
}

// AppendRequest appends a REQUEST frame (PROTOCOL §7.7).
func AppendRequest(b []byte, f Request) []byte {
	p := pack(b, TypeRequest, 8)
	p.uint(f.Number)
	p.text(f.Topic)
	p.uint(f.Timeout)
	p.uint(f.Limit)
	p.uint(uint64(f.Payload.Encoding))
	p.bytes(f.Payload.Data)
	p.optionalText(f.Key)
	p.headers(f.Headers)
	return p.frame()
}

// ParseRequest parses a REQUEST frame (PROTOCOL §7.7). The payload refers to the
// frame. If the values are wrong but the number could be read, it is returned with
// the error, which then has CodeInvalidOption.
func ParseRequest(f Frame) (Request, error) {
	u := unpack(f, TypeRequest)
	w := Request{Number: u.uint(), Topic: u.text(len(f.body)), Timeout: u.uint(), Limit: u.uint()}
	w.Payload = Payload{Encoding: Encoding(u.bounded(255)), Data: u.bytes(len(f.body))}
	w.Key = u.label("a key", MaxKey)
	w.Headers = u.headers()
	if u.err == nil {
		switch {
		case w.Timeout == 0 || w.Timeout > MaxTimeout:
			u.fail(Errorf(CodeInvalidOption, "a request waits 1 to %d ms, not %d", MaxTimeout, w.Timeout))
		case w.Limit == 0 || w.Limit > MaxReplies:
			u.fail(Errorf(CodeInvalidOption, "a request takes 1 to %d replies, not %d", MaxReplies, w.Limit))
		}
	}
	if err := u.done(); err != nil {
		return Request{Number: w.Number}, err
	}
	return w, nil
}

// Response is one reply on its way to who asked (PROTOCOL §7.7).
type Response struct {
	Number    uint64 // of the request
	Payload   Payload
	Publisher ID // zero: not a client of Tidewire
	Headers   Headers
}

// AppendResponse appends a RESPONSE frame (PROTOCOL §7.7).
func AppendResponse(b []byte, f Response) []byte {
	p := pack(b, TypeResponse, 5)
	p.uint(f.Number)
	p.uint(uint64(f.Payload.Encoding))
	p.bytes(f.Payload.Data)
	p.id(f.Publisher)
	p.headers(f.Headers)
	return p.frame()
}

// ParseResponse parses a RESPONSE frame (PROTOCOL §7.7). The payload refers to the
// frame.
func ParseResponse(f Frame) (Response, error) {
	u := unpack(f, TypeResponse)
	w := Response{Number: u.uint()}
	w.Payload = Payload{Encoding: Encoding(u.bounded(255)), Data: u.bytes(len(f.body))}
	w.Publisher = u.optionalID()
	w.Headers = u.headers()
	if err := u.done(); err != nil {
		return Response{}, err
	}
	return w, nil
}

// Done is the end of a request (PROTOCOL §7.7).
type Done struct {
	Number uint64
	Code   Code // CodeOK: there were as many replies as were asked for
	Reason string
}

// AppendDone appends a DONE frame (PROTOCOL §7.7).
func AppendDone(b []byte, f Done) []byte {
	p := pack(b, TypeDone, 3)
	p.uint(f.Number)
	p.uint(uint64(f.Code))
	p.reason(f.Reason)
	return p.frame()
}

// ParseDone parses a DONE frame (PROTOCOL §7.7).
func ParseDone(f Frame) (Done, error) {
	u := unpack(f, TypeDone)
	w := Done{Number: u.uint(), Code: u.code(), Reason: u.text(MaxReason)}
	if err := u.done(); err != nil {
		return Done{}, err
	}
	return w, nil
}

// Reply answers a request (PROTOCOL §7.7).
type Reply struct {
	To      []byte // as the request's MESSAGE gave it, at most MaxReply bytes
	Payload Payload
	Headers Headers
}

// AppendReply appends a REPLY frame (PROTOCOL §7.7).
func AppendReply(b []byte, f Reply) []byte {
	p := pack(b, TypeReply, 4)
	p.bytes(f.To)
	p.uint(uint64(f.Payload.Encoding))
	p.bytes(f.Payload.Data)
	p.headers(f.Headers)
	return p.frame()
}

// ParseReply parses a REPLY frame (PROTOCOL §7.7). The address and the payload
// refer to the frame.
func ParseReply(f Frame) (Reply, error) {
	u := unpack(f, TypeReply)
	w := Reply{To: u.bytes(MaxReply)}
	w.Payload = Payload{Encoding: Encoding(u.bounded(255)), Data: u.bytes(len(f.body))}
	w.Headers = u.headers()
	if err := u.done(); err != nil {
		return Reply{}, err
	}
	return w, nil
}

// Cancel tells that a client waits no longer for replies (PROTOCOL §7.7).
type Cancel struct{ Number uint64 }

// AppendCancel appends a CANCEL frame (PROTOCOL §7.7).
func AppendCancel(b []byte, f Cancel) []byte {
	p := pack(b, TypeCancel, 1)
	p.uint(f.Number)
	return p.frame()
}

// ParseCancel parses a CANCEL frame (PROTOCOL §7.7).
func ParseCancel(f Frame) (Cancel, error) {
	u := unpack(f, TypeCancel)
	w := Cancel{Number: u.uint()}
	if err := u.done(); err != nil {
		return Cancel{}, err
	}
	return w, nil
}
