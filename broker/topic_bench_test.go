package broker_test

import (
	"testing"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// BenchmarkAppend is what a message costs that nobody is subscribed to: its place,
// its history, and the work of whoever publishes in the process.
func BenchmarkAppend(b *testing.B) {
	for name, config := range map[string]broker.TopicConfig{
		"plain":    {History: broker.Retention{Count: -1}},
		"history":  {},
		"retained": {Retain: broker.RetainAll},
	} {
		b.Run(name, func(b *testing.B) {
			config.Pattern = "a.b"
			br, err := broker.New(broker.Config{Topics: []broker.TopicConfig{config}})
			if err != nil {
				b.Fatal(err)
			}
			defer br.Close()
			payload := codec.Bytes(make([]byte, 128))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := br.Publish(b.Context(), "a.b", payload, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
