// Package layering implements the architecture as tests: which package may
// import which, what may never be linked into what, who may look at the clock,
// and that every package says in one place what it is.
//
// The rules are data in rules.go, each with its reason. A package without a
// tier fails the test: where it stands is a decision to be written down.
package layering
