package wt

import (
	"context"
	"sync"

	"github.com/quic-go/quic-go/quicvarint"
)

// Types of the capsules of flow control (draft-ietf-webtrans-http3-16 §5.6).
const (
	capsuleMaxData           = 0x190b4d3d
	capsuleMaxStreamData     = 0x190b4d3e // of WebTransport over HTTP/2 alone
	capsuleMaxStreamsBidi    = 0x190b4d3f
	capsuleMaxStreamsUni     = 0x190b4d40
	capsuleDataBlocked       = 0x190b4d41
	capsuleStreamDataBlocked = 0x190b4d42 // of WebTransport over HTTP/2 alone
	capsuleStreamsBidi       = 0x190b4d43 // blocked
	capsuleStreamsUni        = 0x190b4d44 // blocked
)

// maxStreams is the largest number of streams that a limit may name
// (draft-ietf-webtrans-http3-16 §5.6.2).
const maxStreams = 1 << 60

// flow is the flow control of a session (draft-ietf-webtrans-http3-16 §5): how
// much data, and how many streams of each kind, each side may send and open over
// the session's lifetime. A session has one only where both sides declared
// limits; elsewhere its connection's limits are its own.
//
// Data is the bytes of streams without their headers. What has been sent is
// counted as QUIC packs it, so that both sides agree on streams that are reset.
type flow struct {
	// Static.
	session *Session

	// Guarded by mu.
	mu sync.Mutex
	// data, bidi and uni are what the peer lets us send and open.
	data, bidi, uni allowance
	// ours are what we let the peer send and open.
	ourData, ourBidi, ourUni grant
	// more is closed, and replaced, when an allowance grows or a deadline changes.
	more chan struct{}
}

// allowance is a limit that the peer sets.
type allowance struct {
	limit uint64 // over the session's lifetime
	used  uint64
	// blocked says that the peer is to be told that the limit holds us up; told,
	// that it was.
	blocked, told bool
}

// grant is a limit that we set. The peer may be window ahead of what is
// released. It is told of an increase of at least step, and of any while it is
// seen to have less than low left, so that what is never released, such as a
// stream that stays open or unread, does not keep the rest from moving.
type grant struct {
	window    uint64
	step, low uint64
	limit     uint64 // that the peer has been, or is to be, told
	used      uint64 // by the peer, as far as we have seen
	released  uint64 // of used
	untold    bool
}

// newDataGrant is small in its steps, because data that nobody has read is not
// seen, and so not what the peer has left.
func newDataGrant(window uint64) grant {
	return grant{window: window, step: max(1, window/64), limit: window}
}

func newStreamsGrant(window uint64) grant {
	return grant{window: window, step: max(1, window/2), low: window / 4, limit: window}
}

// use counts what the peer used. It reports false if that is beyond the limit.
func (g *grant) use(n uint64) bool {
	g.used += n
	return g.used <= g.limit
}

// release gives n back, and reports whether the peer is to be told.
func (g *grant) release(n uint64) bool {
	g.released += n
	more := g.released + g.window - g.limit
	left := g.limit - min(g.used, g.limit)
	if more == 0 || more < g.step && left >= g.low {
		return false
	}
	g.limit += more
	g.untold = true
	return true
}

// newFlow returns the flow control of a session between two sides that declared
// local and remote, or nil where one of them declared none.
func newFlow(session *Session, local, remote settings) *flow {
	if !flowControlled(session.draft, local, remote, session.request == nil) {
		return nil
	}
	return &flow{
		session: session,
		data:    allowance{limit: remote.initialMaxData},
		bidi:    allowance{limit: remote.initialMaxBidi},
		uni:     allowance{limit: remote.initialMaxUni},
		ourData: newDataGrant(local.initialMaxData),
		ourBidi: newStreamsGrant(local.initialMaxBidi),
		ourUni:  newStreamsGrant(local.initialMaxUni),
		more:    make(chan struct{}),
	}
}

