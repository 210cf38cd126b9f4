package broker

import "github.com/tidewire/tidewire/codec"

// evicted remembers which topics with messages were given up, so that whoever asks for
// the messages since a time learns that some are gone. The topic table's mu guards it.
type evicted struct {
	used  map[string]uint64 // when the last message came to each, in ms of the broker's clock
	order []string          // the names in used, the one that was given up first in front
	floor uint64            // of those that were forgotten, one more than the latest time; 0: none was
}

// maxEvicted bounds the topics that are remembered.
const maxEvicted = 4096

// add takes note of a topic that is given up.
func (e *evicted) add(name string, used uint64) {
	if _, again := e.used[name]; !again {
		if len(e.order) == maxEvicted {
			e.floor = max(e.floor, e.used[e.order[0]]+1)
			delete(e.used, e.order[0])
			e.order = e.order[1:]
		}
		e.order = append(e.order, name)
	}
	if e.used == nil {
		e.used = make(map[string]uint64)
	}
	e.used[name] = used
}

// since reports whether a topic that a pattern matches may have had messages since a
// time that are gone. Topics behind whose position from begins are not meant: their new
// epoch tells.
func (e *evicted) since(pattern string, from codec.From) bool {
	if e.floor > from.Time {
		return true
	}
	listed := make(map[string]struct{}, len(from.Positions))
	for _, at := range from.Positions {
		listed[at.Topic] = struct{}{}
	}
	for name, used := range e.used {
		if _, told := listed[name]; !told && used >= from.Time && codec.Match(pattern, name) {
			return true
		}
	}
	return false
}

// evictedSince is since for the topics of a table; false if from names no time. It is
// asked when the topics were found: to make one may have cost another.
func (t *topicTable) evictedSince(pattern string, from codec.From) bool {
	if from.Kind != codec.FromTime && from.Kind != codec.FromPositions {
		return false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.evicted.since(pattern, from)
}
