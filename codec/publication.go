package codec

import "math"

// Mode is how a message is to travel (PROTOCOL §4.4).
type Mode uint8

// The modes of PROTOCOL §7.2.
const (
	ModeReliable Mode = 0
	ModeLossy    Mode = 1
)

// Publication is the first frame of a publication stream (PROTOCOL §7.1).
type Publication struct {
	Topic     string
	Publisher ID     // the client id; zero before WELCOME
	First     uint64 // the sequence of the first PUBLISH, at least 1
}

// AppendPublication appends a PUBLICATION frame (PROTOCOL §7.1).
func AppendPublication(b []byte, q Publication) []byte {
	p := pack(b, TypePublication, 3)
	p.text(q.Topic)
	p.id(q.Publisher)
	p.uint(q.First)
	return p.frame()
}

// ParsePublication parses a PUBLICATION frame and checks its topic (PROTOCOL
// §7.1).
func ParsePublication(f Frame) (Publication, error) {
	u := unpack(f, TypePublication)
	q := Publication{Topic: u.text(MaxFirstFrame), Publisher: u.optionalID(), First: u.uint()}
	if u.err == nil {
		if q.First == 0 {
			u.malformed("a sequence is at least 1")
		}
		u.failOn(CheckTopic(q.Topic))
	}
	if err := u.done(); err != nil {
		return Publication{}, err
	}
	return q, nil
}

// Publish is one message on its way up (PROTOCOL §7.2).
type Publish struct {
	Sequence uint64 // 0: no answer is asked for
	Topic    string // "" on a publication stream
	Mode     Mode
	Payload  Payload
	Key      string   // "" is none; at most MaxKey bytes
	TTL      Optional // ms, at least 1
	Headers  Headers
	Retain   bool     // the last value of its key (PROTOCOL §4.5)
	ID       string   // idempotency key, at most MaxID bytes; "" is none
	Order    Optional // on the control stream: the publisher's sequence (PROTOCOL §7.6)
	Age      Optional // ms since it was sent first; not set: this is the first time (PROTOCOL §7.6)
}

// AppendPublish appends a PUBLISH frame (PROTOCOL §7.2).
func AppendPublish(b []byte, m Publish) []byte {
	n := 5
	switch {
	case m.Age.Set:
		n = 12
	case m.Order.Set:
		n = 11
	case m.ID != "":
		n = 10
	case m.Retain:
		n = 9
	case len(m.Headers) > 0:
		n = 8
	case m.TTL.Set:
		n = 7
	case m.Key != "":
		n = 6
	}
	p := pack(b, TypePublish, n)
	p.uint(m.Sequence)
	p.optionalText(m.Topic)
	p.uint(uint64(m.Mode))
	p.uint(uint64(m.Payload.Encoding))
	p.bytes(m.Payload.Data)
	if n > 5 {
		m.options(p, n)
	}
	return p.frame()
}

// options writes the fields that few messages have.
func (m *Publish) options(p *packer, n int) {
	p.optionalText(m.Key)
	if n >= 7 {
		p.optional(m.TTL)
	}
	if n >= 8 {
		p.headers(m.Headers)
	}
	if n >= 9 {
		p.optional(Optional{Value: flagRetain, Set: m.Retain})
	}
	if n >= 10 {
		p.optionalText(m.ID)
	}
	if n >= 11 {
		p.optional(m.Order)
	}
	if n >= 12 {
		p.optional(m.Age)
	}
}

// ParsePublish parses a PUBLISH frame (PROTOCOL §7.2). The payload refers to the
// frame. The topic is not checked against the grammar, so that the answer to a
// bad one can name the sequence: see CheckTopic. For the same reason a frame whose
// options are wrong is returned with the error, which then has CodeInvalidOption.
func ParsePublish(f Frame) (Publish, error) {
	u := unpack(f, TypePublish)
	m := Publish{Sequence: u.uint(), Topic: u.optionalText(len(f.body)), Mode: Mode(u.bounded(uint64(ModeLossy)))}
	m.Payload.Encoding = Encoding(u.bounded(255))
	m.Payload.Data = u.bytes(len(f.body))
	if u.left > 0 && u.err == nil {
		m.parseOptions(u)
	}
	if err := u.done(); err != nil {
		if CodeOf(err) == CodeInvalidOption {
			return m, err
		}
		return Publish{}, err
	}
	return m, nil
}