// flowControlled reports whether sessions of a draft have flow control between two
// sides that declared local and remote (draft-ietf-webtrans-http3-16 §5.1).
func flowControlled(draft Draft, local, remote settings, isClient bool) bool {
	offered := remote.flowControl()
	if isClient && draft == Draft14 && remote.maxSessions > 1 {
		// Drafts 13 and 14 take several sessions for the offer; the limits then begin
		// at 0. A client's number means nothing, so a server goes by the limits alone.
		offered = true
	}
	return draft >= Draft07 && local.flowControl() && offered
}

// flowControl reports whether the settings declare a limit
// (draft-ietf-webtrans-http3-16 §5.1).
func (s settings) flowControl() bool {
	return s.initialMaxData > 0 || s.initialMaxUni > 0 || s.initialMaxBidi > 0
}

func (f *flow) streams(uni bool) *allowance {
	if uni {
		return &f.uni
	}
	return &f.bidi
}

func (f *flow) ourStreams(uni bool) *grant {
	if uni {
		return &f.ourUni
	}
	return &f.ourBidi
}

// signal wakes everyone who waits for an allowance.
func (f *flow) signal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signalLocked()
}

func (f *flow) signalLocked() {
	close(f.more)
	f.more = make(chan struct{})
}

// open takes the right to open a stream, and waits for it until ctx or the
// session ends.
func (f *flow) open(ctx context.Context, uni bool) error {
	for {
		f.mu.Lock()
		a := f.streams(uni)
		if a.used < a.limit {
			a.used++
			f.mu.Unlock()
			return nil
		}
		more, tell := f.more, a.block()
		f.mu.Unlock()
		if tell {
			f.session.outbox.wake()
		}
		select {
		case <-more:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.session.ctx.Done():
			return f.session.endedWith()
		}
	}
}

// unopen gives back the right to a stream that was not opened after all.
func (f *flow) unopen(uni bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams(uni).used--
	f.signalLocked()
}

// block notes that the limit holds us up, and reports whether the peer is to be
// told, which is once for each limit.
func (a *allowance) block() bool {
	if a.blocked || a.told {
		return false
	}
	a.blocked = true
	return true
}

// take lets up to n bytes of data go. It is called by QUIC while it packs a
// frame, so it neither blocks nor calls QUIC.
func (f *flow) take(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = int(min(uint64(n), f.data.limit-f.data.used))
	f.data.used += uint64(n)
	return n
}

// takeAll lets all n bytes go, or none.
func (f *flow) takeAll(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if uint64(n) > f.data.limit-f.data.used {
		return false
	}
	f.data.used += uint64(n)
	return true
}

// untake gives back what takeAll took and was not sent.
func (f *flow) untake(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.data.used -= uint64(n)
	f.signalLocked()
}

// awaitData waits until there is data allowance, the stream's sending side ends,
// or its deadline passes.
func (f *flow) awaitData(h *halves) error {
	for {
		f.mu.Lock()
		if f.data.used < f.data.limit {
			f.mu.Unlock()
			return nil
		}
		more, tell := f.more, f.data.block()
		f.mu.Unlock()
		if tell {
			f.session.outbox.wake()
		}
		if done, err := h.awaitSignal(more, nil); done {
			return err
		}
	}
}

// accepted counts a stream that the peer opened, and returns the rule it breaks
// if that is one too many.
func (f *flow) accepted(uni bool) *protocolError {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ourStreams(uni).use(1) {
		return streamError(codeFlowControlError, "more streams than allowed")
	}
	return nil
}

// closed gives a stream that the peer opened back to it.
func (f *flow) closed(uni bool) {
	f.mu.Lock()
	tell := f.ourStreams(uni).release(1)
	f.mu.Unlock()
	if tell {
		f.session.outbox.wake()
	}
}

// account is what is known of the data of one receiving side. It is guarded by
// the flow's mu.
type account struct {
	header uint64 // bytes of the stream before its data
	seen   uint64 // of data
	read   uint64 // of seen, by the application or because nobody will
	final  bool   // seen is all there is
	over   bool   // the application reads no more
}

// received counts n bytes that the application has read.
func (f *flow) received(in *account, n int) {
	f.mu.Lock()
	if in.final {
		// The stream may have been abandoned, and all of it given back, since these
		// bytes were read.
		n = int(min(uint64(n), in.seen-in.read))
	}
	in.read += uint64(n)
	ok := true
	if in.read > in.seen {
		ok = f.ourData.use(in.read - in.seen)
		in.seen = in.read
	}
	tell := f.ourData.release(uint64(n))
	f.mu.Unlock()
	f.after(ok, tell)
}

