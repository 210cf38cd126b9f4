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
	if f.MaxSessions <= 0 || f.MaxTopics <= 0 || f.MaxPayload == 0 || f.MaxSubscriptions == 0 || f.MaxPublications == 0 || f.MaxQueue == 0 || f.MaxMemory == 0 {
		return usagef("a limit is not positive")
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
