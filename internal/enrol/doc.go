// Package enrol implements the host's side of an enrolment: with a join token, or
// with a token of the platform that the host runs on, it turns an empty directory
// into that of an agent's instance (docs/operations.md, "Enrolment").
//
// Its laws:
//
//   - Keys are made on the host and never leave it. What goes out is public,
//     but for the join token's secret or the platform's token.
//   - That is sent only to the control plane of the mesh that is pinned: a server
//     of another certificate authority, or one of the same that is not the control
//     plane, is refused within the TLS handshake.
//   - What comes back is checked against the host's own keys before any of it is
//     written, and agent.json is written last. An interrupted run is finished by
//     running it again in the same directory, with the same keys, for which the
//     token's use is not counted twice.
//   - A directory that is another agent's, or of another mesh, stays as it is.
package enrol
