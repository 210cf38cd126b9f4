// Package broker is the Tidewire broker as a library: sessions, topics,
// subscriptions and publications over any connection that carries streams.
//
// # Usage
//
//	b, err := broker.New(broker.Config{Authenticator: auth})
//	srv, err := wt.NewServer(wt.ServerConfig{TLSConfig: tlsConfig, Handler: b})
//	go srv.Serve(packetConn)
//	…
//	b.Publish(ctx, "news.today", "hello", nil)
//	…
//	b.Shutdown(ctx) // tells the sessions, drains their queues, ends them
//	srv.Shutdown(ctx)
//
// A [Broker] is a handler of WebTransport sessions. Other transports hand their
// connections to [Broker.ServeConn]. The zero [Config] serves clients on the
// loopback interface only, without tokens.
//
// # The life of a message
//
// A message comes up a publication stream, the control stream or a datagram
// (publication.go, control.go, datagram.go), is checked against limits and
// permissions, and goes to the bus. The bus gives it to its topic (topic.go),
// which assigns the offset, encodes it once, and hands the same bytes to each
// matching subscription (router.go, subscription.go), or to one member of a group
// (pool.go). A subscription queues, conflates, withholds or owes, counts what it
// drops, and never blocks; what it owes is paid from the topic's history when there
// is room (recovery.go). The session's one writer (writer.go) puts what waits onto
// the streams; the datagram sender (datagram.go) sends the newest of what travels by
// datagram, for each topic and key.
//
// # Concurrency
//
// All exported methods may be called concurrently. A session owns its goroutines
// and waits for them: one reads the control stream, one accepts streams, one
// receives datagrams, one reads each publication stream; a writer and a datagram
// sender exist only while there is something to send. A subscription has no
// goroutine, but for the time in which it is paid what it is owed. The order of locks
// is in ARCHITECTURE.md.
//
// # Cancellation
//
// ServeConn returns when its context ends, when the client ends the session, or
// when the broker is shut down. The context of Publish bounds the wait for
// the bus.
//
// # Limitations
//
// Histories and last values are kept in memory, within [Config].MaxHistoryBytes, and
// are gone when the broker ends; what they do not reach back to is a gap. Over a bus
// between brokers each broker numbers messages for itself, and knows only the history
// that it has heard. Presence is that of one broker.
package broker
