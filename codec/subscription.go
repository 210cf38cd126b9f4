package codec

import (
	"errors"
	"fmt"
)

// Class is the delivery class of a subscription (PROTOCOL §9).
type Class uint8

// The classes of PROTOCOL §6.1.
const (
	ClassReliable   Class = 0
	ClassLatest     Class = 1
	ClassSequenced  Class = 2
	ClassUnreliable Class = 3
)

// String returns the name that PROTOCOL §6.1 uses.
func (c Class) String() string {
	switch c {
	case ClassReliable:
		return "reliable"
	case ClassLatest:
		return "latest"
	case ClassSequenced:
		return "sequenced"
	case ClassUnreliable:
		return "unreliable"
	}
	return fmt.Sprintf("class_%d", uint8(c))
}

// DefaultPriority is the usual priority of a subscription.
const DefaultPriority = 3

// Subscribe is the first frame of a subscription stream (PROTOCOL §6.1).
type Subscribe struct {
	Number   uint64 // the client's number for it, at least 1
	Pattern  string
	Class    Class
	Priority uint8  // 0 (first) to MaxPriority
	Credit   uint64 // bytes, at least 1
}

// AppendSubscribe appends a SUBSCRIBE frame (PROTOCOL §6.1).
func AppendSubscribe(b []byte, s Subscribe) []byte {
	p := pack(b, TypeSubscribe, 5)
	p.uint(s.Number)
	p.text(s.Pattern)
	p.uint(uint64(s.Class))
	p.uint(uint64(s.Priority))
	p.uint(s.Credit)
	return p.frame()
}

// ParseSubscribe parses a SUBSCRIBE frame (PROTOCOL §6.1). Besides the layout it
// checks the values, each with its code: the pattern, the class, the priority,
// the credit and that the reserved fields are nil.
func ParseSubscribe(f Frame) (Subscribe, error) {
	u := unpack(f, TypeSubscribe)
	s := Subscribe{Number: u.uint()}
	// An over-long pattern is a bad pattern, not a bad frame.
	s.Pattern = u.text(MaxFirstFrame)
	class, priority := u.uint(), u.uint()
	s.Credit = u.uint()
	from, options := u.absent(), u.absent()
	reserved := !from || !options
	if u.err == nil {
		switch {
		case s.Number == 0 || s.Credit == 0:
			u.malformed("number and credit are at least 1")
		case class > uint64(ClassUnreliable):
			u.fail(Errorf(CodeUnsupportedClass, "class %d is not known", class))
		case priority > MaxPriority:
			u.fail(Errorf(CodeInvalidOption, "priority %d is above %d", priority, MaxPriority))
		case reserved:
			u.fail(Errorf(CodeInvalidOption, "from and options are reserved and must be nil"))
		default:
			u.failOn(CheckPattern(s.Pattern))
		}
	}
	s.Class, s.Priority = Class(class), uint8(priority)
	if reserved {
		u.left = -1 // what follows is not known
	}
	if err := u.done(); err != nil {
		return Subscribe{}, err
	}
	return s, nil
}

// failOn keeps an error of a check of this package.
func (u *unpacker) failOn(err error) {
	if e, ok := errors.AsType[*Error](err); ok {
		u.fail(e)
	}
}

// Subscribed is the first frame down a subscription stream (PROTOCOL §6.2). Topic
// is 0 for a pattern that is not exact.
type Subscribed struct {
	Topic  uint64
	Epoch  uint64
	Offset uint64
}

// AppendSubscribed appends a SUBSCRIBED frame (PROTOCOL §6.2).
func AppendSubscribed(b []byte, s Subscribed) []byte {
	if s.Topic == 0 {
		return pack(b, TypeSubscribed, 0).frame()
	}
	p := pack(b, TypeSubscribed, 3)
	p.uint(s.Topic)
	p.uint(s.Epoch)
	p.uint(s.Offset)
	return p.frame()
}

// ParseSubscribed parses a SUBSCRIBED frame (PROTOCOL §6.2).
func ParseSubscribed(f Frame) (Subscribed, error) {
	u := unpack(f, TypeSubscribed)
	var s Subscribed
	if !u.absent() {
		s = Subscribed{Topic: u.uint(), Epoch: u.bounded(MaxEpoch - 1), Offset: u.uint()}
		if u.err == nil && s.Topic == 0 {
			u.malformed("a topic's number is at least 1")
		}
	} else if epoch, offset := u.absent(), u.absent(); !epoch || !offset {
		u.malformed("an epoch or offset without a topic")
	}
	if err := u.done(); err != nil {
		return Subscribed{}, err
	}
	return s, nil
}

// Topic announces a topic's number (PROTOCOL §6.3).
type Topic struct {
	Topic  uint64
	Name   string
	Epoch  uint64
	Offset uint64 // the last offset before the first message that follows
}

// AppendTopic appends a TOPIC frame (PROTOCOL §6.3).
func AppendTopic(b []byte, t Topic) []byte {
	p := pack(b, TypeTopic, 4)
	p.uint(t.Topic)
	p.text(t.Name)
	p.uint(t.Epoch)
	p.uint(t.Offset)
	return p.frame()
}

