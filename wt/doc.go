// Package wt is WebTransport over HTTP/3, client and server, on quic-go: sessions
// with bidirectional and unidirectional streams, datagrams, subprotocols, and a
// close whose code and reason arrive. It knows nothing of what is sent.
//
// A [Server] hands each [Request] to a [Handler], often a [Mux], which accepts it as
// a [Session]; a [Dialer] opens a [Session] from the other side. From then on both
// sides are alike. Package wttest has pairs of connected sessions for tests, and a
// network that loses, delays and reorders.
//
// A server whose certificate its clients trust by hash, and which sends back what
// comes on a stream; examples/echo has a page for browsers as well:
//
//	identity, err := wt.NewDevIdentity() // identity.HashBase64() is what clients need
//	...
//	mux := wt.NewMux()
//	mux.HandleFunc("/echo", func(ctx context.Context, r *wt.Request) {
//		session, err := r.Accept(nil)
//		if err != nil {
//			return
//		}
//		for {
//			stream, err := session.AcceptStream(ctx)
//			if err != nil {
//				return // the session has ended
//			}
//			_, _ = io.Copy(stream, stream)
//			_ = stream.Close()
//		}
//	})
//	server, err := wt.NewServer(wt.ServerConfig{TLSConfig: identity.TLSConfig(), Handler: mux})
//	...
//	err = server.ListenAndServe() // on 127.0.0.1:4433
//
// And its client:
//
//	hash, err := wt.ParseHash("...")
//	...
//	dialer := wt.Dialer{CertificateHashes: [][32]byte{hash}}
//	session, err := dialer.Dial(ctx, "https://127.0.0.1:4433/echo")
//
// # Drafts
//
// One server serves clients of draft-ietf-webtrans-http3-02 to -16 at the same
// time, and a client speaks the newest of these that the server declares:
// [Session.Draft] tells which. Neither demands ENABLE_CONNECT_PROTOCOL or
// reset_stream_at of a client, because no browser of 2026 sends them. Where the
// peer has reset_stream_at, it learns of a stream that is reset after its first
// write, or before it. Elsewhere the reset may overtake the stream's header; then a
// stream with an application's code is given to the connection's only session.
//
// In the repository, docs/conformance.md maps each rule of the draft to the test
// that holds it, docs/interop.md has what each case gives with webtransport-go,
// wtransport, aioquic, Chromium and Firefox, and docs/wpt.md what the browsers' own
// suite gives.
//
// # Requests
//
// A browser's request names the origin of its page, and by default that has to be
// the server's own; see [ServerConfig].CheckOrigin. [Request.Accept] takes any 2xx
// and fields, [Request.Reject] other statuses. [ServerConfig].HTTPHandler answers
// the ordinary HTTP/3 requests that come to the same port. A handler's panic ends
// its request or session, and is logged by [ServerConfig].Logger, which discards by
// default: set it. At level Debug it also has why a request was refused, which a
// browser does not tell its page.
//
// A [Dialer] opens a connection for each session; a [Pool] shares connections among
// sessions, under flow control that it always offers. [Dialer.DialEarly] returns
// when the request is out: streams and datagrams go before the answer, for which
// [Session.Ready] waits.
//
// # Identity
//
// A server for browsers without a certificate authority takes its certificates from
// a [Rotation], and its page hands out [Rotation.Hashes]: two of them, so that a
// list outlives a change of certificates. A server with an authority takes them from
// [CertificateFiles], which reads renewed files by itself. Neither touches a session.
//
// # Cancellation
//
// Calls that wait for the peer take a context, and return its cause when it ends.
// Reads and writes on streams wait under deadlines in its place, as those of
// net.Conn do. A session's end releases all of them: every error then matches
// *[SessionError] and [ErrSessionClosed]. [Session.Context] ends at the same moment.
//
// [SessionError] tells who ended the session (us, the peer, the transport) and by
// which means: a close, the end of the CONNECT stream, a reset, the connection, a
// broken rule, or because the network was lost. This side can end it by each of
// these, too: [Session.CloseWithError], which is the one to prefer,
// [Session.Finish], [Session.Reset] and [Session.CloseConnection].
//
// Resetting one direction of a stream carries an application's code of 32 bits,
// which the other side reads in [StreamError]; a code of HTTP/3 itself can be given
// in its place.
//
// # Datagrams
//
// Each session has a bounded queue in either direction, so one that stalls holds up
// no other. [Session.SendDatagram] waits for room, [Session.TrySendDatagram]
// refuses, [Session.PushDatagram] drops the oldest; received ones drop the oldest
// always. Both queues can have a maximum age. [Session.Stats] counts every drop of
// these queues with its reason.
//
// # Priorities
//
// SetPriority gives a stream one of QUIC's eight urgencies. SetSendOrder and
// SetSendGroup are W3C WebTransport's finer measure, for streams of one session: the
// highest order of a group goes first, and groups share evenly.
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
// answered here: by HTTPHandler, or with 404. A CONNECT without :protocol gets 405,
// one with an unknown :protocol 501, and a session that nobody accepts 405 where a
// plain request would find a handler, else 404.
//
// # What an idle session costs
//
// On a server: two goroutines, one that accepts bidirectional streams and one that
// reads the CONNECT stream, and the handler's. QUIC adds two of its own. What else a
// connection has to be watched for, a server looks for every quarter of a second
// once packets have come; that is how late it notices what no application waits
// for. An open stream has no goroutine but those the application reads and writes
// on; see [Stream.OnReceiveEnd] for leaving one unread. In memory a session costs
// about 1.4 times a bare QUIC connection; docs/performance.md has figures.
//
// # Endpoint
//
// [Server.Serve] owns a packet connection and may be called for several;
// [Server.ServeTransport] shares a quic.Transport that stays the caller's, as does
// [Dialer].Transport. What a client's first packet meets, Retry and the bounds on
// connections, is decided before TLS. 0-RTT is never accepted, since a CONNECT is
// not safe to replay. A client whose address changes keeps its session.
//
// # Limits
//
// Whatever a peer can make this package hold is bounded by a field of
// [ServerConfig] and [Dialer], which documents default and consequence. What the
// application does not read is bounded by QUIC's windows, and then holds up the
// whole connection: two or three streams left unread with full windows stop all
// others, so read always. Where several sessions share a connection, each has an
// equal part of the streams, and QUIC's window is as wide as what all may leave
// unread, so that none stops another.
//
// # Flow control of sessions
//
// A server declares limits for a session's data and streams
// (draft-ietf-webtrans-http3-16 §5), and holds a client to them that declares
// its own; then several sessions may share a connection. A client of this package
// declares them in a [Pool], or by [Dialer].MaxSessionData, because a session that
// has its connection for itself is bounded by QUIC, and the account costs small
// writes. Data beyond a limit is noticed when the stream that carried it has ended;
// until then QUIC's windows bound it.
//
// # Limitations
//
// Extended CONNECT for anything but WebTransport is refused, and datagrams in
// capsules are dropped. Congestion control is that of quic-go, Reno. A session's
// close does not wait for data that is under way on its streams: a peer that must
// have it closes first. A reset that arrives when a stream was read to its end is
// not reported. QUIC itself keeps 128 received datagrams and 32 to be sent, and does
// not count what it drops.
//
// Towards browsers of 2026, keep the codes of streams at 255 or below. Firefox tells
// a page no code of a reset, and sends no STOP_SENDING.
package wt
