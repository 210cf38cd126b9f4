package broker

import (
	"crypto/rand"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// topicTable holds the topics of a broker, at most max of them.
type topicTable struct {
	max    int
	broker *Broker

	mu     sync.RWMutex
	byName map[string]*topic // guarded by mu
	index  topicIndex        // the same by pattern; guarded by mu
	last   uint64            // the last number given; guarded by mu
	// evicted are topics that were given up; guarded by mu.
	evicted evicted
}

// topic is one topic's sequence and its way to the subscriptions.
//
// Whoever appends to a topic that nobody drains, drains it: takes what is
// pending, delivers it without holding the lock, and again until nothing is.
// So messages are delivered in the order of their offsets, in batches under
// load, and no lock is held across encoding or delivery. The alternative, to
// deliver under the topic's lock, makes every publisher wait for the fan-out of
// the one before it.
type topic struct {
	// Static after construction.
	broker *Broker
	name   string
	num    uint64 // the topic's number on the wire; never given again
	epoch  uint64
	config *TopicConfig // as it is in force: never nil
	log    Log          // history and last values; nil: none are kept

	pins atomic.Int64 // subscriptions and publications that hold the topic
	used atomic.Int64 // when the last message came, in ms of the broker's clock

	// losses are where the bus may have missed something, the oldest first; nil: nowhere.
	// Written with mu.
	losses atomic.Pointer[[]busLoss]
	// lostAt is one more than the offset at which the bus last lost messages in the
	// middle of listening; 0: it never did.
	lostAt atomic.Uint64

	mu       sync.Mutex
	room     sync.Cond // signalled when pending was taken
	offset   uint64    // of the last message; guarded by mu
	reliable uint64    // offset of the last reliable message; 0: none; guarded by mu
	pending  []Record  // in order; guarded by mu
	draining bool      // guarded by mu
	evicted  bool      // guarded by mu; then nothing is appended
	ticker   ticker
	ids      recentIDs // guarded by mu

	// Owned by whoever drains.
	spare      []Record
	deliveries []delivery
	subs       []*subscription
}

// delivery is a message on its way to subscriptions: encoded once, never changed.
type delivery struct {
	topic    *topic
	frame    []byte
	offset   uint64
	previous uint64 // offset of the message before it
	time     uint64 // when it was sequenced, in ms of the broker's clock
	lossy    bool
	retain   bool
	key      string
	extra    *extra
	// What subscriptions may withhold it for.
	publisher codec.ID
	headers   codec.Headers
}

const (
	// maxPending bounds what waits in one topic for the goroutine that drains it.
	// A publisher beyond it waits until that has been taken.
	maxPending = 1024
	// drainRounds is how often a publisher drains before a goroutine of the broker
	// takes over, so that no publisher works for the others for ever.
	drainRounds = 4
)

// get returns the topic, pinned if pin is set; it makes it if need be.
func (t *topicTable) get(name string, pin bool) (*topic, error) {
	t.mu.RLock()
	tp := t.byName[name]
	if tp != nil && pin {
		tp.pins.Add(1)
	}
	t.mu.RUnlock()
	if tp != nil {
		return tp, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if tp := t.byName[name]; tp != nil {
		if pin {
			tp.pins.Add(1)
		}
		return tp, nil
	}
	if len(t.byName) >= t.max && !t.evictLocked() {
		return nil, codec.Errorf(codec.CodeOverloaded, "the broker holds %d topics, and all are in use", t.max)
	}
	t.last++
	tp = t.broker.newTopic(strings.Clone(name), t.last)
	tp.used.Store(int64(t.broker.now()))
	if pin {
		tp.pins.Add(1)
	}
	t.byName[tp.name] = tp
	t.index.add(tp)
	return tp, nil
}

// newTopic makes a topic.
func (b *Broker) newTopic(name string, num uint64) *topic {
	tp := &topic{broker: b, name: name, num: num, epoch: newEpoch(), config: b.configs.of(name)}
	tp.room.L = &tp.mu
	tp.used.Store(int64(b.now()))
	if c := tp.config; c.History.Count > 0 || c.MaxKeys > 0 {
		tp.log = b.store.Open(name, tp.epoch, LogLimits{
			Retention: c.History, Keys: c.MaxKeys,
			Firm: strings.HasPrefix(name, presencePrefix), // see presences.stateBytes
		})
	}
	return tp
}

// evictLocked removes a topic that nothing holds. It reports whether it found one.
func (t *topicTable) evictLocked() bool {
	for {
		tp := t.idlestLocked()
		if tp == nil {
			return false
		}
		tp.mu.Lock()
		if tp.busyLocked() { // since it was looked at
			tp.mu.Unlock()
			continue
		}
		tp.evicted = true
		if tp.offset > 0 {
			t.evicted.add(tp.name, uint64(tp.used.Load()))
		}
		tp.ids.drop(maxTopicIDs, &t.broker.recentIDs)
		tp.mu.Unlock()
		if tp.log != nil {
			tp.log.Close()
		}
		delete(t.byName, tp.name)
		t.index.remove(tp.name)
		return true
	}
}

// idlestLocked returns, of a few topics that nothing holds, one that keeps no messages,
// and of those the one idle for longest; nil if there is none.
func (t *topicTable) idlestLocked() *topic {
	const look = 16
	var oldest *topic
	var empty bool
	seen := 0
	for _, tp := range t.byName { // in random order
		if tp.pins.Load() > 0 || tp.busy() {
			continue
		}
		e := tp.log == nil || tp.log.Empty()
		if oldest == nil || e && !empty || e == empty && tp.used.Load() < oldest.used.Load() {
			oldest, empty = tp, e
		}
		if seen++; seen == look {
			break
		}
	}
	return oldest
}

// busyLocked reports whether messages of the topic have yet to be delivered. If it were
// given up they would come to who has subscribed to the topic that takes its place.
func (tp *topic) busyLocked() bool { return tp.draining || len(tp.pending) > 0 }

func (tp *topic) busy() bool {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return tp.busyLocked()
}

// matching returns the topics that a valid pattern matches.
func (t *topicTable) matching(pattern string) []*topic {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.index.match(nil, pattern)
}

// config returns the configuration of a topic, which need not be in the table.
func (t *topicTable) config(name string) *TopicConfig {
	if t.broker.configs.plain() {
		return t.broker.configs.of(name) // as fast as looking
	}
	t.mu.RLock()
	tp := t.byName[name]
	t.mu.RUnlock()
	if tp != nil {
		return tp.config
	}
	return t.broker.configs.of(name)
}

func (t *topicTable) count() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byName)
}

