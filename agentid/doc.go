// Package agentid implements the names that everything else in Sealmesh hangs
// on: the agent ID, the instance ID and the trust domain.
//
// Three laws:
//
//   - An [ID] is a DNS label. It is therefore a legal NATS subject token, a
//     legal SPIFFE path segment and a legal file name, with no escaping
//     anywhere. Whatever is not a DNS label is refused at every door: nothing
//     is folded to lower case, trimmed or normalised, because two spellings of
//     one identity are how an impersonator gets past a comparison.
//   - An [Instance] is one running copy of an agent and is derived from its
//     public nkey, so nobody can choose the instance ID of somebody else's key.
//   - The zero value of each type names nobody and authorises nothing; check
//     IsZero where a value enters.
//
// All values are comparable, immutable and safe for concurrent use.
package agentid
