package broker

import (
	"context"
	"hash/maphash"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// presences are who is present in which topic (PROTOCOL §7.8).
//
// What changes is published to the topic's presence, $presence.T, in the order in
// which it changed: a change is made under mu and puts a job into the roster, and
// the roster's one runner, which lives while there are jobs, publishes them. The
// alternative, to publish under mu, would hold it across the fan-out.
type presences struct {
	// Static after construction.
	broker *Broker
	seed   maphash.Seed

	mu       sync.Mutex
	room     sync.Cond                       // signalled when jobs were taken
	rosters  map[string]*roster              // by topic; guarded by mu
	byClient map[codec.ID]map[string]*member // by topic; guarded by mu
	members  int                             // of all rosters; guarded by mu
	// stateBytes is about what the store keeps of all rosters. It is bounded here, and
	// not by the store, which would forget somebody who is present.
	stateBytes int64          // guarded by mu
	closed     bool           // nothing changes any more; guarded by mu
	wg         sync.WaitGroup // runners; Add under mu, while not closed
}

// roster is one topic's presence: how many are present, and what of it is still to
// be published. It lives while somebody is present or something is to be published.
type roster struct {
	// Static after construction.
	name   string // the topic that they are present in
	topic  *topic // of its presence, pinned
	config *TopicConfig

	members int           // guarded by the presences' mu
	jobs    []presenceJob // guarded by the presences' mu
	running bool          // guarded by the presences' mu
}

// member is one client in one roster.
type member struct {
	roster *roster
	owner  *session // nil: its connection was lost, and the grace runs
	state  uint64   // a hash of the state
	size   int      // of the state, in bytes; 0 where it is not kept
	grace  *time.Timer
}

func (m *member) stopGrace() {
	if m.grace != nil {
		m.grace.Stop()
	}
}

// presenceJob is what is to be published of one change.
type presenceJob struct {
	id      codec.ID
	state   codec.Payload // empty: the client has left
	changed bool          // what watchers see
	done    func(Position, error)
}

const (
	// memberCost and rosterCost are about what a store keeps of each beside the states.
	memberCost = 320
	rosterCost = 512
)

// maxPresenceJobs bounds what waits to be published of one topic before who wants to
// change something waits. A client that leaves never waits.
const maxPresenceJobs = 256

func newPresences(b *Broker) *presences {
	p := &presences{broker: b, seed: maphash.MakeSeed(), rosters: make(map[string]*roster), byClient: make(map[codec.ID]map[string]*member)}
	p.room.L = &p.mu
	return p
}

// presenceTopic returns the topic of a topic's presence. It must be a topic itself,
// so the name of who can be watched is a little shorter than that of others.
func presenceTopic(topic string) (string, error) {
	if err := codec.CheckTopic(topic); err != nil {
		return "", err
	}
	name := presencePrefix + topic
	if codec.CheckTopic(name) != nil {
		return "", codec.Errorf(codec.CodeInvalidTopic, "the name is too long for who is present to be known: %q would be no topic", name)
	}
	return name, nil
}

// presencePattern returns the pattern of a subscription with the flag presence.
func (b *Broker) presencePattern(pattern string) (string, error) {
	name := presencePrefix + pattern
	if codec.CheckPattern(name) != nil {
		return "", codec.Errorf(codec.CodeInvalidPattern, "the pattern is too long for who is present to be known: %q would be no pattern", name)
	}
	if codec.IsExact(pattern) && b.configs.of(pattern).Presence == PresenceOff {
		return "", errPresenceOff
	}
	return name, nil
}

var errPresenceOff = &codec.Error{Code: codec.CodeNotOffered, Reason: "the topic is configured without presence"}

// asked returns the pattern that the client asked for, for which it needs the
// permission.
func (sub *subscription) asked() string { return strings.TrimPrefix(sub.pattern, presencePrefix) }

// enter makes s present in a topic, or changes its state. done is called with the
// position of the message that tells it, or, where nothing has changed, of the last
// one before; never with a lock held. If enter returns an error done is not called.
// The state is not kept.
func (p *presences) enter(s *session, topic string, state codec.Payload, done func(Position, error)) error {
	name, err := presenceTopic(topic)
	if err != nil {
		return err
	}
	config := p.broker.configs.of(topic)
	if config.Presence == PresenceOff {
		return errPresenceOff
	}
	tp, err := p.broker.topics.get(name, true)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rosters[topic]
	for r != nil && len(r.jobs) >= maxPresenceJobs {
		p.room.Wait()
		r = p.rosters[topic]
	}
	if r == nil {
		r = &roster{name: strings.Clone(topic), topic: tp, config: config}
	} else {
		tp.unpin() // the roster has a pin
	}
	m := p.byClient[s.id][topic]
	present := m != nil
	size, cost := 0, int64(0)
	if config.Presence == PresenceMembers {
		size = len(state.Data)
		cost = int64(size)
		if present {
			cost -= int64(m.size)
		} else {
			cost += memberCost
		}
	}
	if r.members == 0 {
		cost += rosterCost
	}
	switch {
	case p.closed || s.absent:
		err = codec.Errorf(codec.CodeShuttingDown, "the session ends")
	case cost > 0 && p.stateBytes+cost > p.broker.config.MaxHistoryBytes/2:
		err = codec.Errorf(codec.CodeTooManyPresences, "the broker has no room for more states of presences")
	case present:
	case len(p.byClient[s.id]) >= codec.MaxPresences:
		err = codec.Errorf(codec.CodeTooManyPresences, "the session is present in %d topics already: leave one", codec.MaxPresences)
	case r.members >= config.MaxMembers:
		err = codec.Errorf(codec.CodeTooManyPresences, "%d sessions are present in %q", config.MaxMembers, topic)
	case p.members >= p.broker.config.MaxPresences:
		err = codec.Errorf(codec.CodeTooManyPresences, "the broker has its %d presences", p.members)
	}
	if err != nil {
		if p.rosters[topic] != r {
			r.topic.unpin()
		}
		return err
	}
	p.rosters[r.name] = r
	hash := p.hash(state)
	changed := !present
	if r.config.Presence == PresenceMembers {
		changed = changed || m.state != hash
	}
	p.stateBytes += cost
	if present {
		m.stopGrace()
	} else {
		r.members++
		p.members++
	}
	if p.byClient[s.id] == nil {
		p.byClient[s.id] = make(map[string]*member)
	}
	p.byClient[s.id][r.name] = &member{roster: r, owner: s, state: hash, size: size} // a new one: see expire
	job := presenceJob{id: s.id, changed: changed, done: done}
	if changed && r.config.Presence == PresenceMembers {
		job.state = codec.Payload{Encoding: state.Encoding, Data: append([]byte(nil), state.Data...)}
	}
	p.pushLocked(r, job)
	return nil
}

func (p *presences) hash(state codec.Payload) uint64 {
	var h maphash.Hash
	h.SetSeed(p.seed)
	_ = h.WriteByte(byte(state.Encoding))
	_, _ = h.Write(state.Data)
	return h.Sum64()
}

// leave ends the presence of s in a topic. done is as in enter, and may be nil; it
// is called even if s was not present.
func (p *presences) leave(s *session, topic string, done func(Position, error)) {
	p.mu.Lock()
	m := p.byClient[s.id][topic]
	if m != nil && !s.absent && !p.closed {
		p.leaveLocked(s.id, m, done)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	if done != nil {
		done(Position{}, nil)
	}
}

// leaveLocked takes a member out of its roster.
func (p *presences) leaveLocked(id codec.ID, m *member, done func(Position, error)) {
	m.stopGrace()
	delete(p.byClient[id], m.roster.name)
	if len(p.byClient[id]) == 0 {
		delete(p.byClient, id)
	}
	m.roster.members--
	p.members--
	if m.roster.config.Presence == PresenceMembers {
		p.stateBytes -= memberCost + int64(m.size)
	}
	if m.roster.members == 0 {
		p.stateBytes -= rosterCost
	}
	p.pushLocked(m.roster, presenceJob{id: id, changed: true, done: done})
}

// ended tells that s has ended: its presences end too, at once or, if the client may
// come back, after the grace of each topic. Whatever comes of s after that is too
// late.
func (p *presences) ended(s *session, atOnce bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.absent || p.closed {
		return
	}
	s.absent = true
	select {
	case <-s.welcomed:
	default:
		return // it has not entered anything, and perhaps no id yet
	}
	for _, m := range p.byClient[s.id] {
		switch {
		case m.owner != s && (m.owner != nil || !atOnce):
			// Another session of the client has it, or it runs its grace.
		case atOnce || m.roster.config.PresenceGrace <= 0:
			p.leaveLocked(s.id, m, nil)
		default:
			id := s.id
			m.owner = nil
			m.grace = time.AfterFunc(m.roster.config.PresenceGrace, func() { p.expire(id, m) })
		}
	}
}

// expire ends a presence whose grace is over, unless the client has come back, which
// puts another member in its place.
func (p *presences) expire(id codec.ID, m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byClient[id][m.roster.name] == m && !p.closed {
		p.leaveLocked(id, m, nil)
	}
}

// of returns the topics in which s is present.
func (p *presences) of(s *session) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var topics []string
	for topic, m := range p.byClient[s.id] {
		if m.owner == s {
			topics = append(topics, topic)
		}
	}
	return topics
}

// count returns how many are present in the topics that a pattern matches, those in
// which nobody is left out, by name; more tells that there are others. An answer has
// at most 1,024 topics and 64 KiB (PROTOCOL §7.8).
func (p *presences) count(pattern string) (counts []codec.TopicCount, more bool) {
	p.mu.Lock()
	if codec.IsExact(pattern) {
		if r := p.rosters[pattern]; r != nil && r.members > 0 {
			counts = append(counts, codec.TopicCount{Topic: r.name, Count: uint64(r.members)})
		}
	} else {
		for name, r := range p.rosters {
			if r.members > 0 && codec.Match(pattern, name) {
				counts = append(counts, codec.TopicCount{Topic: name, Count: uint64(r.members)})
			}
		}
	}
	p.mu.Unlock()
	slices.SortFunc(counts, func(a, b codec.TopicCount) int { return strings.Compare(a.Topic, b.Topic) })
	const overhead, limit = 12, 64 << 10 // of an element, and what all may take
	size := overhead
	for i, c := range counts {
		if size += len(c.Topic) + overhead; i == codec.MaxCounts || size > limit {
			return counts[:i:i], true
		}
	}
	return counts, false
}

// total returns how many presences there are.
func (p *presences) total() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(p.members)
}

