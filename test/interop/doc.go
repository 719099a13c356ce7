// Package interop implements the check that the formats are what their
// specifications say, and not what one implementation does: a verifier in
// JavaScript (node/), written from docs/spec and sharing no code with the rest, has to give every
// verdict that the test vectors expect, and each side takes what the other signs.
//
// It has tests alone. They need Node.js 18 or newer in the path and fail where
// there is none: a check that skips itself checks nothing.
package interop
