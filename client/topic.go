package client

import (
	"context"
	"iter"
)

// Topic is a topic whose messages are all of type T: the calls of Client, with types.
// It may be a pattern, too, to subscribe to; the other calls then fail with
// CodeInvalidTopic. Copies are equal, and may be used concurrently.
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

// TypedOutgoing is one message of a batch of a typed topic.
type TypedOutgoing[T any] struct {
	Value T
	PublishOptions
}

// PublishBatch is Client.PublishBatch: positions and the error are the same.
func (t Topic[T]) PublishBatch(ctx context.Context, messages []TypedOutgoing[T]) ([]Position, error) {
	batch := make([]Outgoing, len(messages))
	for i, m := range messages {
		batch[i] = Outgoing{m.Value, m.PublishOptions}
	}
	return t.client.PublishBatch(ctx, t.name, batch)
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

// Request is Client.Request. Replies need not be of type T: Decode makes a value of
// the one that comes.
func (t Topic[T]) Request(ctx context.Context, value T, opts *RequestOptions) (Message, error) {
	return t.client.Request(ctx, t.name, value, opts)
}

// TypedHistoryPage is a HistoryPage whose messages are decoded.
type TypedHistoryPage[T any] struct {
	// Messages are those of the page, in its order, and its gaps. A payload that is no
	// T is an item with Err, and the page has the others all the same.
	Messages []Item[T]
	// First, Last, More and Next are those of HistoryPage.
	First, Last Position
	More        bool
	Next        Position
}

// History is Client.History, with each payload decoded: at most 1,000 messages and
// 1 MiB a page, 100 messages by default. The error is that of Client.History; then the
// page is the zero one.
func (t Topic[T]) History(ctx context.Context, opts *HistoryOptions) (TypedHistoryPage[T], error) {
	page, err := t.client.History(ctx, t.name, opts)
	if err != nil {
		return TypedHistoryPage[T]{}, err
	}
	typed := TypedHistoryPage[T]{
		Messages: make([]Item[T], len(page.Messages)),
		First:    page.First,
		Last:     page.Last,
		More:     page.More,
		Next:     page.Next,
	}
	for i, m := range page.Messages {
		typed.Messages[i] = decoded[T](m)
	}
	return typed, nil
}

// Map is OpenMap.
func (t Topic[T]) Map(ctx context.Context, opts *MapOptions) (*Map[T], error) {
	return OpenMap[T](ctx, t.client, t.name, opts)
}

// Item is a message of a typed topic, or, with Gap set, the place where some are
// missing; then Value is the zero value.
type Item[T any] struct {
	Message
	Value T
	Err   error // the payload is no T; then Value is the zero value
}

// decoded makes an item of a message.
func decoded[T any](m Message) Item[T] {
	item := Item[T]{Message: m}
	if m.Gap != nil {
		return item
	}
	if v, err := Decode[T](m); err != nil {
		item.Err = err
	} else {
		item.Value = v
	}
	return item
}

// TypedSubscription is a Subscription whose messages are decoded.
type TypedSubscription[T any] struct{ *Subscription }

// Messages is Subscription.Messages, with each payload decoded. One that is no T
// does not end the iteration: it is an item with Err.
func (s *TypedSubscription[T]) Messages(ctx context.Context) iter.Seq2[Item[T], error] {
	return func(yield func(Item[T], error) bool) {
		for m, err := range s.Subscription.Messages(ctx) {
			var item Item[T]
			if err == nil {
				item = decoded[T](m)
			}
			if !yield(item, err) {
				return
			}
		}
	}
}
