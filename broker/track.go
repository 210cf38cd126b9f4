package broker

import "github.com/tidewire/tidewire/codec"

// track is what a subscription knows of one topic beside what waits for it.
type track struct {
	topic *topic
	start uint64 // messages up to it were sequenced before the subscription began
	debt  *debt  // what is owed; nil: nothing
	echo  echo
	// snapshot: of messages up to it only last values are given.
	snapshot uint64
	// announced is the number of the topic's last announcement on the stream, counted
	// from 1, or below it; 0: there was none.
	announced uint64
}

// trackLocked returns what is special about a topic; nil if nothing is.
func (sub *subscription) trackLocked(tp *topic) *track {
	if sub.topic != nil {
		return &sub.own
	}
	return sub.tracks[tp.num]
}

// makeTrackLocked is trackLocked for what is to become special.
func (sub *subscription) makeTrackLocked(tp *topic) *track {
	if t := sub.trackLocked(tp); t != nil {
		return t
	}
	t := &track{topic: tp}
	if _, announced := sub.tracks[tp.num]; announced {
		// It was among the last ones: see announcedLocked.
		t.announced = sub.announcements - min(maxAnnounced, sub.announcements-1)
	}
	sub.tracks[tp.num] = t
	return t
}

// knowsLocked reports whether a topic's number was announced on the stream.
func (sub *subscription) knowsLocked(tp *topic) bool {
	if sub.topic == tp {
		return true // SUBSCRIBED did
	}
	t, ok := sub.tracks[tp.num]
	return ok && (t == nil || sub.toldLocked(t))
}

// toldLocked reports whether the client knows the topic of t: it was announced, and
// not so long ago that the client may have forgotten it (PROTOCOL §6.3).
func (sub *subscription) toldLocked(t *track) bool {
	return t.announced > 0 && sub.announcements-t.announced < codec.MaxAnnouncements/2
}

// announcementLocked returns the TOPIC frame that must come before a topic's first
// message; nil if none must (PROTOCOL §6.3).
func (sub *subscription) announcementLocked(tp *topic, before uint64) []byte {
	if sub.knowsLocked(tp) {
		return nil
	}
	f := codec.Topic{Topic: tp.num, Name: tp.name, Epoch: tp.epoch, Offset: before, Class: sub.classTold(tp)}
	switch t := sub.trackLocked(tp); {
	case t == nil:
	case t.debt != nil:
		f.Offset = min(before, t.debt.from)
		if t.debt.replay > f.Offset {
			f.Last = codec.Some(t.debt.replay)
		}
	case t.echo.to != 0:
		// The client may know the topic from before: SKIP tells it what was withheld.
		f.Offset = min(before, t.echo.from)
	}
	return codec.AppendTopic(nil, f)
}

// announcedLocked takes note of an announcement.
func (sub *subscription) announcedLocked(tp *topic) {
	sub.announcements++
	if t := sub.tracks[tp.num]; t != nil {
		t.announced = sub.announcements
		return
	}
	if len(sub.tracks) >= maxAnnounced {
		sub.forgot = true
		for num, t := range sub.tracks {
			if t != nil && t.echo.to != 0 && sub.toldLocked(t) {
				sub.tellEchoLocked(t)
			}
			if t == nil || t.idle() {
				delete(sub.tracks, num)
			}
		}
	}
	sub.tracks[tp.num] = nil
}

// idle reports whether t says no more than that its topic was announced.
func (t *track) idle() bool { return t.start == 0 && t.debt == nil && t.echo == echo{} }

// announceLocked makes sure that the client learns the topic's number from this
// stream, for a message that goes by datagram. It reports false if there is no
// room for telling it.
func (sub *subscription) announceLocked(d *delivery) bool {
	frame := sub.announcementLocked(d.topic, d.previous)
	if frame == nil {
		return true
	}
	if sub.lagging || !sub.roomLocked(len(frame)) {
		return false
	}
	sub.out.queue.push(entry{frame: frame, charged: true})
	sub.announcedLocked(d.topic)
	if t := sub.trackLocked(d.topic); t != nil && t.echo.to != 0 {
		sub.tellEchoLocked(t)
	}
	return true
}
