package model

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// room is a topic that persons are present in.
type room struct {
	topic  string
	grace  time.Duration
	most   int // members; 0: as many as there are
	config broker.TopicConfig
}

// rooms are those of the world. No pattern of a subscription matches them.
var rooms = []room{
	{topic: "room.a", grace: 10 * time.Second},
	{topic: "room.b", grace: 2 * time.Second, config: broker.TopicConfig{Pattern: "room.b", PresenceGrace: 2 * time.Second}},
	{topic: "room.small", grace: 10 * time.Second, most: 2, config: broker.TopicConfig{Pattern: "room.small", MaxMembers: 2}},
	{topic: crowd, grace: 10 * time.Second, config: broker.TopicConfig{Pattern: crowd, Presence: broker.PresenceCounts}},
}

// crowd is the room of which only the number is known.
const crowd = "crowd.a"

// stay is what a person has done last in a room.
type stay struct {
	mu    sync.Mutex
	state string      // guarded by mu, as what follows; "": not present
	sure  time.Time   // when that was answered; zero: what the broker knows is not known
	left  []time.Time // when the person was to leave
}

func (p *person) stay(topic string) *stay {
	if p.rooms[topic] == nil {
		p.rooms[topic] = new(stay)
	}
	return p.rooms[topic]
}

// enter has a person enter a room with a state, or leave it if that is "".
func (w *world) enter(p *person, r room, state string) {
	w.say("%s: %q in %s", p.name, state, r.topic)
	s := p.stay(r.topic)
	p.presence.add(func() {
		began := time.Now()
		s.mu.Lock()
		s.sure = time.Time{}
		if state == "" {
			s.left = append(s.left, time.Now())
		}
		s.mu.Unlock()
		var err error
		if state == "" {
			err = p.client.Leave(context.Background(), r.topic)
		} else {
			err = p.client.Enter(context.Background(), r.topic, state)
		}
		code := codec.CodeOf(err)
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case err == nil:
			s.state, s.sure = state, began
		case code == codec.CodeSubscribeDenied, code == codec.CodeTooManyPresences && r.most > 0, code.Temporary():
		default:
			w.t.Errorf("%s: %q in %s: %v", p.name, state, r.topic, err)
		}
	})
}

// watch is what a WatchPresence has told.
type watch struct {
	name    string
	person  *person
	pattern string
	watch   *client.PresenceWatch
	wg      sync.WaitGroup
	events  []client.PresenceEvent // read when wg is done
	times   []time.Time
	err     error
}

func (w *world) watchPresence(p *person) {
	if p.gone || w.broker.Load() == nil || len(w.watches) > 6 {
		return
	}
	pattern := []string{"room.*", "room.*", "room.a", "room.b", crowd, "room.small"}[w.rng.IntN(6)]
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	pw, err := p.client.WatchPresence(ctx, pattern)
	name := fmt.Sprintf("%s's watch %d of %s", p.name, len(w.watches), pattern)
	if err != nil {
		w.say("%s: %v", name, err)
		return
	}
	w.say("%s begins", name)
	x := &watch{name: name, person: p, pattern: pattern, watch: pw}
	w.watches = append(w.watches, x)
	x.wg.Go(func() {
		for e, err := range pw.Events(context.Background()) {
			if err != nil {
				x.err = err
				return
			}
			x.events = append(x.events, e)
			x.times = append(x.times, time.Now())
		}
	})
}

// assemble makes what the broker knows of each person certain again, where a
// permission was revoked or a room was full meanwhile.
func (w *world) assemble(ctx context.Context) {
	wait := func() {
		for _, p := range w.people {
			if !p.presence.wait(ctx) {
				w.t.Errorf("%s waits for ever to enter or leave", p.name)
			}
		}
	}
	wait()
	w.enterUnsure(func(s *stay, r room) bool {
		return s.sure.IsZero() || within(w.revoked[r.topic], s.sure, time.Now()) || r.most > 0 && len(w.deaths) > 0
	}, "", "at last")
	wait()
	// Whoever was refused is as present as before, or is again: who knows.
	w.enterUnsure(func(s *stay, _ room) bool { return s.sure.IsZero() }, "")
	wait()
}

// enterUnsure has each person enter with one of the states, or leave, where unsure says so.
func (w *world) enterUnsure(unsure func(*stay, room) bool, states ...string) {
	for _, p := range w.people {
		for _, r := range rooms {
			s := p.rooms[r.topic]
			if s == nil {
				continue
			}
			s.mu.Lock()
			again := unsure(s, r)
			s.mu.Unlock()
			if again {
				w.enter(p, r, states[w.rng.IntN(len(states))])
			}
		}
	}
}

// roster is what everybody must know of the rooms in the end: the states by client id.
// A room that is bounded may have refused somebody.
func (w *world) roster() map[string]map[string]string {
	all := make(map[string]map[string]string)
	for _, r := range rooms {
		all[r.topic] = make(map[string]string)
		for _, p := range w.people {
			if s := p.rooms[r.topic]; s != nil && s.state != "" && !s.sure.IsZero() {
				all[r.topic][p.client.ID().String()] = s.state
			}
		}
	}
	return all
}

