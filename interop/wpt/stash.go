package main

import "sync"

// stash is what handlers keep across sessions, by a token that a page made up. It
// is safe for concurrent use.
type stash struct {
	mu     sync.Mutex
	values map[string]any
}

// take removes the value of a key and returns it, nil if there is none.
func (s *stash) take(key string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	value := s.values[key]
	delete(s.values, key)
	return value
}

// update replaces the value of a key by what change makes of it.
func (s *stash) update(key string, change func(old any) any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = make(map[string]any)
	}
	s.values[key] = change(s.values[key])
}
