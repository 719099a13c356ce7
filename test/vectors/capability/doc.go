// Package capability holds the test vectors of capability chains, for
// implementers in any language; README.md says how to use them. Its tests run
// them against the package of that name, and against a second verifier that was
// written from the specification alone.
package capability
