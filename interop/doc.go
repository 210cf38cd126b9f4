// Package interop tests package wt against other implementations of WebTransport
// over HTTP/3: webtransport-go, wtransport, aioquic, and the browsers Chromium and
// Firefox. docs/interop.md holds what came of it; the test fails if the table there
// is not what it sees, and writes it with -update.
//
// Each peer is a program in a folder of its own, with its dependencies pinned
// there. The tests build it and talk with it in lines of JSON, so that a case is
// told apart from the library that it is tried with:
//
//	PROGRAM server
//	  out: {"peer": "NAME VERSION", "addr": "127.0.0.1:PORT", "hash": "SHA-256 in hex"}
//	  out: a report for each session, when the session has ended
//	PROGRAM client
//	  out: {"peer": "NAME VERSION"}
//	  in:  {"case": "NAME", "url": "https://127.0.0.1:PORT/NAME", "hash": "SHA-256 in hex"}
//	  out: a report
//
// Both end with their standard input. A report tells what that side saw of one
// case; its fields are those of the type report. The path of a session is the
// case's name, and says what the server does:
//
//	handshake        The session opens; the client closes it.
//	reject           The server answers with 404.
//	subprotocol      The client offers interop.v1 and other; the server, which
//	                 knows interop.v2 and interop.v1, chooses.
//	bidi             The client's stream is echoed to its end. Then the server
//	                 opens one, writes, and ends it when the echo has come.
//	uni              The client's stream comes back on one of the server's.
//	megabyte         A MiB on the client's stream is echoed.
//	streams          The client has 100 streams open at once; each is echoed.
//	server-streams   The server has 100 streams open at once; each is echoed. Then
//	                 the server closes the session.
//	turnover         300 times uni, one after the other.
//	datagrams        The client sends 200, each when the one before came back or
//	                 is late; they are counted.
//	reset-by-client  For each code, the client opens a stream, has a byte echoed
//	                 and resets its side; the server ends its own.
//	reset-by-server  For each code, the client opens a stream, has a byte echoed
//	                 and sends another; the server resets its side.
//	stop-by-client   For each code, the client opens a stream, has a byte echoed
//	                 and sends STOP_SENDING; the server says so on a stream of its
//	                 own.
//	stop-by-server   As reset-by-server, with STOP_SENDING.
//	close-by-client  The client closes with code 17 and a reason.
//	close-by-server  The client may send a stream; the server closes with code
//	                 4711 and a reason. Ours does not wait for the stream.
//	drain-by-server  The client may send a stream; the server shuts down, or drains
//	                 the session; the client, asked to, closes it.
//	drain-by-client  The client drains the session, has a stream echoed, then
//	                 closes it.
//
// Where nothing else is said, the client closes the session when it is done. What a peer cannot do has its cause in peers_test.go beside a check of
// what happens in its place.
//
// The tests need cargo, Python, Node and the browsers besides Go, and fail where
// one is missing. With -short they need Go alone, and leave the rest out.
package interop
