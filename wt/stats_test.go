package wt_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt/wttest"
)

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.PairWith(t, wttest.Options{Latency: 20 * time.Millisecond})
		bidi := must(client.OpenStream(t.Context()))(t)
		uni := must(client.OpenUniStream(t.Context()))(t)
		check(t, write(bidi, "four"))
		check(t, write(uni, "sixsix"))
		check(t, client.SendDatagram(t.Context(), []byte("d")))
		accepted := must(server.AcceptStream(t.Context()))(t)
		must(io.ReadFull(accepted, make([]byte, 4)))(t)
		must(server.AcceptUniStream(t.Context()))(t)
		must(server.ReceiveDatagram(t.Context()))(t)
		time.Sleep(time.Second)

		got, there := client.Stats(), server.Stats()
		if c := got.Connection; c.SmoothedRTT < 40*time.Millisecond || c.SmoothedRTT > 100*time.Millisecond ||
			c.MinRTT < 40*time.Millisecond || c.LatestRTT == 0 || c.CongestionWindow < 10_000 ||
			c.BytesSent < 1000 || c.BytesReceived < 1000 || c.PacketsSent < 3 || c.PacketsReceived < 3 || c.PacketsLost != 0 {
			t.Errorf("connection %+v", c)
		}
		if s := got.Streams; s.OpenBidi != 1 || s.OpenUni != 1 || s.BytesWritten != 10 || s.BytesRead != 0 {
			t.Errorf("the client's streams: %+v", s)
		}
		if s := there.Streams; s.OpenBidi != 1 || s.OpenUni != 1 || s.BytesWritten != 0 || s.BytesRead != 4 {
			t.Errorf("the server's streams: %+v", s)
		}
		if got.Datagrams.Sent != 1 || got.Datagrams.Received != 0 || there.Datagrams.Sent != 0 || there.Datagrams.Received != 1 {
			t.Errorf("datagrams %+v and %+v", got.Datagrams, there.Datagrams)
		}

		// Bytes of streams that are over still count.
		uni.CancelWrite(1)
		check(t, bidi.Close())
		bidi.CancelRead(1)
		time.Sleep(time.Second)
		if s := client.Stats().Streams; s.OpenBidi != 0 || s.OpenUni != 0 || s.BytesWritten != 10 {
			t.Errorf("the client's streams at the end: %+v", s)
		}
		check(t, client.Close())
		if s := client.Stats().Streams; s.BytesWritten != 10 {
			t.Errorf("after the session's end: %+v", s)
		}
	})
}
