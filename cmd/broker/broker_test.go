package main

import (
	"strings"
	"testing"
)

func TestPublishAndSubscribe(t *testing.T) {
	isolate(t)
	b := startBroker(t)
	sub := start(t, "", "sub", "--server", b.url, "--count", "2", "chat.>")
	sub.stderr.await(t, "subscribed")
	if out, _ := do(t, 0, "pub", "--server", b.url, "chat.lobby", "hello"); !strings.HasPrefix(out, "chat.lobby  #1  epoch ") {
		t.Errorf("pub printed %q", out)
	}
	if out, _ := do(t, 0, "pub", "--server", b.url, "chat.lobby", "again"); !strings.HasPrefix(out, "chat.lobby  #2  epoch ") {
		t.Errorf("pub printed %q", out)
	}
	sub.wait(t, 0)
	if got := sub.stdout.String(); got != "chat.lobby  #1  hello\nchat.lobby  #2  again\n" {
		t.Errorf("sub printed %q", got)
	}
	b.interrupt()
	b.wait(t, 0)
}
