package model

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// handing is a message that a member of a group was given.
type handing struct {
	member   *diary
	topic    string
	place    int // of the fact
	at, done time.Time
}

// flowTime is how long it may take until the broker knows that a member has finished
// a message.
const flowTime = 3 * time.Second

// excused reports whether the message may have been given to another member as well:
// the membership ended, and the broker perhaps did not know that it was finished.
func (w *world) excused(h handing, f *fact) bool {
	for _, end := range w.ends(h.member) {
		switch {
		case end.Before(f.at):
		case h.done.IsZero() || h.done.Add(flowTime).After(end):
			return true
		case h.member.person.lost(h.done, end.Add(-time.Millisecond)):
			return true
		}
	}
	return false
}

// checkGroups reads what the members of each group were given beside the truth: each
// message went to a member that wanted it, to one if none has ended with it, and none
// was lost while there was a member that stayed to the end, unless a gap tells so.
func (w *world) checkGroups(end time.Time) {
	groups := make(map[string][]*diary)
	for _, d := range w.diaries {
		if d.opts.Group != "" {
			groups[d.opts.Group] = append(groups[d.opts.Group], d)
		}
	}
	for _, group := range []string{"g0", "g1"} {
		members := groups[group]
		given := make(map[string][]handing)
		var told, missing uint64
		var first string
		for _, d := range members {
			for i := range d.items {
				m := &d.items[i]
				if m.Gap != nil {
					told += m.Gap.Count
					continue
				}
				place := w.truth.of(m.Topic).find(m.Position.Epoch, m.Position.Offset)
				key := fmt.Sprintf("%s %d", m.Topic, place)
				given[key] = append(given[key], handing{d, m.Topic, place, d.times[i].at, d.times[i].done})
			}
		}
		for _, k := range kinds {
			h := w.truth.of(k.topic)
			for place := range h.facts {
				f := &h.facts[place]
				wanted := func(d *diary) bool { return codec.Match(d.pattern, k.topic) && !d.withheld(f) }
				got := given[fmt.Sprintf("%s %d", k.topic, place)]
				var sorry int
				for _, h := range got {
					if w.excused(h, f) {
						sorry++
					}
				}
				if len(got)-sorry > 1 {
					w.t.Errorf("group %s on %s: %q was given to %d, and %d of them have an excuse:%s", group, k.topic, f.data, len(got), sorry, w.handings(got))
				}
				if len(got) > 0 {
					if !slices.ContainsFunc(members, func(d *diary) bool {
						// Of who has no network the broker learns late.
						closed := !d.closedAt.IsZero() && d.closedAt.Before(f.at) && !d.person.lost(d.closedAt, d.closedAt.Add(flowTime))
						return wanted(d) && !d.asked.After(f.at.Add(k.config.Tick)) && !closed
					}) {
						w.t.Errorf("group %s on %s: %q was given to %s, and was sequenced when the group had no member", group, k.topic, f.data, got[0].member.name)
					}
					continue
				}
				if !f.expires && slices.ContainsFunc(members, func(d *diary) bool { return wanted(d) && w.held(d, f.at, end) }) {
					if missing++; first == "" {
						first = fmt.Sprintf("%q on %s at %.3fs", f.data, k.topic, f.at.Sub(w.started).Seconds())
					}
				}
			}
		}
		if missing > told {
			w.t.Errorf("group %s: %d messages were given to nobody, the first is %s, and gaps tell of %d", group, missing, first, told)
		}
	}
}

func (w *world) handings(list []handing) (s string) {
	since := func(t time.Time) float64 { return t.Sub(w.started).Seconds() }
	for _, h := range list {
		s += fmt.Sprintf("\n\t%s at %.3fs", h.member.name, since(h.at))
		if !h.done.IsZero() {
			s += fmt.Sprintf(", finished at %.3fs", since(h.done))
		}
		for _, end := range w.ends(h.member) {
			s += fmt.Sprintf(", ended at %.3fs", since(end))
		}
	}
	return s
}

// leastFrame is less than a MESSAGE of this world takes.
const leastFrame = 24

// checkCredit checks that a member holds no more than its credit and a message, and as
// much again from a connection before.
func (d *diary) checkCredit(w *world) {
	if d.opts.Credit == 0 || d.opts.Group == "" {
		return
	}
	if n := d.sub.Stats().Waiting; (n-4)*leastFrame > 2*d.opts.Credit {
		w.t.Errorf("%s has a credit of %d bytes, and %d messages wait", d.name, d.opts.Credit, n)
	}
}
