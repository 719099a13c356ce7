// Package replay attacks the mesh with copies of genuine messages. Everything is
// real: nats-server, the control plane, the agents, and an attacker who holds the
// sender's own connection rights, since the broker keeps everybody else off a
// sender's subjects. What must hold is always the same: the handler ran once, and
// each copy was refused with the reason that says why.
//
// There are no exported names; the package is its tests.
package replay
