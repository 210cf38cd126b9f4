package stress

import (
	"fmt"
	"time"
)

const (
	countedRoom = "p.counts"
	membersRoom = "p.members"
)

// present makes a person enter and leave rooms. In the end all persons are present, but
// for the first, who is not.
func (w *world) present(p *person, number int) {
	w.work(func(d dice) {
		enter := func(room, state string) {
			if err := p.Enter(w.watch, room, state); err != nil {
				w.fault("enter %s: %v", room, err)
			}
		}
		leave := func(room string) {
			if err := p.Leave(w.watch, room); err != nil {
				w.fault("leave %s: %v", room, err)
			}
		}
		for w.loading() {
			room := pick(d, []string{countedRoom, membersRoom})
			enter(room, fmt.Sprint("state", d.IntN(3)))
			rest(w.load, d.upTo(5*time.Millisecond))
			if d.oneIn(2) {
				leave(room)
			}
		}
		for _, room := range []string{countedRoom, membersRoom} {
			if number == 0 {
				leave(room)
			} else {
				enter(room, "end")
			}
		}
	})
}

// checkPresences waits until every view tells what n persons did last.
func (w *world) checkPresences(asks *person, n int) {
	w.eventually("presence", func() string {
		members, err := asks.Presence(w.watch, membersRoom)
		if err != nil {
			return err.Error()
		}
		counts, err := asks.PresenceCount(w.watch, "p.*")
		if err != nil {
			return err.Error()
		}
		total := w.broker.Stats().Presences
		if want := n - 1; len(members) != want || counts[membersRoom] != want || counts[countedRoom] != want || total != int64(2*want) {
			return fmt.Sprintf("%d members, counts %v, %d in all; want %d each", len(members), counts, total, want)
		}
		for _, m := range members {
			if string(m.State.Data) != "end" {
				return fmt.Sprintf("a member has state %q", m.State.Data)
			}
		}
		return ""
	})
}
