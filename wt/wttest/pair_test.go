package wttest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// exchange sends a datagram each way and returns how long it took.
func exchange(t *testing.T, client, server *wt.Session) time.Duration {
	t.Helper()
	began := time.Now()
	ctx := t.Context()
	for _, way := range [][2]*wt.Session{{client, server}, {server, client}} {
		if err := way[0].SendDatagram(ctx, []byte("ping")); err != nil {
			t.Fatal(err)
		}
		if b, err := way[1].ReceiveDatagram(ctx); err != nil || string(b) != "ping" {
			t.Fatalf("got %q, %v", b, err)
		}
	}
	return time.Since(began)
}

func TestPair(t *testing.T) {
	client, server := wttest.Pair(t)
	exchange(t, client, server)
}

func TestPairInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.Pair(t)
		if took := exchange(t, client, server); took != 0 {
			t.Errorf("without latency an exchange took %v", took)
		}
		time.Sleep(24 * time.Hour) // a pair is kept alive
		exchange(t, client, server)
	})
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wttest.PairWith(t, wttest.Options{Latency: 40 * time.Millisecond})
		if took := exchange(t, client, server); took != 80*time.Millisecond {
			t.Errorf("an exchange took %v, want 80ms", took)
		}
	})
}

func TestTwoPairs(t *testing.T) {
	a1, a2 := wttest.Pair(t)
	b1, b2 := wttest.Pair(t)
	exchange(t, a1, a2)
	exchange(t, b1, b2)
}
