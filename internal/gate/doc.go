// Package gate implements the one door through which every message of the mesh
// comes in, at agents and at the control plane alike.
//
// A [Gate] takes what the broker delivered and either returns a verified
// message or the reason why not. The order is the one of docs/spec/envelope.md,
// cheap first: limits and syntax, version, subject and sender, freshness, the
// sender's standing and epoch, a look at the nonces seen, the signature, the
// authority, and only then the nonce is used up, here and in the shared store,
// so that junk cannot burn a nonce that somebody else is about to send.
//
// What was stored for a receiver that was away comes in by the same door, with a
// [Stored] in its [Want]: how it was pulled stands in the reply field, which the
// server sets. Whatever else came out of a stream is refused.
//
// [Peers] is what a gate knows of others. It believes signed records alone:
// subjects, headers and markers are hints. It hears of changes by the feed and
// reads a record from the stream's leader before it first relies on it, whenever
// the feed is in doubt, and once in a grace in any case. Epochs and revisions
// never go back, and epochs not even over a restart, where the process keeps its
// floors. A process may hear of its peers alone: each is followed from before its
// record is first read, and let go when nobody asks for it any more. When nothing
// was heard from the control plane for longer than the grace, and a record cannot be
// read afresh, its agent is refused.
//
// To whom a payload is sealed, [Peers.Recipients] says: by a list that the control
// plane signed for this question, and by what the feed said of each since.
//
// Reads are shared by all who wait for the same document. Those that a message
// causes are charged to the sender for whom the broker vouches: nobody can use up
// another's share. A read may outlive its caller by two seconds; there is nothing
// to close.
package gate
