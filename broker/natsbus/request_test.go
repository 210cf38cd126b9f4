package natsbus_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// serve answers requests to a subscription until the test ends.
func serve(t *testing.T, sub *client.Subscription, answer func(client.Message) (string, map[string]string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range sub.Messages(ctx) {
			if err != nil {
				return
			}
			if !m.Request {
				continue
			}
			text, headers := answer(m)
			if err := m.Reply(ctx, text, &client.ReplyOptions{Headers: headers}); err != nil && ctx.Err() == nil {
				t.Errorf("reply: %v", err)
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func plainClient(t *testing.T, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, patient)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// A client asks, one of another broker answers; where nobody is, that is told at once.
func TestRequestAcrossBrokers(t *testing.T) {
	s := natsServer(t, 0)
	for _, prefix := range []string{"", "tidewire.test"} {
		_, alice := newBroker(t, s, prefix)
		b, bob := newBroker(t, s, prefix)
		start := time.Now()
		if _, err := alice.Request(within(t), "sum", "1+1", &client.RequestOptions{Timeout: 10 * time.Minute}); codec.CodeOf(err) != codec.CodeNoResponders {
			t.Fatal(err)
		}
		if d := time.Since(start); d > deadline/2 {
			t.Errorf("nobody there: told after %v", d)
		}
		serve(t, subscribe(t, bob, "sum"), func(m client.Message) (string, map[string]string) {
			return "answer to " + string(m.Payload.Data), map[string]string{"By": m.Headers["For"]}
		})
		for _, asker := range []*client.Client{alice, bob} {
			m, err := asker.Request(within(t), "sum", "1+1", &client.RequestOptions{Headers: map[string]string{"For": "bob"}})
			if err != nil || string(m.Payload.Data) != "answer to 1+1" || m.Payload.Encoding != codec.EncodingText || m.Headers["By"] != "bob" || m.Publisher != bob.ID() {
				t.Fatalf("%+v, %v", m, err)
			}
		}
		m, err := b.Request(within(t), "sum", "the process", nil)
		if err != nil || string(m.Payload.Data) != "answer to the process" {
			t.Fatalf("%+v, %v", m, err)
		}

		// Both answer.
		serve(t, subscribe(t, alice, "sum"), func(client.Message) (string, map[string]string) { return "alice", nil })
		got := make(map[string]bool)
		for m, err := range alice.RequestMany(within(t), "sum", "?", &client.RequestOptions{Max: 2}) {
			if err != nil {
				t.Fatal(err)
			}
			got[string(m.Payload.Data)] = true
		}
		if !got["alice"] || !got["answer to ?"] {
			t.Errorf("%v", got)
		}
	}
}

// Plain NATS clients ask and answer like any other.
func TestRequestsOfPlainClients(t *testing.T) {
	s := natsServer(t, 0)
	_, c := newBroker(t, s, "")
	plain := plainClient(t, s.ClientURL())
	serve(t, subscribe(t, c, "tidewire.service"), func(m client.Message) (string, map[string]string) {
		if m.Headers["Nats-Secret"] != "" || m.Headers["Tidewire-Mode"] != "" {
			t.Errorf("reserved headers are shown: %v", m.Headers)
		}
		return "got " + string(m.Payload.Data) + " of " + m.Headers["Kind"], map[string]string{"Status": "fine"}
	})
	m, err := plain.RequestMsg(&nats.Msg{Subject: "tidewire.service", Data: []byte("x"), Header: nats.Header{
		"Kind": {"test"}, "Nats-Secret": {"s"}, "Tidewire-Mode": {"reliable"},
	}}, deadline)
	if err != nil || string(m.Data) != "got x of test" || m.Header.Get("Status") != "fine" || m.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Fatalf("%+v, %v", m, err)
	}

	service, err := plain.Subscribe("nats.service", func(m *nats.Msg) {
		reply := nats.NewMsg(m.Reply)
		reply.Data = []byte(`{"got":"` + string(m.Data) + `"}`)
		reply.Header = nats.Header{"Content-Type": {"application/json"}, "Kind": {m.Header.Get("Kind")}, "Nats-Service-Error": {"no"}}
		if err := plain.PublishMsg(reply); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.Flush(); err != nil {
		t.Fatal(err)
	}
	answer, err := c.Request(within(t), "nats.service", "y", &client.RequestOptions{Headers: map[string]string{"Kind": "test"}})
	if err != nil || string(answer.Payload.Data) != `{"got":"y"}` || answer.Payload.Encoding != codec.EncodingJSON || fmt.Sprint(answer.Headers) != "map[Kind:test]" {
		t.Fatalf("%+v, %v", answer, err)
	}
	if err := service.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if err := plain.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Request(within(t), "nats.service", "y", nil); codec.CodeOf(err) != codec.CodeNoResponders {
		t.Error(err)
	}
}
