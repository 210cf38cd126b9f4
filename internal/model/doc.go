// Package model tests the broker and the Go client together against a simple
// model of what each subscriber may see.
//
// A run is a seed. The seed decides on a world, that is a simulated network with
// its losses, topics of every configuration, publishers and subscribers, and on a
// few hundred operations, in virtual time: messages of all modes are published, one by
// one, in batches, with keys, times to live and idempotency keys; subscriptions begin
// from now, from positions, times, the last and the first ones, with filters, without
// echo, in groups; pages of history are read in both directions, live maps opened,
// requests sent and answered, rooms entered, left and watched. In a storm three publishers
// in the broker's process publish bursts to one topic at the same moments, a tick of the
// topic apart where it has one: in a world where nothing takes time, goroutines interleave
// only where they wake together. Meanwhile networks are cut and heal, clients move and
// lose their connections, brokers die or shut down and others begin, readers slow down,
// priorities change, tokens expire, permissions are revoked and given back.
//
// Beneath the broker a tap on the bus takes down what was sequenced; that is the
// truth. At the end each subscriber's diary is read beside it:
//
//   - order: offsets of a topic only increase within an epoch;
//   - once: no position comes twice, and no message has two positions; an idempotency
//     key is sequenced once by each broker;
//   - whole: what is missing between two messages, or behind the position or time from
//     which a subscription began, lies in a gap, or was withheld as the subscription
//     wished; last values come first;
//   - fresh: in latest and sequenced no value of a key comes after a newer one;
//   - right: a message is what was sequenced at its position, and an acknowledgement
//     names the position that the truth knows;
//   - permitted: nothing is sequenced, or delivered, while it is denied;
//   - pages: in order, within their limit, without a hole between one and the next;
//   - live maps: the last value of each key, and Changes leads there;
//   - groups: each message goes to a member that wants it, to one if none ended with
//     it, and is not lost while there is one that stays, unless a gap counts it;
//   - requests: a reply belongs to its request and comes once, no more than were wanted,
//     and if it was sent in time it comes; nobody is said to be there only if so; a
//     request ends by its timeout;
//   - presence: what persons did, the answers of the broker and the replay of each watch
//     agree; nobody leaves who was back within the grace; a state is told once; rooms
//     keep to their size;
//   - bounded: what waits and what is kept stays within the configured bytes at any
//     time, and is gone when everybody has left.
//
// These faults, put into the broker or the client on purpose, each failed one of sixty
// seeds: a group whose last member of a pattern leaves without a handover, or whose
// member takes with it what it has not finished; a message given to two members; a group
// that ignores a filter; a reply that goes to another request of the session, comes
// twice or is dropped; one reply too many; nobody said to be there too early, or never; a
// request without a timeout; a presence that ends without a leave, at once in place of
// after the grace, or is not counted; presences that are not entered again, a state that
// is told twice, a room with one member too many; idempotency keys that are forgotten; a
// live map that takes every gap for harmless; a position that is one off; a subscription
// without last values; permissions that are revoked without being looked at again.
//
// TestModel runs its seeds on one processor, so that a seed schedules its goroutines in
// nearly the same order each time. TestModelInParallel runs the first quarter of them again
// on four, for what only goroutines that run at once meet: mostly in storms.
//
// A failing seed is printed, with its operations. On one processor it usually fails again,
// though a few random bytes of QUIC and TLS remain; on several it may take some tries:
//
//	go test ./internal/model -run 'TestModel$' -seed N -seeds 1 -v
//
// What a seed draws changes with the operations that there are, so a defect that was found
// gets a test of its own in the package where it was.
package model
