package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tidewire/tidewire/codec"
)

// groups are the groups of this broker (PROTOCOL §6.9). The members of a group that
// have the same pattern and filter form a pool, so that whatever reaches a pool suits
// each of its members.
type groups struct {
	broker *Broker
	turn   atomic.Uint64 // which of several pools is asked first

	mu    sync.Mutex
	pools map[poolKey]*pool // those with members; guarded by mu
}

type poolKey struct{ group, pattern, filter string }

// groupMember is what a subscription is in its group.
type groupMember struct {
	// Static after construction.
	sub    *subscription
	key    poolKey
	filter codec.Filter
	credit uint64 // in force: bytes that it may hold unfinished; FLOW counts from it

	pool atomic.Pointer[pool] // nil before join
	left bool                 // guarded by groups.mu

	// Guarded by the pool's mu.
	tickets  []ticket // what it was given and has not finished, in order
	held     uint64   // their bytes
	finished uint64   // bytes that it has finished
	full     bool     // it cannot take anything yet, or until it finishes something
	gone     bool     // its subscription ends: it is given nothing more
}

// newMember checks what a subscription in a group must not have.
func newMember(sub *subscription, f codec.Subscribe, limit uint64) (*groupMember, error) {
	if f.NoEcho {
		return nil, codec.Errorf(codec.CodeInvalidOption, "a subscription in a group has no option no echo")
	}
	var filter strings.Builder
	for _, c := range f.Filter {
		fmt.Fprintf(&filter, "%q %d %q;", c.Name, c.Operator, c.Values)
	}
	return &groupMember{
		sub:    sub,
		key:    poolKey{f.Group, f.Pattern, filter.String()},
		filter: f.Filter,
		credit: min(f.Credit, limit),
		full:   true, // until SUBSCRIBED is on its way
	}, nil
}

// openMember makes sub a member of its group. It joins before SUBSCRIBED is sent: what
// is published after that must find it.
func (s *session) openMember(sub *subscription) error {
	b := s.broker
	if _, err := b.bus.Subscribe(s.ctx, sub.pattern, sub.member.key.group); err != nil {
		return asCoded(err, codec.CodeBusUnavailable)
	}
	if codec.IsExact(sub.pattern) {
		tp, err := b.topics.get(sub.pattern, true)
		if err != nil {
			b.bus.Unsubscribe(sub.pattern, sub.member.key.group)
			return err
		}
		sub.topic = tp
	}
	b.groups.join(sub.member)
	if err := sub.member.pool.Load().ready(sub.member, func() error { return s.answerMember(sub) }); err != nil {
		b.groups.leave(sub.member)
		if sub.topic != nil {
			sub.topic.unpin()
		}
		return err
	}
	return nil
}

// answerMember queues SUBSCRIBED. It fails if the subscription has ended meanwhile.
func (s *session) answerMember(sub *subscription) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.ended != nil {
		return errorOf(*sub.ended)
	}
	sub.opening = false
	s.broker.counters.subscriptions.Add(1)
	var answer codec.Subscribed
	if sub.topic != nil {
		pos := sub.topic.position()
		answer = codec.Subscribed{Topic: sub.topic.num, Epoch: pos.Epoch, Offset: pos.Offset}
	}
	sub.out.queue.push(entry{frame: codec.AppendSubscribed(nil, answer)})
	sub.beginGapsLocked()
	s.scheduleLocked(sub.out)
	return nil
}

// join makes m a member.
func (g *groups) join(m *groupMember) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.pools[m.key]
	if p == nil {
		p = &pool{broker: g.broker, group: m.key.group, filter: m.filter}
		p.entry = &subscription{pattern: m.key.pattern, pool: p}
		g.pools[m.key] = p
		g.broker.router.add(p.entry)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members = append(p.members, m)
	m.pool.Store(p)
}

// leave takes a member out of its group, and gives what it has not finished to
// others. It is called when its subscription ends, perhaps more than once.
func (g *groups) leave(m *groupMember) {
	g.mu.Lock()
	if m.left {
		g.mu.Unlock()
		return
	}
	m.left = true
	p := m.pool.Load()
	orphans, missed := p.remove(m)
	if p.closed {
		delete(g.pools, m.key)
		g.broker.router.remove(p.entry)
		g.missLocked(m.key, missed)
	}
	g.mu.Unlock()
	// Before the bus is given messages: it must not choose this broker again.
	g.broker.bus.Unsubscribe(m.key.pattern, m.key.group)
	for _, x := range orphans {
		g.broker.handOver(m.key.group, x)
	}
}

// missLocked has a member of another pool of the group told of n messages of a pool that
// has closed, if there is one: of those with the same pattern rather.
func (g *groups) missLocked(closed poolKey, n uint64) {
	var heir *pool
	for key, p := range g.pools {
		if key.group == closed.group && (heir == nil || key.pattern == closed.pattern) {
			heir = p
		}
	}
	if heir != nil {
		heir.mu.Lock()
		defer heir.mu.Unlock()
		heir.missed += n
	}
}

// lost tells one member that an unknown number of the group's messages are lost.
func (g *groups) lost(pattern, group string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, p := range g.pools {
		if key.group == group && key.pattern == pattern {
			p.mu.Lock()
			sub := p.members[0].sub
			p.mu.Unlock()
			sub.session.lost(sub)
			return
		}
	}
}

