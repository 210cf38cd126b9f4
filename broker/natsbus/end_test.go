package natsbus

import (
	"strings"
	"testing"
)

// hear waits until all that the server has sent is in the inbox.
func (b *bus) hear(t *testing.T) {
	t.Helper()
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// settle waits until everything that came, and that ended, was handled.
func settle(t *testing.T, b *bus) {
	t.Helper()
	b.hear(t)
	await(t, b, func() bool { return !b.settling })
	handled := make(chan struct{})
	b.inbox.put(func() { close(handled) })
	select {
	case <-handled:
	case <-t.Context().Done():
	}
}

// Of two patterns that overlap one ends while copies of both wait: each message comes once.
func TestCopiesOfAnEndedPattern(t *testing.T) {
	for _, ending := range []string{"a.b", "a.*"} {
		s := runNATS(t)
		sink := newRecorder()
		b, other := joinBus(t, s, Config{Linger: -1}, sink), joinBus(t, s, Config{}, deafSink{})
		b.want(t, "a.*")
		b.want(t, "a.b")
		texts := numbers(0, 20)
		other.say(t, "a.b", texts...)
		b.hear(t)
		b.Unsubscribe(ending, "")
		close(sink.gate)
		settle(t, b)
		if got, want := sink.all(), "lapsed a.*, "+strings.Join(texts, ", "); got != want {
			t.Errorf("%s has ended: %s; want %s", ending, got, want)
		}
		b.mu.Lock()
		if n := b.copies.of("a.b"); n != 1 {
			t.Errorf("%s has ended: %d patterns still count", ending, n)
		}
		b.mu.Unlock()
	}
}
