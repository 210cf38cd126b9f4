package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// A message with an idempotency key is published once, however often it is tried.
func ExamplePublishOptions_iD() {
	ctx, c, stop := exampleClient()
	defer stop()
	once := &client.PublishOptions{ID: "payment-4711"}
	first := must(c.Publish(ctx, "payments", "10 EUR", once))
	again := must(c.Publish(ctx, "payments", "10 EUR", once))
	fmt.Println(first == again)
	// Output: true
}

// A message with a time to live is worth nothing afterwards: the broker drops it
// wherever it waits, and tells a gap.
func ExamplePublishOptions_tTL() {
	ctx, c, stop := exampleClient()
	defer stop()
	must(c.Publish(ctx, "price.eurusd", "1.0832", &client.PublishOptions{TTL: 20 * time.Millisecond}))
	time.Sleep(50 * time.Millisecond)
	must(c.Publish(ctx, "price.eurusd", "1.0833", nil))

	sub := must(c.Subscribe(ctx, "price.eurusd", &client.SubscribeOptions{From: client.FromBeginning()}))
	n := 0
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		if m.Gap != nil {
			fmt.Println(m.Gap)
		} else {
			fmt.Printf("%s\n", m.Payload.Data)
		}
		if n++; n == 2 {
			break
		}
	}
	// Output:
	// 1 messages of price.eurusd are missing: expired
	// 1.0833
}

// A batch stays together, and is answered at once.
func ExampleClient_PublishBatch() {
	ctx, c, stop := exampleClient()
	defer stop()
	positions, err := c.PublishBatch(ctx, "log.app", []client.Outgoing{
		{Value: "starting"},
		{Value: "ready", PublishOptions: client.PublishOptions{Headers: map[string]string{"level": "info"}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(positions[0].Offset, positions[1].Offset)
	// Output: 1 2
}

// Publishing without waiting keeps the order, and works without a connection up to
// a bound.
func ExampleClient_PublishAsync() {
	ctx, c, stop := exampleClient()
	defer stop()
	var results []*client.PublishResult
	for i := range 3 {
		results = append(results, c.PublishAsync("sensor.7", i, nil))
	}
	for _, r := range results {
		fmt.Println(must(r.Wait(ctx)).Offset)
	}
	// Output:
	// 1
	// 2
	// 3
}

// Whoever subscribes to a topic may answer the requests that come there.
func ExampleClient_Request() {
	ctx, c, stop := exampleClient()
	defer stop()
	_, err := c.Request(ctx, "time.now", nil, nil)
	fmt.Println(errors.Is(err, &client.Error{Code: codec.CodeNoResponders}))

	sub := must(c.Subscribe(ctx, "time.now", nil))
	done := make(chan struct{})
	serving, cancel := context.WithCancel(ctx)
	go func() {
		defer close(done)
		for m, err := range sub.Messages(serving) {
			if err == nil && m.Request {
				_ = m.Reply(serving, "noon", nil)
			}
		}
	}()
	reply := must(c.Request(ctx, "time.now", nil, nil))
	fmt.Printf("%s\n", reply.Payload.Data)
	cancel()
	<-done
	// Output:
	// true
	// noon
}

// Many may answer; those who ask take as many replies as they want, or wait for the
// timeout.
func ExampleClient_RequestMany() {
	ctx, c, stop := exampleClient()
	defer stop()
	serving, cancel := context.WithCancel(ctx)
	done := make(chan struct{}, 2)
	for i := range 2 {
		sub := must(c.Subscribe(ctx, "who.is.there", nil))
		go func() {
			defer func() { done <- struct{}{} }()
			for m, err := range sub.Messages(serving) {
				if err == nil && m.Request {
					_ = m.Reply(serving, i, nil)
				}
			}
		}()
	}
	sum, replies := 0, 0
	for m, err := range c.RequestMany(ctx, "who.is.there", nil, &client.RequestOptions{Max: 2}) {
		if err != nil {
			log.Fatal(err)
		}
		sum += must(client.Decode[int](m))
		replies++
	}
	fmt.Println(replies, "replies, together", sum)
	cancel()
	<-done
	<-done
	// Output: 2 replies, together 1
}

// The members of a group share the messages out.
func ExampleSubscribeOptions_group() {
	ctx, c, stop := exampleClient()
	defer stop()
	one := must(c.Subscribe(ctx, "jobs.*", &client.SubscribeOptions{Group: "workers"}))
	two := must(c.Subscribe(ctx, "jobs.*", &client.SubscribeOptions{Group: "workers"}))
	const jobs = 10
	for i := range jobs {
		must(c.Publish(ctx, "jobs.resize", i, nil))
	}
	done := make(chan int)
	work, cancel := context.WithCancel(ctx)
	for _, sub := range []*client.Subscription{one, two} {
		go func() {
			for m, err := range sub.Messages(work) {
				if err != nil {
					return
				}
				done <- must(client.Decode[int](m))
			}
		}()
	}
	sum := 0
	for range jobs {
		sum += <-done
	}
	cancel()
	fmt.Println(sum)
	// Output: 45
}

// Presence tells who is in a topic.
func ExampleClient_Enter() {
	ctx, c, stop := exampleClient()
	defer stop()
	watch := must(c.WatchPresence(ctx, "room.*"))
	defer watch.Close()

	if err := c.Enter(ctx, "room.1", "ann, writing"); err != nil {
		log.Fatal(err)
	}
	for e, err := range watch.Events(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %s: %s\n", e.Kind, e.Topic, e.Member.State.Data)
		break
	}
	for _, member := range must(c.Presence(ctx, "room.1")) {
		fmt.Println(member.Client == c.ID())
	}
	fmt.Println(must(c.PresenceCount(ctx, "room.>")))
	if err := c.Leave(ctx, "room.1"); err != nil {
		log.Fatal(err)
	}
	for e, err := range watch.Events(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Kind, e.Topic)
		break
	}
	// Output:
	// joined room.1: ann, writing
	// true
	// map[room.1:1]
	// left room.1
}

// What the broker sees of the connection and of each subscription.
func ExampleClient_Health() {
	ctx, c, stop := exampleClient()
	defer stop()
	sub := must(c.Subscribe(ctx, "ticks", &client.SubscribeOptions{Class: client.Latest}))
	health := must(c.Health(ctx))
	fmt.Println(health.RTT < time.Second, health.Subscriptions[sub].QueuedMessages)
	// Output: true 0
}

// GetToken is asked before each connection, and before a token expires.
func ExampleConfig_getToken() {
	config, stop := exampleBroker()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	config.GetToken = func(context.Context) (string, error) {
		fmt.Println("asked for a token")
		return "token", nil
	}
	c := must(client.Dial(ctx, url, config))
	fmt.Println(c.State())
	_ = c.Close()
	// Output:
	// asked for a token
	// connected
}

// The priority of a subscription may change while it lives: what the user looks at
// comes first.
func ExampleSubscription_SetPriority() {
	ctx, c, stop := exampleClient()
	defer stop()
	sub := must(c.Subscribe(ctx, "camera.1", &client.SubscribeOptions{Priority: 7, Class: client.Latest}))
	if err := sub.SetPriority(1); err != nil {
		log.Fatal(err)
	}
	fmt.Println(sub.State())
	// Output: subscribed
}
