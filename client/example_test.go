package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
	"github.com/tidewire/tidewire/internal/memnet"
)

// exampleBroker runs a broker within the process, so that the examples run
// anywhere. A program dials a URL and needs no Config.Dial.
func exampleBroker() (config client.Config, stop func()) {
	b, err := broker.New(broker.Config{})
	if err != nil {
		log.Fatal(err)
	}
	n := new(memnet.Network)
	return client.Config{Dial: n.Dial}, n.Serve(b)
}

const url = "https://broker.example:4433/tidewire"

// Subscribe, publish, and iterate over what comes.
func Example() {
	config, stop := exampleBroker()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	c, err := client.Dial(ctx, url, config)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	sub, err := c.Subscribe(ctx, "chat.*", nil)
	if err != nil {
		log.Fatal(err)
	}
	position, err := c.Publish(ctx, "chat.lobby", "hello", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("published at offset", position.Offset)

	for m, err := range sub.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		if m.Gap != nil {
			fmt.Println(m.Gap)
			continue
		}
		fmt.Printf("%s: %s\n", m.Topic, m.Payload.Data)
		break
	}
	// Output:
	// published at offset 1
	// chat.lobby: hello
}

// Values of other types travel as MessagePack, and are decoded into a type.
func ExampleDecode() {
	config, stop := exampleBroker()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, url, config)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	type reading struct {
		Sensor  string  `json:"sensor"`
		Celsius float64 `json:"celsius"`
	}
	sub, err := c.Subscribe(ctx, "sensors.>", nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.Publish(ctx, "sensors.roof.temperature", reading{"roof", 21.5}, nil); err != nil {
		log.Fatal(err)
	}
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		r, err := client.Decode[reading](m)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(r.Sensor, r.Celsius)
		break
	}
	// Output: roof 21.5
}

// A refusal has a code, which says what to do.
func ExampleClient_Publish_refused() {
	config, stop := exampleBroker()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, url, config)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	_, err = c.Publish(ctx, "$SYS.reboot", "now", nil)
	fmt.Println(errors.Is(err, &client.Error{Code: codec.CodeSystemTopic}))
	fmt.Println(err)
	// Output:
	// true
	// tidewire: system_topic (204): topics that begin with $ or _ belong to the system
}
