package wt_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// Every limit of a Dialer, against a server made by hand that exceeds it.

func TestDialerLimitsAreChecked(t *testing.T) {
	for name, dialer := range map[string]wt.Dialer{
		"HandshakeTimeout":      {HandshakeTimeout: -1},
		"AnswerTimeout":         {AnswerTimeout: -1},
		"MaxIncomingStreams":    {MaxIncomingStreams: -1},
		"MaxIncomingUniStreams": {MaxIncomingUniStreams: 2},
		"MaxPendingStreams":     {MaxPendingStreams: -1},
		"MaxPendingDatagrams":   {MaxPendingDatagrams: -1},
		"MaxQueuedDatagrams":    {MaxQueuedDatagrams: -1},
		"MaxHeaderBytes":        {MaxHeaderBytes: -1},
		"MaxSessionData":        {MaxSessionData: -1},
		"StreamHeaderTimeout":   {StreamHeaderTimeout: -1},
		"CloseTimeout":          {CloseTimeout: -1},
		"Transport":             {Transport: &quic.Transport{}, PacketConn: newNetwork(t, 0).client},
	} {
		if _, err := dialer.Dial(t.Context(), serverURL); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: dial returned %v", name, err)
		}
	}
}

// acceptedPeer dials a server made by hand, which accepts.
func acceptedPeer(t *testing.T, dialer wt.Dialer) (*peer, *quic.Stream, *wt.Session) {
	t.Helper()
	p, stream, result := answerPeer(t, dialer)
	p.write(stream, headers(":status", "200"))
	answer := <-result
	session := must(answer.session, answer.err)(t)
	t.Cleanup(func() {
		_ = p.conn.CloseWithError(h3NoError, "")
		_ = session.Close()
	})
	return p, stream, session
}

func TestDialerMaxIncomingStreams(t *testing.T) {
	for name, c := range map[string]struct {
		dialer    wt.Dialer
		bidi, uni int
	}{
		"default":                  {wt.Dialer{}, 1024, 1024},
		"fields":                   {wt.Dialer{MaxIncomingStreams: 5, MaxIncomingUniStreams: 7}, 5, 7},
		"of QUICConfig":            {wt.Dialer{QUICConfig: &quic.Config{MaxIncomingStreams: 6, MaxIncomingUniStreams: 8}}, 6, 8},
		"none":                     {wt.Dialer{QUICConfig: &quic.Config{MaxIncomingStreams: -1, MaxIncomingUniStreams: -1}}, 0, 3},
		"fields before QUICConfig": {wt.Dialer{QUICConfig: &quic.Config{MaxIncomingStreams: 6}, MaxIncomingStreams: 4}, 4, 1024},
	} {
		t.Run(name, func(t *testing.T) {
			p, _, _ := acceptedPeer(t, c.dialer)
			bidi, uni := 0, 1 // the control stream
			for ; ; bidi++ {
				if _, err := p.conn.OpenStream(); err != nil {
					break
				}
			}
			for ; ; uni++ {
				if _, err := p.conn.OpenUniStream(); err != nil {
					break
				}
			}
			if bidi != c.bidi || uni != c.uni {
				t.Errorf("server opened %d and %d, want %d and %d", bidi, uni, c.bidi, c.uni)
			}
		})
	}
}

// draft §4.6: of what comes before the answer, so many streams and datagrams are
// held, and streams so long.
func TestDialerPending(t *testing.T) {
	for name, c := range map[string]struct {
		dialer             wt.Dialer
		streams, datagrams int
	}{
		"default": {wt.Dialer{}, 256, 16},
		"fields":  {wt.Dialer{MaxPendingStreams: 2, MaxPendingDatagrams: 3}, 2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, stream, session := askPeer(t, c.dialer, serverSettings())
				var streams []*quic.SendStream
				for range c.streams + 1 {
					streams = append(streams, p.uni(append(varints(0x54, 0), "x"...)))
					synctest.Wait() // they arrive in this order
				}
				for range c.datagrams + 1 {
					check(t, p.conn.SendDatagram([]byte{0, 'x'}))
				}
				p.wantStopped(streams[c.streams].Context(), wtBufferedRejected)
				synctest.Wait()
				p.write(stream, headers(":status", "200"))
				check(t, session.Ready(t.Context()))
				for range c.streams {
					must(session.AcceptUniStream(t.Context()))(t)
				}
				for range c.datagrams {
					must(session.ReceiveDatagram(t.Context()))(t)
				}
				synctest.Wait()
				expired, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := session.ReceiveDatagram(expired); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("one more datagram than held: %v", err)
				}
				check(t, stream.Close())
				check(t, session.Close())
			})
		})
	}
}

func TestDialerStreamHeaderTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		dialer  wt.Dialer
		timeout time.Duration
	}{
		"default": {wt.Dialer{}, 5 * time.Second},
		"field":   {wt.Dialer{StreamHeaderTimeout: time.Second}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, stream, session := askPeer(t, c.dialer, serverSettings())
				began := time.Now()
				waiting := p.uni(varints(0x54, 0)) // for the answer
				silent := p.bidi(varints(0x41))    // about its session
				p.wantStopped(waiting.Context(), wtBufferedRejected)
				p.wantStopped(silent.Context(), h3RequestIncomplete)
				if took := time.Since(began); took != c.timeout {
					t.Errorf("streams ended after %v, want %v", took, c.timeout)
				}
				p.write(stream, headers(":status", "200"))
				check(t, stream.Close())
				check(t, session.Close())
			})
		})
	}
}

