package stress

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// ledger is what the broker has sequenced, as a tap between it and its bus has seen it,
// and what acknowledgements and subscriptions say of it. Any of them may come first; all
// have to agree.
type ledger struct {
	clock    atomic.Uint64 // counts what begins and ends, so that they can be compared
	evicting bool          // topics are given up; static after construction

	mu     sync.RWMutex
	topics map[string]*sequence // guarded by mu
}

// sequence is what one topic has had.
type sequence struct {
	mu     sync.Mutex
	epochs map[uint64][]fact // by offset, the first of which is 1; guarded by mu
}

// fact is one message.
type fact struct {
	name        string   // "": nobody has told of it yet
	publisher   codec.ID // of what is set below only the bus tells
	kind        string   // its header
	lossy       bool
	begun, done uint64 // when it was being sequenced, by the ledger's clock; 0: the bus has not told yet
}

func newLedger() *ledger { return &ledger{topics: make(map[string]*sequence)} }

// tap is the broker as its bus sees it.
type tap struct {
	broker.Sink
	ledger *ledger
}

// openBus makes the local bus, tapped.
func (l *ledger) openBus(sink broker.Sink) (broker.Bus, error) {
	return broker.OpenLocalBus(tap{sink, l})
}

// Sequence implements broker.Sink.
func (t tap) Sequence(m broker.Message) (broker.Position, error) {
	begun := t.ledger.clock.Add(1)
	pos, err := t.Sink.Sequence(m)
	if err == nil && !codec.IsSystem(m.Topic) {
		kind, _ := m.Headers.Get("kind")
		t.ledger.sequenced(m.Topic, pos, fact{
			name: nameOf(m.Payload), publisher: m.Publisher, kind: kind, lossy: m.Mode == codec.ModeLossy,
			begun: begun, done: t.ledger.clock.Add(1),
		})
	}
	return pos, err
}

func (l *ledger) topic(name string) *sequence {
	l.mu.RLock()
	s := l.topics[name]
	l.mu.RUnlock()
	if s != nil {
		return s
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s = l.topics[name]; s == nil {
		s = &sequence{epochs: make(map[uint64][]fact)}
		l.topics[name] = s
	}
	return s
}

// factLocked returns the place of a fact.
func (s *sequence) factLocked(epoch, offset uint64) *fact {
	facts := s.epochs[epoch]
	for uint64(len(facts)) < offset {
		facts = append(facts, fact{})
	}
	s.epochs[epoch] = facts
	return &facts[offset-1]
}

// sequenced takes down what the bus tells. What comes again by the same idempotency key,
// or from the same publisher, is told with the position that it has.
func (l *ledger) sequenced(topic string, pos broker.Position, told fact) {
	s := l.topic(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.factLocked(pos.Epoch, pos.Offset)
	if f.begun == 0 && (f.name == "" || f.name == told.name) {
		*f = told
	}
}

// says takes down who claims that a message has a position, and returns why that cannot
// be; "": it may.
func (l *ledger) says(topic string, pos client.Position, name string) string {
	if pos.Offset == 0 {
		return "no message has offset 0"
	}
	s := l.topic(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.factLocked(pos.Epoch, pos.Offset)
	if f.name == "" {
		f.name = name
	}
	if f.name != name {
		return fmt.Sprintf("%s at %v is %q, and said to be %q", topic, pos, f.name, name)
	}
	return ""
}

// judge looks at the whole when all has ended.
func (l *ledger) judge(w *world) {
	for topic, s := range l.topics {
		places := make(map[string]client.Position)
		for epoch, facts := range s.epochs {
			for i, f := range facts {
				pos := client.Position{Epoch: epoch, Offset: uint64(i + 1)}
				if f.begun == 0 {
					w.fault("nothing was sequenced in %s at %v; %q is said to be there", topic, pos, f.name)
					continue
				}
				// With the topic goes what its publishers sent.
				if at, again := places[f.name]; again && !l.evicting {
					w.fault("%q was sequenced in %s at %v and at %v", f.name, topic, at, pos)
				}
				places[f.name] = pos
			}
		}
	}
}

// between calls f for the facts with offsets above after and below before; 0: all that
// follow. It is for when all has ended.
func (l *ledger) between(topic string, epoch, after, before uint64, f func(offset uint64, f *fact)) {
	facts := l.topic(topic).epochs[epoch]
	if before == 0 || before > uint64(len(facts)) {
		before = uint64(len(facts)) + 1
	}
	for offset := after + 1; offset < before; offset++ {
		f(offset, &facts[offset-1])
	}
}

// nameOf returns the name of the message with a payload: what is before the padding.
func nameOf(p codec.Payload) string {
	name, _, _ := strings.Cut(string(p.Data), " ")
	return name
}