// checkRosters compares what the broker answers with what persons have done.
func (w *world) checkRosters(ctx context.Context) {
	want := w.roster()
	counts := make(map[string]int)
	for topic, members := range want {
		if len(members) > 0 {
			counts[topic] = len(members)
		}
	}
	for _, p := range w.people {
		got := make(map[string]int)
		for _, pattern := range []string{"room.*", crowd} {
			c, err := p.client.PresenceCount(ctx, pattern)
			if err != nil {
				w.t.Errorf("%s counts who is in %s: %v", p.name, pattern, err)
			}
			maps.Copy(got, c)
		}
		if !maps.Equal(got, counts) {
			w.t.Errorf("%s counts %v, and there are %v", p.name, got, counts)
		}
	}
	for i, r := range rooms {
		if r.topic == crowd {
			continue
		}
		members, err := w.people[i%len(w.people)].client.Presence(ctx, r.topic)
		if err != nil {
			w.t.Errorf("who is in %s: %v", r.topic, err)
		}
		got := make(map[string]string)
		for _, m := range members {
			got[m.Client.String()] = string(m.State.Data)
		}
		if !maps.Equal(got, want[r.topic]) {
			w.t.Errorf("in %s are said to be %v, and there are %v", r.topic, got, want[r.topic])
		}
	}
}

// departures is how many times a member may be seen to leave a room under the client id
// that it has in the end, which it got when the last broker had begun.
func (w *world) departures(p *person, r room) (n int) {
	s := p.rooms[r.topic]
	if s == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	began := p.ups[0]
	if len(w.deaths) > 0 {
		began = w.deaths[len(w.deaths)-1]
		if i := slices.IndexFunc(p.ups, began.Before); i >= 0 {
			began = p.ups[i]
		}
	}
	for _, t := range slices.Concat(s.left, w.revoked[r.topic]) {
		if !t.Before(began) {
			n++
		}
	}
	for i, down := range p.downs {
		if down.Before(began) {
			continue
		}
		away := down
		for _, cut := range p.cuts {
			if cut.from.Before(down) && (cut.to.IsZero() || down.Sub(cut.to) < 12*time.Second) {
				away = cut.from
				break
			}
		}
		back := time.Now()
		if i+1 < len(p.ups) {
			back = p.ups[i+1]
		}
		// It has entered again a little after it was back.
		if w.denied.life > 0 || back.Sub(away) >= r.grace-time.Second {
			n++
		}
	}
	return n
}

// check replays what a watch has told. whole: it lives.
// What it told after end was about who closed.
func (x *watch) check(w *world, end time.Time, want map[string]map[string]string, whole bool) {
	fault := func(format string, args ...any) {
		w.t.Errorf("%s: %s", x.name, fmt.Sprintf(format, args...))
		w.say("%s:%s", x.name, x.story(w))
	}
	there := make(map[string]map[string]string)
	number := 0
	gap := time.Time{}
	departed := make(map[string]int) // by room and client
	for i, e := range x.events {
		if x.times[i].After(end) {
			break
		}
		id := e.Member.Client.String()
		if there[e.Topic] == nil {
			there[e.Topic] = make(map[string]string)
		}
		state, known := there[e.Topic][id]
		switch e.Kind {
		case client.PresenceGap:
			gap = x.times[i]
			continue
		case client.Counted:
			if number == e.Count && !x.person.lost(w.started, x.times[i]) {
				fault("told the same count of %d again", number)
			}
			number = e.Count
			continue
		case client.Joined:
			if known {
				fault("%s joined %s, and was there", id, e.Topic)
			}
		case client.Updated:
			if !known {
				fault("%s was updated in %s, and was not there", id, e.Topic)
			}
			if state == string(e.Member.State.Data) && gap.IsZero() {
				fault("%s was updated in %s, and has still the state %q", id, e.Topic, state)
			}
		case client.Left:
			if !known {
				fault("%s left %s, and was not there", id, e.Topic)
			}
			delete(there[e.Topic], id)
			departed[e.Topic+" "+id]++
			continue
		}
		if r := roomOf(e.Topic); r.most > 0 && len(there[e.Topic]) >= r.most && !known && gap.IsZero() {
			fault("%s joined %s, where %d were already", id, e.Topic, len(there[e.Topic]))
		}
		there[e.Topic][id] = string(e.Member.State.Data)
	}
	for _, p := range w.people {
		for _, r := range rooms {
			id := p.client.ID().String()
			if n, most := departed[r.topic+" "+id], w.departures(p, r); n > most {
				fault("%s (%s) left %s %d times, and may have been seen to %d times", id, p.name, r.topic, n, most)
			}
		}
	}
	if !whole {
		return
	}
	for _, r := range rooms {
		switch {
		case !codec.Match(x.pattern, r.topic):
		case r.topic == crowd:
			if number != len(want[crowd]) {
				fault("it says that %d are in %s, and there are %d", number, crowd, len(want[crowd]))
			}
		case !maps.Equal(there[r.topic], want[r.topic]) && len(there[r.topic])+len(want[r.topic]) > 0:
			fault("it says that in %s are %v, and there are %v", r.topic, there[r.topic], want[r.topic])
		}
	}
}

func roomOf(topic string) room {
	return rooms[slices.IndexFunc(rooms, func(r room) bool { return r.topic == topic })]
}

// story is what the watch has told.
func (x *watch) story(w *world) (s string) {
	for i, e := range x.events {
		s += fmt.Sprintf("\n\t%9.3fs %s %s %s %q %d", x.times[i].Sub(w.started).Seconds(), e.Kind, e.Topic, e.Member.Client, e.Member.State.Data, e.Count)
		if e.Gap != nil {
			s += fmt.Sprint(" ", *e.Gap)
		}
	}
	return s
}
