// Package envelope implements the signed message of Sealmesh: two headers,
// Mesh-Envelope and Mesh-Signature, that bind a payload to its sender, subject,
// time, call tree and authority. The format is docs/spec/envelope.md.
//
// Four laws:
//
//   - An envelope has one valid encoding. What is signed is the header's value
//     exactly as it was received; nothing is encoded again to be verified.
//   - Nothing that a receiver acts on stays unsigned. Application headers are
//     handed on only where the envelope's hd field covers them.
//   - Trust is a type. [Parse] gives an [Unverified], whose getters say Unsafe;
//     only [Unverified.Verify] makes a [Verified], and only a Verified can burn
//     a nonce.
//   - The zero value of everything here authorises nothing.
//
// A receiver takes the steps in this order, each cheap enough for what it
// protects, and stops at the first that fails:
//
//  1. [Parse]: limits, syntax, version
//  2. [Unverified.CheckSubject]: the subject's sender is the signer
//  3. [Unverified.CheckTime]: freshness and the caller's budget
//  4. the registry (not here): standing and epoch of agent and instance
//  5. [ReplayChecker] Seen: a look-up that changes nothing
//  6. [Unverified.Verify]: the signature, with the key of the registry's record
//  7. authority (not here): the chain that tok names, and ob
//  8. [ReplayChecker] Use: insert if absent, which one of racing copies wins
//  9. for calls, the shared replay store (not here)
//
// A message that came out of a stream takes [Unverified.CheckStored] in step 3
// and the Seen of a [StoredMemory] in step 5; its Use comes when the message was
// worked on.
//
// The package has no connection, no clock and no global state. Unverified and
// Verified are immutable and safe for concurrent use as long as nobody changes
// the message they were parsed from.
package envelope
