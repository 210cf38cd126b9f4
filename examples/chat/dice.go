package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/tidewire/tidewire/client"
)

const (
	maxDice  = 20
	maxSides = 100
)

// diceGroup is the queue group of those who roll dice: several programs may, and
// each request goes to one of them.
const diceGroup = "dice"

// rollDice throws dice for whoever asks in any room, until ctx ends. It calls ready
// once requests come.
func rollDice(ctx context.Context, c *client.Client, ready func()) error {
	sub, err := c.Subscribe(ctx, rollTopic("*"), &client.SubscribeOptions{Group: diceGroup})
	if err != nil {
		return err
	}
	ready()
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			return err
		}
		if !m.Request {
			continue
		}
		// A reply that is lost is one that came too late: who asked is told so.
		_ = m.Reply(ctx, roll(ctx, c, m), nil)
	}
	return nil
}

// roll throws the dice that a request asks for, and says in its room what fell.
func roll(ctx context.Context, c *client.Client, m client.Message) thrown {
	ask, err := client.Decode[throw](m)
	if err != nil {
		return thrown{Error: "this is no request for dice"}
	}
	n, sides, err := parseDice(ask.Dice)
	if err != nil {
		return thrown{Error: err.Error()}
	}
	total := 0
	fell := make([]string, n)
	for i := range fell {
		die := throwOne(sides)
		total += die
		fell[i] = strconv.Itoa(die)
	}
	text := fmt.Sprintf("%s rolls %dd%d: %s", cleanName(ask.Name), n, sides, strings.Join(fell, " + "))
	if n > 1 {
		text += fmt.Sprintf(" = %d", total)
	}
	room := strings.Split(m.Topic, ".")[1]
	id := rand.Text()
	if _, err := c.Publish(ctx, messagesTopic(room), said{ID: id, Name: "Dice", Text: text}, &client.PublishOptions{ID: id}); err != nil {
		return thrown{Error: "the dice fell under the table"}
	}
	return thrown{Total: total}
}

// parseDice reads the likes of "2d6"; "" is one of six sides.
func parseDice(text string) (n, sides int, err error) {
	text = strings.ToLower(strings.TrimSpace(text))
	if text == "" {
		return 1, 6, nil
	}
	before, after, ok := strings.Cut(text, "d")
	n = 1
	if before != "" {
		n, err = strconv.Atoi(before)
	}
	sides, sidesErr := strconv.Atoi(after)
	if !ok || err != nil || sidesErr != nil {
		return 0, 0, errors.New("dice are written like 2d6")
	}
	if n < 1 || n > maxDice || sides < 2 || sides > maxSides {
		return 0, 0, fmt.Errorf("there are 1 to %d dice with 2 to %d sides", maxDice, maxSides)
	}
	return n, sides, nil
}

// throwOne throws a die.
func throwOne(sides int) int {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(sides)))
	if err != nil {
		panic(err) // rand.Reader never fails
	}
	return int(n.Int64()) + 1
}