// unpin takes back the pin of get.
func (tp *topic) unpin() { tp.pins.Add(-1) }

// newEpoch returns a random epoch (PROTOCOL §4.2).
func newEpoch() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return binary.BigEndian.Uint64(b[:]) % codec.MaxEpoch
}

// position returns where the topic stands.
func (tp *topic) position() Position {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return Position{tp.epoch, tp.offset}
}

// lastUsed returns when the last message came, in ms of the broker's clock. What comes after
// the call has a time after it.
func (tp *topic) lastUsed() uint64 {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return uint64(tp.used.Load())
}

// appended is what became of a message that was appended to a topic.
type appended uint8

const (
	appendedNew    appended = iota
	appendedBefore          // its idempotency key is known: it has its place already
	appendedNot             // the topic was evicted meanwhile
)

// lapse gives up an offset for what others have published while the bus did not listen
// to the topic. Positions from before and after it differ, so that who resumes from
// before it is told a gap, and who does from after it is not. Nobody is subscribed.
func (tp *topic) lapse() {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.offset++
	tp.lossLocked(busLoss{tp.offset - 1, tp.offset})
}

// lost takes note that the bus has lost messages behind the last one, while it listened.
func (tp *topic) lost() {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.lostAt.Store(tp.offset + 1)
	tp.lossLocked(busLoss{tp.offset, tp.offset})
}

// busLoss is where the bus may have missed something: behind from and up to to, an offset
// that was given up for it, or, if they are the same, between that one and the next.
type busLoss struct{ from, to uint64 }