// finalSize counts what the peer has sent, when QUIC knows it. It is called on
// the connection's loop.
func (f *flow) finalSize(in *account, size uint64) {
	f.mu.Lock()
	in.final = true
	ok, tell := true, false
	if body := size - min(size, in.header); body > in.seen {
		ok = f.ourData.use(body - in.seen)
		in.seen = body
	}
	if in.over {
		tell = f.releaseRestLocked(in)
	}
	f.mu.Unlock()
	f.after(ok, tell)
}

// abandoned notes that the application reads no more of a stream. What it has not
// read is given back once it is known how much that is.
func (f *flow) abandoned(in *account) {
	f.mu.Lock()
	in.over = true
	tell := in.final && f.releaseRestLocked(in)
	f.mu.Unlock()
	f.after(true, tell)
}

// isFinal reports whether finalSize has been called.
func (f *flow) isFinal(in *account) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return in.final
}

func (f *flow) releaseRestLocked(in *account) (tell bool) {
	rest := in.seen - in.read
	in.read = in.seen
	return f.ourData.release(rest)
}

// after acts on what was found while the lock was held. It does not block.
func (f *flow) after(ok, tell bool) {
	if !ok {
		f.session.conn.spawn(func() {
			f.session.violate(streamError(codeFlowControlError, "more data than allowed"))
		})
		return
	}
	if tell {
		f.session.outbox.wake()
	}
}

// handleCapsule handles a capsule of flow control, whose value has not been read.
func (f *flow) handleCapsule(typ uint64, capsules *capsuleReader) error {
	value, err := capsules.value(8)
	if err != nil {
		return err
	}
	limit, n, err := quicvarint.Parse(value)
	if err != nil || n != len(value) {
		return streamError(codeMessageError, "capsule %#x is not one varint", typ)
	}
	if typ != capsuleMaxData && typ != capsuleDataBlocked && limit > maxStreams {
		return streamError(codeFlowControlError, "limit of %d streams", limit)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var a *allowance
	switch typ {
	case capsuleMaxData:
		a = &f.data
	case capsuleMaxStreamsBidi:
		a = &f.bidi
	case capsuleMaxStreamsUni:
		a = &f.uni
	default: // the peer is blocked, and gets more as soon as it is released anyway
		return nil
	}
	if limit <= a.limit {
		return streamError(codeFlowControlError, "limit %d does not increase from %d", limit, a.limit)
	}
	a.limit, a.blocked, a.told = limit, false, false
	f.signalLocked()
	return nil
}

// isStreamDataCapsule reports whether a capsule is one of those that limit a
// stream's data, which QUIC does here and which are therefore forbidden
// (draft-ietf-webtrans-http3-16 §5.4).
func isStreamDataCapsule(typ uint64) bool {
	return typ == capsuleMaxStreamData || typ == capsuleStreamDataBlocked
}

// isFlowCapsule reports whether a capsule is one of flow control.
func isFlowCapsule(typ uint64) bool {
	return typ >= capsuleMaxData && typ <= capsuleStreamsUni
}

// appendCapsules appends what the peer has not been told.
func (f *flow) appendCapsules(b []byte) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range []struct {
		grant *grant
		typ   uint64
	}{{&f.ourData, capsuleMaxData}, {&f.ourBidi, capsuleMaxStreamsBidi}, {&f.ourUni, capsuleMaxStreamsUni}} {
		if g.grant.untold {
			g.grant.untold = false
			b = appendCapsule(b, g.typ, quicvarint.Append(nil, g.grant.limit))
		}
	}
	for _, a := range []struct {
		allowance *allowance
		typ       uint64
	}{{&f.data, capsuleDataBlocked}, {&f.bidi, capsuleStreamsBidi}, {&f.uni, capsuleStreamsUni}} {
		if a.allowance.blocked {
			a.allowance.blocked, a.allowance.told = false, true
			b = appendCapsule(b, a.typ, quicvarint.Append(nil, a.allowance.limit))
		}
	}
	return b
}
