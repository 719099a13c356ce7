// Package docs implements the check that what the documents of the project show
// is so: Go code stands in an example that compiles, commands exist, links and
// tests that are named are there, and the quickstart does what its README says.
//
// It has tests alone and starts nothing that outlives them.
package docs
