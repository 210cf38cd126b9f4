// Package wt is WebTransport over HTTP/3, client and server, on quic-go: sessions
// with bidirectional and unidirectional streams, datagrams, subprotocols, and a
// close whose code and reason arrive. It knows nothing of what is sent.
//
// A [Server] hands each [Request] to a [Handler], which accepts it as a
// [Session]; a [Dialer] opens a [Session] from the other side. From then on both
// sides are alike.
//
// # Drafts
//
// One server serves clients of draft-ietf-webtrans-http3-02 to -16 at the same
// time, and a client speaks the newest of these that the server declares:
// [Session.Draft] tells which. Neither demands ENABLE_CONNECT_PROTOCOL or
// reset_stream_at of a client, because no browser of 2026 sends them. Where the
// peer has reset_stream_at, it learns of a stream that is reset after its first
// write, or before it; elsewhere the reset may overtake the stream's header.
//
// # Cancellation
//
// Calls that wait for the peer take a context, and return its cause when it ends.
// Reads and writes on streams wait under deadlines in its place, as those of
// net.Conn do. A session's end releases all of them: every error then matches
// *[SessionError], which tells who ended it (us, the peer, the transport), and
// [ErrSessionClosed]. [Session.Context] ends at the same moment.
//
// Resetting one direction of a stream carries an application's code of 32 bits,
// which the other side reads in [StreamError].
//
// # Why an HTTP/3 of its own
//
// The package stands on a thin HTTP/3 (control stream, SETTINGS, GOAWAY, HEADERS
// by quic-go/qpack without a dynamic table, demultiplexing of streams and
// datagrams) rather than on the hooks of quic-go/http3. With those hooks a server
// cannot send GOAWAY and a client does not see one; datagrams pass a second
// queue that drops the newest and loses those that overtake their request; and an
// idle connection costs more goroutines and buffers, which are the memory of a
// server with many idle sessions. The price is that plain requests have to be
// answered here: one that is not for WebTransport gets 404, a CONNECT without
// :protocol 405, one with an unknown :protocol 501.
//
// # What an idle session costs
//
// On a server: three goroutines for accepting streams, for accepting
// unidirectional ones and for datagrams, one each for the client's control stream
// and for the CONNECT stream, and the handler's. QUIC adds two of its own. An
// open stream has no goroutine but those the application reads and writes on; see
// [Stream.OnReceiveEnd] for leaving one unread.
//
// # Limits
//
// Whatever a peer can make this package hold is bounded by a field of
// [ServerConfig], which documents default and consequence. A client has the
// defaults. What the application does not read is bounded by QUIC's windows, and
// then holds up the whole connection: two or three streams left unread with full
// windows stop all others, so read always.
//
// # Flow control of sessions
//
// A server declares limits for a session's data and streams
// (draft-ietf-webtrans-http3-16 §5), and holds a client to them that declares
// its own; then several sessions may share a connection. A client of this package
// declares them by [Dialer.MaxSessionData] alone, because a session that has its
// connection for itself is bounded by QUIC, and the account costs small writes.
// Data beyond a limit is noticed when the stream that carried it has ended; until
// then QUIC's windows bound it.
//
// # Limitations
//
// A [Dialer] opens a connection for each session. Plain HTTP/3 requests cannot be
// served by a handler. Congestion control is that of quic-go, Reno. A session's
// close does not wait for data that is under way on its streams: a peer that
// must have it closes first.
package wt
