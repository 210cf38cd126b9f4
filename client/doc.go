// Package client is the Go client of Tidewire.
//
// # Usage
//
//	c, err := client.Dial(ctx, "https://broker.example:4433/tidewire", client.Config{Token: token})
//	defer c.Close()
//
//	sub, err := c.Subscribe(ctx, "chat.*", nil)
//	for m, err := range sub.Messages(ctx) {
//		…
//	}
//
//	position, err := c.Publish(ctx, "chat.lobby", "hello", nil)
//
// # Loss is never silent
//
// Where messages are missing, because this subscriber was slow, because a
// datagram was lost, or because the connection was, the iteration has an item
// whose Gap is set, and goes on. A program that ignores gaps begins its loop with
// if m.Gap != nil { continue }.
//
// # Connection
//
// The first connection is made by Dial, and its failure is Dial's error. Later
// the client connects again by itself, with capped exponential backoff and full
// jitter, and subscribes again; each subscription then meets a gap, unless its
// position shows that nothing was missed. Calls that need a connection wait for
// one until their context ends. A refusal that trying again cannot mend, such as
// a bad token, ends the client.
//
// # Memory
//
// A subscription holds at most its credit in bytes of reliable messages that the
// application has not taken yet, and at most 1,024 lossy ones and gaps. While many
// wait, a newer lossy message takes the place of an older one of its topic; beyond
// the bound the oldest go. The newest values stay, and a gap tells of the others;
// Subscription.Stats counts them. The client reads everything at once, so a loop
// that is slow, or not there, delays no other subscription.
//
// Messages on their way up wait for room, at most as long as the call's context.
//
// # Concurrency and cancellation
//
// All methods may be called concurrently. A context bounds one call and nothing
// else. Close ends the client, waits for its goroutines, and makes every
// iteration end.
package client
