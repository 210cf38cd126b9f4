// Package wttest helps to test what is built on package wt: connected sessions
// within the process, over a simulated network that delays, loses, repeats and
// reorders packets as a test asks.
//
// [Pair] is all that most tests need. [PairWith] gives the network conditions, or
// a [Network] of the test's own, which can be cut, held and healed while
// sessions are up. [Serve] starts a server on a [Network] for any number of
// clients, and [Server.Dialer] reaches it.
//
// # Virtual time
//
// No socket is used and nothing waits for real time, so everything here works
// inside a bubble of testing/synctest: days of keep-alive pass at once, and
// durations can be asserted exactly. Call it within the bubble, with the T of
// the bubble.
//
// As long as a connection lives, its keep-alive is a timer, so that a test which
// waits for what never comes is no deadlock for synctest: virtual time runs on until
// the test binary's own timeout. Give what may fail to come a context with a
// deadline; it costs no real time.
//
// # Determinism
//
// Which packets are lost, repeated or held back depends on the network's seed, on
// the order in which endpoints were made, and on how many packets an endpoint
// has sent before; on nothing else. What is in the n-th packet is QUIC's
// decision, which the scheduling of goroutines can change. A test that needs a
// certain packet to meet a certain fate names it by [Network.Intercept] or
// [Endpoint.Hold].
//
// # Ends
//
// What is made with a T ends with its test: sessions are closed, servers are
// waited for, and no goroutine is left.
package wttest
