package client_test

import (
	"testing"
	"testing/synctest"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/wt/wttest"
)

// Whoever sends a datagram sooner than the client has noticed that the connection has ended
// is told so in the client's own words.
func TestDatagramOnAnEndedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		session, _ := wttest.Pair(t)
		conn := client.WebTransport(session)
		if err := conn.CloseWithError(7, "cut"); err != nil {
			t.Fatal(err)
		}
		if err := conn.SendDatagram(t.Context(), []byte("late")); codec.CodeOf(err) != codec.CodeConnectionLost {
			t.Errorf("error %v", err)
		}
	})
}
