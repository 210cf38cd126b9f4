package wt_test

import (
	"errors"
	"io"
	"testing"

	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

func TestBidirectionalStream(t *testing.T) {
	client, server := wttest.Pair(t)
	ctx := t.Context()

	sent, err := client.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sent.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := sent.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := server.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(got)
	if err != nil || string(b) != "hello" {
		t.Fatalf("server read %q, %v", b, err)
	}
	if _, err := got.Write([]byte("world")); err != nil {
		t.Fatal(err)
	}
	if err := got.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err = io.ReadAll(sent); err != nil || string(b) != "world" {
		t.Fatalf("client read %q, %v", b, err)
	}
}

func TestCloseByServer(t *testing.T) {
	client, server := wttest.Pair(t)
	if err := server.CloseWithError(7, "done"); err != nil {
		t.Fatal(err)
	}
	_, err := client.AcceptStream(t.Context())
	var ended *wt.SessionError
	if !errors.As(err, &ended) || ended.Code != 7 || ended.Reason != "done" || ended.By != wt.Peer {
		t.Fatalf("client got %v, want close with 7 by peer", err)
	}
}
