package wt

import (
	"context"
	"log/slog"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// The control streams of a connection: SETTINGS, GOAWAY, and what a peer may say
// there besides (RFC 9114 §6.2.1, §7.2).

// start opens the control stream and sends SETTINGS. It waits for nothing but
// the peer's stream credit, which every HTTP/3 peer grants (RFC 9114 §6.2).
func (c *conn) start() error {
	control, err := c.quic.OpenUniStream()
	if isTransportError(err) {
		return err
	}
	if err != nil {
		return c.fail(connectionError(codeGeneralProtocolError, "no credit for a control stream"))
	}
	payload := appendSettings(make([]byte, 0, 96), c.localSettings())
	b := quicvarint.Append(make([]byte, 0, 16+len(payload)), streamControl)
	b = appendFrameHeader(b, frameSettings, uint64(len(payload)))
	err = control.TryWriteAll(append(b, payload...))
	if isTransportError(err) {
		return err
	}
	if err != nil {
		return c.fail(connectionError(codeGeneralProtocolError, "no credit for SETTINGS"))
	}
	// GOAWAY must not wait behind streams.
	control.SetPriority(0, false)
	c.control = control
	return nil
}

// localSettings are what this side declares. One declaration serves every draft,
// and both sides send it: a server reads a client's draft from it.
func (c *conn) localSettings() settings {
	s := settings{
		connectProtocol:   true,
		datagram:          true,
		maxFieldSection:   uint64(c.limits.maxHeaderBytes),
		enableDraft02:     1,
		maxSessionsDraft7: 1,
		maxSessions:       1,
		enabled:           1,
	}
	if c.limits.maxSessionData > 0 {
		s.initialMaxData = uint64(c.limits.maxSessionData)
		s.initialMaxBidi = uint64(c.limits.maxStreams)
		s.initialMaxUni = uint64(c.limits.maxUniStreams)
		s.maxSessions = uint64(max(1, c.limits.maxSessions))
		if c.isClient {
			// The number means nothing, except that draft 13 takes more than one for the
			// offer of flow control.
			s.maxSessions = max(2, s.maxSessions)
		}
	}
	return s
}

func closedCritical(typ uint64) error {
	return connectionError(codeClosedCriticalStream, "stream of type %#x closed", typ)
}

// nextControlFrame returns what reads and handles a frame of the peer's control
// stream (RFC 9114 §7.2).
func (c *conn) nextControlFrame(stream *quic.ReceiveStream) func() error {
	frames := newFrameReader(stream)
	first := true
	return func() error {
		typ, length, err := frames.next()
		if err != nil {
			return err
		}
		wasFirst := first
		first = false
		return c.handleControlFrame(frames, typ, length, wasFirst)
	}
}

func (c *conn) handleControlFrame(frames *frameReader, typ, length uint64, first bool) error {
	if first != (typ == frameSettings) {
		if first {
			return connectionError(codeMissingSettings, "frame %#x before SETTINGS", typ)
		}
		return connectionError(codeFrameUnexpected, "second SETTINGS")
	}
	switch typ {
	case frameSettings:
		if length > uint64(c.limits.maxSettingsBytes) {
			return connectionError(codeExcessiveLoad, "SETTINGS of %d bytes", length)
		}
		payload, err := frames.payload()
		if err != nil {
			return err
		}
		if c.peer, err = parseSettings(payload); err != nil {
			return err
		}
		close(c.settled)
		return nil
	case frameGoAway, frameMaxPushID, frameCancelPush:
		id, err := frameID(frames, typ, length)
		if err != nil {
			return err
		}
		switch {
		case typ == frameGoAway:
			return c.handleGoAway(id)
		case typ == frameCancelPush:
			// §7.2.3: there is no push of ours, and we allow the peer none.
			return connectionError(codeIDError, "CANCEL_PUSH of %d, which is no push", id)
		case c.isClient:
			return connectionError(codeFrameUnexpected, "MAX_PUSH_ID from a server")
		case id < c.maxPushID:
			return connectionError(codeIDError, "MAX_PUSH_ID went from %d to %d", c.maxPushID, id)
		}
		c.maxPushID = id
		return nil
	case frameData, frameHeaders, framePushPromise:
		return connectionError(codeFrameUnexpected, "frame %#x on the control stream", typ)
	default:
		if isHTTP2Frame(typ) {
			return connectionError(codeFrameUnexpected, "frame %#x of HTTP/2", typ)
		}
		return frames.skip()
	}
}

// frameID reads the payload of a frame that is one varint (RFC 9114 §7.1).
func frameID(frames *frameReader, typ, length uint64) (uint64, error) {
	switch {
	case length > defaultSettingsBytes: // whoever reads it to its end would read long
		return 0, connectionError(codeExcessiveLoad, "frame %#x of %d bytes", typ, length)
	case length > 8:
		return 0, connectionError(codeFrameError, "frame %#x of %d bytes", typ, length)
	}
	payload, err := frames.payload()
	if err != nil {
		return 0, err
	}
	id, n, err := quicvarint.Parse(payload)
	if err != nil || n != len(payload) {
		return 0, connectionError(codeFrameError, "frame %#x is not one varint", typ)
	}
	return id, nil
}

// handleGoAway tells all sessions to drain (RFC 9114 §5.2,
// draft-ietf-webtrans-http3-16 §4.7).
func (c *conn) handleGoAway(id uint64) error {
	c.mu.Lock()
	increased := c.lastGoAway != 0 && id+1 > c.lastGoAway
	again := c.lastGoAway != 0
	c.lastGoAway = id + 1
	sessions := make([]*Session, 0, len(c.requests))
	for _, session := range c.requests {
		if session != nil {
			sessions = append(sessions, session)
		}
	}
	c.mu.Unlock()
	if increased || c.isClient && id%4 != 0 {
		return connectionError(codeIDError, "GOAWAY with id %d", id)
	}
	if !again {
		close(c.goneAway)
	}
	for _, session := range sessions {
		session.markDraining()
	}
	c.refuseAsking(id)
	return nil
}

// goAway sends GOAWAY, refuses further requests, and tells the sessions. It is
// used on servers.
func (c *conn) goAway() {
	c.mu.Lock()
	if c.goingAway {
		c.mu.Unlock()
		return
	}
	c.goingAway, c.refuseFrom = true, c.nextRequest
	idle := len(c.requests) == 0
	// A request that is on its way is to meet GOAWAY and be rejected, which tells
	// the client that it may repeat it elsewhere (RFC 9114 §4.1.1).
	wait := max(c.limits.closeTimeout-time.Since(c.answered), 2*c.quic.ConnectionStats().SmoothedRTT)
	if wait = min(wait, c.limits.closeTimeout); idle && wait > 0 && c.idle != nil {
		idle = false
		c.idle.Reset(wait)
	}
	var sessions []*Session
	for _, session := range c.requests {
		if session != nil {
			sessions = append(sessions, session)
		}
	}
	c.mu.Unlock()
	id := quicvarint.Append(nil, c.refuseFrom)
	frame := append(appendFrameHeader(nil, frameGoAway, uint64(len(id))), id...)
	if err := c.control.TryWriteAll(frame); err != nil {
		c.logger.Debug("GOAWAY not sent", slog.Any("error", err))
	}
	for _, session := range sessions {
		if err := session.Drain(); err != nil {
			c.logger.Debug("drain not sent", slog.Any("error", err))
		}
		session.markDraining() // the handler is to know as well
	}
	if idle {
		_ = c.quic.CloseWithError(codeNoError, "")
	}
}

// awaitSettingsFor is awaitSettings with a timeout.
func (c *conn) awaitSettingsFor(timeout time.Duration) error {
	ctx := context.Background()
	select {
	case <-c.settled: // as is usual
	default:
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return c.awaitSettings(ctx)
}

// awaitSettings waits for the peer's SETTINGS and checks what every draft
// requires of it: HTTP datagrams and QUIC datagrams.
func (c *conn) awaitSettings(ctx context.Context) error {
	select {
	case <-c.settled:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.quic.Context().Done():
		return context.Cause(c.quic.Context())
	}
	if !c.peer.datagram || !c.quic.ConnectionState().SupportsDatagrams.Remote {
		return streamError(codeMessageError, "peer has no datagrams")
	}
	return nil
}
