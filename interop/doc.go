// Package interop tests package wt against other implementations of WebTransport
// over HTTP/3. Each is a program in a module of its own below this directory,
// which the tests build and run; they need nothing but the go command.
//
//	peer                     its server ← our client   our server ← its client
//	webtransport-go 0.13.0   yes                       yes
//
// Browsers are tested with the pages that they run.
package interop
