package wt

import (
	"sync"
)

// outbox is what a session has to write on its CONNECT stream after the
// headers: capsules, and FIN. It holds at most one capsule of each kind, the
// newest, so it is bounded without a limit.
//
// One goroutine owns the writing. It exists only while there is something to
// write, and capsules leave in the order: drain, flow control, close.
type outbox struct {
	// Static.
	session *Session

	// Guarded by mu.
	mu      sync.Mutex
	writing bool
	held    bool // what is queued waits for the server's answer
	drain   bool
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
	o.startUnlock()
	return true
}

// startUnlock has what is queued written, unless it is held, and unlocks.
func (o *outbox) startUnlock() {
	start := !o.writing && !o.held
	o.writing = o.writing || start
	o.mu.Unlock()
	if start {
		o.session.conn.spawn(o.write)
	}
}

// release has written what waited for the server's answer.
func (o *outbox) release() {
	o.mu.Lock()
	o.held = false
	o.startUnlock()
}

// wake has the flow control's capsules written.
func (o *outbox) wake() { o.send(func(*outbox) {}) }

// sendDrain queues WT_DRAIN_SESSION.
func (o *outbox) sendDrain() bool { return o.send(func(o *outbox) { o.drain = true }) }

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
	stream := o.session.stream
	for {
		o.mu.Lock()
		var b []byte
		if o.drain {
			b = appendCapsule(b, capsuleDrain, nil)
		}
		if flow := o.session.flow; flow != nil && o.close == nil {
			b = flow.appendCapsules(b)
		}
		b = append(b, o.close...)
		fin := o.fin
		o.drain, o.close, o.fin = false, nil, false
		if len(b) == 0 && !fin {
			o.writing = false
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
		if _, err := stream.Write(b); err != nil {
			// Half a capsule may be out, so nothing can follow it. The goroutine
			// keeps its place, and no other begins.
			stream.CancelWrite(codeSessionGone)
			return
		}
		if fin {
			_ = stream.Close()
			return
		}
	}
}
