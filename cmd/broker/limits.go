package main

import (
	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// limitFlags bound what clients may use (PROTOCOL §10).
type limitFlags struct {
	MaxSessions      int      `help:"Sessions at a time." default:"100000" env:"TIDEWIRE_MAX_SESSIONS"`
	MaxTopics        int      `help:"Topics that are kept at a time; the one idle for longest gives way." default:"1000000" env:"TIDEWIRE_MAX_TOPICS"`
	MaxPayload       byteSize `help:"Size of a message's payload, at most 16MiB." default:"256KiB" env:"TIDEWIRE_MAX_PAYLOAD"`
	MaxSubscriptions uint32   `help:"Subscriptions of a session at a time." default:"1024" env:"TIDEWIRE_MAX_SUBSCRIPTIONS"`
	MaxPublications  uint32   `help:"Topics that a session publishes to at a time by a stream each." default:"256" env:"TIDEWIRE_MAX_PUBLICATIONS"`
	MaxQueue         byteSize `help:"What waits for one subscription." default:"1MiB" env:"TIDEWIRE_MAX_QUEUE"`
	MaxMemory        byteSize `help:"What waits for all subscriptions together." default:"256MiB" env:"TIDEWIRE_MAX_MEMORY"`
	PublishRate      float64  `help:"Messages a second of one session; 0 is no bound." default:"0" env:"TIDEWIRE_PUBLISH_RATE"`
}

// check refuses what the broker would take for its default.
func (f limitFlags) check() error {
	for _, limit := range []struct {
		flag  string
		value int64
	}{
		{"max-sessions", int64(f.MaxSessions)}, {"max-topics", int64(f.MaxTopics)}, {"max-payload", int64(f.MaxPayload)},
		{"max-subscriptions", int64(f.MaxSubscriptions)}, {"max-publications", int64(f.MaxPublications)},
		{"max-queue", int64(f.MaxQueue)}, {"max-memory", int64(f.MaxMemory)},
	} {
		if limit.value <= 0 {
			return usagef("--%s is not positive; leave it out for its default", limit.flag)
		}
	}
	switch {
	case f.MaxPayload > 16<<20:
		return usagef("--max-payload is above 16MiB")
	case f.PublishRate < 0:
		return usagef("--publish-rate is negative; 0 is no bound")
	}
	return nil
}

// brokerConfig returns the limits as the broker takes them.
func (f limitFlags) brokerConfig() broker.Config {
	return broker.Config{
		Limits: codec.Limits{
			Payload:       uint64(f.MaxPayload),
			Subscriptions: uint64(f.MaxSubscriptions),
			Publications:  uint64(f.MaxPublications),
		},
		MaxSessions:   f.MaxSessions,
		MaxTopics:     f.MaxTopics,
		MaxQueueBytes: int(f.MaxQueue),
		MaxBytes:      int64(f.MaxMemory),
		PublishRate:   f.PublishRate,
	}
}