func TestDialerMaxQueuedDatagrams(t *testing.T) {
	for name, c := range map[string]struct {
		dialer wt.Dialer
		limit  int
	}{
		"default": {wt.Dialer{}, 128},
		"field":   {wt.Dialer{MaxQueuedDatagrams: 3}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, stream, session := acceptedPeer(t, c.dialer)
				const extra = 2
				for i := range c.limit + extra {
					check(t, p.conn.SendDatagram([]byte{0, byte(i)}))
					synctest.Wait()
				}
				if b := must(session.ReceiveDatagram(t.Context()))(t); b[0] != extra {
					t.Errorf("oldest datagram is %d, want %d", b[0], extra)
				}
				if dropped := session.DroppedDatagrams(); dropped != extra {
					t.Errorf("%d dropped, want %d", dropped, extra)
				}
				check(t, stream.Close())
				check(t, session.Close())
			})
		})
	}
}

func TestDialerMaxHeaderBytes(t *testing.T) {
	for name, c := range map[string]struct {
		dialer wt.Dialer
		value  int // length of a field's value in the answer
		works  bool
	}{
		"within the default": {wt.Dialer{}, 15 << 10, true},
		"over the default":   {wt.Dialer{}, 17 << 10, false},
		"within the field":   {wt.Dialer{MaxHeaderBytes: 32 << 10}, 17 << 10, true},
		"over the field":     {wt.Dialer{MaxHeaderBytes: 200}, 200, false},
	} {
		t.Run(name, func(t *testing.T) {
			p, stream, result := answerPeer(t, c.dialer)
			p.write(stream, headers(":status", "200", "x-long", strings.Repeat("x", c.value)))
			answer := <-result
			if !c.works {
				if answer.err == nil {
					t.Error("dial succeeded")
				}
				p.wantClosed(h3ExcessiveLoad)
				return
			}
			session := must(answer.session, answer.err)(t)
			if got := len(session.Response().Header.Get("X-Long")); got != c.value {
				t.Errorf("field of %d bytes, want %d", got, c.value)
			}
			check(t, stream.Close())
			check(t, session.Close())
		})
	}
}

// The way to the request takes HandshakeTimeout at most, whatever the server
// leaves out.
func TestDialerHandshakeTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		dialer  wt.Dialer
		timeout time.Duration
	}{
		"default": {wt.Dialer{}, 10 * time.Second},
		"field":   {wt.Dialer{HandshakeTimeout: 20 * time.Second}, 20 * time.Second},
	} {
		wantTimeout := func(t *testing.T, err error, began time.Time, step wt.DialStep) {
			t.Helper()
			var failed *wt.DialError
			if !errors.As(err, &failed) || failed.Step != step || !failed.Timeout() || failed.Server != "127.0.0.2:4433" {
				t.Errorf("dial returned %v, want a timeout at %v", err, step)
			}
			if took := time.Since(began); took != c.timeout {
				t.Errorf("dial took %v, want %v", took, c.timeout)
			}
		}
		t.Run(name+", nobody there", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dialer := c.dialer
				dialer.PacketConn = newNetwork(t, 0).client
				began := time.Now()
				_, err := dialer.Dial(t.Context(), serverURL)
				wantTimeout(t, err, began, wt.StepConnect)
				if err != nil && !strings.Contains(err.Error(), "UDP") {
					t.Errorf("%v does not say what may be the matter", err)
				}
			})
		})
		t.Run(name+", no SETTINGS", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				_, result := listenPeer(t.Context(), t, c.dialer)
				wantTimeout(t, (<-result).err, began, wt.StepSettings)
			})
		})
		t.Run(name+", no credit for the request", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				config := peerQUIC()
				config.MaxIncomingStreams = -1
				p, result := listenPeerQUIC(t.Context(), t, c.dialer, (*wt.Dialer).Dial, config)
				p.control(serverSettings())
				wantTimeout(t, (<-result).err, began, wt.StepRequest)
			})
		})
	}
}

// Under flow control, what the application has not read is bounded.
func TestDialerMaxSessionData(t *testing.T) {
	p, result := listenPeer(t.Context(), t, wt.Dialer{MaxSessionData: 1000})
	control := must(p.conn.AcceptUniStream(t.Context()))(t)
	must(readVarint(control))(t)
	_, payload := p.readFrame(control)
	if declared := parsePairs(t, payload); declared[0x2b61] != 1000 || declared[0x2b64] != 1024 || declared[0x2b65] != 1024 || declared[0x14e9cd29] < 2 {
		t.Errorf("declared %x", declared)
	}
	p.control(settingsFrame(8, 1, 0x33, 1, 0x2c7cf000, 1, 0x2b61, 1<<20, 0x2b64, 10, 0x2b65, 10))
	stream := must(p.conn.AcceptStream(t.Context()))(t)
	p.readHeaders(stream)
	p.write(stream, headers(":status", "200"))
	answer := <-result
	session := must(answer.session, answer.err)(t)
	check(t, p.uni(append(varints(0x54, 0), make([]byte, 1001)...)).Close())
	p.wantReset(stream, 0x045d4487) // WT_FLOW_CONTROL_ERROR
	<-session.Context().Done()
	check(t, session.Close())
}

// parsePairs decodes SETTINGS.
func parsePairs(t *testing.T, payload []byte) map[uint64]uint64 {
	t.Helper()
	pairs := make(map[uint64]uint64)
	r := strings.NewReader(string(payload))
	for r.Len() > 0 {
		id := must(readVarint(r))(t)
		pairs[id] = must(readVarint(r))(t)
	}
	return pairs
}
