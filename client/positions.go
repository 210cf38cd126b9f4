package client

import (
	"container/list"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// positions are how far the application has come in the topics of a subscription:
// of those used last, as many as FROM may name.
type positions struct {
	topics map[string]*list.Element // of *taken
	size   int                      // positionSize of all of them
	recent list.List                // the one used last at the front
	since  time.Time                // of the others: when the subscription began
}

type taken struct {
	topic string
	at    Position
	time  time.Time
}

// maxPositionBytes bounds the positions that FROM names, beside codec.MaxPositions: it is
// in a first frame, which has 64 KiB.
const maxPositionBytes = 48 << 10

// positionSize is what the position of a topic counts for, which is about what it has in
// the frame.
func positionSize(topic string) int { return len(topic) + 29 }

// take takes note of an item that the application has taken.
func (p *positions) take(m Message) {
	at, when := m.Position, m.Time
	switch {
	case m.Topic == "", m.mark:
		return
	case m.Gap != nil && m.Gap.To == nil:
		return
	case m.Gap != nil:
		at = *m.Gap.To
	}
	e := p.topics[m.Topic]
	if e == nil {
		if p.topics == nil {
			p.topics = make(map[string]*list.Element)
		}
		p.size += positionSize(m.Topic)
		for len(p.topics) >= codec.MaxPositions || p.size > maxPositionBytes {
			old := p.recent.Remove(p.recent.Back()).(*taken)
			// It counts as one of the others: what came of it since then comes again.
			delete(p.topics, old.topic)
			p.size -= positionSize(old.topic)
		}
		p.topics[m.Topic] = p.recent.PushFront(&taken{m.Topic, at, when})
		return
	}
	t := e.Value.(*taken)
	if t.at.Epoch == at.Epoch {
		at.Offset = max(at.Offset, t.at.Offset)
	}
	t.at = at
	if when.After(t.time) {
		t.time = when
	}
	p.recent.MoveToFront(e)
}

// of returns the position in a topic.
func (p *positions) of(topic string) (Position, bool) {
	if e := p.topics[topic]; e != nil {
		return e.Value.(*taken).at, true
	}
	return Position{}, false
}

// Position returns how far the application has come on a subscription to one
// topic: FromPosition of it gives what follows the last item that was taken, and what
// the broker has left out behind it, for a filter or as an echo, is not asked for
// again. It stays as it was at the end. ok is false while that is not known, for
// patterns with wildcards, and in a group, which has no order.
func (s *Subscription) Position() (p Position, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.positionLocked()
}

func (s *Subscription) positionLocked() (p Position, ok bool) {
	if !s.sequence.exact || s.options.Group != "" {
		return Position{}, false
	}
	name := s.topicName()
	// At the end what waits may have been dropped: it was not taken.
	if t := s.sequence.byName[name]; t != nil && s.inbox.empty() && !s.done {
		return *t.position(), true
	}
	return s.taken.of(name)
}

// Positions returns how far the application has come, for FromPositions: the
// positions of the topics whose messages it took last, as many as that takes, and the time
// since when the others count.
func (s *Subscription) Positions() (topics map[string]Position, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	topics = make(map[string]Position, len(s.taken.topics))
	for name := range s.taken.topics {
		topics[name], _ = s.taken.of(name)
	}
	return topics, s.taken.since
}
