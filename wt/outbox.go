package wt

import (
	"sync"
)

// outbox is what a session has to write on its CONNECT stream after the
// headers: capsules, and FIN. It holds at most one capsule of each kind, the
// newest, so it is bounded without a limit.
//
// One writer at a time owns the writing: whoever queued something while nobody
// wrote, or a goroutine where that would have to wait. Capsules leave in the
// order: drain, flow control, close.
type outbox struct {
	// Static.
	session *Session

	// Guarded by mu.
	mu      sync.Mutex
	writing bool
	held    bool // what is queued waits for the server's answer
	drain   bool
	drained bool   // a drain has been queued
	close   []byte // with FIN after it
	fin     bool   // FIN without a close
	ended   bool   // FIN or a reset has been queued; nothing may follow
}

// send queues what change sets, and has it written. It reports false if the
// stream has ended.
func (o *outbox) send(change func(*outbox)) bool {
	o.mu.Lock()
	if o.ended {
		o.mu.Unlock()
		return false
	}
	change(o)
	if o.startUnlock() {
		o.writeNow()
	}
	return true
}

// startUnlock makes the caller the writer, unless there is one or what is queued
// is held, and unlocks. It reports whether the caller has to write.
func (o *outbox) startUnlock() bool {
	start := !o.writing && !o.held
	o.writing = o.writing || start
	o.mu.Unlock()
	return start
}

// release has written what waited for the server's answer.
func (o *outbox) release() {
	o.mu.Lock()
	o.held = false
	if o.startUnlock() {
		o.writeNow()
	}
}

// wake has the flow control's capsules written.
//
// It may be called from QUIC's callbacks, which must not write.
func (o *outbox) wake() {
	o.mu.Lock()
	if o.ended {
		o.mu.Unlock()
		return
	}
	if o.startUnlock() {
		o.session.conn.spawn(o.write)
	}
}

// sendDrain queues WT_DRAIN_SESSION, once, for another would say nothing more.
func (o *outbox) sendDrain() bool {
	return o.send(func(o *outbox) { o.drain, o.drained = o.drain || !o.drained, true })
}

// sendClose queues WT_CLOSE_SESSION and FIN.
func (o *outbox) sendClose(code uint32, reason string) bool {
	b := appendCloseCapsule(nil, code, reason)
	return o.send(func(o *outbox) { o.close, o.fin, o.ended = b, true, true })
}

// sendFIN queues FIN.
func (o *outbox) sendFIN() bool { return o.send(func(o *outbox) { o.fin, o.ended = true, true }) }

// endUnwritten forbids writing, before the stream is reset. It reports false if
// the stream has ended already. What is held is not written any more.
func (o *outbox) endUnwritten() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.ended && !o.held
	o.ended, o.held = true, false
	return !before
}

// write writes until nothing is left.
func (o *outbox) write() {
	for {
		b, fin, ok := o.take()
		if !ok || !o.put(b, fin) {
			return
		}
	}
}

// writeNow writes until nothing is left, or until it would have to wait, which it
// leaves to a goroutine. So a close that follows the answer at once leaves with it
// in one packet, and a browser that learns of the session learns of its end.
func (o *outbox) writeNow() {
	for {
		b, fin, ok := o.take()
		if !ok {
			return
		}
		if len(b) > 0 && o.session.stream.TryWriteAll(b) != nil {
			o.session.conn.spawn(func() {
				if o.put(b, fin) {
					o.write()
				}
			})
			return
		}
		if fin {
			_ = o.session.stream.Close()
			return
		}
	}
}

// take takes out what is queued. It reports false, and that nobody writes any
// more, if nothing is.
func (o *outbox) take() (b []byte, fin, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.drain {
		b = appendCapsule(b, capsuleDrain, nil)
	}
	if flow := o.session.flow; flow != nil && o.close == nil {
		b = flow.appendCapsules(b)
	}
	b = append(b, o.close...)
	fin = o.fin
	o.drain, o.close, o.fin = false, nil, false
	o.writing = len(b) > 0 || fin
	return b, fin, o.writing
}

// put writes what was taken. It reports false if nothing can follow: after FIN, or
// after an error, because half a capsule may be out. Then the writer keeps its
// place, and no other begins.
func (o *outbox) put(b []byte, fin bool) bool {
	stream := o.session.stream
	if _, err := stream.Write(b); err != nil {
		stream.CancelWrite(codeSessionGone)
		return false
	}
	if fin {
		_ = stream.Close()
	}
	return !fin
}
