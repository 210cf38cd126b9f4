// Command wpt runs the browsers' own suite for WebTransport, the directory
// webtransport of web-platform-tests, in Chromium against the server of package
// wt. The suite is not part of this repository: the program takes the path of a
// checkout.
//
//	go run ./interop/wpt [flags] CHECKOUT
//
// The suite expects a server of its own, whose handlers are scripts. The program
// takes that server's place: it serves the pages, fills in their templates, and
// has the handlers in Go, written with what package wt exports (handlers.go). It
// prints each subtest that does not pass and the sums, and its exit code is 1 if
// there are any that the file of -expect does not name.
//
// A checkout needs no more than these directories: webtransport, resources,
// common, interfaces, html/browsers/browsing-the-web.
//
// See docs/wpt.md for the result.
package main
