package client

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// A script of what a subscription receives, and what it hands out (PROTOCOL §9).
// Input: "s5" reliable message at offset 5 by stream, "d6/4" lossy one at offset 6
// by datagram whose last reliable one is 4, "l6/4" the same by stream, "D7" a
// reliable one by datagram, "g3-8" GAP, "k9" SKIP. A previous other than the
// offset before is written "s5<2", a key "s5@a", and who is without echo gets its own
// messages as "own". Output: offsets, and gaps as "(from,to]".
func TestSequence(t *testing.T) {
	for _, c := range []struct {
		name    string
		class   Class
		in, out string
		dropped uint64
	}{
		{"in order", Reliable, "s1 s2 s3", "1 2 3", 0},
		{"lossy between", Reliable, "s1 d2/1 s3 d4/3", "1 2 3 4", 0},
		{"a lossy one overtakes its reliable one", Reliable, "d2/1 s1", "1 2", 0},
		{"only the newest is held", Reliable, "d2/1 d3/1 s1", "1 (1,2]lost 3", 1},
		{"an older one does not take the place of the one held", Reliable, "d3/1 d2/1 s1", "1 (1,2]lost 3", 1},
		{"a held one is too old when its time has come", Reliable, "d2/1 s1<0 s3", "1 2 3", 0},
		{"lossy ones are lost", Reliable, "s1 s4", "1 (1,3]lost 4", 0},
		{"a lossy one comes after a newer one", Reliable, "s1 s3 d2/1", "1 (1,2]lost 3", 1},
		{"before any reliable one", Reliable, "d1/0 d2/0 s3", "1 2 3", 0},
		{"lossy by stream, too large for a datagram", Reliable, "s1 l2/1 s3", "1 2 3", 0},
		{"the broker tells of a gap", Reliable, "s1 g1-5 s6", "1 (1,5]overflow 6", 0},
		{"a gap frees what is held", Reliable, "s1 d6/5 g1-5", "1 (1,5]overflow 6", 0},
		{"a gap that is told twice", Reliable, "s1 g1-5 g2-4 s6", "1 (1,5]overflow 6", 0},
		{"skipped on purpose", Reliable, "s1 k5 s6", "1 6", 0},
		{"skip frees what is held", Reliable, "s1 d6/5 k5", "1 6", 0},
		{"offsets that are not dense", Reliable, "s10<0 s20<10", "10 20", 0},
		{"sequenced by datagram", Sequenced, "D1 D2 D5 D3", "1 2 (2,4]lost 5", 1},
		{"a reliable one comes by datagram for another subscription", Reliable, "D1 s1 D3 s2 s3 d4/3", "1 2 3 4", 0},
		{"sequenced, a large one by stream", Sequenced, "D1 s3 D2 D4", "1 (1,2]lost 3 4", 1},
		{"sequenced, an old one by stream", Sequenced, "D1 D3 s2", "1 (1,2]lost 3", 1},
		{"sequenced, the broker conflated", Sequenced, "s1 g1-4 s5", "1 (1,4]overflow 5", 0},
		{"sequenced, each key for itself", Sequenced, "D1@a D3@b D2@a D4@a D3@a", "1 (1,2]lost 3 2 4", 1},
		{"sequenced, an older one of its key", Sequenced, "D1@a D3@a D2@a", "1 (1,2]lost 3", 1},
		{"sequenced, one without a key is of no key", Sequenced, "D1@a D3@b D2", "1 (1,2]lost 3", 1},
		{"latest comes by stream alone", Latest, "s1 d2/1 l2/1 D3 s3", "1 2 3", 0},
		{"latest, the broker conflated", Latest, "s1@a g1-3 s4@b s5@a", "1 (1,3]overflow 4 5", 0},
		{"unreliable as it comes", Unreliable, "D1 D5 D3 d4/3 s2 g5-7 D9", "1 5 3 4 2 9", 0},
		{"a gap behind what was lost", Reliable, "s1 g3-5 s6", "1 (1,3]lost (3,5]overflow 6", 0},
		{"withheld before a gap", Reliable, "s1 k3 g3-5 s6", "1 (3,5]overflow 6", 0},
		{"own messages by datagram", Reliable, "s1 o2/1 o4/1 s5", "1 (2,3]lost 5", 0},
		{"an own one that comes before its reliable one", Reliable, "o2/1 s1 s3", "1 3", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stats SubscriptionStats
			q := newSequencer(c.class, &stats)
			q.noEcho = true
			q.begin(time.Time{}, codec.ID{9})
			q.announce(nil, announcement{num: 1, name: "t", epoch: 7, offset: 0})
			var out []item
			for step := range strings.FieldsSeq(c.in) {
				var err error
				if out, err = play(q, out, step); err != nil {
					t.Fatalf("%s: %v", step, err)
				}
			}
			if got := show(out); got != c.out || stats.Late+stats.Conflated != c.dropped {
				t.Errorf("handed out %q, dropped %d; want %q, %d", got, stats.Late+stats.Conflated, c.out, c.dropped)
			}
		})
	}
}

