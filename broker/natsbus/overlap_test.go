package natsbus

import "testing"

// subscribing subscribes, and says when that is done.
func subscribing(t *testing.T, b *bus, pattern string) <-chan error {
	done := make(chan error, 1)
	go func() { _, err := b.Subscribe(t.Context(), pattern, ""); done <- err }()
	return done
}

// A pattern begins while the one that covers it ends: nothing is missed in between.
func TestCoveringPatternEndsMeanwhile(t *testing.T) {
	s := runNATS(t)
	sink := newRecorder()
	b, other := joinBus(t, s, Config{Linger: -1}, sink), joinBus(t, s, Config{}, deafSink{})
	b.want(t, ">")
	b.want(t, "a.*")
	other.say(t, "a.b", "1")
	b.hear(t)
	b.Unsubscribe(">", "") // is not gone before the sink has taken the message
	begun := subscribing(t, b, "a.b")
	await(t, b, func() bool {
		return b.interests[wanted{pattern: "a.b"}] != nil && b.interests[wanted{pattern: "a.*"}].held > 0
	})
	b.Unsubscribe("a.*", "")
	other.say(t, "a.b", "2")
	close(sink.gate)
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	other.say(t, "a.b", "3")
	await(t, b, func() bool { return len(b.interests) == 1 && b.copies.of("a.b") == 1 })
	settle(t, b)
	if got, want := sink.all(), "lapsed >, 1, 2, 3"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}

// What was missed while nobody listened is told behind what had come before.
func TestLapseIsToldInItsPlace(t *testing.T) {
	s := runNATS(t)
	sink := newRecorder()
	b, other := joinBus(t, s, Config{Linger: -1}, sink), joinBus(t, s, Config{}, deafSink{})
	b.want(t, "a")
	other.say(t, "a", "1", "2")
	b.hear(t)
	b.Unsubscribe("a", "")
	begun := subscribing(t, b, "a")
	await(t, b, func() bool { return b.interests[wanted{pattern: "a"}] != nil })
	close(sink.gate)
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	other.say(t, "a", "3")
	settle(t, b)
	if got, want := sink.all(), "lapsed a, 1, 2, lapsed a, 3"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}
