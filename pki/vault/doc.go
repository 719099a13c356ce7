// Package vault implements pki.Issuer by the PKI secrets engine of HashiCorp
// Vault: the agents' certificates are signed by a CA whose key never leaves it.
//
// Its laws:
//
//   - Vault signs what the agent made: the endpoint is sign/<role> with the
//     agent's own request, never issue, so Vault sees no private key.
//   - An answer is not believed. The certificate must chain to a root that was
//     pinned when the mesh was made, name exactly the agent, be for TLS clients
//     and nothing else, carry the request's key and live no longer than asked. A
//     role that is set up wrongly gives an error that says what to change, and
//     never a certificate.
//   - A root that Vault serves is not trusted for that. Whoever can write to the
//     mount could put his own there; [Issuer.FetchRoots] is for the moment at
//     which an operator decides.
//   - The token is sent to the configured address alone, over TLS 1.3 that is
//     verified against the configured CA. Redirects, proxies and the VAULT_
//     variables of the environment have no say. Tokens and secret IDs are in no
//     error.
//
// Lifecycle: [New] reads the files and asks nobody; [Issuer.Run] keeps the token
// alive and watches Vault until its context ends; [Issuer.SignAgent] works with
// or without it, logs in by itself, and is not repeated here: a renewal that
// failed is tried again by the agent that wants it. All methods are safe for
// concurrent use.
package vault
