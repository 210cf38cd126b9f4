package broker

import (
	"sync/atomic"

	"github.com/tidewire/tidewire/codec"
)

// DropReason tells why a message, or a datagram on its way up, was dropped.
type DropReason int

// The reasons. Each drop is counted under exactly one.
const (
	// DropOverflow: the queue of a subscription was full.
	DropOverflow DropReason = iota
	// DropBudget: the queues of all subscriptions together were full.
	DropBudget
	// DropConflated: a newer message of the topic took its place.
	DropConflated
	// DropDatagram: the transport did not take a datagram.
	DropDatagram
	// DropEnded: the subscription ended while the message waited.
	DropEnded
	// DropBadDatagram: a client's datagram was no PUBLISH that it may send.
	DropBadDatagram
	// DropRateLimited: a client's datagram was above its rate.
	DropRateLimited
	// DropExpired: the message had expired while it waited.
	DropExpired
	// DropHistory: a subscription was to begin with it, and it was not kept any more.
	DropHistory
	// DropPriority: its room was given to a subscription of higher priority.
	DropPriority
	// DropReply: no request waits for the reply, or it was not to be answered.
	DropReply
	// DropNoMember: no member of the group was left to take the message.
	DropNoMember
	dropReasons
)

// String returns the reason as a metric's label.
func (r DropReason) String() string {
	names := [...]string{"overflow", "budget", "conflated", "datagram", "ended", "bad_datagram", "rate_limited", "expired", "history", "priority", "reply", "no_member"}
	return names[r]
}

// Stats are the broker's counters and gauges at one moment. Counters count from
// the broker's beginning.
type Stats struct {
	Sessions      int64 // now
	Subscriptions int64 // now
	Publications  int64 // now
	Topics        int64 // now
	QueuedBytes   int64 // now: what waits for subscriptions
	Presences     int64 // now: of sessions in topics, those whose grace runs too
	HistoryBytes  int64 // now: what histories and last values take
	Requests      int64 // now: of clients and of the process, that wait for replies
	Groups        int64 // now: groups that have members here, each pattern for itself
	// SlowSubscriptions are those, now, that more is meant for than their queue holds.
	SlowSubscriptions int64

	SessionsTotal   uint64                     // welcomed
	SessionsRefused uint64                     // ended before WELCOME
	StreamsRefused  uint64                     // ended with a code that is an error
	Published       uint64                     // messages sequenced
	PublishedBytes  uint64                     // their payloads
	Rejected        uint64                     // messages refused
	Duplicates      uint64                     // messages that came again, and were not published again
	Delivered       uint64                     // messages handed to streams and datagrams
	DeliveredBytes  uint64                     // their frames
	Gaps            map[codec.GapReason]uint64 // GAP frames sent
	ValuesEvicted   uint64                     // last values dropped to keep a bound
	Dropped         map[DropReason]uint64
}

// counters are the broker's own; each is used atomically.
type counters struct {
	subscriptions, publications                    atomic.Int64
	sessionsTotal, sessionsRefused, streamsRefused atomic.Uint64
	published, publishedBytes, rejected            atomic.Uint64
	duplicates                                     atomic.Uint64
	delivered, deliveredBytes                      atomic.Uint64
	gaps                                           [gapReasons]atomic.Uint64
	dropped                                        [dropReasons]atomic.Uint64
}

// streamEnd counts the end of a stream if it is an error.
func (c *counters) streamEnd(code codec.Code) {
	if code.Range() != codec.RangeClean {
		c.streamsRefused.Add(1)
	}
}

// gapReasons is one more than the last reason of a gap.
const gapReasons = codec.GapPriority + 1

// gap counts a gap that a subscription is told.
func (c *counters) gap(r codec.GapReason) { c.gaps[r].Add(1) }

func (c *counters) drop(r DropReason, n uint64) { c.dropped[r].Add(n) }

// Stats returns the broker's counters and gauges.
func (b *Broker) Stats() Stats {
	s := Stats{
		Sessions:        b.sessionCount(),
		Subscriptions:   b.counters.subscriptions.Load(),
		Publications:    b.counters.publications.Load(),
		Topics:          int64(b.topics.count()),
		QueuedBytes:     b.budget.used.Load(),
		Presences:       b.presences.total(),
		HistoryBytes:    b.store.Bytes(),
		Requests:        int64(b.requests.count()),
		Groups:          int64(b.groups.count()),
		SessionsTotal:   b.counters.sessionsTotal.Load(),
		SessionsRefused: b.counters.sessionsRefused.Load(),
		StreamsRefused:  b.counters.streamsRefused.Load(),
		Published:       b.counters.published.Load(),
		PublishedBytes:  b.counters.publishedBytes.Load(),
		Rejected:        b.counters.rejected.Load(),
		Duplicates:      b.counters.duplicates.Load(),
		Delivered:       b.counters.delivered.Load(),
		DeliveredBytes:  b.counters.deliveredBytes.Load(),
		Gaps:            make(map[codec.GapReason]uint64),
		ValuesEvicted:   b.store.Evicted(),
		Dropped:         make(map[DropReason]uint64, dropReasons),
	}
	for r := range gapReasons {
		// Some are only made by clients.
		if r != codec.GapUnknown && r != codec.GapReconnect {
			s.Gaps[r] = b.counters.gaps[r].Load()
		}
	}
	for _, session := range b.welcomed() {
		s.SlowSubscriptions += session.slow()
	}
	for r := range dropReasons {
		s.Dropped[r] = b.counters.dropped[r].Load()
	}
	return s
}

// slow returns how many subscriptions of the session lag.
func (s *session) slow() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range s.subs {
		if sub.lagging {
			n++
		}
	}
	return n
}

// budget bounds the bytes that wait for all subscriptions together.
type budget struct {
	limit int64
	used  atomic.Int64
}

// take reports whether n more bytes may wait, and counts them if so. Only with
// reserve may they use the last eighth.
func (b *budget) take(n int, reserve bool) bool {
	limit := b.limit
	if !reserve {
		limit -= limit / 8
	}
	if b.used.Add(int64(n)) > limit {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

// hold counts n more bytes that wait already, whatever the bound.
func (b *budget) hold(n int) { b.used.Add(int64(n)) }

func (b *budget) give(n int) { b.used.Add(-int64(n)) }
