package broker

import (
	"testing"

	"github.com/tidewire/tidewire/codec"
)

// A client remembers so many announcements (PROTOCOL §6.3): a topic of which something
// is kept for long is announced again in time, however it was announced before.
func TestOldAnnouncementsDoNotCount(t *testing.T) {
	sub := &subscription{out: &outlet{}, tracks: make(map[uint64]*track)}
	early, late := &topic{num: 1}, &topic{num: 2}
	sub.makeTrackLocked(early).start = 1
	sub.announcedLocked(early)
	sub.announcedLocked(late)
	sub.makeTrackLocked(late).start = 1
	last := uint64(2)
	for i := range uint64(2 * codec.MaxAnnouncements) {
		for _, tp := range []*topic{early, late} {
			if sub.knowsLocked(tp) {
				if i+2-last > codec.MaxAnnouncements {
					t.Fatalf("a topic counts as known after %d announcements", i+2-last)
				}
				continue
			}
			sub.announcedLocked(tp)
			if !sub.knowsLocked(tp) {
				t.Fatal("a topic that was announced again is not known")
			}
			last = i + 2
		}
		sub.announcedLocked(&topic{num: i + 3})
	}
	if last == 2 {
		t.Error("no topic was announced again")
	}
}
