package client

import (
	"fmt"
	"testing"

	"github.com/tidewire/tidewire/codec"
)

// FuzzInbox: whatever comes, however it is taken, the offsets of a topic are handed
// out in order, none is missing without a gap, the newest of each key is there, and
// so is everything that came by stream.
func FuzzInbox(f *testing.F) {
	many := make([]byte, 0, 900)
	for i := range 900 {
		many = append(many, byte(i*7))
	}
	f.Add(many)
	f.Add([]byte{0, 1, 2, 3, 255, 64, 65, 66, 128, 129})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) >= maxLoose {
			return // beyond the bound the oldest go
		}
		var stats SubscriptionStats
		b := newInbox(&stats)
		var pushed, taken [4]uint64 // the last offset of each topic
		newest := make(map[string]uint64)
		got := make(map[string]uint64)
		credit, reliable := 0, 0
		pop := func() {
			m, back := b.pop()
			credit -= back
			topic := int(m.Topic[0] - '0')
			if g := m.Gap; g != nil {
				if g.From.Offset != taken[topic] || g.To.Offset <= g.From.Offset {
					t.Fatalf("gap (%d,%d] after %d", g.From.Offset, g.To.Offset, taken[topic])
				}
				taken[topic] = g.To.Offset
				return
			}
			if taken[topic]++; m.Position.Offset != taken[topic] {
				t.Fatalf("offset %d of %s after %d", m.Position.Offset, m.Topic, taken[topic]-1)
			}
			if back > 0 {
				reliable--
			}
			got[m.Topic+m.Key] = m.Position.Offset
		}
		for _, step := range script {
			topic := int(step & 3)
			m := Message{Topic: fmt.Sprint(topic), Key: fmt.Sprint(step >> 2 & 3), Position: Position{1, pushed[topic] + 1}}
			switch step >> 5 {
			case 0, 1, 2, 3, 4:
				b.pushLoose(m)
				newest[m.Topic+m.Key] = m.Position.Offset
			case 5:
				b.pushReliable(m, 10)
				credit += 10
				reliable++
				newest[m.Topic+m.Key] = m.Position.Offset
			case 6:
				b.pushGap(Gap{
					Topic: m.Topic, From: &Position{1, pushed[topic]}, To: &Position{1, pushed[topic] + 1},
					Reason: codec.GapReason(step & 7), Count: 1,
				})
			case 7:
				if !b.empty() {
					pop()
				}
				continue
			}
			pushed[topic]++
		}
		if b.credit != uint64(credit) {
			t.Fatalf("%d bytes of credit wait, want %d", b.credit, credit)
		}
		for !b.empty() {
			pop()
		}
		if taken != pushed || credit != 0 || reliable != 0 {
			t.Fatalf("handed out up to %v of %v; %d bytes of credit and %d messages are missing", taken, pushed, credit, reliable)
		}
		for key, offset := range newest {
			if got[key] != offset {
				t.Fatalf("the newest of %s is %d, got %d", key, offset, got[key])
			}
		}
		if len(b.tails) > 0 || len(b.keyed) > 0 || b.loose.Len() > 0 {
			t.Fatalf("%d tails, %d keys and %d loose entries are left", len(b.tails), len(b.keyed), b.loose.Len())
		}
	})
}