// ParseTopic parses a TOPIC frame (PROTOCOL §6.3).
func ParseTopic(f Frame) (Topic, error) {
	u := unpack(f, TypeTopic)
	t := Topic{Topic: u.uint(), Name: u.text(MaxTopic), Epoch: u.bounded(MaxEpoch - 1), Offset: u.uint()}
	if u.err == nil {
		if t.Topic == 0 {
			u.malformed("a topic's number is at least 1")
		}
		u.failOn(CheckTopic(t.Name))
	}
	if err := u.done(); err != nil {
		return Topic{}, err
	}
	return t, nil
}

// Message is one message, on every stream and in every datagram the same bytes
// (PROTOCOL §6.5).
type Message struct {
	Topic     uint64
	Offset    uint64
	Previous  uint64 // distance to the topic's previous message, at least 1
	Time      uint64 // ms since WELCOME's base
	Payload   Payload
	Publisher ID       // zero: published in the broker's process or by a NATS client
	Reliable  Optional // set on a lossy message: distance to the last reliable one; 0: none
}

// Lossy reports the mode of the message (PROTOCOL §4.4).
func (m Message) Lossy() bool { return m.Reliable.Set }

// AppendMessage appends a MESSAGE frame (PROTOCOL §6.5).
func AppendMessage(b []byte, m Message) []byte {
	n := 6
	switch {
	case m.Reliable.Set:
		n = 8
	case !m.Publisher.IsZero():
		n = 7
	}
	p := pack(b, TypeMessage, n)
	p.uint(m.Topic)
	p.uint(m.Offset)
	p.uint(m.Previous)
	p.uint(m.Time)
	p.uint(uint64(m.Payload.Encoding))
	p.bytes(m.Payload.Data)
	if n >= 7 {
		p.id(m.Publisher)
	}
	if n >= 8 {
		p.optional(m.Reliable)
	}
	return p.frame()
}

// ParseMessage parses a MESSAGE frame (PROTOCOL §6.5). The payload refers to the
// frame.
func ParseMessage(f Frame) (Message, error) {
	u := unpack(f, TypeMessage)
	m := Message{Topic: u.uint(), Offset: u.uint(), Previous: u.uint(), Time: u.uint()}
	m.Payload.Encoding = Encoding(u.bounded(255))
	m.Payload.Data = u.bytes(len(f.body))
	m.Publisher = u.optionalID()
	m.Reliable = u.optional()
	if u.err == nil {
		switch {
		case m.Topic == 0:
			u.malformed("a topic's number is at least 1")
		case m.Previous == 0 || m.Previous > m.Offset:
			u.malformed("previous is at least 1 and at most the offset")
		case m.Reliable.Value > m.Offset:
			u.malformed("the last reliable message is before the first")
		}
	}
	if err := u.done(); err != nil {
		return Message{}, err
	}
	return m, nil
}

// GapReason tells why messages are missing (PROTOCOL §6.6).
type GapReason uint8

// The reasons of PROTOCOL §6.6.
const (
	GapUnknown   GapReason = 0
	GapOverflow  GapReason = 1
	GapConflated GapReason = 2
	GapLost      GapReason = 3
	GapExpired   GapReason = 4
	GapHistory   GapReason = 5
	GapReconnect GapReason = 6
	GapBus       GapReason = 7
)

// String returns the name that PROTOCOL §6.6 uses; "unknown" for a reason of a
// later version.
func (r GapReason) String() string {
	names := [...]string{"unknown", "overflow", "conflated", "lost", "expired", "history", "reconnect", "bus"}
	if int(r) < len(names) {
		return names[r]
	}
	return names[0]
}

// Gap tells that messages will not come (PROTOCOL §6.6): those with offsets above
// From up to and including To.
type Gap struct {
	Topic  uint64 // 0: every topic of the pattern
	Epoch  Optional
	From   Optional
	To     Optional
	Reason GapReason
	Count  Optional
}

// AppendGap appends a GAP frame (PROTOCOL §6.6).
func AppendGap(b []byte, g Gap) []byte {
	p := pack(b, TypeGap, 6)
	p.uint(g.Topic)
	p.optional(g.Epoch)
	p.optional(g.From)
	p.optional(g.To)
	p.uint(uint64(g.Reason))
	p.optional(g.Count)
	return p.frame()
}

// ParseGap parses a GAP frame (PROTOCOL §6.6).
func ParseGap(f Frame) (Gap, error) {
	u := unpack(f, TypeGap)
	g := Gap{Topic: u.uint(), Epoch: u.optional(), From: u.optional(), To: u.optional()}
	g.Reason = GapReason(u.bounded(255))
	g.Count = u.optional()
	if u.err == nil && g.From.Set && g.To.Set && g.From.Value > g.To.Value {
		u.malformed("a gap ends before it begins")
	}
	if err := u.done(); err != nil {
		return Gap{}, err
	}
	return g, nil
}

// Skip tells that messages were withheld on purpose (PROTOCOL §6.7).
type Skip struct {
	Topic uint64
	To    uint64
}

// AppendSkip appends a SKIP frame (PROTOCOL §6.7).
func AppendSkip(b []byte, s Skip) []byte {
	p := pack(b, TypeSkip, 2)
	p.uint(s.Topic)
	p.uint(s.To)
	return p.frame()
}

// ParseSkip parses a SKIP frame (PROTOCOL §6.7).
func ParseSkip(f Frame) (Skip, error) {
	u := unpack(f, TypeSkip)
	s := Skip{Topic: u.uint(), To: u.uint()}
	if err := u.done(); err != nil {
		return Skip{}, err
	}
	return s, nil
}