// pushLocked has a job done.
func (p *presences) pushLocked(r *roster, job presenceJob) {
	r.jobs = append(r.jobs, job)
	if !r.running {
		r.running = true
		p.wg.Go(func() { p.run(r) })
	}
}

// run does the jobs of a roster until there are none.
func (p *presences) run(r *roster) {
	for {
		p.mu.Lock()
		jobs, members := r.jobs, r.members
		r.jobs = nil
		p.room.Broadcast()
		if len(jobs) == 0 {
			r.running = false
			if members == 0 {
				delete(p.rosters, r.name)
				r.topic.unpin()
			}
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		if r.config.Presence == PresenceCounts {
			p.publishCount(r, jobs, members)
			continue
		}
		for _, job := range jobs {
			pos, err := r.topic.position(), error(nil)
			if job.changed {
				pos, err = p.publish(Message{Topic: r.topic.name, Payload: job.state, Publisher: job.id, Key: job.id.String(), Retain: true})
			}
			if job.done != nil {
				job.done(pos, err)
			}
		}
	}
}

// publishCount publishes how many are present, once for all the jobs.
func (p *presences) publishCount(r *roster, jobs []presenceJob, members int) {
	pos, err := r.topic.position(), error(nil)
	if slices.ContainsFunc(jobs, func(j presenceJob) bool { return j.changed }) {
		var count codec.Payload // nobody: it clears the last value
		if members > 0 {
			count, err = codec.Encode(members)
		}
		if err == nil {
			pos, err = p.publish(Message{Topic: r.topic.name, Payload: count, Retain: true})
		}
	}
	for _, job := range jobs {
		if job.done != nil {
			job.done(pos, err)
		}
	}
}

// publish publishes to the topic of a presence.
func (p *presences) publish(m Message) (Position, error) {
	pos, err := p.broker.bus.Publish(context.Background(), m) // Shutdown closes the bus after the runners
	if err != nil {
		p.broker.log.Warn("a presence could not be published", slog.String("topic", m.Topic), slog.Any("error", err))
	}
	return pos, err
}

// close ends all presences without telling anybody, and waits for the runners.
func (p *presences) close() {
	p.mu.Lock()
	p.closed = true
	for _, members := range p.byClient {
		for _, m := range members {
			m.stopGrace()
		}
	}
	clear(p.byClient)
	p.members = 0
	p.mu.Unlock()
	p.wg.Wait()
}
