// Package sealed holds the test vectors of sealed payloads, for implementers in
// any language; README.md says how to use them. Its tests run them against
// internal/seal and hold them against the rules of docs/spec/sealed.md.
package sealed
