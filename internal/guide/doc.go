// Package guide holds the guide in docs/guide to what it shows: its tests compile
// and run every snippet of it, against the broker as a program, and compare what
// the snippet prints with what the guide says that it prints.
//
// A page is Markdown. Its fenced blocks are
//
//   - go: the body of a function that returns an error. Its given names are listed
//     in docs/guide/README.md; what it imports is found by the names it uses.
//   - ts: the body of an async function, likewise, with import lines in front if it
//     needs more than the given names. e2e/run.mjs runs these, in browsers.
//   - yaml: a configuration file of the broker. The snippets that follow it, up to
//     the next one, get a broker that was started with it.
//   - text and sh, which are not run.
//
// A snippet ends with a comment `// Output:` and the lines that it prints, so that
// none can pass without having done something. Each has a broker of its own.
package guide