func play(q *sequencer, out []item, step string) ([]item, error) {
	var a, b uint64
	m := codec.Message{Topic: 1, Previous: 1}
	body, key, _ := strings.Cut(step[1:], "@")
	m.Key = key
	body, before, jump := strings.Cut(body, "<")
	if _, err := fmt.Sscanf(strings.NewReplacer("/", " ", "-", " ").Replace(body)+" 0", "%d %d", &a, &b); err != nil {
		return out, err
	}
	m.Offset = a
	if jump {
		var p uint64
		if _, err := fmt.Sscan(before, &p); err != nil {
			return out, err
		}
		m.Previous = a - p
	}
	if step[0] == 'o' {
		m.Publisher = codec.ID{9}
	}
	if step[0] == 'd' || step[0] == 'l' || step[0] == 'o' {
		m.Reliable = codec.Some(0)
		if b > 0 {
			m.Reliable.Value = a - b
		}
	}
	switch step[0] {
	case 's', 'l':
		return q.stream(out, m, 100)
	case 'd', 'D', 'o':
		return q.datagram(out, m), nil
	case 'g':
		return q.gap(out, codec.Gap{Topic: 1, From: codec.Some(a), To: codec.Some(b), Reason: codec.GapOverflow}), nil
	case 'k':
		return q.skip(out, codec.Skip{Topic: 1, To: a}), nil
	}
	return out, fmt.Errorf("no step %q", step)
}

// end is one end of a gap; "" if it is not known.
func end(p *Position) string {
	if p == nil {
		return ""
	}
	return fmt.Sprint(p.Offset)
}

func show(items []item) string {
	var parts []string
	for _, it := range items {
		switch g := it.message.Gap; {
		case g != nil:
			parts = append(parts, fmt.Sprintf("(%s,%s]%s", end(g.From), end(g.To), g.Reason))
		case it.message.Topic != "" && !it.message.mark:
			parts = append(parts, fmt.Sprint(it.message.Position.Offset))
		}
	}
	return strings.Join(parts, " ")
}

// Where a new stream takes up a topic, and what is told of it.
func TestSequenceGoesOn(t *testing.T) {
	at := func(epoch, offset uint64) announcement {
		return announcement{num: 5, name: "t", epoch: epoch, offset: offset}
	}
	for _, c := range []struct {
		name    string
		class   Class
		exact   bool
		toldAll bool
		next    announcement
		then    string
		out     string
	}{
		{"where it was", Reliable, true, false, at(7, 3), "s4", "4"},
		{"further on", Reliable, true, false, at(7, 6), "s7", "(3,6]reconnect 7"},
		{"further on, unreliable", Unreliable, true, false, at(7, 6), "s7", "7"},
		{"another epoch", Reliable, true, false, at(8, 0), "s1", "(3,]reconnect 1"},
		{"another epoch, unreliable", Unreliable, true, false, at(8, 0), "s1", "1"},
		{"another epoch, told of all topics", Reliable, false, true, at(8, 0), "s1", "1"},
		{"again what is known", Reliable, false, false, at(7, 1), "s2 s3 s4", "4"},
		{"the position was beyond the end", Reliable, true, false, at(7, 1), "h s2 s3", "(,]history 2 3"},
		{"the position was beyond the end, of many", Reliable, false, false, at(7, 1), "h s2 s3", "(,]history 2 3"},
		{"the position was beyond the end, and something came before the broker tells", Sequenced, false, false, at(7, 1), "s2@a h s4@a", "2 (,]history (2,3]lost 4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newSequencer(c.class, new(SubscriptionStats))
			q.exact = c.exact
			q.resume("t", Position{7, 3})
			q.begin(time.Time{}, codec.ID{})
			q.toldAll = c.toldAll
			out := q.announce(nil, c.next)
			for step := range strings.FieldsSeq(c.then) {
				if step == "h" {
					out = q.gap(out, codec.Gap{Topic: 5, Reason: codec.GapHistory})
					continue
				}
				var m codec.Message
				step, m.Key, _ = strings.Cut(step, "@")
				if _, err := fmt.Sscanf(step, "s%d", &m.Offset); err != nil {
					t.Fatal(err)
				}
				m.Topic, m.Previous = 5, 1
				var err error
				if out, err = q.stream(out, m, 1); err != nil {
					t.Fatalf("%s: %v", step, err)
				}
			}
			if got := show(out); got != c.out {
				t.Errorf("handed out %q, want %q", got, c.out)
			}
		})
	}
}

