package wt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

func TestDatagramEcho(t *testing.T) {
	client := echoPair(t)
	for i := range 200 {
		b := bytes.Repeat([]byte{byte(i)}, i)
		check(t, client.SendDatagram(t.Context(), b))
		got := must(client.ReceiveDatagram(t.Context()))(t)
		if !bytes.Equal(got, b) {
			t.Fatalf("datagram %d came back as %d bytes", i, len(got))
		}
	}
}

func TestMaxDatagramSize(t *testing.T) {
	client, server := wttest.Pair(t)
	size := client.MaxDatagramSize()
	if size < 1000 || size > 1500 {
		t.Fatalf("maximum is %d bytes", size)
	}
	check(t, client.SendDatagram(t.Context(), make([]byte, size)))
	if got := must(server.ReceiveDatagram(t.Context()))(t); len(got) != size {
		t.Errorf("got %d bytes, want %d", len(got), size)
	}
	if err := client.SendDatagram(t.Context(), make([]byte, 1500)); !errors.Is(err, wt.ErrDatagramTooLarge) {
		t.Errorf("1500 bytes: %v", err)
	}
}

// A session that nobody receives from keeps its newest datagrams and counts the
// others.
func TestDatagramsDropOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.PairWith(t, wttest.Options{Server: wt.ServerConfig{MaxQueuedDatagrams: 3}})
		for i := range uint32(10) {
			check(t, client.SendDatagram(t.Context(), binary.BigEndian.AppendUint32(nil, i)))
			synctest.Wait() // so that no queue underneath overflows
		}
		time.Sleep(time.Second)
		for want := uint32(7); want < 10; want++ {
			if got := binary.BigEndian.Uint32(must(server.ReceiveDatagram(t.Context()))(t)); got != want {
				t.Errorf("got datagram %d, want %d", got, want)
			}
		}
		if server.DroppedDatagrams() != 7 {
			t.Errorf("%d datagrams counted as dropped, want 7", server.DroppedDatagrams())
		}
	})
}

// SendDatagram waits while the network takes nothing, but not beyond its context
// and the session.
func TestSendDatagramWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := wttest.PairWith(t, wttest.Options{Latency: time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		var err error
		for range 1000 {
			if err = client.SendDatagram(ctx, make([]byte, 1000)); err != nil {
				break
			}
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a full queue gave %v", err)
		}
	})
}
