package wt_test

import (
	"maps"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/wt/wttest"
)

// The numbers that the package's documentation states: of goroutines that an
// idle session holds on a server and on a client, those of QUIC apart.
func TestGoroutinesOfIdleSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wttest.Pair(t)
		time.Sleep(2 * time.Second) // until the server's connection sleeps
		synctest.Wait()
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		want := map[string]int{ // on client and server together
			"wt.(*conn).acceptStream(":            2,
			"wt.(*conn).acceptUniStream(":         2, // the client's, one of which reads the control stream now
			"wt.(*datagramReceiver).pump(":        1,
			"wt.(*criticalStream).run(":           1, // the same
			"wt.(*Session).awaitCapsule(":         2,
			"wt.HandlerFunc.ServeWebTransport(":   1,
			"quic-go.(*Conn).run(":                2,
			"quic-go.(*sendQueue).Run(":           2,
			"quic-go.(*Transport).listen(":        2, // one a socket
			"quic-go.(*Transport).runSendQueue(":  2, // one a socket
			"wt.(*Server).Serve(":                 1, // one a socket
			"wt.(*rouser).run(":                   1, // one a socket
			"quic-go.(*baseServer).run(":          1, // one a socket
			"quic-go.(*baseServer).runSendQueue(": 1, // one a socket
		}
		got := make(map[string]int)
		for goroutine := range strings.SplitSeq(string(stacks), "\n\n") {
			ours := strings.Contains(goroutine, "quic-go.") || strings.Contains(goroutine, "tidewire/wt")
			// Connections of earlier tests have timers still.
			if !ours || strings.Contains(goroutine, "created by time.goFunc") || strings.Contains(goroutine, "testing.") || strings.Contains(goroutine, "wttest.(*Endpoint).deliver(") {
				continue
			}
			known := false
			for f := range want {
				if strings.Contains(goroutine, f) {
					got[f]++
					known = true
				}
			}
			if !known {
				t.Errorf("a goroutine that is not counted:\n%s", goroutine)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("goroutines %v, want %v", got, want)
		}
	})
}
