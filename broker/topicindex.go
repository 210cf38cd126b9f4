package broker

import (
	"strings"

	"github.com/tidewire/tidewire/codec"
)

// topicIndex finds the topics that a pattern matches, without looking at all of
// them: a trie by token, as the router is one of patterns.
type topicIndex struct {
	topic    *topic // whose name ends here; nil: none
	children map[string]*topicIndex
}

// add puts tp into the index. No other topic of its name is in it.
func (n *topicIndex) add(tp *topic) {
	for rest, more := tp.name, true; more; {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		c := n.children[token]
		if c == nil {
			if n.children == nil {
				n.children = make(map[string]*topicIndex)
			}
			c = new(topicIndex)
			if more {
				token = strings.Clone(token) // it may outlive the topic
			}
			n.children[token] = c
		}
		n = c
	}
	n.topic = tp
}

// remove takes the topic of a name out, and the nodes that lead to no other.
func (n *topicIndex) remove(name string) {
	token, rest, more := strings.Cut(name, ".")
	c := n.children[token]
	if c == nil {
		return
	}
	if more {
		c.remove(rest)
	} else {
		c.topic = nil
	}
	if c.topic != nil || len(c.children) > 0 {
		return
	}
	delete(n.children, token)
	if len(n.children) == 0 {
		n.children = nil
	}
}

// match appends the topics that a valid pattern matches to dst.
func (n *topicIndex) match(dst []*topic, pattern string) []*topic {
	token, rest, more := strings.Cut(pattern, ".")
	if token != "*" && token != ">" {
		if c := n.children[token]; c != nil {
			return c.matchRest(dst, rest, more)
		}
		return dst
	}
	for name, c := range n.children {
		switch {
		case codec.IsSystem(name): // PROTOCOL §3
		case token == ">":
			dst = c.all(dst)
		default:
			dst = c.matchRest(dst, rest, more)
		}
	}
	return dst
}

// matchRest is match behind the first token.
func (n *topicIndex) matchRest(dst []*topic, pattern string, more bool) []*topic {
	if !more {
		if n.topic != nil {
			dst = append(dst, n.topic)
		}
		return dst
	}
	token, rest, more := strings.Cut(pattern, ".")
	switch token {
	case ">":
		for _, c := range n.children {
			dst = c.all(dst)
		}
	case "*":
		for _, c := range n.children {
			dst = c.matchRest(dst, rest, more)
		}
	default:
		if c := n.children[token]; c != nil {
			dst = c.matchRest(dst, rest, more)
		}
	}
	return dst
}

// all appends the topics at n and below.
func (n *topicIndex) all(dst []*topic) []*topic {
	if n.topic != nil {
		dst = append(dst, n.topic)
	}
	for _, c := range n.children {
		dst = c.all(dst)
	}
	return dst
}