func (m *Publish) parseOptions(u *unpacker) {
	m.Key = u.label("a key", MaxKey)
	m.TTL = u.optional()
	m.Headers = u.headers()
	flags := u.optional().Value
	m.Retain = flags&flagRetain != 0
	m.ID = u.label("an idempotency key", MaxID)
	m.Order = u.optional()
	m.Age = u.optional()
	switch {
	case u.err != nil:
	case flags > flagRetain:
		u.fail(Errorf(CodeInvalidOption, "flags %#x are not known", flags))
	case m.TTL.Set && m.TTL.Value == 0:
		u.fail(Errorf(CodeInvalidOption, "a time to live is at least 1 ms"))
	case m.Retain && m.Mode == ModeLossy:
		u.fail(Errorf(CodeInvalidOption, "a lossy message is not retained"))
	}
}

// MaxAckBatch is the most offsets that one ACK holds.
const MaxAckBatch = 1024

// Ack acknowledges PUBLISH frames (PROTOCOL §7.4).
type Ack struct {
	Sequence uint64   // of the first one
	Epoch    uint64   // meaningless without offsets
	Offsets  []uint64 // absolute, increasing; at most MaxAckBatch
	Limit    Optional // bytes since the beginning of the stream
}

// AppendAck appends an ACK frame (PROTOCOL §7.4).
func AppendAck(b []byte, a Ack) []byte {
	p := pack(b, TypeAck, 4)
	p.uint(a.Sequence)
	if len(a.Offsets) == 0 {
		p.none()
	} else {
		p.uint(a.Epoch)
	}
	p.array(len(a.Offsets))
	last := uint64(0)
	for _, o := range a.Offsets {
		p.uint(o - last)
		last = o
	}
	p.optional(a.Limit)
	return p.frame()
}

// ParseAck parses an ACK frame (PROTOCOL §7.4).
func ParseAck(f Frame) (Ack, error) {
	u := unpack(f, TypeAck)
	a := Ack{Sequence: u.uint()}
	epoch := u.optional()
	n := u.list(MaxAckBatch)
	if n > 0 {
		a.Epoch = epoch.Value
		// Each element takes at least a byte: the list cannot be longer than that.
		a.Offsets = make([]uint64, 0, min(n, u.r.Len()))
	}
	last := uint64(0)
	for range n {
		d := u.uint()
		if u.err != nil {
			break
		}
		if d == 0 || d > math.MaxUint64-last || last+d > MaxInteger {
			u.malformed("offsets do not increase")
			break
		}
		last += d
		a.Offsets = append(a.Offsets, last)
	}
	a.Limit = u.optional()
	if u.err == nil && n > 0 && !epoch.Set {
		u.malformed("offsets without an epoch")
	}
	if err := u.done(); err != nil {
		return Ack{}, err
	}
	return a, nil
}

// Nack refuses one PUBLISH or AUTH (PROTOCOL §7.5).
type Nack struct {
	Sequence uint64
	Code     Code
	Reason   string
	Retry    Optional // ms to wait at least; not set: trying again is of no use
	Limit    Optional // bytes since the beginning of the stream
}

// AppendNack appends a NACK frame (PROTOCOL §7.5).
func AppendNack(b []byte, n Nack) []byte {
	p := pack(b, TypeNack, 5)
	p.uint(n.Sequence)
	p.uint(uint64(n.Code))
	p.reason(n.Reason)
	p.optional(n.Retry)
	p.optional(n.Limit)
	return p.frame()
}

// ParseNack parses a NACK frame (PROTOCOL §7.5).
func ParseNack(f Frame) (Nack, error) {
	u := unpack(f, TypeNack)
	n := Nack{Sequence: u.uint(), Code: u.code(), Reason: u.text(MaxReason), Retry: u.optional(), Limit: u.optional()}
	if err := u.done(); err != nil {
		return Nack{}, err
	}
	return n, nil
}
