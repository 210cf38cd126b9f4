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
//	Tidewire-Encoding    bytes, msgpack, json or text; without it Content-Type, and
//	                     without that Config.Encoding
//	Content-Type         application/json, application/msgpack, text/plain or
//	                     application/octet-stream, unless the message has one
//	Tidewire-Publisher   the client id, a UUID; without it nobody
//	Tidewire-Mode        reliable or lossy; without it reliable
//	Tidewire-Key         the key, escaped as in a URL
//	Tidewire-Retain      true: the last value of its key
//	Tidewire-TTL         ms until it expires, from when it was sent
//	Nats-Msg-Id          the idempotency key, escaped as in a URL
//	Tidewire-Id          names the message; of brokers only
//
// All other headers are the message's own, in both directions; of several values the
// first. Names that begin with Nats- or Tidewire- are not shown to clients, and a
// message that has one, or a name or value that NATS cannot carry, is refused with
// invalid_option.
//
// # Requests
//
// A request is a NATS request: a plain service answers it, and what a plain client
// asks is answered by whoever is subscribed. That nobody is there the NATS server
// tells at once.
//
// # Groups
//
// A group is the queue group of the same name, so plain clients may be in it; one
// whose name NATS cannot have is in base64 behind an equals sign. What a member has not
// finished when it ends is handed over within its broker, or under _TIDEWIRE.group.>
// to a member in another broker, but not to plain clients. While NATS is away the
// messages of a group wait in the connection, for members of the same broker too.
//
// # What holds over core NATS
//
// Each broker numbers messages for itself, so a position is that broker's. Order
// holds for the messages of one publisher. An acknowledgement means that the
// message was handed to the NATS connection of the broker; while that connection
// is away, up to 8 MiB wait in it, and beyond that publishing is refused with
// bus_unavailable. A message above the max_payload of the NATS server, headers
// included, is refused with payload_too_large. What other brokers published meanwhile is
// lost, as is what a broker is too slow to take: the subscriptions concerned get a gap
// of unknown extent with reason bus, behind what came before the loss. Of losses while
// messages wait for the broker the first and the last are told.
//
// A broker hears of a topic while somebody there is subscribed, and for Config.Linger
// after it. Its history and last values are what it has heard of; who reads across a
// time in which it did not listen gets a gap with reason bus at that place.
//
// A broker that has overlapping patterns gets a message once for each from NATS,
// and delivers it once (dedupe.go).
//
// The NATS account of a broker must permit its subjects, inboxes (_INBOX.>) and
// _TIDEWIRE.>.
package natsbus
