package broker

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func newTestBroker(t *testing.T, config Config) *Broker {
	t.Helper()
	b, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// A topic that keeps nothing gives way before one that keeps messages, however old
// those are; one that gave way comes back with another epoch, and its log is closed.
func TestEmptyTopicsGiveWayFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestBroker(t, Config{MaxTopics: 4})
		for i := range 3 {
			if _, err := b.Publish(t.Context(), fmt.Sprint("kept", i), "x", &PublishOptions{Retain: true}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		get := func(name string) *topic {
			t.Helper()
			tp, err := b.topics.get(name, false)
			if err != nil {
				t.Fatal(err)
			}
			return tp
		}
		first := get("kept0")
		for i := range 20 {
			get(fmt.Sprint("empty", i))
			time.Sleep(time.Second)
		}
		if get("kept0") != first || b.topics.count() != 4 {
			t.Errorf("a topic with a last value gave way to an empty one; %d topics", b.topics.count())
		}
		held, err := b.topics.get("held", true) // in the place of the last empty one
		if err != nil {
			t.Fatal(err)
		}
		get("another") // now the oldest of those that keep something goes
		if n := b.topics.count(); n != 4 {
			t.Errorf("%d topics", n)
		}
		if _, _, err := first.log.Read(t.Context(), 0, math.MaxInt64, 1, 1); !errors.Is(err, ErrLogClosed) {
			t.Errorf("the log of a topic that gave way: %v", err)
		}
		if again := get("kept0"); again == first || again.epoch == first.epoch || again.num == first.num || again.log.Empty() != true {
			t.Errorf("a topic that came back: epoch %d and %d, number %d and %d", again.epoch, first.epoch, again.num, first.num)
		}
		if get("held") != held {
			t.Error("a topic that is held gave way")
		}
		if b.topics.config("kept0") == nil || len(b.topics.matching(">")) != 4 || len(b.topics.matching("kept0")) != 1 {
			t.Errorf("the index has %d topics", len(b.topics.matching(">")))
		}
	})
}

// All that the topics of a broker keep stays within Config.MaxHistoryBytes.
func TestHistoryIsBounded(t *testing.T) {
	const most = 1 << 20
	b := newTestBroker(t, Config{MaxHistoryBytes: most})
	payload := make([]byte, 1000)
	for i := range 5000 {
		opts := &PublishOptions{Retain: i%3 == 0, Key: fmt.Sprint("k", i%100)}
		if _, err := b.Publish(t.Context(), fmt.Sprint("t", i%50), payload, opts); err != nil {
			t.Fatal(err)
		}
		if n := b.Stats().HistoryBytes; n > most {
			t.Fatalf("%d bytes after %d messages, the bound is %d", n, i, most)
		}
	}
	if n := b.Stats().HistoryBytes; n < most/2 {
		t.Errorf("only %d of %d bytes are used", n, most)
	}
}

// Whoever learns a topic's offset finds its message in the log, however many publish.
func TestOffsetAndLogAreOne(t *testing.T) {
	b := newTestBroker(t, Config{Topics: []TopicConfig{{Pattern: "a", History: Retention{Count: 100_000, Bytes: -1, Age: -1}}}})
	tp, err := b.topics.get("a", true)
	if err != nil {
		t.Fatal(err)
	}
	const publishers, messages = 4, 2000
	done := make(chan struct{}, publishers)
	for range publishers {
		go func() {
			for range messages {
				_, _ = b.Publish(t.Context(), "a", "x", nil)
			}
			done <- struct{}{}
		}()
	}
	for ended := 0; ended < publishers; {
		select {
		case <-done:
			ended++
		default:
		}
		at := tp.position().Offset
		if at == 0 {
			continue
		}
		if got, _, err := tp.log.Read(t.Context(), at-1, at, 1, 1); err != nil || len(got) != 1 || got[0].Offset != at {
			t.Fatalf("offset %d: %v, %v", at, got, err)
		}
	}
	if got, base, err := tp.log.Read(t.Context(), 0, math.MaxInt64, math.MaxInt, math.MaxInt); err != nil || base != 0 || len(got) != publishers*messages {
		t.Errorf("%d messages, base %d, %v", len(got), base, err)
	}
}
