package broker

import "sync"

// scratch lends slices to topics under load. A topic that is idle keeps none of any
// size: there are many topics, and few are busy at a time.
type scratch[T any] struct{ pool sync.Pool }

const (
	// keptByTopic is the capacity up to which a topic keeps a slice.
	keptByTopic = 16
	// lent is the least capacity of a slice that is lent.
	lent = maxTogether
)

var (
	recordScratch   scratch[Record]
	deliveryScratch scratch[delivery]
)

// grow returns s, or a slice with its elements that has room for more.
func (p *scratch[T]) grow(s []T, more int) []T {
	if cap(s)-len(s) >= more || len(s)+more > lent {
		return s // append grows it beyond
	}
	b, ok := p.pool.Get().(*[]T)
	if !ok {
		fresh := make([]T, 0, lent)
		b = &fresh
	}
	return append((*b)[:0], s...)
}

// shrink gives back what is larger than a topic keeps. Its elements must be cleared.
func (p *scratch[T]) shrink(s []T) []T {
	if cap(s) <= keptByTopic {
		return s
	}
	if cap(s) <= 2*maxPending {
		s = s[:0]
		p.pool.Put(&s)
	}
	return nil
}
