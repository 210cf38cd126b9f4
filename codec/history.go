package codec

// Fetch asks for a page of a topic's history (PROTOCOL §6.8).
type Fetch struct {
	Topic    string
	From     From // not FromPositions
	Backward bool
	Limit    uint64 // messages, 1 to MaxPage
}

// AppendFetch appends a FETCH frame (PROTOCOL §6.8).
func AppendFetch(b []byte, f Fetch) []byte {
	p := pack(b, TypeFetch, 4)
	p.text(f.Topic)
	p.from(f.From)
	p.flag(f.Backward)
	p.uint(f.Limit)
	return p.frame()
}

// ParseFetch parses a FETCH frame and checks its values (PROTOCOL §6.8).
func ParseFetch(f Frame) (Fetch, error) {
	u := unpack(f, TypeFetch)
	w := Fetch{Topic: u.text(MaxFirstFrame), From: u.from()}
	direction := u.uint()
	w.Backward = direction == 1
	w.Limit = u.uint()
	if u.err == nil {
		switch {
		case direction > 1:
			u.fail(Errorf(CodeInvalidOption, "a direction is 0 or 1, not %d", direction))
		case w.Limit == 0 || w.Limit > MaxPage:
			u.fail(Errorf(CodeInvalidOption, "a page has 1 to %d messages, not %d", MaxPage, w.Limit))
		case w.From.Kind == FromPositions, w.From.Values > 0, w.Backward && w.From.Kind != FromNow && w.From.Kind != FromPosition:
			u.fail(Errorf(CodeInvalidOption, "a page cannot begin with this form of from"))
		default:
			u.failOn(CheckTopic(w.Topic))
		}
	}
	if err := u.done(); err != nil {
		return Fetch{}, err
	}
	return w, nil
}

// Page is the first frame down a page stream (PROTOCOL §6.8).
type Page struct {
	Topic uint64 // its number
	Epoch uint64
	First uint64 // offset of the oldest message that is kept; 0: none is
	Last  uint64 // the last offset given
}

// AppendPage appends a PAGE frame (PROTOCOL §6.8).
func AppendPage(b []byte, f Page) []byte {
	p := pack(b, TypePage, 4)
	p.uint(f.Topic)
	p.uint(f.Epoch)
	p.uint(f.First)
	p.uint(f.Last)
	return p.frame()
}

// ParsePage parses a PAGE frame (PROTOCOL §6.8).
func ParsePage(f Frame) (Page, error) {
	u := unpack(f, TypePage)
	w := Page{Topic: u.uint(), Epoch: u.bounded(MaxEpoch - 1), First: u.uint(), Last: u.uint()}
	if u.err == nil && (w.Topic == 0 || w.First > w.Last) {
		u.malformed("a topic's number is at least 1, and its first message not behind its last")
	}
	if err := u.done(); err != nil {
		return Page{}, err
	}
	return w, nil
}

// flag writes a boolean as 0 or 1.
func (p *packer) flag(v bool) {
	if v {
		p.uint(1)
		return
	}
	p.uint(0)
}