// count returns how many groups have members here, each pattern for itself.
func (g *groups) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.pools)
}

// distribute gives each message of a batch to one member of each group among subs.
func (b *Broker) distribute(subs []*subscription, batch []Record, deliveries []delivery) {
	pools := make([]*pool, 0, 8)
	for _, sub := range subs {
		if sub.pool != nil {
			pools = append(pools, sub.pool)
		}
	}
	slices.SortStableFunc(pools, func(a, b *pool) int { return strings.Compare(a.group, b.group) })
	for i := range batch {
		r, d := &batch[i], &deliveries[i]
		for first := 0; first < len(pools); {
			next := first + 1
			for next < len(pools) && pools[next].group == pools[first].group {
				next++
			}
			x := &parcel{topic: d.topic, frame: d.frame, offset: r.Offset, expires: r.Expires}
			if !b.giveToGroup(pools[first].group, pools[first:next], x, r.Headers) {
				b.counters.drop(DropNoMember, 1)
			}
			first = next
		}
	}
}

// poolsOf returns the pools of a group that have members for a topic. What has closed by
// the time of the call is not among them.
func (g *groups) poolsOf(group, topic string) (pools []*pool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, sub := range g.broker.router.match(nil, topic) {
		if sub.pool != nil && sub.pool.group == group {
			pools = append(pools, sub.pool)
		}
	}
	return pools
}

// giveToGroup gives x to one of the pools of a group or, where those close meanwhile, of
// those that it has then. It reports false if nobody is left to take it; a message that
// every filter withholds is done with.
func (b *Broker) giveToGroup(group string, pools []*pool, x *parcel, headers codec.Headers) bool {
	for first := true; ; first = false {
		switch b.giveToOne(pools, x, headers) {
		case given:
			return true
		case withheld:
			return first // else it was not by who has left
		case left:
			if pools = b.groups.poolsOf(group, x.topic.name); len(pools) == 0 {
				return false
			}
		}
	}
}

// gift is what came of giving a message to one of several pools.
type gift int

const (
	given    gift = iota
	withheld      // by every filter
	left          // a pool that might have taken it has no member any more
)

// giveToOne gives x to one of the pools of a group whose filter lets it through: to one
// with a ready member if there is one, else to one with room.
func (b *Broker) giveToOne(pools []*pool, x *parcel, headers codec.Headers) gift {
	result := withheld
	first := 0
	if len(pools) > 1 {
		first = int(b.groups.turn.Add(1) % uint64(len(pools)))
	}
	for how := giveReady; how <= giveUp; how++ {
		for i := range pools {
			p := pools[(first+i)%len(pools)]
			switch {
			case !p.filter.Match(headers):
			case p.give(x, how):
				return given
			default:
				result = left // a pool that has a member takes it at the latest with giveUp
			}
		}
	}
	return result
}

// distributeFromBus gives a message that the bus has brought for a group to one
// member; if there is none any more, back to the bus. The message has no place of its
// own in the topic: it is given the topic's position.
func (b *Broker) distributeFromBus(group string, m Message) {
	pools := b.groups.poolsOf(group, m.Topic)
	if len(pools) == 0 {
		b.returnToBus(group, m)
		return
	}
	tp, err := b.topics.get(m.Topic, false)
	if err != nil {
		b.counters.rejected.Add(1)
		return
	}
	r := Record{Message: m, Offset: max(1, tp.position().Offset), Time: b.now()}
	if m.Mode == codec.ModeLossy {
		r.Reliable = codec.Some(0)
	}
	x := &parcel{topic: tp, frame: tp.encode(&r), offset: r.Offset, expires: r.Expires}
	if !b.giveToGroup(group, pools, x, m.Headers) {
		b.returnToBus(group, m)
	}
}

// returnToBus gives a message that no member here can take to another broker.
func (b *Broker) returnToBus(group string, m Message) {
	if !b.joined || !b.bus.Distribute(group, m) {
		b.counters.drop(DropNoMember, 1)
	}
}

// handOver gives a message whose pool has no member any more to another pool of the
// group, or to another broker.
func (b *Broker) handOver(group string, x *parcel) {
	b.budget.give(len(x.frame))
	if x.expired(b.now()) {
		b.counters.drop(DropExpired, 1)
		return
	}
	m, ok := b.messageOf(x)
	if !ok {
		return
	}
	pools := b.groups.poolsOf(group, x.topic.name)
	if len(pools) == 0 || !b.giveToGroup(group, pools, x, m.Headers) {
		b.returnToBus(group, m)
	}
}

// messageOf reads back the message of a parcel: it keeps the frame alone.
func (b *Broker) messageOf(x *parcel) (Message, bool) {
	f, _, err := codec.NextFrame(x.frame, len(x.frame))
	if err != nil {
		return Message{}, false
	}
	w, err := codec.ParseMessage(f)
	if err != nil {
		return Message{}, false
	}
	m := Message{
		Topic: x.topic.name, Payload: w.Payload, Publisher: w.Publisher,
		Key: w.Key, Expires: w.Expires.Value, Headers: w.Headers, Retain: w.Retain,
	}
	if w.Lossy() {
		m.Mode = codec.ModeLossy
	}
	if w.Reply != nil {
		m.Reply, _ = b.requests.unseal(w.Reply)
	}
	return m, true
}
