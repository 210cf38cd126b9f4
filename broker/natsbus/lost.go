package natsbus

// What NATS did not bring is told in its place: behind the messages that came before, and
// so by a mark in the inbox. The NATS client reports it by a goroutine of its own, so what
// came in between passes first.

// lost puts a mark that messages were lost. While there is one already it takes note only:
// a broker that is too slow loses something behind each message that it takes, and to tell
// each of them would make it slower still.
func (b *bus) lost(w wanted) {
	b.mu.Lock()
	b.missedLocked(w)
	_, more := b.losses[w]
	b.losses[w] = more
	b.mu.Unlock()
	if !more {
		b.inbox.put(func() { b.tell(w) })
	}
}

// tell tells the broker of a loss, whose place is here. What was lost behind it, up to
// now, is told behind what is in the inbox now.
func (b *bus) tell(w wanted) {
	b.mu.Lock()
	// Whoever comes back with a time from before this place has not been told.
	b.missedLocked(w)
	more := b.losses[w]
	if more {
		b.losses[w] = false
	} else {
		delete(b.losses, w)
	}
	b.mu.Unlock()
	if more {
		b.inbox.put(func() { b.tell(w) })
	}
	b.sink.Lost(w.pattern, w.group)
}

func (b *bus) missedLocked(w wanted) {
	if in := b.interests[w]; in != nil {
		in.since = b.sink.Now()
	}
}

// lostAll is lost for every pattern, or every group's share.
func (b *bus) lostAll(groups bool) {
	b.mu.Lock()
	all := make([]wanted, 0, len(b.interests))
	for w := range b.interests {
		if (w.group != "") == groups {
			all = append(all, w)
		}
	}
	b.mu.Unlock()
	for _, w := range all {
		b.lost(w)
	}
}
