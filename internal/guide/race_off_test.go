//go:build !race

package guide

const withRace = false
