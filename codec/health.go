package codec

// Priority changes the priority of a subscription (PROTOCOL §5.8).
type Priority struct {
	Subscription uint64
	Priority     uint8 // 0 (first) to MaxPriority
}

// AppendPriority appends a PRIORITY frame (PROTOCOL §5.8).
func AppendPriority(b []byte, f Priority) []byte {
	p := pack(b, TypePriority, 2)
	p.uint(f.Subscription)
	p.uint(uint64(f.Priority))
	return p.frame()
}

// ParsePriority parses a PRIORITY frame (PROTOCOL §5.8).
func ParsePriority(f Frame) (Priority, error) {
	u := unpack(f, TypePriority)
	w := Priority{Subscription: u.uint(), Priority: uint8(u.bounded(MaxPriority))}
	if err := u.done(); err != nil {
		return Priority{}, err
	}
	return w, nil
}

// Ping asks for a sign of life (PROTOCOL §5.9).
type Ping struct {
	Number        uint64
	Subscriptions bool // PONG is to tell of the subscriptions too
}

// AppendPing appends a PING frame (PROTOCOL §5.9).
func AppendPing(b []byte, f Ping) []byte {
	if !f.Subscriptions {
		p := pack(b, TypePing, 1)
		p.uint(f.Number)
		return p.frame()
	}
	p := pack(b, TypePing, 2)
	p.uint(f.Number)
	p.uint(1)
	return p.frame()
}

// ParsePing parses a PING frame (PROTOCOL §5.9).
func ParsePing(f Frame) (Ping, error) {
	u := unpack(f, TypePing)
	w := Ping{Number: u.uint()}
	w.Subscriptions = u.optional().Value&1 != 0
	if err := u.done(); err != nil {
		return Ping{}, err
	}
	return w, nil
}

// Pong answers PING (PROTOCOL §5.9).
type Pong struct {
	Number        uint64
	RTT           Optional // microseconds
	Sent          Optional // packets
	Lost          Optional // packets
	Subscriptions []SubscriptionHealth
}

// SubscriptionHealth is how a subscription stands, as the broker sees it (PROTOCOL
// §5.9).
type SubscriptionHealth struct {
	Subscription uint64
	Bytes        uint64 // that wait
	Messages     uint64 // that wait
	Conflated    uint64 // since the subscription began
	Dropped      uint64 // since the subscription began
}

// AppendPong appends a PONG frame (PROTOCOL §5.9).
func AppendPong(b []byte, f Pong) []byte {
	p := pack(b, TypePong, 5)
	p.uint(f.Number)
	p.optional(f.RTT)
	p.optional(f.Sent)
	p.optional(f.Lost)
	if len(f.Subscriptions) == 0 {
		p.none()
		return p.frame()
	}
	p.array(len(f.Subscriptions))
	for _, s := range f.Subscriptions {
		p.array(5)
		p.uint(s.Subscription)
		p.uint(s.Bytes)
		p.uint(s.Messages)
		p.uint(s.Conflated)
		p.uint(s.Dropped)
	}
	return p.frame()
}

// ParsePong parses a PONG frame (PROTOCOL §5.9).
func ParsePong(f Frame) (Pong, error) {
	u := unpack(f, TypePong)
	w := Pong{Number: u.uint(), RTT: u.optional(), Sent: u.optional(), Lost: u.optional()}
	if !u.absent() {
		n := u.list(MaxHealth)
		for range n {
			if u.list(5) != 5 {
				u.malformed("the health of a subscription is a list of five")
			}
			s := SubscriptionHealth{u.uint(), u.uint(), u.uint(), u.uint(), u.uint()}
			if u.err != nil {
				break
			}
			w.Subscriptions = append(w.Subscriptions, s)
		}
	}
	if err := u.done(); err != nil {
		return Pong{}, err
	}
	return w, nil
}
