package broker

import (
	"slices"
	"strings"
	"sync"

	"github.com/tidewire/tidewire/codec"
)

// router finds the subscriptions that match a topic: a trie by token, in which *
// and > have places of their own.
type router struct {
	mu   sync.RWMutex
	root routerNode // guarded by mu
}

// routerNode is where the patterns that share their first tokens meet.
type routerNode struct {
	children map[string]*routerNode
	star     *routerNode     // the child for *
	subs     []*subscription // patterns that end here
	rest     []*subscription // patterns whose next and last token is >
}

func (n *routerNode) empty() bool {
	return len(n.children) == 0 && n.star == nil && len(n.subs) == 0 && len(n.rest) == 0
}

// add makes sub match from now on.
func (r *router) add(sub *subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := &r.root
	for rest, more := sub.pattern, true; more; {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		switch token {
		case ">":
			n.rest = append(n.rest, sub)
			return
		case "*":
			if n.star == nil {
				n.star = new(routerNode)
			}
			n = n.star
		default:
			c := n.children[token]
			if c == nil {
				if n.children == nil {
					n.children = make(map[string]*routerNode)
				}
				c = new(routerNode)
				// The token is copied: it must not keep the frame of SUBSCRIBE alive.
				n.children[strings.Clone(token)] = c
			}
			n = c
		}
	}
	n.subs = append(n.subs, sub)
}

// remove makes sub match no more. It is a no-op if sub was not added.
func (r *router) remove(sub *subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.root.remove(sub.pattern, true, sub)
}

// remove removes sub from below n, and the nodes that are empty then.
func (n *routerNode) remove(pattern string, more bool, sub *subscription) {
	if !more {
		n.subs = without(n.subs, sub)
		return
	}
	token, rest, more := strings.Cut(pattern, ".")
	switch token {
	case ">":
		n.rest = without(n.rest, sub)
	case "*":
		if n.star != nil {
			n.star.remove(rest, more, sub)
			if n.star.empty() {
				n.star = nil
			}
		}
	default:
		if c := n.children[token]; c != nil {
			c.remove(rest, more, sub)
			if c.empty() {
				delete(n.children, token)
			}
		}
	}
}

// without removes sub from subs. Order does not matter.
func without(subs []*subscription, sub *subscription) []*subscription {
	i := slices.Index(subs, sub)
	if i < 0 {
		return subs
	}
	last := len(subs) - 1
	subs[i], subs[last] = subs[last], nil
	if last == 0 {
		return nil
	}
	return subs[:last]
}

// match appends the subscriptions that match a topic to dst.
func (r *router) match(dst []*subscription, topic string) []*subscription {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.root.match(dst, topic, true, codec.IsSystem(topic))
}

func (n *routerNode) match(dst []*subscription, topic string, more, system bool) []*subscription {
	if !more {
		return append(dst, n.subs...)
	}
	token, rest, more := strings.Cut(topic, ".")
	if !system { // only the first token decides (PROTOCOL §3)
		dst = append(dst, n.rest...)
		if n.star != nil {
			dst = n.star.match(dst, rest, more, false)
		}
	}
	if c := n.children[token]; c != nil {
		dst = c.match(dst, rest, more, false)
	}
	return dst
}

// exactly appends the subscriptions whose pattern is pattern, letter by letter.
func (r *router) exactly(dst []*subscription, pattern string) []*subscription {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := &r.root
	for rest, more := pattern, true; more; {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		switch token {
		case ">":
			return append(dst, n.rest...)
		case "*":
			n = n.star
		default:
			n = n.children[token]
		}
		if n == nil {
			return dst
		}
	}
	return append(dst, n.subs...)
}
