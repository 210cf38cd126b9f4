package client_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/tidewire/tidewire/client"
)

// exampleClient connects a client to a broker within the process. A program calls
// client.Dial.
func exampleClient() (ctx context.Context, c *client.Client, stop func()) {
	config, stopBroker := exampleBroker()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	c, err := client.Dial(ctx, url, config)
	if err != nil {
		log.Fatal(err)
	}
	return ctx, c, func() {
		_ = c.Close()
		cancel()
		stopBroker()
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}

// A subscription may begin in the past, and a program that is started again goes
// on where it was: it keeps the position of what it has worked on.
func ExampleFrom() {
	ctx, c, stop := exampleClient()
	defer stop()
	for i := range 5 {
		must(c.Publish(ctx, "orders.new", fmt.Sprint("order ", i), nil))
	}

	sub := must(c.Subscribe(ctx, "orders.new", &client.SubscribeOptions{From: client.FromLast(3)}))
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s, replayed: %v\n", m.Payload.Data, m.Replayed)
		break
	}
	position, _ := sub.Position() // to be kept somewhere
	_ = sub.Close()

	sub = must(c.Subscribe(ctx, "orders.new", &client.SubscribeOptions{From: client.FromPosition(position)}))
	n := 0
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", m.Payload.Data)
		if n++; n == 2 {
			break
		}
	}
	// Output:
	// order 2, replayed: true
	// order 3
	// order 4
}

// History is read in pages, without a subscription, in both directions.
func ExampleClient_History() {
	ctx, c, stop := exampleClient()
	defer stop()
	for i := range 5 {
		must(c.Publish(ctx, "chat.lobby", fmt.Sprint("message ", i), nil))
	}

	options := client.HistoryOptions{Backward: true, Limit: 2}
	for {
		page := must(c.History(ctx, "chat.lobby", &options))
		for _, m := range page.Messages {
			if m.Gap != nil {
				fmt.Println(m.Gap)
				continue
			}
			fmt.Printf("%s\n", m.Payload.Data)
		}
		if !page.More {
			break
		}
		options.From = client.FromPosition(page.Next)
		fmt.Println("-- next page")
	}
	// Output:
	// message 4
	// message 3
	// -- next page
	// message 2
	// message 1
	// -- next page
	// message 0
}

// A retained message is the last value of its topic: who subscribes later gets it
// first.
func ExamplePublishOptions_retain() {
	ctx, c, stop := exampleClient()
	defer stop()
	must(c.Publish(ctx, "door.front", "open", &client.PublishOptions{Retain: true}))
	must(c.Publish(ctx, "door.front", "closed", &client.PublishOptions{Retain: true}))

	sub := must(c.Subscribe(ctx, "door.front", nil))
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s, retained: %v\n", m.Payload.Data, m.Retained)
		break
	}
	// Output: closed, retained: true
}

// A live map is the last value of each key of a topic.
func ExampleOpenMap() {
	ctx, c, stop := exampleClient()
	defer stop()
	type player struct {
		X, Y int
	}
	set := func(key string, p player) {
		must(c.Publish(ctx, "game.players", p, &client.PublishOptions{Key: key, Retain: true}))
	}
	set("ann", player{1, 2})
	set("bob", player{3, 4})

	players := must(client.OpenMap[player](ctx, c, "game.players", nil))
	defer players.Close()
	for key, e := range players.All() {
		fmt.Println(key, e.Value.X, e.Value.Y)
	}

	set("ann", player{5, 6})
	must(c.Publish(ctx, "game.players", []byte(nil), &client.PublishOptions{Key: "bob", Retain: true}))
	for _, err := range players.Changes(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		if _, there := players.Get("bob"); !there {
			break
		}
	}
	fmt.Println("now", players.Len())
	ann, _ := players.Get("ann")
	fmt.Println("ann", ann.Value.X, ann.Value.Y)
	// Output:
	// ann 1 2
	// bob 3 4
	// now 1
	// ann 5 6
}

// A typed topic encodes what is published and decodes what comes.
func ExampleNewTopic() {
	ctx, c, stop := exampleClient()
	defer stop()
	type said struct {
		From, Text string
	}
	lobby := client.NewTopic[said](c, "chat.lobby")
	sub := must(lobby.Subscribe(ctx, nil))
	must(lobby.Publish(ctx, said{"ann", "hello"}, nil))
	for item, err := range sub.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		if item.Gap != nil || item.Err != nil {
			continue
		}
		fmt.Println(item.Value.From+":", item.Value.Text)
		break
	}
	// Output: ann: hello
}

// The broker evaluates a filter on the headers of messages.
func ExampleFilter() {
	ctx, c, stop := exampleClient()
	defer stop()
	sub := must(c.Subscribe(ctx, "match.7", &client.SubscribeOptions{Filter: client.Filter{
		client.Where("kind").In("goal", "card"),
		client.Where("minute").AtLeast(80),
	}}))
	for _, e := range [][3]string{{"goal", "12", "1:0"}, {"corner", "81", ""}, {"card", "85", "yellow"}} {
		must(c.Publish(ctx, "match.7", e[2], &client.PublishOptions{Headers: map[string]string{"kind": e[0], "minute": e[1]}}))
	}
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %s\n", m.Headers["minute"], m.Payload.Data)
		break
	}
	// Output: 85 yellow
}

// A subscription without echo leaves out what this client publishes.
func ExampleSubscribeOptions_noEcho() {
	config, stop := exampleBroker()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ada, ben := must(client.Dial(ctx, url, config)), must(client.Dial(ctx, url, config))
	defer ada.Close()
	defer ben.Close()
	sub := must(ada.Subscribe(ctx, "draw.strokes", &client.SubscribeOptions{NoEcho: true}))
	must(ada.Publish(ctx, "draw.strokes", "Ada's", nil))
	must(ben.Publish(ctx, "draw.strokes", "Ben's", nil))

	for m, err := range sub.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", m.Payload.Data)
		break
	}
	// Output: Ben's
}
