package natsbus

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// Equal messages of a plain client are not taken for copies of those that came before the
// patterns which match them were replaced, one after the other.
func TestEqualMessages(t *testing.T) {
	s := runNATS(t)
	sink := newRecorder()
	close(sink.gate)
	b := joinBus(t, s, Config{Linger: -1}, sink)
	plain, err := nats.Connect(s.ClientURL(), nats.Timeout(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plain.Close)
	want := 0
	say := func(n int, when string) {
		t.Helper()
		for range n {
			if err := plain.Publish("door.1", []byte("open")); err != nil {
				t.Fatal(err)
			}
		}
		if err := plain.Flush(); err != nil {
			t.Fatal(err)
		}
		settle(t, b)
		want += n
		if got := strings.Count(sink.all(), "open"); got != want {
			t.Errorf("%s: %d of %d messages came", when, got, want)
			want = got
		}
	}
	b.want(t, "door.*")
	b.want(t, "door.1")
	say(50, "two patterns")
	b.Unsubscribe("door.*", "")
	b.want(t, "door.>")
	say(5, "one was replaced")
	b.Unsubscribe("door.1", "")
	b.want(t, "door.*")
	say(20, "both were replaced")
	b.Unsubscribe("door.*", "")
	say(20, "one has ended")
	b.want(t, "door.1")
	say(20, "one has begun")
}

// A subscription that begins among equal messages has brought none of those before it, and
// goes on where another one ends.
func TestBeginsAmongEqualMessages(t *testing.T) {
	d := newDedupe()
	one, two, three := new(nats.Subscription), new(nats.Subscription), new(nats.Subscription)
	d.begin(one)
	bring := func(sub *nats.Subscription, copies int) bool {
		return d.first(&nats.Msg{Subject: "a", Data: []byte("x"), Sub: sub}, "a", copies)
	}
	for i := range 10 {
		if !bring(one, 2) { // the other one is on its way to the server
			t.Fatalf("message %d is a copy", i)
		}
	}
	d.begin(two)
	if !bring(one, 2) || bring(two, 2) {
		t.Error("the first one of both is not taken once")
	}
	if !bring(two, 2) || bring(one, 2) {
		t.Error("nor is the second")
	}
	d.end(map[*nats.Subscription]bool{one: true}, func(string) int { return 1 })
	d.begin(three)
	for i := range 10 {
		if !bring(three, 2) || bring(two, 2) {
			t.Errorf("message %d after that is not taken once", i)
		}
	}
	if len(d.counts) != 0 || len(d.began) != 2 {
		t.Errorf("%d counts and %d subscriptions are kept", len(d.counts), len(d.began))
	}
}