// The keys that are remembered are bounded, and for one that was forgotten the last
// offset of its topic counts.
func TestRememberedKeysAreBounded(t *testing.T) {
	var k keyMemory
	const count = 5 * rememberedKeys
	for i := range uint64(count) {
		if !k.newer(fmt.Sprint(i), i+1, i) {
			t.Fatalf("key %d is not new", i)
		}
	}
	if n := len(k.young) + len(k.old); n < rememberedKeys || n > 2*rememberedKeys {
		t.Errorf("%d keys are remembered", n)
	}
	if k.newer(fmt.Sprint(count-rememberedKeys), count-rememberedKeys+1, count) {
		t.Error("an old message of a key that is remembered is new")
	}
	if k.newer("0", count-1, count) || !k.newer("0", count+1, count) {
		t.Error("for a key that was forgotten something else counts than the topic")
	}
}

// What a broker must not do is an error of the stream.
func TestSequenceErrors(t *testing.T) {
	q := newSequencer(Reliable, new(SubscriptionStats))
	if _, err := q.stream(nil, codec.Message{Topic: 9, Offset: 1, Previous: 1}, 1); codec.CodeOf(err) != codec.CodeProtocolViolation {
		t.Errorf("a topic that was not announced: %v", err)
	}
	q.announce(nil, announcement{num: 1, name: "t", epoch: 7, offset: 5})
	if _, err := q.stream(nil, codec.Message{Topic: 1, Offset: 5, Previous: 1}, 1); codec.CodeOf(err) != codec.CodeProtocolViolation {
		t.Errorf("an offset before the subscription's: %v", err)
	}
}

// FuzzSequence: whatever comes, offsets increase within a topic, and each one
// between the first and the last is handed out or covered by a gap or SKIP.
func FuzzSequence(f *testing.F) {
	f.Add([]byte{0, 1, 16, 2, 32, 3, 48, 4, 64, 5})
	f.Fuzz(func(t *testing.T, script []byte) {
		for _, class := range []Class{Reliable, Latest, Sequenced} {
			q := newSequencer(class, new(SubscriptionStats))
			q.announce(nil, announcement{num: 1, name: "t", epoch: 7, offset: 0})
			last, skipped := uint64(0), uint64(0)
			for i := 0; i+1 < len(script); i += 2 {
				offset := uint64(script[i+1]) + 1
				m := codec.Message{Topic: 1, Offset: offset, Previous: min(uint64(script[i]&3)+1, offset)}
				lossy := m
				lossy.Reliable = codec.Some(min(uint64(script[i]>>5), offset))
				var out []item
				var err error
				switch script[i] >> 2 & 7 {
				case 0, 1:
					out, err = q.stream(nil, m, 1)
				case 2:
					out, err = q.stream(nil, lossy, 1)
				case 3, 4:
					out = q.datagram(nil, lossy)
				case 5:
					out = q.datagram(nil, m)
				case 6:
					out = q.gap(nil, codec.Gap{Topic: 1, From: codec.Some(offset - 1), To: codec.Some(offset), Reason: codec.GapOverflow})
				case 7:
					out = q.skip(nil, codec.Skip{Topic: 1, To: offset})
					skipped = max(skipped, offset)
				}
				if err != nil {
					break // the stream ends
				}
				for _, it := range out {
					switch g := it.message.Gap; {
					case g != nil:
						if g.From.Offset < last || g.To.Offset <= g.From.Offset {
							t.Fatalf("gap (%d,%d] after %d", g.From.Offset, g.To.Offset, last)
						}
						last = g.To.Offset
					case it.message.Topic != "":
						if it.message.Position.Offset <= last {
							t.Fatalf("offset %d after %d", it.message.Position.Offset, last)
						}
						last = it.message.Position.Offset
					}
				}
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	b := Backoff{Min: 100 * time.Millisecond, Max: 3 * time.Second}
	for n, ceiling := range map[int]time.Duration{0: 100, 1: 200, 4: 1600, 5: 3000, 31: 3000, 32: 3000, 1000: 3000} {
		var seen []time.Duration
		for range 200 {
			w := b.wait(n, time.Second)
			if w < time.Second || w >= time.Second+ceiling*time.Millisecond {
				t.Fatalf("attempt %d waits %v", n, w)
			}
			seen = append(seen, w)
		}
		if spread := slices.Max(seen) - slices.Min(seen); spread < ceiling*time.Millisecond/2 {
			t.Errorf("attempt %d: 200 waits lie within %v: no jitter", n, spread)
		}
	}
}
