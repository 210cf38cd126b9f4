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
	From     From   // the zero value is now

	NoEcho     bool   // without the messages of this session
	NoRetained bool   // without last values at the beginning
	Presence   bool   // the presence of the topics in place of their messages
	Filter     Filter // on headers; nil lets everything through
	Group      string // "" is none; at most MaxGroup bytes
}

// The flags of SUBSCRIBE's options.
const (
	flagNoEcho = 1 << iota
	flagNoRetained
	flagPresence
	subscribeFlags = flagNoEcho | flagNoRetained | flagPresence
)

// options is how many options SUBSCRIBE has.
const subscribeOptions = 3

// AppendSubscribe appends a SUBSCRIBE frame (PROTOCOL §6.1).
func AppendSubscribe(b []byte, s Subscribe) []byte {
	flags := uint64(0)
	if s.NoEcho {
		flags |= flagNoEcho
	}
	if s.NoRetained {
		flags |= flagNoRetained
	}
	if s.Presence {
		flags |= flagPresence
	}
	n := 5
	switch {
	case flags != 0 || len(s.Filter) > 0 || s.Group != "":
		n = 7
	case s.From.Kind != FromNow:
		n = 6
	}
	p := pack(b, TypeSubscribe, n)
	p.uint(s.Number)
	p.text(s.Pattern)
	p.uint(uint64(s.Class))
	p.uint(uint64(s.Priority))
	p.uint(s.Credit)
	if n >= 6 {
		p.from(s.From)
	}
	if n >= 7 {
		p.array(subscribeOptions)
		p.optional(Optional{Value: flags, Set: flags != 0})
		p.filter(s.Filter)
		p.optionalText(s.Group)
	}
	return p.frame()
}

// ParseSubscribe parses a SUBSCRIBE frame (PROTOCOL §6.1). Besides the layout it
// checks the values, each with its code: the pattern, the class, the priority, the
// credit, from, and the options.
func ParseSubscribe(f Frame) (Subscribe, error) {
	u := unpack(f, TypeSubscribe)
	s := Subscribe{Number: u.uint()}
	// An over-long pattern is a bad pattern, not a bad frame.
	s.Pattern = u.text(MaxFirstFrame)
	class, priority := u.uint(), u.uint()
	s.Credit = u.uint()
	s.From = u.from()
	if !u.absent() {
		s.options(u)
	}
	if u.err == nil {
		switch {
		case s.Number == 0 || s.Credit == 0:
			u.malformed("number and credit are at least 1")
		case class > uint64(ClassUnreliable):
			u.fail(Errorf(CodeUnsupportedClass, "class %d is not known", class))
		case priority > MaxPriority:
			u.fail(Errorf(CodeInvalidOption, "priority %d is above %d", priority, MaxPriority))
		default:
			u.failOn(CheckPattern(s.Pattern))
			u.failOn(s.check())
		}
	}
	s.Class, s.Priority = Class(class), uint8(priority)
	if err := u.done(); err != nil {
		return Subscribe{}, err
	}
	return s, nil
}

// options reads the options.
func (s *Subscribe) options(u *unpacker) {
	n := u.list(len(u.body))
	if n > subscribeOptions {
		u.fail(Errorf(CodeInvalidOption, "an option that is not known"))
	}
	if n > 0 {
		flags := u.optional().Value
		if flags > subscribeFlags {
			u.fail(Errorf(CodeInvalidOption, "flags %#x are not known", flags&^subscribeFlags))
		}
		s.NoEcho = flags&flagNoEcho != 0
		s.NoRetained = flags&flagNoRetained != 0
		s.Presence = flags&flagPresence != 0
	}
	if n > 1 {
		s.Filter = u.filter()
	}
	if n > 2 {
		s.Group = u.label("a group", MaxGroup)
	}
}

// check reports options that do not go together.
func (s *Subscribe) check() error {
	exact := IsExact(s.Pattern)
	switch {
	case s.From.Kind == FromPosition && !exact:
		return Errorf(CodeInvalidOption, "from is a position, and the pattern has many")
	case s.From.Kind == FromPositions && exact:
		return Errorf(CodeInvalidOption, "from is a list of positions, and the pattern is one topic")
	case s.Group != "" && s.From.Kind != FromNow:
		return Errorf(CodeInvalidOption, "a subscription in a group begins now")
	case s.Group != "" && s.Presence:
		return Errorf(CodeInvalidOption, "a subscription to presence is in no group")
	}
	return nil
}

// failOn keeps an error of a check of this package.
func (u *unpacker) failOn(err error) {
	if e, ok := errors.AsType[*Error](err); ok {
		u.fail(e)
	}
}

// class reads an optional class.
func (u *unpacker) class() Optional {
	o := u.optional()
	if u.err == nil && o.Value > uint64(ClassUnreliable) {
		u.malformed("a class that is not known")
	}
	return o
}

// Subscribed is the first frame down a subscription stream (PROTOCOL §6.2). Topic,
// Epoch and Offset are 0, and Last and Class not set, for a pattern that is not
// exact.
type Subscribed struct {
	Topic  uint64
	Epoch  uint64
	Offset uint64   // before the first message that will come
	Last   Optional // the topic's last offset when the subscription began; not set: Offset
	Time   Optional // when it began, ms since WELCOME's base
	Class  Optional // in force; not set: that of SUBSCRIBE
	// Topics is how many topics of a pattern that is not exact have something that is
	// older than the subscription and is to come; not set: none.
	Topics Optional
}

