// Package seal implements sealed payloads (docs/spec/sealed.md): what an agent
// sends to one other agent and nobody but the active instances of that agent can
// read, nor the answer but the instance that asked.
//
// [Seal] makes a payload that each of up to [limits.Instances] curve keys opens,
// and [Key.Open] opens one. What a payload was made for is its [Binding]: who
// signs the message that carries it, for which agent of which mesh, in answer to
// what. It is part of the key that encrypts and is not sent; the receiver puts in
// what it verified. So a payload opens as what its sender sent, and as nothing
// else: whoever puts a payload of somebody else into a message of his own gets
// neither it nor an answer to it.
//
// That a payload opens says that it was made for this message and not by whom:
// anybody can seal to a public key. By whom says the envelope's signature, which
// is verified first and names the binding's signer.
//
// All functions are safe for concurrent use.
package seal
