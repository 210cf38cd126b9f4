package natsbus

import "github.com/tidewire/tidewire/codec"

// copies knows how many subscriptions at NATS, of no group, may bring a message of a
// topic: from before they begin there until the last that they have brought was handled.
type copies struct {
	exact, wild map[string]int // how many by pattern, without and with wildcards
	known       map[string]int // what of has returned, by topic
}

// maxCopies bounds the topics whose number is remembered.
const maxCopies = 8192

func newCopies() copies {
	return copies{exact: make(map[string]int), wild: make(map[string]int), known: make(map[string]int)}
}

// add takes note of n more subscriptions to a pattern, or of fewer.
func (c *copies) add(pattern string, n int) {
	clear(c.known)
	patterns := c.exact
	if !codec.IsExact(pattern) {
		patterns = c.wild
	}
	patterns[pattern] += n
	if patterns[pattern] == 0 {
		delete(patterns, pattern)
	}
}

// of returns how many may bring a topic's messages.
func (c *copies) of(topic string) int {
	if n, ok := c.known[topic]; ok {
		return n
	}
	if len(c.known) >= maxCopies {
		clear(c.known)
	}
	n := c.exact[topic]
	for pattern, k := range c.wild {
		if codec.Match(pattern, topic) {
			n += k
		}
	}
	c.known[topic] = n
	return n
}
