package codec

// Presence tells that a session is present in a topic, or is not any more
// (PROTOCOL §7.8).
type Presence struct {
	Number uint64
	Topic  string
	Leave  bool
	State  Payload // at most MaxState bytes; none if Leave is set
}

// AppendPresence appends a PRESENCE frame (PROTOCOL §7.8).
func AppendPresence(b []byte, f Presence) []byte {
	if f.Leave {
		p := pack(b, TypePresence, 2)
		p.uint(f.Number)
		p.text(f.Topic)
		return p.frame()
	}
	p := pack(b, TypePresence, 4)
	p.uint(f.Number)
	p.text(f.Topic)
	p.uint(uint64(f.State.Encoding))
	p.bytes(f.State.Data)
	return p.frame()
}

// ParsePresence parses a PRESENCE frame (PROTOCOL §7.8). The state refers to the
// frame. Neither the topic nor the state's size is checked, so that the answer to
// bad ones can name the number: see CheckTopic and MaxState.
func ParsePresence(f Frame) (Presence, error) {
	u := unpack(f, TypePresence)
	w := Presence{Number: u.uint(), Topic: u.text(len(f.body))}
	if u.absent() {
		w.Leave = true
		if !u.absent() {
			u.malformed("a state without an encoding")
		}
	} else {
		w.State.Encoding = Encoding(u.bounded(255))
		w.State.Data = u.bytes(len(f.body))
	}
	if err := u.done(); err != nil {
		return Presence{}, err
	}
	return w, nil
}

// Count asks how many sessions are present in the topics of a pattern (PROTOCOL
// §7.8).
type Count struct {
	Number  uint64
	Pattern string // not checked by ParseCount: see CheckPattern
}

// AppendCount appends a COUNT frame (PROTOCOL §7.8).
func AppendCount(b []byte, f Count) []byte {
	p := pack(b, TypeCount, 2)
	p.uint(f.Number)
	p.text(f.Pattern)
	return p.frame()
}

// ParseCount parses a COUNT frame (PROTOCOL §7.8).
func ParseCount(f Frame) (Count, error) {
	u := unpack(f, TypeCount)
	w := Count{Number: u.uint(), Pattern: u.text(len(f.body))}
	if err := u.done(); err != nil {
		return Count{}, err
	}
	return w, nil
}

// Counts answers COUNT (PROTOCOL §7.8).
type Counts struct {
	Number uint64
	Topics []TopicCount // at most MaxCounts
	More   bool         // there are others
}

// TopicCount is how many sessions are present in a topic.
type TopicCount struct {
	Topic string
	Count uint64
}

// AppendCounts appends a COUNTS frame (PROTOCOL §7.8).
func AppendCounts(b []byte, f Counts) []byte {
	p := pack(b, TypeCounts, 3)
	p.uint(f.Number)
	p.array(2 * len(f.Topics))
	for _, t := range f.Topics {
		p.text(t.Topic)
		p.uint(t.Count)
	}
	p.flag(f.More)
	return p.frame()
}

// ParseCounts parses a COUNTS frame (PROTOCOL §7.8).
func ParseCounts(f Frame) (Counts, error) {
	u := unpack(f, TypeCounts)
	w := Counts{Number: u.uint()}
	n := u.list(2 * MaxCounts)
	if n%2 != 0 {
		u.malformed("a topic without a count")
	}
	for range n / 2 {
		t := TopicCount{Topic: u.text(MaxTopic), Count: u.uint()}
		if u.err != nil {
			break
		}
		w.Topics = append(w.Topics, t)
	}
	w.More = u.bounded(1) == 1
	if err := u.done(); err != nil {
		return Counts{}, err
	}
	return w, nil
}
