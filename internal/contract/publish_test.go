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
	Topic    string            `json:"topic"`
	Value    any               `json:"value"`
	Encoding string            `json:"encoding"` // json; "": the client's choice
	Count    int               `json:"count"`    // how many; in each # is its number
	Key      string            `json:"key"`
	Keys     []string          `json:"keys"` // one after the other
	TTL      int               `json:"ttl"`  // ms
	Headers  map[string]string `json:"headers"`
	Retain   bool              `json:"retain"`
	ID       string            `json:"id"`
	As       string            `json:"as"` // keeps the position; of several, each with its number behind the name
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
			Key:     o.Key,
			TTL:     time.Duration(o.TTL) * time.Millisecond,
			Headers: o.Headers,
			Retain:  o.Retain,
			ID:      o.ID,
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
	outgoing
}

func (r *run) publish(ctx context.Context, f publishFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	return f.each(func(_ int, value any, opts *client.PublishOptions, as string) error {
		p, err := u.Publish(ctx, f.Topic, value, opts)
		if err != nil {
			return err
		}
		r.keep(as, client.Position(p))
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