// maxLosses bounds the losses of a topic. Then the oldest two become one, of all that lies
// between them.
const maxLosses = 16

func (tp *topic) lossLocked(l busLoss) {
	var known []busLoss
	if p := tp.losses.Load(); p != nil {
		known = *p
	}
	if n := len(known); n > 0 && known[n-1] == l {
		return
	}
	known = append(slices.Clone(known), l)
	if len(known) > maxLosses {
		known[1].from = known[0].from
		known = known[1:]
	}
	tp.losses.Store(&known)
}

// lossesBetween returns where the bus may have missed something between two offsets.
func (tp *topic) lossesBetween(after, before uint64) (in []busLoss) {
	known := tp.losses.Load()
	if known == nil {
		return nil
	}
	for _, l := range *known {
		if l.from == l.to && after <= l.from && l.from < before || after < l.to && l.from+1 < before {
			in = append(in, l)
		}
	}
	return in
}

// append gives m its place, and delivers what is pending unless somebody else
// does.
func (tp *topic) append(m *Message) (Position, appended) {
	tp.mu.Lock()
	for len(tp.pending) >= maxPending && !tp.evicted {
		tp.room.Wait()
	}
	if tp.evicted {
		tp.mu.Unlock()
		return Position{}, appendedNot
	}
	now := tp.broker.now()
	if m.ID != "" {
		if offset := tp.repeatedLocked(m.ID, now); offset > 0 {
			tp.mu.Unlock()
			return Position{tp.epoch, offset}, appendedBefore
		}
	}
	tp.offset++
	r := Record{Message: *m, Offset: tp.offset, Time: now}
	tp.config.complete(&r.Message, r.Time)
	if m.Mode == codec.ModeLossy {
		r.Reliable = codec.Some(0)
		if tp.reliable > 0 {
			r.Reliable.Value = tp.offset - tp.reliable
		}
	} else {
		tp.reliable = tp.offset
		if tp.log != nil {
			// Whoever reads the offset, under the lock, finds the message in the log.
			tp.log.Append(r)
		}
	}
	if m.More {
		tp.pending = recordScratch.grow(tp.pending, 1)
	}
	tp.pending = append(tp.pending, r)
	wait := m.More && len(tp.pending) < maxGathered
	drain := !tp.draining && !wait && !tp.gatherLocked()
	tp.draining = tp.draining || drain
	tp.used.Store(int64(r.Time))
	tp.mu.Unlock()
	if drain {
		tp.drain(drainRounds)
	}
	return Position{tp.epoch, r.Offset}, appendedNew
}

// settle delivers what was appended with Message.More and waits for others to come.
func (tp *topic) settle() {
	tp.mu.Lock()
	drain := len(tp.pending) > 0 && !tp.draining && !tp.gatherLocked()
	tp.draining = tp.draining || drain
	tp.mu.Unlock()
	if drain {
		tp.drain(drainRounds)
	}
}

// repeatedLocked returns the offset of the message with an idempotency key; 0 if
// none is known, and then the next message has it.
func (tp *topic) repeatedLocked(id string, now uint64) uint64 {
	offset := tp.knownLocked(id, now)
	if offset == 0 && tp.config.Deduplicate > 0 {
		tp.ids.add(id, tp.offset+1, now, &tp.broker.recentIDs)
	}
	return offset
}

// knownLocked returns the offset of the message with an idempotency key; 0 if none is
// known.
func (tp *topic) knownLocked(id string, now uint64) uint64 {
	tp.ids.forget(now, uint64(tp.config.Deduplicate/time.Millisecond), &tp.broker.recentIDs)
	return tp.ids.find(id)
}

