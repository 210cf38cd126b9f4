// Package contract holds what every client of every broker must do, as data:
// testdata/scenarios has the scenarios, a list of steps each, and one interpreter in
// Go and one in TypeScript (web/js/e2e/contract) carry them out, the latter in browsers:
// both against a broker that stands alone and against brokers that NATS joins.
//
// World is what the scenarios happen in: brokers, the network between them and their
// clients, and who may do what. It is the same for both interpreters; that of the
// browsers reaches it over HTTP.
//
// See testdata/README.md for the steps.
package contract
