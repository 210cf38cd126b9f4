package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// outgoing is one message, or several that are alike.
type outgoing struct {
	Topic    string         `json:"topic"`
	Value    any            `json:"value"`
	Encoding string         `json:"encoding"` // json; "": the client's choice
	Count    int            `json:"count"`    // how many; in each # is its number
	Key      any            `json:"key"`
	Keys     []string       `json:"keys"` // one after the other
	TTL      int            `json:"ttl"`  // ms
	Headers  map[string]any `json:"headers"`
	Retain   bool           `json:"retain"`
	ID       string         `json:"id"`
	As       string         `json:"as"` // keeps the position; of several, each with its number behind the name
}

// each makes the messages, the n-th from 1 on.
func (o outgoing) each(f func(n int, value any, opts *client.PublishOptions, as string) error) error {
	for n := 1; n <= max(1, o.Count); n++ {
		value := expand(o.Value, n)
		if o.Encoding == "json" {
			b, err := json.Marshal(value)
			if err != nil {
				return err
			}
			value = codec.Payload{Encoding: codec.EncodingJSON, Data: b}
		}
		opts := &client.PublishOptions{
			TTL:    time.Duration(o.TTL) * time.Millisecond,
			Retain: o.Retain,
			ID:     o.ID,
		}
		if o.Key != nil {
			opts.Key = fmt.Sprint(expand(o.Key, n))
		}
		if o.Headers != nil {
			opts.Headers = make(map[string]string)
		}
		for name, v := range o.Headers {
			opts.Headers[name] = fmt.Sprint(expand(v, n))
		}
		if len(o.Keys) > 0 {
			opts.Key = o.Keys[(n-1)%len(o.Keys)]
		}
		as := o.As
		if as != "" && o.Count > 0 {
			as = fmt.Sprint(as, n)
		}
		if err := f(n, value, opts, as); err != nil {
			return err
		}
	}
	return nil
}

type publishFields struct {
	Client string `json:"client"`
	Typed  bool   `json:"typed"` // by a topic that has a type
	outgoing
}

func (r *run) publish(ctx context.Context, f publishFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	return f.each(func(_ int, value any, opts *client.PublishOptions, as string) error {
		publish := u.Publish
		if f.Typed {
			publish = func(ctx context.Context, topic string, value any, opts *client.PublishOptions) (client.Position, error) {
				return client.NewTopic[any](u.Client, topic).Publish(ctx, value, opts)
			}
		}
		p, err := publish(ctx, f.Topic, value, opts)
		if err != nil {
			return err
		}
		r.keep(as, p)
		return nil
	})
}

func (r *run) publishLossy(ctx context.Context, f publishFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	return f.each(func(_ int, value any, opts *client.PublishOptions, _ string) error {
		return u.PublishLossy(ctx, f.Topic, value, opts)
	})
}

type batchFields struct {
	Client   string     `json:"client"`
	Topic    string     `json:"topic"`
	Messages []outgoing `json:"messages"`
	As       string     `json:"as"` // keeps the positions, each with its number behind the name
}

func (r *run) publishBatch(ctx context.Context, f batchFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	var batch []client.Outgoing
	for _, m := range f.Messages {
		err := m.each(func(_ int, value any, opts *client.PublishOptions, _ string) error {
			batch = append(batch, client.Outgoing{Value: value, PublishOptions: *opts})
			return nil
		})
		if err != nil {
			return err
		}
	}
	positions, err := u.PublishBatch(ctx, f.Topic, batch)
	if err != nil {
		return err
	}
	if len(positions) != len(batch) {
		return mismatchf("%d positions for %d messages", len(positions), len(batch))
	}
	for i, p := range positions {
		r.keep(fmt.Sprint(f.As, i+1), p)
	}
	return nil
}

// publishAsync publishes without waiting; "settle" looks at what has become of it.
func (r *run) publishAsync(_ context.Context, f publishFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	var results []*client.PublishResult
	err = f.each(func(_ int, value any, opts *client.PublishOptions, _ string) error {
		results = append(results, u.PublishAsync(f.Topic, value, opts))
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.more.results[f.As] = results
	return err
}

type settleFields struct {
	As string `json:"as"`
}

// settle waits until all of a publishAsync have an answer; with an error, each of
// them must have that.
func (r *run) settle(ctx context.Context, f settleFields) error {
	r.mu.Lock()
	results := r.more.results[f.As]
	r.mu.Unlock()
	if len(results) == 0 {
		return mismatchf("nothing is published as %q", f.As)
	}
	var last error
	for i, result := range results {
		_, err := result.Wait(ctx)
		if i > 0 && (err == nil) != (last == nil) {
			return mismatchf("message %d: %v, the one before: %v", i+1, err, last)
		}
		last = err
	}
	return last
}
