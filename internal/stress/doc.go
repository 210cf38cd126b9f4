// Package stress tests the broker and the Go client under real concurrency: real
// goroutines, real time, connections in memory and, in one test, WebTransport over
// loopback. It is beside internal/model, whose time is virtual: there nothing takes
// time, and what only meets while something else is being done does not meet.
//
// A test is a world (world_test.go): a broker, clients whose lines are cut, and
// goroutines that make load for -stress.for. Publishers (publisher_test.go) publish in
// every way; subscriptions (subscriber_test.go) last, or come and go; each has a follower
// (follower_test.go), which checks what is handed out. Beneath the broker a tap on the bus
// writes down what was sequenced (ledger_test.go). When all has ended the books are looked
// at (books_test.go). What has to hold:
//
//   - order and once: offsets of a topic only increase, in class sequenced those of a
//     key, and no message is sequenced twice;
//   - whole: what does not come lies in a gap, or was withheld as was wished, and no gap
//     of reason lost tells of what travels by stream;
//   - right: an acknowledgement and a message that was handed out name what was sequenced
//     at their position;
//   - shared out: what the members of a group have got, and what gaps have told of, are all
//     that was published to it;
//   - answered: a request ends, and a reply belongs to it;
//   - permitted: nothing comes that was published while it was denied;
//   - no call fails, and no subscription or client ends, for a reason that it need not
//     have had;
//   - closed books: no session, subscription, publication, presence, request, group or
//     queued byte is left, no subscription in the router, no pin on a topic, no byte of a
//     topic that is gone, and no goroutine.
//
// No test asserts how long something takes.
//
// The dice of each goroutine follow from a seed, which is printed when a test fails; what
// the goroutines meet does not, so that a failure may need some tries to come again:
//
//	go test -race ./internal/stress -run TestTopics -stress.for 10s -stress.seed N
//
// These faults, put into the broker on purpose, fail within a few seconds: a tick that gives
// back its slices with what was published meanwhile in them (TestTopics);
// the gap of a late datagram that becomes a part of a debt (TestWebTransport, in some of the
// tries of five seconds).
package stress
