// Package registry implements the mesh's memory of who is who: agents and their
// instances, the status each is in, the epoch that cuts what came before, the
// capability chains, the open sessions and the join tokens.
//
// Laws:
//
//   - A record is a document signed by a records key that the offline root
//     certified. Whoever reads one verifies it, so a broker that lies about a
//     key or a status is caught by every client ([DecodeAgent], [DecodeInstance]).
//   - Every change is a compare-and-set on the record it read from the stream's
//     leader; nothing is decided on a read that may be stale.
//   - The revision counts every change. The epoch rises only where authority
//     shrinks or a key changes hands, and never falls: what was signed or
//     admitted under a lower epoch is void.
//   - Revoked is final. The record stays as a tombstone; a name comes back only
//     with new keys above the old epoch ([Store.Add] with Replace).
//
// The records live in JetStream KV in the control plane's own account, where no
// agent can write whatever reply subject it invents. A [Store] is safe for
// concurrent use and any number of them may work on the same buckets.
package registry
