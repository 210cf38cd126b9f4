package guide

// compiled are the Go snippets of the guide as functions. TestGo builds this
// package again, with a list in place of this file.
var compiled []compiledSnippet
