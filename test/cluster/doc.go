// Package cluster implements the chaos tests: three stock nats-servers and two
// control planes, each a process of its own, with agents spread over them, of
// which some are killed, stopped or cut off from the others.
//
// Whatever happens: nobody who is alive and heard is expired, everybody who is
// dead is, nothing that was revoked comes back, and agents call each other while
// no control plane is there.
//
// The tests take minutes, so that they run only when they are asked for, by
// `make cluster` or with -cluster.
package cluster
