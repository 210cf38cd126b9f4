package codec

// Version is the version of the protocol that this package speaks.
const Version = 1

// Capability is a bit of HELLO's and WELCOME's capabilities (PROTOCOL §5.1).
type Capability uint64

// CapDatagrams says that this side can send and take datagrams.
const CapDatagrams Capability = 1

// Resume asks for the client id of an earlier connection (PROTOCOL §5.1).
type Resume struct {
	Client ID
	Secret []byte
}

// Hello is the first frame of the control stream (PROTOCOL §5.1).
type Hello struct {
	Version      uint64
	Capabilities Capability
	Token        string // "" is nil
	Resume       Resume // the zero Client is nil
	Agent        string // "" is nil
}

// AppendHello appends a HELLO frame (PROTOCOL §5.1).
func AppendHello(b []byte, h Hello) []byte {
	p := pack(b, TypeHello, 5)
	p.uint(h.Version)
	p.uint(uint64(h.Capabilities))
	p.optionalText(h.Token)
	if h.Resume.Client.IsZero() {
		p.none()
	} else {
		p.array(2)
		p.bytes(h.Resume.Client[:])
		p.bytes(h.Resume.Secret)
	}
	p.optionalText(h.Agent)
	return p.frame()
}

// ParseHello parses a HELLO frame (PROTOCOL §5.1).
func ParseHello(f Frame) (Hello, error) {
	u := unpack(f, TypeHello)
	h := Hello{Version: u.uint(), Capabilities: Capability(u.uint()), Token: u.optionalText(MaxToken)}
	if !u.absent() {
		if n := u.list(2); n != 2 {
			u.malformed("resume is not a list of two")
		}
		h.Resume = Resume{Client: u.id(), Secret: u.bytes(MaxSecret)}
	}
	h.Agent = u.optionalText(MaxAgent)
	if err := u.done(); err != nil {
		return Hello{}, err
	}
	return h, nil
}

// Welcome answers HELLO (PROTOCOL §5.2).
type Welcome struct {
	Version      uint64
	Capabilities Capability
	Client       ID
	Secret       []byte
	Limits       Limits
	Base         uint64   // ms since the Unix epoch at which the broker's times begin
	Expires      Optional // ms since Base: when the token expires
	Server       string   // "" is nil
}

// limitFields is how many limits version 1 has.
const limitFields = 5

// maxLimitFields bounds the list of limits of later versions.
const maxLimitFields = 64

// AppendWelcome appends a WELCOME frame (PROTOCOL §5.2).
func AppendWelcome(b []byte, w Welcome) []byte {
	p := pack(b, TypeWelcome, 8)
	p.uint(w.Version)
	p.uint(uint64(w.Capabilities))
	p.bytes(w.Client[:])
	p.bytes(w.Secret)
	p.array(limitFields)
	p.uint(w.Limits.Payload)
	p.uint(w.Limits.Subscriptions)
	p.uint(w.Limits.Publications)
	p.uint(w.Limits.PublicationCredit)
	p.uint(w.Limits.SubscriptionCredit)
	p.uint(w.Base)
	p.optional(w.Expires)
	p.optionalText(w.Server)
	return p.frame()
}

// ParseWelcome parses a WELCOME frame (PROTOCOL §5.2).
func ParseWelcome(f Frame) (Welcome, error) {
	u := unpack(f, TypeWelcome)
	w := Welcome{Version: u.uint(), Capabilities: Capability(u.uint()), Client: u.id(), Secret: u.bytes(MaxSecret)}
	n := u.list(maxLimitFields)
	if n < limitFields {
		u.malformed("fewer limits than version 1 has")
	}
	w.Limits = Limits{
		Payload:            u.uint(),
		Subscriptions:      u.uint(),
		Publications:       u.uint(),
		PublicationCredit:  u.uint(),
		SubscriptionCredit: u.uint(),
	}
	for range n - limitFields {
		u.uint()
	}
	w.Base = u.uint()
	w.Expires = u.optional()
	w.Server = u.optionalText(MaxAgent)
	if err := u.done(); err != nil {
		return Welcome{}, err
	}
	return w, nil
}

// Auth replaces the session's token (PROTOCOL §5.3).
type Auth struct {
	Number uint64
	Token  string
}

// AppendAuth appends an AUTH frame (PROTOCOL §5.3).
func AppendAuth(b []byte, a Auth) []byte {
	p := pack(b, TypeAuth, 2)
	p.uint(a.Number)
	p.text(a.Token)
	return p.frame()
}

// ParseAuth parses an AUTH frame (PROTOCOL §5.3).
func ParseAuth(f Frame) (Auth, error) {
	u := unpack(f, TypeAuth)
	a := Auth{Number: u.uint(), Token: u.text(MaxToken)}
	if err := u.done(); err != nil {
		return Auth{}, err
	}
	return a, nil
}