// drain delivers what is pending. After so many rounds a goroutine of the broker
// goes on in its place; 0 rounds are without end.
func (tp *topic) drain(rounds int) {
	for round := 1; ; round++ {
		tp.mu.Lock()
		if len(tp.pending) == 0 {
			tp.draining = false
			tp.shrinkLocked()
			tp.mu.Unlock()
			return
		}
		if round > 1 && tp.gatherLocked() {
			tp.draining = false // what came meanwhile waits for the tick
			tp.mu.Unlock()
			return
		}
		if rounds > 0 && round > rounds && tp.broker.background(func() { tp.drain(0) }) {
			tp.mu.Unlock()
			return
		}
		batch := tp.pending
		tp.pending = tp.spare[:0]
		tp.room.Broadcast()
		tp.mu.Unlock()
		tp.deliver(batch)
		clear(batch)
		tp.spare = batch
	}
}

// shrinkLocked lets go of what a burst has left. Nothing is pending.
func (tp *topic) shrinkLocked() {
	tp.pending = recordScratch.shrink(tp.pending)
	tp.spare = recordScratch.shrink(tp.spare)
	tp.deliveries = deliveryScratch.shrink(tp.deliveries)
	if cap(tp.subs) > keptByTopic {
		tp.subs = nil
	}
}

// deliver encodes each message once and hands it to every subscription that
// matches. The caller drains the topic.
func (tp *topic) deliver(batch []Record) {
	// A match is not kept for the next batch: it costs little beside the fan-out,
	// and would keep sessions that have ended alive.
	tp.subs = tp.broker.router.match(tp.subs[:0], tp.name)
	if len(tp.subs) == 0 {
		tp.broker.unasked(batch, nil)
		return
	}
	defer clear(tp.subs)
	tp.deliveries = tp.deliveries[:0]
	if len(batch) > keptByTopic {
		tp.deliveries = deliveryScratch.grow(tp.deliveries, len(batch))
	}
	asked := false
	for i := range batch {
		r := &batch[i]
		asked = asked || r.Reply != nil
		tp.deliveries = append(tp.deliveries, delivery{
			topic: tp, frame: tp.encode(r), offset: r.Offset, previous: r.Offset - 1,
			time: r.Time, lossy: r.Reliable.Set, retain: r.Retain, key: r.Key, extra: extraOf(r.Key, r.Expires),
			publisher: r.Publisher, headers: r.Headers,
		})
	}
	grouped := false
	for _, sub := range tp.subs {
		if sub.pool != nil {
			grouped = true
			continue
		}
		sub.session.push(sub, tp.deliveries)
	}
	if grouped && !tp.broker.joined {
		tp.broker.distribute(tp.subs, batch, tp.deliveries)
	}
	if asked {
		tp.broker.unasked(batch, tp.subs)
	}
	clear(tp.deliveries)
}

// encode returns the MESSAGE frame of a record of the topic.
func (tp *topic) encode(r *Record) []byte {
	reply := r.Reply
	if reply != nil {
		reply = tp.broker.requests.seal(reply, r.Expires)
	}
	return codec.AppendMessage(make([]byte, 0, len(r.Payload.Data)+messageOverhead), codec.Message{
		Topic:     tp.num,
		Offset:    r.Offset,
		Previous:  1, // offsets of a broker are dense
		Time:      r.Time,
		Payload:   r.Payload,
		Publisher: r.Publisher,
		Reliable:  r.Reliable,
		Key:       r.Key,
		Expires:   codec.Optional{Value: r.Expires, Set: r.Expires > 0},
		Headers:   r.Headers,
		Reply:     reply,
		Retain:    r.Retain,
	})
}

// messageOverhead is about what MESSAGE is longer than its payload.
const messageOverhead = 56

// sequence gives m its place in its topic and delivers it.
func (b *Broker) sequence(m *Message) (Position, error) {
	for {
		tp, err := b.topics.get(m.Topic, false)
		if err != nil {
			return Position{}, err
		}
		switch pos, result := tp.append(m); result {
		case appendedNew:
			b.counters.published.Add(1)
			b.counters.publishedBytes.Add(uint64(len(m.Payload.Data)))
			return pos, nil
		case appendedBefore:
			b.counters.duplicates.Add(1)
			return pos, nil
		}
	}
}

// now is the broker's clock: ms since its base (PROTOCOL §4.3).
func (b *Broker) now() uint64 { return uint64(time.Since(b.base) / time.Millisecond) }
