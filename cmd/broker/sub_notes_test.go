package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/client"
)

// Each reason is told once, until it is another one.
func TestConnectionNotes(t *testing.T) {
	var w strings.Builder
	note := connectionNotes(&w)
	stops, refused := errors.New("the broker stops"), errors.New("another certificate")
	for _, err := range []error{stops, stops, refused, refused} {
		note(client.StateDisconnected, err)
		note(client.StateConnecting, nil)
	}
	note(client.StateConnected, nil)
	note(client.StateConnected, nil)
	note(client.StateDisconnected, stops)
	want := "connection lost, trying again: the broker stops\n" +
		"still trying: another certificate\n" +
		"connected again\n" +
		"connection lost, trying again: the broker stops\n"
	if w.String() != want {
		t.Errorf("got\n%swant\n%s", w.String(), want)
	}
}
