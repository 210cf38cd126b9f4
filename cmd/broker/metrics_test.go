package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/wt"
	"github.com/tidewire/tidewire/wt/wttest"
)

// scrape returns the broker's metrics by their names, labels included.
func scrape(t *testing.T, b *broker.Broker) map[string]string {
	t.Helper()
	w := httptest.NewRecorder()
	metricsHandler(b).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	values := make(map[string]string)
	for line := range strings.Lines(w.Body.String()) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			values[name] = value
		}
	}
	return values
}

// What happens to messages, subscriptions and packets is counted where it should be.
func TestMetricsOfDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := broker.New(broker.Config{
			Authenticator: broker.Open{AllowRemote: true},
			MaxQueueBytes: 2000,
			Topics:        []broker.TopicConfig{{Pattern: ">", History: broker.Retention{Count: -1}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		network := wttest.NewNetwork(t, wttest.Link{Latency: 10 * time.Millisecond}, 1)
		server := wttest.Serve(t, network, wt.ServerConfig{Handler: b})
		defer func() { _ = b.Close() }()
		c, err := client.Dial(t.Context(), "", client.Config{Dial: func(ctx context.Context, _ string) (client.Conn, error) {
			session, err := server.Dialer(wt.Dialer{}).Dial(ctx, server.URL)
			if err != nil {
				return nil, err
			}
			return client.WebTransport(session), nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()

		subs := make(map[string]*client.Subscription)
		for topic, opts := range map[string]client.SubscribeOptions{
			"taken":    {},
			"overflow": {Credit: 1},
			"latest":   {Credit: 1, Class: client.Latest},
		} {
			if subs[topic], err = c.Subscribe(t.Context(), topic, &opts); err != nil {
				t.Fatal(err)
			}
		}
		network.SetLink(wttest.Link{Latency: 10 * time.Millisecond, Loss: 0.3})
		const messages = 100
		for range messages {
			for topic := range subs {
				payload := make([]byte, 300)
				if topic == "taken" {
					payload = payload[:10]
				}
				if _, err := b.Publish(t.Context(), topic, payload, &broker.PublishOptions{Key: "key"}); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(100 * time.Millisecond) // a packet each, and the credit of 1 is used up
		}
		time.Sleep(10 * time.Second)

		values := scrape(t, b)
		stats, paths := b.Stats(), b.Paths()
		// Of a subscription without credit one message came.
		overflow, conflated := stats.Dropped[broker.DropOverflow], stats.Dropped[broker.DropConflated]
		if stats.Delivered != messages+2 || conflated != messages-2 || overflow == 0 || stats.SlowSubscriptions != 1 || stats.QueuedBytes == 0 || paths.RTT50 < 20*time.Millisecond || paths.Loss == 0 {
			t.Errorf("the broker itself says %+v, %+v", stats, paths)
		}
		for name, want := range map[string]any{
			"tidewire_sessions":                                   1,
			"tidewire_subscriptions":                              3,
			"tidewire_slow_subscriptions":                         1,
			"tidewire_queued_bytes":                               stats.QueuedBytes,
			"tidewire_messages_published_total":                   3 * messages,
			"tidewire_messages_delivered_total":                   messages + 2,
			"tidewire_messages_delivered_bytes_total":             stats.DeliveredBytes,
			`tidewire_messages_dropped_total{reason="overflow"}`:  overflow,
			`tidewire_messages_dropped_total{reason="conflated"}`: messages - 2,
			`tidewire_gaps_total{reason="overflow"}`:              0,
			`tidewire_gaps_total{reason="conflated"}`:             0,
			`tidewire_rtt_seconds{quantile="0.5"}`:                paths.RTT50.Seconds(),
			`tidewire_rtt_seconds{quantile="0.99"}`:               paths.RTT99.Seconds(),
			"tidewire_packet_loss_ratio":                          paths.Loss,
		} {
			if got := values[name]; got != fmt.Sprint(want) {
				t.Errorf("%s is %s, want %v", name, got, want)
			}
		}

		// Who reads on is told of what is missing.
		for _, topic := range []string{"overflow", "latest"} {
			for m, err := range subs[topic].Messages(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				if m.Position.Offset == messages || m.Gap != nil && m.Gap.To.Offset == messages {
					break
				}
			}
		}
		values = scrape(t, b)
		for name, want := range map[string]string{
			`tidewire_gaps_total{reason="overflow"}`:  "1",
			`tidewire_gaps_total{reason="conflated"}`: "1",
			"tidewire_slow_subscriptions":             "0",
			"tidewire_queued_bytes":                   "0",
		} {
			if got := values[name]; got != want {
				t.Errorf("afterwards %s is %s, want %s", name, got, want)
			}
		}
	})
}
