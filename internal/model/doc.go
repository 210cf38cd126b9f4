// Package model tests the broker and the Go client together against a simple
// model of what each subscriber may see.
//
// A run is a seed. The seed decides on a world, that is a simulated network with
// its losses, topics of every configuration, publishers and subscribers, and on a
// few hundred operations: messages of all modes are published, networks are cut
// and heal, clients move, the broker is killed and another one begins, readers slow
// down, permissions are revoked and given back. All of it happens in virtual time.
//
// Beneath the broker a tap on the bus takes down what was sequenced; that is the
// truth. At the end each subscriber's diary is read beside it:
//
//   - order: offsets of a topic only increase within an epoch;
//   - once: no position comes twice, and no message has two positions;
//   - whole: what is missing between two messages lies in a gap, or was withheld
//     as the subscription wished;
//   - fresh: in latest and sequenced no value of a key comes after a newer one;
//   - right: a message is what was sequenced at its position, and an acknowledgement
//     names the position that the truth knows;
//   - bounded: what waits and what is kept stays within the configured bytes, and is
//     gone when everybody has left.
//
// A failing seed is printed, with its operations, and reproduces with
//
//	go test ./internal/model -run TestModel -seed N -seeds 1 -v
package model
