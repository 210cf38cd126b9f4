package broker

import (
	"time"
)

// ticker gathers the messages of a topic with TopicConfig.Tick: a timer drains the
// topic in place of the publisher. The broker's wg counts the timer while it runs.
type ticker struct {
	timer   *time.Timer // guarded by the topic's mu
	running bool        // guarded by the topic's mu
}

// maxGathered is how many messages are gathered at most: beyond it the publisher
// drains the topic, before those that come have to wait.
const maxGathered = maxPending / 2

// gatherLocked reports whether what is pending waits for the tick. It does not if
// the topic has none, if much is pending, or if the broker ends.
func (tp *topic) gatherLocked() bool {
	if tp.config.Tick == 0 || len(tp.pending) >= maxGathered {
		return false
	}
	t := &tp.ticker
	if t.running {
		return true
	}
	if !tp.broker.hold() {
		return false
	}
	t.running = true
	if t.timer == nil {
		t.timer = time.AfterFunc(tp.config.Tick, tp.tick)
	} else {
		t.timer.Reset(tp.config.Tick)
	}
	return true
}

// tick drains the topic.
func (tp *topic) tick() {
	defer tp.broker.wg.Done()
	tp.mu.Lock()
	tp.ticker.running = false
	drain := !tp.draining
	tp.draining = true
	tp.mu.Unlock()
	if drain {
		tp.drain(0)
	}
}

// flush drains the topic now, if it waits for its tick.
func (tp *topic) flush() {
	tp.mu.Lock()
	stopped := tp.ticker.running && tp.ticker.timer.Stop()
	tp.mu.Unlock()
	if stopped {
		tp.tick()
	}
}

// flush drains all topics that wait for their tick.
func (t *topicTable) flush() {
	t.mu.RLock()
	var list []*topic
	for _, tp := range t.byName {
		if tp.config.Tick > 0 {
			list = append(list, tp)
		}
	}
	t.mu.RUnlock()
	for _, tp := range list {
		tp.flush()
	}
}
