package natsbus

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/broker"
)

// recorder is a broker that takes messages while its gate is open, and keeps what it was
// told, in order.
type recorder struct {
	deafSink
	gate chan struct{} // a closed one is open

	mu     sync.Mutex
	events []string
}

func newRecorder() *recorder { return &recorder{gate: make(chan struct{})} }

func (r *recorder) note(event string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event)
}

func (r *recorder) Sequence(m broker.Message) (broker.Position, error) {
	<-r.gate
	r.note(string(m.Payload.Data))
	return broker.Position{}, nil
}

func (r *recorder) Lost(pattern, group string) { r.note("lost " + pattern + group) }

func (r *recorder) Lapsed(pattern string, listened func(string) bool) {
	if !listened("a.b") {
		r.note("lapsed " + pattern)
	}
}

func (r *recorder) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.events, ", ")
}

func numbers(from, to int) (texts []string) {
	for i := from; i < to; i++ {
		texts = append(texts, fmt.Sprint(i))
	}
	return texts
}

// A mark comes behind what was in the inbox, and before what came later; where nothing
// is, at once.
func TestMarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, stop := newInbox(8), make(chan struct{})
		var got []string
		bring := func(text string) { in.messages <- &nats.Msg{Subject: text} }
		mark := func(text string) { in.put(func() { got = append(got, text) }) }
		mark("nothing before")
		bring("1")
		bring("2")
		mark("behind 2")
		mark("behind that")
		bring("3")
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				switch m, do := in.next(stop); {
				case m != nil:
					got = append(got, m.Subject)
				case do != nil:
					do()
				default:
					return
				}
			}
		}()
		want := []string{"nothing before", "1", "2", "behind 2", "behind that", "3"}
		for round := range 3 {
			synctest.Wait()
			if !slices.Equal(got, want) {
				t.Fatalf("%q, want %q", got, want)
			}
			if round == 0 {
				mark("while it waits")
				want = append(want, "while it waits")
			} else {
				bring("4")
				want = append(want, "4")
			}
		}
		close(stop)
		<-done
	})
}

// What was lost for want of room is told where it is missing.
func TestLostIsToldInItsPlace(t *testing.T) {
	s := runNATS(t)
	sink := newRecorder()
	b, other := joinBus(t, s, Config{Queue: 3}, sink), joinBus(t, s, Config{}, deafSink{})
	b.want(t, "a")
	other.say(t, "a", "1")
	b.hear(t)
	await(t, b, func() bool { return len(b.inbox.messages) == 0 }) // the broker has it
	other.say(t, "a", numbers(2, 20)...)
	b.hear(t)
	marked := func() bool { return len(b.losses) > 0 }
	await(t, b, marked)
	close(sink.gate)
	await(t, b, func() bool { return !marked() })
	other.say(t, "a", "20")
	const want = "lapsed a, 1, 2, 3, 4, lost a, 20"
	await(t, b, func() bool { return sink.all() == want || strings.HasSuffix(sink.all(), "20") })
	if got := sink.all(); got != want {
		t.Errorf("%s; want %s", got, want)
	}
}

// However often something is lost while messages wait, it is told where it began and,
// once more, where it is known to have ended.
func TestLossesAreToldTogether(t *testing.T) {
	sink := newRecorder()
	close(sink.gate)
	b := &bus{sink: sink, inbox: newInbox(8), interests: make(map[wanted]*interest), losses: make(map[wanted]bool)}
	bring := func(texts ...string) {
		for _, text := range texts {
			b.inbox.messages <- &nats.Msg{Subject: "a", Data: []byte(text), Sub: &nats.Subscription{Subject: "a"}}
		}
	}
	bring("1", "2")
	b.lost(wanted{"a", ""})
	bring("3")
	b.lost(wanted{"a", ""})
	bring("4")
	b.lost(wanted{"a", ""})
	b.lost(wanted{"a", "g"})
	for range 8 {
		if m, do := b.inbox.take(); m != nil {
			sink.note(string(m.Data))
		} else if do != nil {
			do()
		}
	}
	if got, want := sink.all(), "1, 2, lost a, 3, 4, lost ag, lost a"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}
