// Package pki implements the X.509 side of an agent's identity: the two
// certificate authorities of a mesh, certificate requests, the check of an
// agent's certificate, hot-reloading TLS configurations and secret files.
//
// The laws:
//
//   - An agent is named by exactly one URI SAN, spiffe://<trust-domain>/agent/<id>,
//     compared as raw bytes. The common name is never an identity, and a
//     certificate that names anything else besides is refused.
//   - There are two authorities. The agent CA signs clients and nothing else,
//     the infra CA signs servers and services and no agent. With one CA for
//     both, a stock nats-server that holds any agent's certificate joins a
//     cluster as a route and owns the bus.
//   - Each authority is a root (ten years, offline after use) and an online
//     intermediate (one year, may sign no further CA). Nothing outlives what
//     signed it. Both carry the extended key usages of their role, which
//     verifiers apply to everything below, so neither can do the other's work.
//   - No trust is ever implied: an empty or missing pool refuses everybody and
//     never falls back to the roots of the operating system.
//   - TLS 1.3 or nothing, and no session is resumed, so that every connection
//     shows a certificate that is valid at that moment.
//   - Secrets live in files of mode 0600, are replaced atomically, and do not
//     show in errors, logs or JSON.
//
// The agent CA carries name constraints (URIs of the trust domain; no DNS name,
// address or mailbox), which Go's verifier, and so nats-server's, applies. The
// infra CA carries none: clients in other languages verify it, and some TLS
// libraries refuse every chain that constrains URIs.
//
// Lifecycle: [NewCA] makes a [Root], [Root.Intermediate] the online [CA]; both
// are written with [WriteSecret] and [WriteFile] and read again with [LoadRoot]
// and [Load]. An agent makes a key ([NewTLSKey]) and a request ([CSR]), an
// [Issuer] signs it, and from then on a [Source] serves key and certificate to
// TLS and picks up a renewed file at the next handshake. Before it has any
// file, an agent that enrols reaches the control plane with [PinnedTLS]. All
// types are safe for concurrent use.
package pki