// AppendSubscribed appends a SUBSCRIBED frame (PROTOCOL §6.2).
func AppendSubscribed(b []byte, s Subscribed) []byte {
	n := 3
	switch {
	case s.Topics.Set:
		n = 7
	case s.Class.Set:
		n = 6
	case s.Time.Set:
		n = 5
	case s.Last.Set:
		n = 4
	case s.Topic == 0:
		n = 0
	}
	p := pack(b, TypeSubscribed, n)
	if n > 0 {
		there := s.Topic != 0
		p.optional(Optional{s.Topic, there})
		p.optional(Optional{s.Epoch, there})
		p.optional(Optional{s.Offset, there})
	}
	for i, o := range [...]Optional{s.Last, s.Time, s.Class, s.Topics} {
		if n > 3+i {
			p.optional(o)
		}
	}
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
	s.Last, s.Time = u.optional(), u.optional()
	s.Class = u.class()
	if u.err == nil && s.Last.Set && (s.Topic == 0 || s.Last.Value < s.Offset) {
		u.malformed("the last offset is before the first, or of no topic")
	}
	s.Topics = u.optional()
	if u.err == nil && s.Topics.Set && s.Topic != 0 {
		u.malformed("a number of topics, and a pattern that is one")
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
	Offset uint64   // the last offset before the first message that follows
	Last   Optional // as in Subscribed
	Class  Optional // as in Subscribed
}

// AppendTopic appends a TOPIC frame (PROTOCOL §6.3).
func AppendTopic(b []byte, t Topic) []byte {
	n := 4
	switch {
	case t.Class.Set:
		n = 6
	case t.Last.Set:
		n = 5
	}
	p := pack(b, TypeTopic, n)
	p.uint(t.Topic)
	p.text(t.Name)
	p.uint(t.Epoch)
	p.uint(t.Offset)
	for i, o := range [...]Optional{t.Last, t.Class} {
		if n > 4+i {
			p.optional(o)
		}
	}
	return p.frame()
}

// ParseTopic parses a TOPIC frame (PROTOCOL §6.3).
func ParseTopic(f Frame) (Topic, error) {
	u := unpack(f, TypeTopic)
	t := Topic{Topic: u.uint(), Name: u.text(MaxTopic), Epoch: u.bounded(MaxEpoch - 1), Offset: u.uint()}
	t.Last = u.optional()
	t.Class = u.class()
	if u.err == nil {
		if t.Topic == 0 || t.Last.Set && t.Last.Value < t.Offset {
			u.malformed("a topic's number is at least 1, and its last offset not before the first")
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
	Key       string   // "" is none; at most MaxKey bytes
	Expires   Optional // ms since WELCOME's base
	Headers   Headers
	Reply     []byte // on a request: where to send replies; at most MaxReply bytes
	Retain    bool   // the last value of its key (PROTOCOL §4.5)
}

// flagRetain is the flag of MESSAGE and PUBLISH.
const flagRetain = 1

// Lossy reports the mode of the message (PROTOCOL §4.4).
func (m Message) Lossy() bool { return m.Reliable.Set }

// AppendMessage appends a MESSAGE frame (PROTOCOL §6.5).
func AppendMessage(b []byte, m Message) []byte {
	n := 6
	switch {
	case m.Retain:
		n = 14
	case m.Reply != nil:
		n = 13
	case len(m.Headers) > 0:
		n = 11
	case m.Expires.Set:
		n = 10
	case m.Key != "":
		n = 9
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
	if n >= 9 {
		m.options(p, n)
	}
	return p.frame()
}

// options writes the fields that few messages have.
func (m *Message) options(p *packer, n int) {
	p.optionalText(m.Key)
	if n >= 10 {
		p.optional(m.Expires)
	}
	if n >= 11 {
		p.headers(m.Headers)
	}
	if n < 13 {
		return
	}
	p.none() // content encoding
	if m.Reply == nil {
		p.none()
	} else {
		p.bytes(m.Reply)
	}
	if n >= 14 {
		p.uint(flagRetain)
	}
}

// ParseMessage parses a MESSAGE frame (PROTOCOL §6.5). The payload and the reply
// address refer to the frame.
func ParseMessage(f Frame) (Message, error) {
	u := unpack(f, TypeMessage)
	m := Message{Topic: u.uint(), Offset: u.uint(), Previous: u.uint(), Time: u.uint()}
	m.Payload.Encoding = Encoding(u.bounded(255))
	m.Payload.Data = u.bytes(len(f.body))
	m.Publisher = u.optionalID()
	m.Reliable = u.optional()
	if u.left > 0 {
		m.Key = u.label("a key", MaxKey)
		m.Expires = u.optional()
		m.Headers = u.headers()
		u.optionalText(MaxAgent) // content encoding: reserved
		if !u.absent() {
			m.Reply = u.bytes(MaxReply)
		}
		m.Retain = u.optional().Value&flagRetain != 0
	}
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
	GapPriority  GapReason = 8
)

// String returns the name that PROTOCOL §6.6 uses; "unknown" for a reason of a
// later version.
func (r GapReason) String() string {
	names := [...]string{"unknown", "overflow", "conflated", "lost", "expired", "history", "reconnect", "bus", "priority"}
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
