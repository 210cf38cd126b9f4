package contract

import (
	"fmt"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// topicFields are a broker.TopicConfig as testdata/topics.json has it. Times are
// milliseconds; what is left out has its default.
type topicFields struct {
	Pattern string `json:"pattern"`
	Class   string `json:"class"`
	History struct {
		Count int `json:"count"`
		Age   int `json:"age"`
		Bytes int `json:"bytes"`
	} `json:"history"`
	Retain        string `json:"retain"`
	MaxKeys       int    `json:"maxKeys"`
	Presence      string `json:"presence"`
	PresenceGrace int    `json:"presenceGrace"`
	MaxMembers    int    `json:"maxMembers"`
	Deduplicate   int    `json:"deduplicate"`
	MaxPayload    int    `json:"maxPayload"`
	TTL           int    `json:"ttl"`
	Tick          int    `json:"tick"`
	Publish       string `json:"publish"`
	Subscribe     string `json:"subscribe"`
}

// parseTopics makes the configuration of topics of its JSON.
func parseTopics(b []byte) ([]broker.TopicConfig, error) {
	var list []topicFields
	if err := Decode(b, &list); err != nil {
		return nil, fmt.Errorf("topics: %w", err)
	}
	configs := make([]broker.TopicConfig, 0, len(list))
	for _, f := range list {
		c := broker.TopicConfig{
			Pattern:       f.Pattern,
			History:       broker.Retention{Count: f.History.Count, Age: milliseconds(f.History.Age), Bytes: f.History.Bytes},
			MaxKeys:       f.MaxKeys,
			PresenceGrace: milliseconds(f.PresenceGrace),
			MaxMembers:    f.MaxMembers,
			Deduplicate:   milliseconds(f.Deduplicate),
			MaxPayload:    f.MaxPayload,
			TTL:           milliseconds(f.TTL),
			Tick:          milliseconds(f.Tick),
		}
		for _, err := range []error{
			choose(&c.Class, f.Class, classes), choose(&c.Retain, f.Retain, retainModes), choose(&c.Presence, f.Presence, presenceModes),
			choose(&c.Publish, f.Publish, accesses), choose(&c.Subscribe, f.Subscribe, accesses),
		} {
			if err != nil {
				return nil, fmt.Errorf("topics %q: %w", f.Pattern, err)
			}
		}
		configs = append(configs, c)
	}
	return configs, nil
}

func milliseconds(n int) time.Duration { return time.Duration(n) * time.Millisecond }

var (
	classes = map[string]codec.Class{
		"reliable": codec.ClassReliable, "latest": codec.ClassLatest,
		"sequenced": codec.ClassSequenced, "unreliable": codec.ClassUnreliable,
	}
	retainModes   = map[string]broker.RetainMode{"asked": broker.RetainAsked, "all": broker.RetainAll, "none": broker.RetainNone}
	presenceModes = map[string]broker.PresenceMode{
		"members": broker.PresenceMembers, "counts": broker.PresenceCounts, "off": broker.PresenceOff,
	}
	accesses = map[string]broker.Access{"token": broker.AccessByToken, "open": broker.AccessOpen, "closed": broker.AccessClosed}
)

// choose sets a field by a name; "" leaves it.
func choose[T any](field *T, name string, of map[string]T) error {
	if name == "" {
		return nil
	}
	v, ok := of[name]
	if !ok {
		return fmt.Errorf("nothing is called %q", name)
	}
	*field = v
	return nil
}