// Authenticated answers AUTH (PROTOCOL §5.3).
type Authenticated struct {
	Number  uint64
	Expires Optional // ms since WELCOME's base
}

// AppendAuthenticated appends an AUTHENTICATED frame (PROTOCOL §5.3).
func AppendAuthenticated(b []byte, a Authenticated) []byte {
	p := pack(b, TypeAuthenticated, 2)
	p.uint(a.Number)
	p.optional(a.Expires)
	return p.frame()
}

// ParseAuthenticated parses an AUTHENTICATED frame (PROTOCOL §5.3).
func ParseAuthenticated(f Frame) (Authenticated, error) {
	u := unpack(f, TypeAuthenticated)
	a := Authenticated{Number: u.uint(), Expires: u.optional()}
	if err := u.done(); err != nil {
		return Authenticated{}, err
	}
	return a, nil
}

// Notice tells that the session will end unless something is done (PROTOCOL
// §5.4).
type Notice struct {
	Code     Code
	Reason   string
	Deadline Optional // ms since WELCOME's base
}

// AppendNotice appends a NOTICE frame (PROTOCOL §5.4).
func AppendNotice(b []byte, n Notice) []byte {
	p := pack(b, TypeNotice, 3)
	p.uint(uint64(n.Code))
	p.reason(n.Reason)
	p.optional(n.Deadline)
	return p.frame()
}

// ParseNotice parses a NOTICE frame (PROTOCOL §5.4).
func ParseNotice(f Frame) (Notice, error) {
	u := unpack(f, TypeNotice)
	n := Notice{Code: u.code(), Reason: u.text(MaxReason), Deadline: u.optional()}
	if err := u.done(); err != nil {
		return Notice{}, err
	}
	return n, nil
}

// End is the coded end of a stream, or of the session (PROTOCOL §5.7).
type End struct {
	Code   Code
	Reason string
	Retry  Optional // ms to wait at least; not set: trying again is of no use
	Epoch  Optional // the last position, on a subscription with an exact pattern
	Offset Optional
}

// AppendEnd appends an END frame (PROTOCOL §5.7).
func AppendEnd(b []byte, e End) []byte {
	p := pack(b, TypeEnd, 5)
	p.uint(uint64(e.Code))
	p.reason(e.Reason)
	p.optional(e.Retry)
	p.optional(e.Epoch)
	p.optional(e.Offset)
	return p.frame()
}

// ParseEnd parses an END frame (PROTOCOL §5.7).
func ParseEnd(f Frame) (End, error) {
	u := unpack(f, TypeEnd)
	e := End{Code: u.code(), Reason: u.text(MaxReason), Retry: u.optional(), Epoch: u.optional(), Offset: u.optional()}
	if err := u.done(); err != nil {
		return End{}, err
	}
	return e, nil
}

// Flow gives credit to a subscription (PROTOCOL §5.5).
type Flow struct {
	Subscription uint64
	Limit        uint64   // bytes since the beginning of the stream
	Offset       Optional // the last one that the application consumed
}

// AppendFlow appends a FLOW frame (PROTOCOL §5.5).
func AppendFlow(b []byte, f Flow) []byte {
	p := pack(b, TypeFlow, 3)
	p.uint(f.Subscription)
	p.uint(f.Limit)
	p.optional(f.Offset)
	return p.frame()
}

// ParseFlow parses a FLOW frame (PROTOCOL §5.5).
func ParseFlow(f Frame) (Flow, error) {
	u := unpack(f, TypeFlow)
	w := Flow{Subscription: u.uint(), Limit: u.uint(), Offset: u.optional()}
	if err := u.done(); err != nil {
		return Flow{}, err
	}
	return w, nil
}

// StreamEnd tells the end of a subscription whose stream was reset (PROTOCOL
// §5.6).
type StreamEnd struct {
	Subscription uint64
	Code         Code
	Reason       string
	Retry        Optional // ms to wait at least; not set: trying again is of no use
}

// AppendStreamEnd appends a STREAM_END frame (PROTOCOL §5.6).
func AppendStreamEnd(b []byte, e StreamEnd) []byte {
	p := pack(b, TypeStreamEnd, 4)
	p.uint(e.Subscription)
	p.uint(uint64(e.Code))
	p.reason(e.Reason)
	p.optional(e.Retry)
	return p.frame()
}

// ParseStreamEnd parses a STREAM_END frame (PROTOCOL §5.6).
func ParseStreamEnd(f Frame) (StreamEnd, error) {
	u := unpack(f, TypeStreamEnd)
	e := StreamEnd{Subscription: u.uint(), Code: u.code(), Reason: u.text(MaxReason), Retry: u.optional()}
	if err := u.done(); err != nil {
		return StreamEnd{}, err
	}
	return e, nil
}

// code reads an error code.
func (u *unpacker) code() Code { return Code(u.bounded(1<<32 - 1)) }
