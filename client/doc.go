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
// datagram was lost, because they expired, or because the client was away for
// longer than the history reaches, the iteration has an item whose Gap is set, and
// goes on. A program that ignores gaps begins its loop with if m.Gap != nil {
// continue }. Subscriptions of class Unreliable have no gaps: they promise no order.
// One in a group has a gap only where the group had no room.
//
// # Connection
//
// The first connection is made by Dial, and its failure is Dial's error. Later
// the client connects again by itself, with capped exponential backoff and full
// jitter. Each subscription then goes on where it was: what was published meanwhile
// comes first, as far as the broker has kept it, and nothing comes twice. Presences
// are entered again, and live maps are read again if need be. A broker from which
// nothing comes for 10 s is taken for lost. A refusal that trying again cannot mend,
// such as a bad token, ends the client.
//
// What is published without a connection waits for one, within a bound and in
// order, or is refused: see Config.Offline. A message whose answer was awaited when
// the connection was lost is published again if the broker can tell that it was
// published already, and else fails with CodeConnectionLost: see Client.Publish.
// Requests are never sent twice. Other calls that need a connection wait for one
// until their context ends.
//
// # Memory
//
// A subscription holds at most its credit in bytes of messages that came by stream
// and that the application has not taken yet, and at most 1,024 that came by
// datagram, and gaps. While many wait, a newer one of these takes the place of an
// older one of its topic and key; beyond the bound the oldest go. The newest values
// stay, and a gap tells of the others; Subscription.Stats counts them. What a member of
// a group has not taken when its connection is lost it keeps, as much as its credit, beside
// what comes on the next one. The client
// reads everything at once, so a loop that is slow, or not there, delays no other
// subscription.
//
// Messages on their way up wait for room, at most as long as the call's context.
//
// # Concurrency and cancellation
//
// All methods may be called concurrently. A context bounds one call and nothing
// else. Close ends the client, waits for its goroutines, and makes every
// iteration end.
package client
