// Package demo tells the whole story of a mesh on a mesh that it starts for
// itself: agents that call, publish and delegate, and intruders that tamper,
// replay, forge, steal and go silent.
//
// Laws:
//
//   - Everything is live. Messages pass a real nats-server, attackers are plain
//     NATS connections with a real identity, stolen or their own, and nobody
//     calls a verifier to learn what it would have said.
//   - A refusal is seen twice: nothing was done (the handler's counter stands
//     still, the record is unchanged), and whoever refused said so (the audit
//     line of the receiver or of the control plane, the server's error).
//   - Where an attack could fail for a reason of its own, a control shows that
//     the same way in works for what is allowed.
//   - What could not be tried counts as a disagreement, never as a success.
//
// [Run] starts the mesh in a temporary directory, plays the chapters in order,
// and takes everything away again. Steps build on each other, so they run one at
// a time.
package demo
