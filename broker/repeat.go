package broker

import (
	"context"
	"hash/maphash"
)

// A bus that joins brokers brings a message to others before it has its place here,
// and neither groups nor plain NATS clients look for copies. So the broker looks for
// the idempotency key before it gives the message away; those that have the same one
// follow each other.

// idTurns let messages with the same idempotency key follow each other. There are a few
// for all keys: a turn is short.
type idTurns struct {
	seed  maphash.Seed
	turns [64]chan struct{}
}

func newIDTurns() *idTurns {
	t := &idTurns{seed: maphash.MakeSeed()}
	for i := range t.turns {
		t.turns[i] = make(chan struct{}, 1)
	}
	return t
}

// of returns the turn of a key of a topic.
func (t *idTurns) of(topic, id string) chan struct{} {
	hash := maphash.Comparable(t.seed, [2]string{topic, id})
	return t.turns[hash%uint64(len(t.turns))]
}

// toBus brings a message to the bus, unless its idempotency key was published to its
// topic before: then the position is the one that it got.
func (b *Broker) toBus(ctx context.Context, m Message) (Position, error) {
	if m.ID == "" || !b.joined {
		return b.bus.Publish(ctx, m) // its place is where the key is looked for
	}
	turn := b.idTurns.of(m.Topic, m.ID)
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return Position{}, context.Cause(ctx)
	}
	tp, err := b.topics.get(m.Topic, true)
	if err != nil {
		return Position{}, err
	}
	defer tp.unpin()
	if pos, ok := tp.repeated(m.ID); ok {
		b.counters.duplicates.Add(1)
		return pos, nil
	}
	return b.bus.Publish(ctx, m)
}

// repeated returns the position of the message with an idempotency key, if it is known.
func (tp *topic) repeated(id string) (Position, bool) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	offset := tp.knownLocked(id, tp.broker.now())
	return Position{tp.epoch, offset}, offset > 0
}
