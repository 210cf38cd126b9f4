package broker

import (
	"testing"

	"github.com/tidewire/tidewire/codec"
)

// joined makes an idle session's subscription a member of a group.
func joined(t *testing.T, s *session, number uint64, pattern string, filter codec.Filter) *groupMember {
	t.Helper()
	sub := queued(s, number, pattern)
	m, err := newMember(sub, codec.Subscribe{Number: number, Pattern: pattern, Credit: 1 << 20, Group: "g", Filter: filter}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	sub.member, sub.tracks = m, make(map[uint64]*track)
	s.broker.groups.join(m)
	if err := m.pool.Load().ready(m, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	return m
}

// The pools of a group are looked for before a message is given to one. Whoever is the
// group's last member of a pool may leave in between.
func TestPoolClosesDuringFanOut(t *testing.T) {
	never := codec.Filter{{Name: "never", Operator: codec.OpExists}}
	for _, c := range []struct {
		name   string
		filter codec.Filter // of the member that stays
		given  int
		drops  uint64
	}{
		{"another one stays", nil, 1, 0},
		{"another one stays that does not want the message", never, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newTestBroker(t, Config{})
			s := idleSession(b)
			first := joined(t, s, 1, "a.t", nil)
			tp, err := b.topics.get("a.t", true)
			if err != nil {
				t.Fatal(err)
			}
			found := b.router.match(nil, "a.t")
			second := joined(t, s, 2, "a.*", c.filter)
			b.groups.leave(first)
			r := Record{Message: Message{Topic: "a.t", Payload: codec.Text("x")}, Offset: 1}
			b.distribute(found, []Record{r}, []delivery{{topic: tp, frame: tp.encode(&r), offset: 1}})
			if n := b.Stats().Dropped[DropNoMember]; len(second.tickets) != c.given || n != c.drops {
				t.Errorf("%d messages were given, %d dropped; want %d, %d", len(second.tickets), n, c.given, c.drops)
			}
			b.groups.leave(second)
		})
	}
}

// What a pool withholds, and another that has closed might have taken, is not done with:
// another broker may have a member for it.
func TestWithheldBesideAPoolThatClosed(t *testing.T) {
	b := newTestBroker(t, Config{})
	s := idleSession(b)
	stays := joined(t, s, 1, "*", codec.Filter{{Name: "never", Operator: codec.OpExists}})
	leaves := joined(t, s, 2, "t", nil)
	tp, err := b.topics.get("t", true)
	if err != nil {
		t.Fatal(err)
	}
	pools := b.groups.poolsOf("g", "t")
	x := &parcel{topic: tp, frame: []byte{1}, offset: 1}
	b.groups.leave(leaves)
	if b.giveToGroup("g", pools, x, nil) {
		t.Error("a message that nobody has got counts as done with")
	}
	if !b.giveToGroup("g", b.groups.poolsOf("g", "t"), x, nil) {
		t.Error("a message that every filter withholds is not done with")
	}
	b.groups.leave(stays)
}
