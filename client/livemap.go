package client

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// Map is a live map: the last value of each key of a topic, kept up to date.
// Publishing a retained message with a key sets an entry, an empty one clears it.
// A lossy message with a key sets it too, but only for those who are there.
type Map[T any] struct {
	client *Client
	topic  string
	most   int // keys
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{} // closed when run has returned

	mu      sync.Mutex
	entries map[string]MapEntry[T] // guarded by mu
	watches map[*mapWatch]struct{} // guarded by mu
	err     error                  // why it ended; nil after Close; guarded by mu
}

// mapWatch is an iteration of Changes; its maps are guarded by Map.mu. What changed is
// in the map or was told, so both are bounded by MapOptions.MaxKeys.
type mapWatch struct {
	wake    chan struct{}       // holds a token when something has changed
	changed map[string]struct{} // keys that are to be told
	told    map[string]struct{} // keys that the loop knows to be there
}

// MapEntry is the value of a key.
type MapEntry[T any] struct {
	Key     string
	Value   T
	Message Message // that set it
	Err     error   // the payload is no T; then Value is the zero value
}

// MapChange is a change of a live map.
type MapChange[T any] struct {
	Key     string
	Entry   MapEntry[T] // as it is now; without a Message if Cleared
	Cleared bool
}

// MapOptions change a live map. nil is the default.
type MapOptions struct {
	// Priority and Credit are those of the map's subscription.
	Priority uint8
	Credit   int
	// MaxKeys is the most keys; 0 is 10,000. More end the map with CodeQueueFull:
	// whoever may publish to the topic can make keys.
	MaxKeys int
}

// defaultMaxKeys is MapOptions.MaxKeys by default.
const defaultMaxKeys = 10_000

