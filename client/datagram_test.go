package client

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// Datagrams that nobody learned to place are counted.
func TestEarlyDatagramsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Client
		e := earlyDatagrams{dropped: &c.unknownTopic}
		for i := range uint64(maxEarly + 3) {
			e.add(codec.Message{Topic: i}, 10)
		}
		if n := c.Stats().UnknownTopic; n != 3 {
			t.Errorf("%d were counted above the number", n)
		}
		e.add(codec.Message{Topic: 1000}, maxEarlyBytes)
		if n := c.Stats().UnknownTopic; n != maxEarly+3 {
			t.Errorf("%d were counted above the bytes", n)
		}
		if m := e.take(1000); len(m) != 1 || e.bytes != 0 {
			t.Errorf("%d are left, of %d bytes", len(m), e.bytes)
		}
		e.add(codec.Message{Topic: 1}, 10)
		time.Sleep(maxEarlyAge + time.Millisecond)
		if m := e.take(1); len(m) != 0 || c.Stats().UnknownTopic != maxEarly+4 {
			t.Errorf("%d are too old, %d were counted", len(m), c.Stats().UnknownTopic)
		}
	})
}
