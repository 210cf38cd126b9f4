package natsbus

import (
	"github.com/tidewire/tidewire/codec"
)

// While an interest begins, no other one that overlaps ends: what the other one has
// brought all along is brought without a break, and needs no word. It begins when all
// that overlapping ones brought which ended before was handled: what the broker is told
// to have missed then is behind that, and of two that overlap one never begins while the
// copies of one that has ended are still being counted.

// overlapping are the interests that overlap with one that begins.
type overlapping struct {
	stand []*interest // held until it stands
	ended []*interest // not yet gone
	exact map[string]struct{}
	wild  []string
}

// maxEnding bounds the interests that have ended and are not gone: beyond it whoever begins
// waits for all.
const maxEnding = 4096

// hold finds the interests that overlap with in, and keeps those that stand.
func (b *bus) hold(in *interest) overlapping {
	others := overlapping{exact: make(map[string]struct{})}
	hold := func(other *interest) {
		if !other.listens() || !codec.Overlap(other.pattern, in.pattern) {
			return
		}
		other.held++
		others.stand = append(others.stand, other)
		if codec.IsExact(other.pattern) {
			others.exact[other.pattern] = struct{}{}
		} else {
			others.wild = append(others.wild, other.pattern)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if codec.IsExact(in.pattern) {
		for _, other := range b.wild {
			hold(other)
		}
	} else {
		for _, other := range b.interests {
			hold(other)
		}
	}
	for other := range b.ending {
		if len(b.ending) > maxEnding || codec.Overlap(other.pattern, in.pattern) {
			others.ended = append(others.ended, other)
		}
	}
	return others
}

// letGo ends the interests that were held and that nobody wants any more.
func (b *bus) letGo(others overlapping) {
	var unwanted []*interest
	b.mu.Lock()
	for _, other := range others.stand {
		other.held--
		if b.dropLocked(other) {
			unwanted = append(unwanted, other)
		}
	}
	b.mu.Unlock()
	for _, other := range unwanted {
		b.end(other)
	}
}

// listened reports whether one of those that are held brings a topic's messages.
func (o overlapping) listened(topic string) bool {
	if _, ok := o.exact[topic]; ok {
		return true
	}
	for _, pattern := range o.wild {
		if codec.Match(pattern, topic) {
			return true
		}
	}
	return false
}
