package codec

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// Overlap agrees with trying all topics.
func TestOverlap(t *testing.T) {
	tokens := []string{"a", "b", "$s"}
	var topics []string
	for _, x := range tokens {
		topics = append(topics, x)
		for _, y := range tokens {
			topics = append(topics, x+"."+y)
			for _, z := range tokens {
				topics = append(topics, x+"."+y+"."+z, x+"."+y+"."+z+".a")
			}
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	random := func() string {
		var parts []string
		for range 1 + rng.IntN(3) {
			parts = append(parts, []string{"a", "b", "$s", "*", "*"}[rng.IntN(5)])
		}
		if rng.IntN(3) == 0 {
			parts[len(parts)-1] = ">"
		}
		return strings.Join(parts, ".")
	}
	for range 5000 {
		a, b := random(), random()
		want := false
		for _, topic := range topics {
			want = want || Match(a, topic) && Match(b, topic)
		}
		if got := Overlap(a, b); got != want {
			t.Fatalf("Overlap(%q, %q) = %v, want %v", a, b, got, want)
		}
	}
}
