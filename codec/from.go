package codec

// FromKind tells the form of a From (PROTOCOL §4.8).
type FromKind uint8

// The forms of PROTOCOL §4.8.
const (
	FromNow       FromKind = iota // what is published from now on: from is nil
	FromPosition                  // behind Epoch and Offset
	FromLast                      // the last N messages
	FromTime                      // messages since Time
	FromBeginning                 // the oldest message that is kept
	FromPositions                 // of a pattern: behind Positions, and since Time
)

// From is where a subscription or a page of history begins (PROTOCOL §4.8). The
// zero value is now.
type From struct {
	Kind      FromKind
	Epoch     uint64
	Offset    uint64
	Values    uint64 // as in TopicPosition
	N         uint64 // 1 to MaxLast
	Time      uint64 // ms since WELCOME's base
	Positions []TopicPosition
}

// TopicPosition is the position of one topic (PROTOCOL §4.2).
type TopicPosition struct {
	Topic  string
	Epoch  uint64
	Offset uint64
	// Values: up to this offset only last values are wanted, if it is above Offset.
	Values uint64
}

// from writes f, nil for now.
func (p *packer) from(f From) {
	switch f.Kind {
	case FromNow:
		p.none()
	case FromPosition:
		p.array(3 + valuesLen(f.Offset, f.Values))
		p.uint(0)
		p.position(f.Epoch, f.Offset, f.Values)
	case FromLast:
		p.array(2)
		p.uint(1)
		p.uint(f.N)
	case FromTime:
		p.array(2)
		p.uint(2)
		p.uint(f.Time)
	case FromBeginning:
		p.array(1)
		p.uint(3)
	case FromPositions:
		p.array(3)
		p.uint(4)
		p.uint(f.Time)
		p.array(len(f.Positions))
		for _, at := range f.Positions {
			p.array(3 + valuesLen(at.Offset, at.Values))
			p.text(at.Topic)
			p.position(at.Epoch, at.Offset, at.Values)
		}
	}
}

// valuesLen is how many elements values has of a position.
func valuesLen(offset, values uint64) int {
	if values > offset {
		return 1
	}
	return 0
}

func (p *packer) position(epoch, offset, values uint64) {
	p.uint(epoch)
	p.uint(offset)
	if valuesLen(offset, values) > 0 {
		p.uint(values)
	}
}

// from reads a From. What it cannot be is an invalid option.
func (u *unpacker) from() (f From) {
	if u.absent() {
		return f
	}
	const most = 4
	n := u.list(most)
	form := u.uint()
	want := 0
	switch form {
	case 0:
		f = From{Kind: FromPosition}
		want = max(3, n)
		f.Epoch, f.Offset, f.Values = u.position(n - 1)
	case 1:
		f = From{Kind: FromLast, N: u.uint()}
		want = 2
		if u.err == nil && (f.N == 0 || f.N > MaxLast) {
			u.fail(Errorf(CodeInvalidOption, "from: the last 1 to %d messages, not %d", MaxLast, f.N))
		}
	case 2:
		f = From{Kind: FromTime, Time: u.uint()}
		want = 2
	case 3:
		f = From{Kind: FromBeginning}
		want = 1
	case 4:
		f = From{Kind: FromPositions, Time: u.uint()}
		want = 3
		f.Positions = u.positions()
	default:
		u.fail(Errorf(CodeInvalidOption, "from has no form %d", form))
	}
	if u.err == nil && n != want {
		u.malformed("from has another number of elements than its form")
	}
	if u.err != nil {
		return From{}
	}
	return f
}

// position reads a position that has two elements or three.
func (u *unpacker) position(elements int) (epoch, offset, values uint64) {
	epoch, offset = u.bounded(MaxEpoch-1), u.uint()
	if elements > 2 {
		values = u.optional().Value
	}
	if values <= offset {
		values = 0
	}
	return epoch, offset, values
}

func (u *unpacker) positions() []TopicPosition {
	n := u.list(MaxPositions)
	if u.err != nil {
		return nil
	}
	// Each takes at least five bytes, so the list cannot be longer than that.
	list := make([]TopicPosition, 0, min(n, u.r.Len()/5))
	for range n {
		elements := u.list(4)
		if elements < 3 {
			u.malformed("a position is a list of three or four")
		}
		at := TopicPosition{Topic: u.text(MaxTopic)}
		at.Epoch, at.Offset, at.Values = u.position(elements - 1)
		if u.err != nil {
			return nil
		}
		u.failOn(CheckTopic(at.Topic))
		list = append(list, at)
	}
	return list
}
