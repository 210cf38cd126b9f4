package client

import (
	"context"
	"iter"
)

// Topic is a topic, or a pattern to subscribe to, whose messages are all of type T.
type Topic[T any] struct {
	client *Client
	name   string
}

// NewTopic names the type of a topic's messages.
func NewTopic[T any](c *Client, name string) Topic[T] { return Topic[T]{c, name} }

// Name returns the topic.
func (t Topic[T]) Name() string { return t.name }

// Publish is Client.Publish.
func (t Topic[T]) Publish(ctx context.Context, value T, opts *PublishOptions) (Position, error) {
	return t.client.Publish(ctx, t.name, value, opts)
}

// PublishLossy is Client.PublishLossy.
func (t Topic[T]) PublishLossy(ctx context.Context, value T, opts *PublishOptions) error {
	return t.client.PublishLossy(ctx, t.name, value, opts)
}

// Subscribe is Client.Subscribe.
func (t Topic[T]) Subscribe(ctx context.Context, opts *SubscribeOptions) (*TypedSubscription[T], error) {
	sub, err := t.client.Subscribe(ctx, t.name, opts)
	if err != nil {
		return nil, err
	}
	return &TypedSubscription[T]{sub}, nil
}

// Map is OpenMap.
func (t Topic[T]) Map(ctx context.Context, opts *MapOptions) (*Map[T], error) {
	return OpenMap[T](ctx, t.client, t.name, opts)
}

// Item is a message of a typed topic.
type Item[T any] struct {
	Message
	Value T
	Err   error // the payload is no T; then Value is the zero value
}

// TypedSubscription is a Subscription whose messages are decoded.
type TypedSubscription[T any] struct{ *Subscription }

// Messages is Subscription.Messages, with each payload decoded. One that is no T
// does not end the iteration: it is an item with Err. On an item with Gap, Value is
// the zero value.
func (s *TypedSubscription[T]) Messages(ctx context.Context) iter.Seq2[Item[T], error] {
	return func(yield func(Item[T], error) bool) {
		for m, err := range s.Subscription.Messages(ctx) {
			item := Item[T]{Message: m}
			if err == nil && m.Gap == nil {
				item.Value, item.Err = Decode[T](m)
			}
			if !yield(item, err) {
				return
			}
		}
	}
}
