package broker

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// RequestOptions are what a request from within the process may have beside its
// value. A bad one is an error with CodeInvalidOption.
type RequestOptions struct {
	// Timeout is how long replies are waited for, at most 10 minutes, and how long
	// the request itself is good. 0 is 5 s.
	Timeout time.Duration
	// Max is the most replies that RequestMany takes, at most 65,535. 0 is 100. Of
	// these at most 256 wait for the caller; more end the request with
	// CodeOverloaded. Request takes one.
	Max int
	// Key is as in PublishOptions.
	Key string
	// Headers are as in PublishOptions.
	Headers map[string]string
}

const (
	defaultRequestTimeout = 5 * time.Second
	defaultReplies        = 100
	// maxWaitingReplies bounds the replies that wait for a caller of RequestMany.
	maxWaitingReplies = 256
)

// Request publishes a request from within the process, with the authority of the
// broker itself, and returns the first reply: its payload, publisher and headers. The
// request is a reliable message to topic, which every subscription gets, and one
// member of each group. opts may be nil.
//
// The error is a *codec.Error: CodeNoResponders at once where nobody is subscribed,
// CodeRequestTimeout when the time has passed, or one as Publish returns it. It is
// ctx's error if that ends first, and ErrClosed after Shutdown.
func (b *Broker) Request(ctx context.Context, topic string, value any, opts *RequestOptions) (Message, error) {
	one := RequestOptions{}
	if opts != nil {
		one = *opts
	}
	one.Max = 1
	for m, err := range b.RequestMany(ctx, topic, value, &one) {
		return m, err
	}
	return Message{}, ctx.Err() // not reached: a request of one reply yields
}

// RequestMany is Request for many replies. The request is published when the
// iteration begins, and over when it ends. It ends without an error after opts.Max
// replies, or when the time has passed, if there was one; otherwise an error is the
// last item.
func (b *Broker) RequestMany(ctx context.Context, topic string, value any, opts *RequestOptions) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		r, err := b.ask(ctx, topic, value, opts)
		if err != nil {
			yield(Message{}, err)
			return
		}
		defer r.drop()
		for replies := 0; ; replies++ {
			select {
			case m, ok := <-r.replies:
				if !ok {
					if err := r.ended(); err != nil && (replies == 0 || codec.CodeOf(err) != codec.CodeRequestTimeout) {
						yield(Message{}, err)
					}
					return
				}
				if !yield(m, nil) {
					return
				}
			case <-ctx.Done():
				yield(Message{}, ctx.Err())
				return
			}
		}
	}
}

// ask publishes a request of the process.
func (b *Broker) ask(ctx context.Context, topic string, value any, opts *RequestOptions) (*request, error) {
	var o RequestOptions
	if opts != nil {
		o = *opts
	}
	setDefault(&o.Timeout, defaultRequestTimeout)
	setDefault(&o.Max, defaultReplies)
	if o.Timeout < time.Millisecond || o.Timeout > codec.MaxTimeout*time.Millisecond {
		return nil, codec.Errorf(codec.CodeInvalidOption, "a request waits 1 ms to 10 minutes, not %v", o.Timeout)
	}
	if o.Max < 0 || o.Max > codec.MaxReplies {
		return nil, codec.Errorf(codec.CodeInvalidOption, "a request takes 1 to %d replies, not %d", codec.MaxReplies, o.Max)
	}
	m, err := b.newMessage(topic, value, codec.ModeReliable, &PublishOptions{Key: o.Key, TTL: o.Timeout, Headers: o.Headers})
	if err != nil {
		return nil, err
	}
	r := &request{limit: uint64(o.Max), replies: make(chan Message, min(o.Max, maxWaitingReplies)), mu: new(sync.Mutex)}
	if err := b.requests.add(r, o.Timeout); err != nil {
		return nil, err
	}
	m.Reply = addressOf(r.id)
	if _, err := b.bus.Publish(ctx, m); err != nil {
		r.drop()
		return nil, asCoded(err, codec.CodeBusUnavailable)
	}
	return r, nil
}

// ended returns why a request of the process is over; nil: it has all its replies.
func (r *request) ended() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		return nil
	}
	return r.err
}
