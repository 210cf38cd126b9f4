// Package natsbus joins brokers over NATS: what a client of one broker publishes
// reaches the subscriptions of all, and plain NATS clients take part.
//
// # Usage
//
//	b, err := broker.New(broker.Config{
//		Bus: natsbus.Open(natsbus.Config{URL: "nats://127.0.0.1:4222"}),
//	})
//
// # Subjects
//
// A topic is the NATS subject of the same name, behind Config.Prefix if there is
// one. A broker subscribes at NATS only to the patterns that its sessions want.
// Topics of the system ($… and _…) never cross the bus, in either direction.
//
// # Plain NATS clients
//
// They publish to and subscribe from the same subjects. The payload is the data
// of the NATS message; headers carry the rest:
//
//	Tidewire-Encoding    bytes, msgpack, json or text; without it Config.Encoding
//	Tidewire-Publisher   the client id, a UUID; without it nobody
//	Tidewire-Mode        reliable or lossy; without it reliable
//	Tidewire-Id          names the message; of brokers only
//
// Tidewire-Key and Tidewire-Expires are reserved.
//
// # What holds over core NATS
//
// Each broker numbers messages for itself, so a position is that broker's. Order
// holds for the messages of one publisher. An acknowledgement means that the
// message was handed to the NATS connection of the broker; while that connection
// is away, up to 8 MiB wait in it, and beyond that publishing is refused with
// bus_unavailable. A message above the max_payload of the NATS server, headers
// included, is refused with payload_too_large. What other brokers published meanwhile is lost, as is what a
// broker is too slow to take: the subscriptions concerned get a gap of unknown
// extent with reason bus.
//
// A broker that has overlapping patterns gets a message once for each from NATS,
// and delivers it once (dedupe.go).
package natsbus
