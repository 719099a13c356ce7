// Package attack attacks the broker: as an agent that holds its key, its
// certificate and some rights, and that speaks NATS by a client of its own. Each
// attempt is made twice.
//
// In the mesh it must win nothing: the streams, consumers and records are what
// they were, honest agents accepted what was honestly sent and nothing else, and
// the attacker heard nothing that is not its own.
//
// In the control run the same attempt is made against the same streams and the
// same honest traffic, in one account and under the grant that people write
// first: ">", "$JS.API.>", "_INBOX.>", "allow_responses", or the mesh's own lines
// without the borders between its accounts. There it must win. An attempt that
// does not is INCONCLUSIVE and fails: an attack that works nowhere proves
// nothing about the mesh.
//
// The numbers at each attempt are those of docs/threat-model.md, "Around the
// broker" (36 to 42).
//
// TestAgreement holds that what sealmesh explain, can and lint say of a grant is
// what a live server does.
package attack