// OpenMap reads a live map whole, and then follows it until Close, whatever becomes
// of the connection: where changes may be missing, it is read again, with
// Config.Backoff while the broker refuses that only for now. The error is
// that of Subscribe, or has CodeQueueFull: see MapOptions.MaxKeys.
func OpenMap[T any](ctx context.Context, c *Client, topic string, opts *MapOptions) (*Map[T], error) {
	if opts == nil {
		opts = &MapOptions{}
	}
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	if opts.MaxKeys < 0 {
		return nil, codec.Errorf(codec.CodeInvalidOption, "MaxKeys is negative")
	}
	m := &Map[T]{
		client:  c,
		topic:   topic,
		most:    opts.MaxKeys,
		ended:   make(chan struct{}),
		entries: make(map[string]MapEntry[T]),
		watches: make(map[*mapWatch]struct{}),
	}
	if m.most == 0 {
		m.most = defaultMaxKeys
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	sub, err := m.load(ctx, opts, 0, func(error) bool { return false })
	if err != nil {
		m.cancel()
		return nil, err
	}
	go m.run(sub, opts)
	return m, nil
}

// load reads the map until it is whole. attempt counts the attempts so far: all but the
// first are waited for. Of errors those that outlast reports true for are tried again.
func (m *Map[T]) load(ctx context.Context, opts *MapOptions, attempt int, outlast func(error) bool) (*Subscription, error) {
	var least time.Duration
	for ; ; attempt++ {
		if attempt > 0 {
			select {
			case <-time.After(m.client.config.Backoff.wait(attempt-1, least)):
			case <-ctx.Done():
			case <-m.client.ctx.Done():
			}
		}
		sub, err := m.read(ctx, opts)
		if sub != nil || err != nil && !outlast(err) {
			return sub, err
		}
		least = 0
		if e, ok := errors.AsType[*Error](err); ok {
			least = e.Retry
		}
	}
}

// read reads the map once. Without an error and a subscription something was missing.
func (m *Map[T]) read(ctx context.Context, opts *MapOptions) (*Subscription, error) {
	sub, err := m.client.Subscribe(ctx, m.topic, &SubscribeOptions{
		Class:    Latest,
		Priority: opts.Priority,
		Credit:   opts.Credit,
		marks:    true,
	})
	if err != nil {
		return nil, err
	}
	entries := make(map[string]MapEntry[T])
	for item, err := range sub.Messages(ctx) {
		if err != nil {
			sub.closeWithin(ctx)
			return nil, err
		}
		if item.mark {
			m.replace(entries)
			return sub, nil
		}
		if item.Gap != nil && !harmless(item.Gap) {
			break
		}
		if e, cleared, ok := change[T](item); ok && !m.apply(entries, e, cleared) {
			sub.closeWithin(ctx)
			return nil, m.full()
		}
	}
	sub.closeWithin(ctx)
	return nil, nil
}

// harmless reports whether what is missing has a newer value behind it, so that the
// map is still whole.
func harmless(g *Gap) bool { return g.Reason == codec.GapConflated }

// change is what an item does to the map; ok is false if nothing. cleared: it
// clears the entry.
func change[T any](item Message) (e MapEntry[T], cleared, ok bool) {
	if item.Gap != nil || item.mark || item.Key == "" {
		return e, false, false
	}
	e = MapEntry[T]{Key: item.Key, Message: item}
	if len(item.Payload.Data) == 0 {
		return e, true, true
	}
	e.Value, e.Err = Decode[T](item)
	return e, false, true
}

// apply puts a change into entries; false if they would become too many.
func (m *Map[T]) apply(entries map[string]MapEntry[T], e MapEntry[T], cleared bool) bool {
	if cleared {
		delete(entries, e.Key)
		return true
	}
	if _, there := entries[e.Key]; !there && len(entries) >= m.most {
		return false
	}
	entries[e.Key] = e
	return true
}

// full is the error of a map with too many keys.
func (m *Map[T]) full() error {
	return codec.Errorf(codec.CodeQueueFull, "the map has more than %d keys: raise MapOptions.MaxKeys", m.most)
}

// run follows the map.
func (m *Map[T]) run(sub *Subscription, opts *MapOptions) {
	defer close(m.ended)
	temporary := func(err error) bool { return codec.CodeOf(err).Temporary() }
	var err error
	for attempt := 0; sub != nil; {
		began := time.Now()
		err = m.follow(sub)
		_ = sub.Close()
		if err != nil || m.ctx.Err() != nil {
			break
		}
		attempt++
		if time.Since(began) >= stable {
			attempt = 0
		}
		sub, err = m.load(m.ctx, opts, attempt, temporary)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() == nil {
		m.err = err
	}
	m.cancel()
}

// follow applies changes until something is missing, which is no error.
func (m *Map[T]) follow(sub *Subscription) error {
	for item, err := range sub.Messages(m.ctx) {
		switch {
		case err != nil:
			return err
		case item.Gap != nil && !harmless(item.Gap):
			return nil
		}
		e, cleared, ok := change[T](item)
		if !ok {
			continue
		}
		m.mu.Lock()
		fits := m.apply(m.entries, e, cleared)
		if fits {
			m.changedLocked(e.Key)
		}
		m.mu.Unlock()
		if !fits {
			return m.full()
		}
	}
	return nil
}

// replace makes the map what was read, and tells what differs.
func (m *Map[T]) replace(entries map[string]MapEntry[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.entries
	m.entries = entries
	for key := range old {
		if _, ok := entries[key]; !ok {
			m.changedLocked(key)
		}
	}
	for key, e := range entries {
		if was, ok := old[key]; !ok || was.Message.Position != e.Message.Position {
			m.changedLocked(key)
		}
	}
}

// changedLocked tells the iterations of Changes. A key that came and went before a loop
// learned of it is no change.
func (m *Map[T]) changedLocked(key string) {
	_, there := m.entries[key]
	for w := range m.watches {
		if _, told := w.told[key]; !there && !told {
			delete(w.changed, key)
			continue
		}
		w.changed[key] = struct{}{}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// there reports whether an entry has not expired.
func (e MapEntry[T]) there() bool {
	return e.Message.until.IsZero() || time.Now().Before(e.Message.until)
}

// Get returns the entry of a key; ok is false if there is none.
func (m *Map[T]) Get(key string) (e MapEntry[T], ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok = m.entries[key]
	if !ok || !e.there() {
		return MapEntry[T]{}, false
	}
	return e, true
}

// Len returns the number of entries.
func (m *Map[T]) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, e := range m.entries {
		if e.there() {
			n++
		}
	}
	return n
}

// All iterates over the entries of this moment, in the order of their keys.
func (m *Map[T]) All() iter.Seq2[string, MapEntry[T]] {
	m.mu.Lock()
	entries := maps.Clone(m.entries)
	m.mu.Unlock()
	return func(yield func(string, MapEntry[T]) bool) {
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			if e := entries[key]; e.there() && !yield(key, e) {
				return
			}
		}
	}
}

// Changes iterates over what changes while the loop runs, the newest value of each
// key: what a slow loop does not see in time is not told twice, and of a key that came
// and went meanwhile nothing is. So what waits for a loop is bounded by the keys of the
// map. The loop's first changes are the entries that are there when it begins, in no
// order. It ends after yielding an error once, as Subscription.Messages does, and
// without one after Close.
func (m *Map[T]) Changes(ctx context.Context) iter.Seq2[MapChange[T], error] {
	return func(yield func(MapChange[T], error) bool) {
		w := &mapWatch{wake: make(chan struct{}, 1), changed: make(map[string]struct{}), told: make(map[string]struct{})}
		m.mu.Lock()
		for key := range m.entries {
			w.changed[key] = struct{}{}
		}
		m.watches[w] = struct{}{}
		m.mu.Unlock()
		defer func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.watches, w)
		}()
		tell := func() bool {
			for _, c := range m.changes(w) {
				if !yield(c, nil) {
					return false
				}
			}
			return true
		}
		for tell() {
			select {
			case <-w.wake:
				continue
			case <-ctx.Done():
				yield(MapChange[T]{}, ctx.Err())
				return
			case <-m.ctx.Done():
			}
			<-m.ended
			m.mu.Lock()
			err := m.err
			m.mu.Unlock()
			if tell() && err != nil { // what changed last first
				yield(MapChange[T]{}, err)
			}
			return
		}
	}
}

// changes takes what is to be told.
func (m *Map[T]) changes(w *mapWatch) []MapChange[T] {
	m.mu.Lock()
	defer m.mu.Unlock()
	changes := make([]MapChange[T], 0, len(w.changed))
	for key := range w.changed {
		e, ok := m.entries[key]
		changes = append(changes, MapChange[T]{Key: key, Entry: e, Cleared: !ok})
		if ok {
			w.told[key] = struct{}{}
		} else {
			delete(w.told, key)
		}
	}
	clear(w.changed)
	return changes
}

// Close ends the map, and waits. What was read stays readable. It is idempotent.
func (m *Map[T]) Close() error {
	m.cancel()
	<-m.ended
	return nil
}
