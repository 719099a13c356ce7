// Package envelope holds the test vectors of the envelope, for implementers in
// any language; README.md says how to use them. Its tests run them against the
// package of that name and, as whole messages, against internal/gate.
package envelope
