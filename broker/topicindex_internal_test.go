package broker

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/codec"
)

// The index agrees with codec.Match on every pair, while topics come and go.
func TestTopicIndexAgreesWithMatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	random := func(wild bool) string { return randomName(rng, wild) }
	var index topicIndex
	topics := make(map[string]*topic)
	for range 5000 {
		name := random(false)
		if topics[name] == nil && rng.IntN(3) > 0 {
			topics[name] = &topic{name: name}
			index.add(topics[name])
		} else if topics[name] != nil {
			delete(topics, name)
			index.remove(name)
		}
		pattern := random(true)
		var want, got []string
		for name := range topics {
			if codec.Match(pattern, name) {
				want = append(want, name)
			}
		}
		for _, tp := range index.match(nil, pattern) {
			if topics[tp.name] != tp {
				t.Fatalf("%s is another topic", tp.name)
			}
			got = append(got, tp.name)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("%s matches %q, want %q", pattern, got, want)
		}
	}
	for name := range topics {
		index.remove(name)
	}
	index.remove("never.was")
	if index.children != nil || index.topic != nil {
		t.Error("the index of no topics keeps something")
	}
}

func BenchmarkTopicIndex(b *testing.B) {
	var index topicIndex
	for i := range 100_000 {
		index.add(&topic{name: "room." + string(rune('a'+i%26)) + "." + strings.Repeat("x", i/1000) + string(rune('0'+i%1000))})
	}
	var list []*topic
	for b.Loop() {
		list = index.match(list[:0], "room.a.*.none")
	}
}
