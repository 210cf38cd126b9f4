// Package house holds the structure of the repository as a test: which package
// may import which, third parties included.
package house
